"""Embeddings of a whole data set, kept on disk chunk by chunk, so that an interrupted evaluation
goes on where it was.

    pictures, texts ─▶ chunks of 512 ─▶ on disk already?
                    ─▶ blocks of 64 through the tower ─▶ float32 [n, d]

    name of a chunk's file = sha256(weights, rendering, code, device, kind,
                                    the sha256 of every input in it)

The tower always reads blocks of exactly 64 rows (the last one filled up), and chunks start at
multiples of 64: the same matrix products whatever is asked for at once, so no digit depends on
batch size, on chunks, or on where a run was killed. A changed picture or weight has another name,
so nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from clippo_core import storage
from clippo_core.config import digest
from clippo_core.data.images import decode_image, fewshot_crop, squash
from clippo_core.errors import CheckpointError, EvaluationError, StorageError
from clippo_core.progress import counted
from clippo_core.run.provenance import code_digest
from clippo_core.untrusted.arrays import read_npy

if TYPE_CHECKING:
    from clippo_core.embedder import Clippo

BLOCK = 64
"""Rows of every forward pass."""
CHUNK = 512
"""Rows of one file on disk, a multiple of BLOCK."""

Feature = Literal["embedding", "probe"]
"""`embedding`: squash, the tower's unit embedding.
`probe`: squash to 256, central crop, the features before the head."""


@dataclass(frozen=True)
class Pictures:
    """Pictures that can be read one by one."""

    names: Sequence[str]
    """What errors call them."""
    read: Callable[[int], bytes]
    """The file's bytes."""

    def __len__(self) -> int:
        return len(self.names)


class Embedded(NamedTuple):
    """Features of pictures, and what they were made of."""

    features: np.ndarray
    """float32 [n, d]."""
    digests: list[str]
    """sha256 of each picture's bytes: equal ones are one picture twice."""


