"""What the report looks at itself: pairs out of the shards, their embeddings, the patch kernel; everything else it is given.

    shards ─▶ a few hundred pairs ─▶ tower ─▶ two clouds and their gap;   patch kernel ─▶ components;   twelve pairs ─▶ contact sheet

These are pairs that the tower was trained on; nothing here is a benchmark number. What took a tower is kept as numbers in
<root>/analysis.json, so that a second report of the same weights and shards needs none. It neither trains nor evaluates.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clippo_core import storage
from clippo_core.analysis.pictures import ContactItem, contact_item, safe_picture
from clippo_core.config import RenderConfig, digest
from clippo_core.errors import ClippoError, NotFoundError
from clippo_core.records import CheckpointInfo, Manifest

if TYPE_CHECKING:
    from clippo_core.data.shard_index import ShardIndex
    from clippo_core.embedder import Clippo

GAP_PAIRS = 256
"""Pairs behind the modality gap."""

CONTACT_ITEMS = 12
"""Pairs on the contact sheet."""

MOST_SHARDS = 4
"""Shards that are opened: from a bucket each is fetched whole."""

MOST_INDEXES = 64
"""Shards whose index is read in search of those."""

_FORMAT = 1


@dataclass(frozen=True)
class ShardPair:
    """One record out of a shard, undecoded."""

    key: str
    photo: bytes | None
    """The picture's file; None for a text/text pair."""
    first_text: str
    texts: list[str]
    languages: list[str]
    """Language of each of `texts`."""


@dataclass(frozen=True)
class Insight:
    """The report's own findings; a part that could not be made is empty, and `notes` says why."""

    gap: float | None = None
    """Distance of the means of the photos' and the texts' embeddings, 0..2."""
    matched_cosine: float | None = None
    """Mean cosine of a photo and its text."""
    photo_points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    """[n, 2] photos on the first two principal components of both clouds together."""
    text_points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    """[n, 2] their texts."""
    explained: np.ndarray = field(default_factory=lambda: np.zeros(2))
    """[2] shares of the variance, 0..1."""
    pairs_from: str = ""
    """Where the pairs come from, in a sentence."""
    components: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 16, 16)))
    """[k, 3, 16, 16] principal components of the patch kernel."""
    shares: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """[k] their shares of the variance, 0..1."""
    contact: list[ContactItem] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    """Name of a figure -> why it is not there."""


def gather_insight(root: str, checkpoint: CheckpointInfo, manifest: Manifest, render: RenderConfig, *, seed: int = 0) -> Insight:
    """Gap, components and contact sheet of a run in folder or prefix `root`; read from <root>/analysis.json where they stand there already.

    A missing shard or checkpoint, or a tower that does not fit into memory, costs only the figures that need it.
    """
    wanted = digest([_FORMAT, checkpoint.weights_sha256, manifest.render_digest, [file.sha256 for file in manifest.files], seed])
    note = storage.join(root, "analysis.json")
    kept = _read_insight(note, wanted)
    if kept is not None:
        return kept
    model = functools.cache(lambda: _load(checkpoint.uri))
    parts: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for name, look in (
        ("Contact sheet", lambda: {"contact": contact_items(manifest, render, seed=seed)}),
        ("Modality gap", lambda: _gap(model, manifest, seed)),
        ("Patch kernel", lambda: _kernel(model)),
    ):
        try:
            parts |= look()
        except (ClippoError, OSError, MemoryError, RuntimeError) as error:
            notes[name] = f"{type(error).__name__}: {error}"
    insight = Insight(**parts, notes=notes)
    if not notes:
        storage.write_text(note, _dump_insight(insight, wanted))
    return insight


