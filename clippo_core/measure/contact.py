"""Pairs of a run as small pictures: a photo, and the text beside it as the tower reads it.

Kept as data: URIs, so that a page that shows them loads nothing from elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from clippo_core.config import RenderConfig
from clippo_core.data.thumbnails import data_uri
from clippo_core.measure.shard_pairs import ShardPair, read_pairs
from clippo_core.run.records import Manifest

CONTACT_ITEMS = 12
"""Pairs on the contact sheet."""
_PICTURE = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class ContactItem:
    """One pair of a contact sheet."""

    photo: str
    """Data URI, or empty for a text/text pair, whose first text is then `first_text`."""
    drawing: str
    """Data URI of the rendered text."""
    text: str
    language: str = ""
    first_text: str = ""


def safe_picture(uri: object) -> str:
    """`uri` if it is a PNG or JPEG data URI, otherwise an empty string: nothing in a page may load
    from elsewhere.
    """
    return uri if isinstance(uri, str) and _PICTURE.fullmatch(uri) else ""


def contact_item(
    photo: np.ndarray | None,
    drawing: np.ndarray,
    text: str,
    language: str = "",
    first_text: str = "",
) -> ContactItem:
    """A pair for the contact sheet from photo uint8 [h, w, 3] (None for a text/text pair) and
    drawing uint8 [px, px].
    """
    shown = "" if photo is None else data_uri(photo, photo=True)
    return ContactItem(shown, data_uri(drawing, max(drawing.shape)), text, language, first_text)


def contact_items(
    manifest: Manifest, render: RenderConfig, n: int = CONTACT_ITEMS, seed: int = 0
) -> list[ContactItem]:
    """`n` pairs for a contact sheet, a text/text pair among six, the languages taking turns. Raises
    ShardError, StorageError.
    """
    from clippo_core.data.images import decode_image
    from clippo_core.rendering import Renderer

    photos = read_pairs(manifest, 16 * n, seed=seed, photos=True)
    sentences = read_pairs(manifest, 4 * n, seed=seed, photos=False)
    n_sentences = min(len(sentences), max(n // 6, n - len(photos)))
    chosen = [*_by_language(photos, n - n_sentences), *_by_language(sentences, n_sentences)]
    drawings = Renderer.from_config(render).render([pair.texts[which] for pair, which in chosen])
    return [
        contact_item(
            None if pair.photo is None else decode_image(pair.photo),
            drawing,
            pair.texts[which],
            pair.languages[which],
            pair.first_text,
        )
        for (pair, which), drawing in zip(chosen, drawings, strict=True)
    ]


def _by_language(pairs: list[ShardPair], n: int) -> list[tuple[ShardPair, int]]:
    """`n` of the pairs, each with one of its texts, such that no language is taken twice before
    every language was taken once.
    """
    taken: dict[str, int] = {}
    left = list(pairs)
    chosen: list[tuple[ShardPair, int]] = []
    while left and len(chosen) < n:
        offers = [
            (taken.get(language, 0), place, which)
            for place, pair in enumerate(left)
            for which, language in enumerate(pair.languages)
        ]
        _, place, which = min(offers)
        pair = left.pop(place)
        taken[pair.languages[which]] = taken.get(pair.languages[which], 0) + 1
        chosen.append((pair, which))
    return chosen
