"""What the report looks at itself: pairs out of the shards, their embeddings, the patch kernel;
everything else it is given.

    shards ─▶ a few hundred pairs ┬▶ tower ─▶ two clouds and their gap
                                  └▶ rendered, and cut by tokenizers ─▶ length of a text by language
    patch kernel ─▶ components
    twelve pairs ─▶ contact sheet

These are pairs that the tower was trained on; nothing here is a benchmark number. What took a tower
is kept as numbers in <root>/analysis.json, so that a second report of the same weights and shards
needs none. It neither trains nor evaluates.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clippo_core import storage
from clippo_core.config import RenderConfig, digest
from clippo_core.errors import ClippoError, DataError, EvaluationError, NotFoundError
from clippo_core.measure.contact import ContactItem, contact_items, safe_picture
from clippo_core.measure.geometry import principal_plane
from clippo_core.measure.lengths import Lengths, measure_language
from clippo_core.measure.shard_pairs import ShardPair, read_pairs
from clippo_core.run.folder import RunFolder
from clippo_core.run.records import CheckpointInfo, Manifest
from clippo_core.untrusted.json import load_json

if TYPE_CHECKING:
    from clippo_core.embedder import Clippo

GAP_PAIRS = 256
"""Pairs behind the modality gap; lengths are those of the texts of as many photos and as many
sentence pairs."""

FEWEST_GAP_PAIRS = 10
"""Fewer have no fifth to hold out."""

TEXTS_PER_LANGUAGE = 500
"""Texts of one language behind its mean lengths."""

MOST_LANGUAGES = 40
"""Languages in the table of lengths, those with the most texts."""

_FORMAT = 2


@dataclass(frozen=True)
class Insight:
    """The report's own findings; a part that could not be made is empty, and `notes` says why."""

    gap: float | None = None
    """Distance of the means of the photos' and the texts' embeddings, 0..2."""
    matched_cosine: float | None = None
    """Mean cosine of a photo and its text."""
    other_cosine: float | None = None
    """Mean cosine of a photo and another photo's text."""
    separability: float | None = None
    """Share of held-out photos and texts that a linear classifier tells apart, 0..1; guessing gives
    1/2."""
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
    n_filters: int = 0
    """Filters of the patch kernel: the samples of its components."""
    lengths: list[Lengths] = field(default_factory=list)
    """Length of a text by language, in patches and in tokens."""
    lengths_from: str = ""
    """Which texts these are, in a sentence."""
    contact: list[ContactItem] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    """Name of a figure -> why it is not there."""