class FeatureStore:
    """Features of one model, on disk in `folder` (local or s3://)."""

    def __init__(
        self, model: Clippo, folder: str, *, batch_size: int = 256, progress: bool = True
    ) -> None:
        """batch_size: pictures decoded ahead of the tower, in threads."""
        self.model = model
        self.folder = folder
        self.batch_size = batch_size
        self.progress = progress
        self.computed = 0
        """Rows that went through the tower, the others were found on disk."""
        self._key = {
            "weights": model.weights_sha256,
            "render": model.render_digest,
            "image_px": model.image_px,
            "device": model.device.type,
            "precision": model.precision,
            "code": code_digest("clippo_core.evaluate.embed"),
        }

    def texts(self, texts: Sequence[str], what: str = "texts") -> np.ndarray:
        """Embeddings of texts, float32 [n, d] with unit rows; equal texts get equal rows. `what`
        names them in the progress bar.
        """
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        chunks = [
            self._cached("texts", part, len(part), partial(self._text_features, part))
            for part in self._chunks(distinct, CHUNK, what)
        ]
        return np.concatenate(chunks)[[place[text] for text in texts]]

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Zero-shot classifier, float32 [n, d]: the mean of a class's prompts (each of unit
        length), made unit again.

        templates: strings with `{}`. Classes of one name get equal rows.
        """
        distinct = list(dict.fromkeys(names))
        place = {name: row for row, name in enumerate(distinct)}
        chunks = []
        for part in self._chunks(distinct, max(1, CHUNK // len(templates)), "classes"):
            prompts = [template.replace("{}", name) for name in part for template in templates]
            chunks.append(
                self._cached(
                    "classes",
                    [str(len(templates)), *prompts],
                    len(part),
                    partial(self._class_means, prompts, len(templates)),
                )
            )
        return np.concatenate(chunks)[[place[name] for name in names]]

    def pictures(self, pictures: Pictures, feature: Feature = "embedding") -> Embedded:
        """Features of pictures. Raises ImageError naming one that cannot be read: a benchmark
        without it is another benchmark.
        """
        digests: list[str] = []
        chunks = []
        for part in self._chunks(range(len(pictures)), CHUNK, f"{feature}s of pictures"):
            data = [pictures.read(i) for i in part]
            found = [hashlib.sha256(bytes_).hexdigest() for bytes_ in data]
            names = [pictures.names[i] for i in part]
            compute = partial(self._picture_features, data, names, feature)
            chunks.append(self._cached(feature, found, len(part), compute))
            digests += found
        return Embedded(np.concatenate(chunks), digests)

    def _chunks(self, items: Sequence, size: int, what: str) -> Iterator[Sequence]:
        if not len(items):
            raise EvaluationError(f"there are no {what} to embed.")
        with counted(what, len(items), shown=self.progress) as bar:
            for i in range(0, len(items), size):
                yield items[i : i + size]
                bar.update(len(items[i : i + size]))

    def _cached(
        self, kind: str, inputs: Sequence[str], n: int, compute: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """The `n` rows on disk for these inputs, or `compute()`, put on disk. A file that is
        damaged is made again.
        """
        uri = storage.join(
            self.folder, f"{kind}-{digest([self._key, kind, list(inputs)])[:40]}.rows"
        )
        config = self.model.tower.config
        shape = (n, config.width if kind == "probe" else config.embed_dim)
        rows = _unpack(uri, shape) if storage.exists(uri) else None
        if rows is None:
            rows = compute()
            storage.write_bytes(uri, _pack(rows))
        return rows

    def _text_features(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for i in range(0, len(texts), BLOCK):
            part = list(texts[i : i + BLOCK])
            rows.append(self.model.embed_texts(part + part[-1:] * (BLOCK - len(part)))[: len(part)])
        self.computed += len(texts)
        return _finite(np.concatenate(rows), texts)

    def _class_means(self, prompts: list[str], n_templates: int) -> np.ndarray:
        embedded = self._text_features(prompts).astype(np.float64)
        means = embedded.reshape(-1, n_templates, embedded.shape[1]).mean(axis=1)
        return (means / (np.linalg.norm(means, axis=1, keepdims=True) + 1e-8)).astype(np.float32)

    def _picture_features(
        self, data: list[bytes], names: list[str], feature: Feature
    ) -> np.ndarray:
        import torch

        forward = self.model.tower.embed if feature == "embedding" else self.model.tower.pooled
        prepared = self._prepared(data, names, squash if feature == "embedding" else fewshot_crop)
        rows = []
        with torch.inference_mode(), self.model.in_precision():
            while block := list(itertools.islice(prepared, BLOCK)):
                images = np.stack(block + block[-1:] * (BLOCK - len(block)))
                inputs = (
                    torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(self.model.device)
                )
                rows.append(forward(inputs)[: len(block)].float().cpu().numpy())
        self.computed += len(data)
        return _finite(np.concatenate(rows), names)

    def _prepared(
        self, data: list[bytes], names: list[str], resize: Callable[[np.ndarray, int], np.ndarray]
    ) -> Iterator[np.ndarray]:
        """uint8 [px, px, 3], decoded and resized in threads, up to `batch_size` ahead of the
        tower.
        """

        def prepare(item: tuple[bytes, str]) -> np.ndarray:
            return resize(decode_image(*item), self.model.image_px)

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            waiting: deque[Future[np.ndarray]] = deque()
            for item in zip(data, names, strict=True):
                waiting.append(pool.submit(prepare, item))
                if len(waiting) >= self.batch_size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _finite(features: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The features, float32. Raises EvaluationError for NaN and infinity."""
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise EvaluationError(
            f"the tower gives non-finite features for {len(bad)} of {len(features)} inputs, the"
            f" first is {names[bad[0]][:200]!r}; its weights are damaged or diverged, and no score"
            " from them would mean anything."
        )
    return features.astype(np.float32, copy=False)


def _pack(rows: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(rows, np.float32), allow_pickle=False)
    return hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


def _unpack(uri: str, shape: tuple[int, int]) -> np.ndarray | None:
    """Rows that `_pack` wrote, or None where they are not whole, finite, or of this shape."""
    try:
        data = storage.read_bytes(uri, 4 * math.prod(shape) + 1024)  # the rest is the header
        rows = read_npy(io.BytesIO(data[32:]), uri)
    except (StorageError, CheckpointError):
        return None
    whole = hashlib.sha256(data[32:]).digest() == data[:32]
    fits = rows.dtype == np.float32 and rows.shape == shape
    return rows if whole and fits and np.isfinite(rows).all() else None