def contact_items(manifest: Manifest, render: RenderConfig, n: int = CONTACT_ITEMS, seed: int = 0) -> list[ContactItem]:
    """`n` pairs for a contact sheet, a text/text pair among six, the languages taking turns. Raises ShardError, StorageError."""
    from clippo_core.data.images import decode_image
    from clippo_core.rendering import Renderer

    photos = read_pairs(manifest, 16 * n, seed=seed, photos=True)
    sentences = read_pairs(manifest, 4 * n, seed=seed, photos=False)
    n_sentences = min(len(sentences), max(n // 6, n - len(photos)))
    chosen = [*_by_language(photos, n - n_sentences), *_by_language(sentences, n_sentences)]
    drawings = Renderer.from_config(render).render([pair.texts[which] for pair, which in chosen])
    return [
        contact_item(
            None if pair.photo is None else decode_image(pair.photo), drawing, pair.texts[which], pair.languages[which], pair.first_text
        )
        for (pair, which), drawing in zip(chosen, drawings, strict=True)
    ]


def read_pairs(manifest: Manifest, n: int, *, seed: int = 0, photos: bool = True) -> list[ShardPair]:
    """Up to `n` records out of at most MOST_SHARDS shards, with a photo or without, the same ones for the same seed.

    Raises ShardError for a missing or damaged shard.
    """
    from clippo_core.data import shard_index, shards

    random = np.random.default_rng(seed)
    tars = {file.name: file for file in manifest.files}
    indexes = [file for file in manifest.files if file.name.endswith(".index")]
    found: list[ShardPair] = []
    opened = 0
    for position in random.permutation(len(indexes))[:MOST_INDEXES]:
        index, about = shard_index.load(shards.local_file(manifest, indexes[position]))
        places = np.flatnonzero((index.kinds != shard_index.TEXT) == photos)
        if len(places) and opened < MOST_SHARDS and len(found) < n:
            opened += 1
            share = n if len(indexes) == 1 else -(-n // min(MOST_SHARDS, len(indexes)))
            with open(shards.local_file(manifest, tars[about["name"]]), "rb") as tar:
                found += [_read_pair(tar.fileno(), index, place) for place in random.permutation(places)[:share]]
    return found[:n]


def principal_plane(images: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matched features [n, d], [n, d] -> their points [n, 2], [n, 2] on the first two principal components of both together, and the
    components' shares of the variance [2], 0..1. Signs are fixed: the largest entry of each component is positive."""
    both = np.concatenate([images, texts]).astype(np.float64)
    centred = both - both.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    directions = directions * np.sign(np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1))
    points = centred @ directions.T
    explained = singular[:2] ** 2 / max(float((singular**2).sum()), 1e-300)
    return points[: len(images)], points[len(images) :], explained


def _read_pair(descriptor: int, index: ShardIndex, place: int) -> ShardPair:
    from clippo_core.data import shard_index

    first, second = (os.pread(descriptor, int(size), int(offset)) for offset, size in (index.first[place], index.second[place]))
    kind = index.kinds[place]
    if kind == shard_index.FOREIGN_TXT:
        about = {"texts": [second.decode()]}
    else:
        about = json.loads(second)
        if kind == shard_index.FOREIGN_JSON:
            about = {"texts": [about["caption"]]}
    texts = [str(text) for text in about["texts"]]
    languages = [str(language) for language in about.get("languages", [])][-len(texts) :]
    is_text = kind == shard_index.TEXT
    return ShardPair(index.key(place), None if is_text else first, first.decode() if is_text else "", texts, languages or [""] * len(texts))


def _by_language(pairs: list[ShardPair], n: int) -> list[tuple[ShardPair, int]]:
    """`n` of the pairs, each with one of its texts, such that no language is taken twice before every language was taken once."""
    taken: dict[str, int] = {}
    left = list(pairs)
    chosen: list[tuple[ShardPair, int]] = []
    while left and len(chosen) < n:
        offers = [
            (taken.get(language, 0), place, which) for place, pair in enumerate(left) for which, language in enumerate(pair.languages)
        ]
        _, place, which = min(offers)
        pair = left.pop(place)
        taken[pair.languages[which]] = taken.get(pair.languages[which], 0) + 1
        chosen.append((pair, which))
    return chosen


def _load(uri: str) -> Clippo:
    from clippo_core.embedder import Clippo

    return Clippo.load(uri)


def _gap(model: Callable[[], Clippo], manifest: Manifest, seed: int) -> dict[str, Any]:
    from clippo_core.analysis.geometry import modality_gap

    pairs = read_pairs(manifest, GAP_PAIRS, seed=seed)
    if len(pairs) < 2:
        raise NotFoundError("the shards have no photos, and a gap is one between photos and texts.")
    images = model().embed_images([pair.photo for pair in pairs], progress=False)
    texts = model().embed_texts([pair.texts[0] for pair in pairs], progress=False)
    photo_points, text_points, explained = principal_plane(images, texts)
    return {
        "gap": float(modality_gap(images, texts)),
        "matched_cosine": float((images * texts).sum(1).mean()),
        "photo_points": photo_points,
        "text_points": text_points,
        "explained": explained,
        "pairs_from": "The pairs are training pairs.",
    }


def _kernel(model: Callable[[], Clippo]) -> dict[str, Any]:
    from clippo_core.analysis.geometry import patch_components

    kernel = model().tower.state_dict()["patch_embed.proj.weight"].cpu().numpy()
    components, shares = patch_components(kernel, 30)
    return {"components": np.asarray(components), "shares": np.asarray(shares)}


def _dump_insight(insight: Insight, wanted: str) -> str:
    values = dataclasses.asdict(insight)
    plain = {name: np.round(value, 5).tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
    return json.dumps({"inputs_digest": wanted, **plain}, ensure_ascii=False)


def _read_insight(uri: str, wanted: str) -> Insight | None:
    """The insight that `_dump_insight` wrote for the same inputs; None for any other, and for a file that is not one."""
    try:
        values = json.loads(storage.read_text(uri))
        if values.pop("inputs_digest") != wanted:
            return None
        contact = [ContactItem(**item) for item in values.pop("contact")]
        arrays = {name: np.array(value, float) for name, value in values.items() if isinstance(value, list)}
        insight = Insight(**{**values, **arrays, "contact": contact})
    except (NotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    safe = all(safe_picture(item.drawing) and (not item.photo or safe_picture(item.photo)) for item in contact)
    return insight if safe else None