def gather_insight(
    root: str,
    checkpoint: CheckpointInfo,
    manifest: Manifest,
    render: RenderConfig,
    *,
    tokenizers: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Insight:
    """Gap, components, lengths and contact sheet of a run in folder or prefix `root`; from
    <root>/analysis.json where they stand there.

    tokenizers: name -> SentencePiece model file, for the lengths. A missing shard, checkpoint or
    tokenizer, or a tower that does not fit into memory, costs only the figures that need it.
    """
    named = sorted((tokenizers or {}).items())
    wanted = digest(
        [
            _FORMAT,
            checkpoint.weights_sha256,
            manifest.sha256,
            [(name, _etag(uri)) for name, uri in named],
            seed,
        ]
    )
    note = RunFolder(root).insight
    kept = _read_insight(note, wanted)
    if kept is not None:
        return kept
    model = functools.cache(lambda: _load(checkpoint.uri))
    pairs = functools.cache(
        lambda photos: read_pairs(manifest, GAP_PAIRS, seed=seed, photos=photos)
    )
    parts: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for name, look in (
        ("Contact sheet", lambda: {"contact": contact_items(manifest, render, seed=seed)}),
        ("Modality gap", lambda: _gap(model, pairs)),
        ("Patch kernel", lambda: _kernel(model)),
        ("Text lengths", lambda: _text_lengths(pairs, render, dict(named))),
    ):
        try:
            parts |= look()
        except (ClippoError, OSError, MemoryError, RuntimeError) as error:
            notes[name] = f"{type(error).__name__}: {error}"
    insight = Insight(**parts, notes=notes)
    if not notes:
        storage.write_text(note, _dump_insight(insight, wanted))
    return insight


def _load(uri: str) -> Clippo:
    from clippo_core.embedder import Clippo

    return Clippo.load(uri)


def _gap(model: Callable[[], Clippo], read: Callable[[bool], list[ShardPair]]) -> dict[str, Any]:
    from clippo_core.measure.geometry import geometry

    pairs = read(True)
    if len(pairs) < FEWEST_GAP_PAIRS:
        raise NotFoundError(
            f"a gap between photos and texts needs {FEWEST_GAP_PAIRS} photos, and the shards have"
            f" {len(pairs)}."
        )
    images = model().embed_images([pair.photo for pair in pairs], progress=False)
    texts = model().embed_texts([pair.texts[0] for pair in pairs], progress=False)
    photo_points, text_points, explained = principal_plane(images, texts)
    found = geometry(images, texts)
    return {
        "gap": found.modality_gap,
        "matched_cosine": found.matched_cosine,
        "other_cosine": found.other_cosine,
        "separability": found.linear_separability,
        "photo_points": photo_points,
        "text_points": text_points,
        "explained": explained,
        "pairs_from": "The pairs are training pairs.",
    }


def _kernel(model: Callable[[], Clippo]) -> dict[str, Any]:
    from clippo_core.measure.geometry import patch_components

    kernel = model().tower.state_dict()["patch_embed.proj.weight"].cpu().numpy()
    components, shares = patch_components(kernel, 30)
    return {
        "components": np.asarray(components),
        "shares": np.asarray(shares),
        "n_filters": len(kernel),
    }


def _text_lengths(
    read: Callable[[bool], list[ShardPair]], render: RenderConfig, tokenizers: dict[str, str]
) -> dict[str, Any]:
    """Lengths of the texts of a few hundred records, both sides of sentence pairs, each text once.
    Names tokenizers that can't be read.
    """
    from clippo_core.models import load_tokenizer
    from clippo_core.rendering import Renderer

    processors, remarks = {}, []
    for name, path in tokenizers.items():
        try:
            processors[name] = load_tokenizer(path)
        except (ClippoError, OSError, RuntimeError) as error:
            remarks.append(f" {name} is left out: {error}")
    by_language: dict[str, dict[str, None]] = {}
    for photos in (True, False):
        for pair in read(photos):
            first = [(pair.first_text, pair.first_language)] if pair.photo is None else []
            for text, language in [*first, *zip(pair.texts, pair.languages, strict=True)]:
                by_language.setdefault(language or "unknown", {}).setdefault(text)
    renderer = Renderer.from_config(render)
    found: list[Lengths] = []
    too_long = []
    for language in sorted(by_language, key=lambda name: (-len(by_language[name]), name))[
        :MOST_LANGUAGES
    ]:
        try:
            found.append(
                measure_language(
                    language, list(by_language[language])[:TEXTS_PER_LANGUAGE], processors, renderer
                )
            )
        except EvaluationError:
            too_long.append(language)
    if not found:
        raise NotFoundError(f"no text of the shards fits on a page of {render.image_px} px.")
    which = (
        f"Training texts, drawn at {render.image_px} px; those that the page cuts off are left out."
    )
    which += f" Of {', '.join(too_long)} none fits." if too_long else ""
    return {"lengths": found, "lengths_from": which + "".join(remarks)}


def _etag(uri: str) -> str:
    try:
        return storage.etag(uri)
    except (ClippoError, OSError):
        return ""


def _dump_insight(insight: Insight, wanted: str) -> str:
    values = dataclasses.asdict(insight)
    plain = {
        name: np.round(value, 5).tolist() if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }
    return json.dumps({"inputs_digest": wanted, **plain}, ensure_ascii=False)


def _read_insight(uri: str, wanted: str) -> Insight | None:
    """The insight that `_dump_insight` wrote for the same inputs; None for any other, and for a
    file that is not one.
    """
    try:
        values = load_json(storage.read_bytes(uri), uri)
        if values.pop("inputs_digest") != wanted:
            return None
        contact = [ContactItem(**item) for item in values.pop("contact")]
        lengths = [Lengths(**item) for item in values.pop("lengths")]
        arrays = {
            name: np.array(value, float)
            for name, value in values.items()
            if isinstance(value, list)
        }
        insight = Insight(**{**values, **arrays, "contact": contact, "lengths": lengths})
    except (NotFoundError, DataError, ValueError, KeyError, TypeError, AttributeError):
        return None
    safe = all(
        safe_picture(item.drawing) and (not item.photo or safe_picture(item.photo))
        for item in contact
    )
    return insight if safe else None
