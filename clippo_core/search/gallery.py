"""Questions to an embedded collection: by text, by a picture, by one of its own rows.

    gallery = Gallery("photos.emb")
    gallery.by_text("zwei Hunde", 10)       -> [Hit(row, cosine, what the metadata say), ...]

Texts are embedded by the model that made the collection, which is loaded at the first question that
needs it. One question at a time: the tower's threads share the machine.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clippo_core.data.sources import tars
from clippo_core.errors import ConfigError, DataError
from clippo_core.search import collection, index
from clippo_core.search.collection import Row, Side

if TYPE_CHECKING:
    from clippo_core.embedder import Clippo


@dataclass(frozen=True)
class Hit:
    """One answer."""

    row: int
    cosine: float
    about: Row


class Gallery:
    """One side of an embedded folder."""

    def __init__(
        self,
        folder: str,
        model: str = "",
        device: str | None = None,
        fonts: list[str] | None = None,
    ) -> None:
        self.folder = folder
        self.facts = collection.read_facts(folder)
        self.side: Side = "images" if self.facts.images else "texts"
        self.rows = index.Rows(folder, self.facts, self.side)
        if not len(self.rows):
            raise DataError(f"{folder}: it holds no rows yet; let `clippo embed` finish a shard.")
        self.index, self._candidates = index.read(folder, self.facts, self.side)
        self._source, self._device, self._fonts = model or self.facts.model, device, fonts
        self._lock = threading.Lock()
        self._metadata = functools.lru_cache(maxsize=8)(
            lambda shard: collection.shard_metadata(self.folder, self.facts, self.side, shard)
        )

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def model(self) -> Clippo:
        """The model that made the collection. Raises ConfigError for another one."""
        from clippo_core.embedder import Clippo

        found = Clippo.load(
            self._source, self._device, fonts=self._fonts, precision=self.facts.precision
        )
        if found.weights_sha256 != self.facts.weights_sha256:
            raise ConfigError(
                f"{self.folder} was embedded by another model than {self._source}; name that one"
                " with --model, or embed the collection again."
            )
        if found.render_digest != self.facts.render_digest:
            raise ConfigError(
                f"{self.folder} was embedded with other fonts or layout rules than {self._source}"
                " draws with now; name the fonts with --font, or embed the collection again."
            )
        return found

    def about(self, row: int) -> Row:
        """What the metadata say about a row. Raises IndexError for one that is not there."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        shard, place = self.rows.place(row)
        return self._metadata(shard)[place]

    def by_text(self, text: str, k: int) -> list[Hit]:
        """The k rows nearest to a text, best first."""
        with self._lock:
            vector = self.model.embed_texts([text], progress=False)[0]
        return self._near(vector, k)

    def pixels(self, data: bytes, name: str) -> np.ndarray:
        """What the tower reads of a picture, given as the bytes of a file: uint8 [3, P, P]. Raises
        ImageError.
        """
        return self.model.prepared(data, name, self.facts.preprocess)

    def by_picture(self, pixels: np.ndarray, k: int) -> list[Hit]:
        """The k rows nearest to a picture, given as `pixels`."""
        with self._lock:
            vector = self.model.embed_prepared(pixels[None], "images")[0]
        return self._near(vector, k)

    def by_row(self, row: int, k: int) -> list[Hit]:
        """The k rows nearest to one of them, itself first. Raises IndexError."""
        self.about(row)
        return self._near(self.rows.at([row])[0], k)

    def picture(self, row: int) -> bytes:
        """The file of a row's picture. Raises IndexError, ImageError where it is gone."""
        return tars.picture_bytes(self.about(row).address)

    def _near(self, vector: np.ndarray, k: int) -> list[Hit]:
        k = min(k, len(self))
        found, cosines = index.search(self.rows, self._candidates, vector.astype(np.float32), k)
        return [
            Hit(row, cosine, self.about(row))
            for row, cosine in zip(found.tolist(), cosines.tolist(), strict=True)
        ]
