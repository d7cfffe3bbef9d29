"""A run on somebody's own data: kinds of the sources, size of the tower, and steps, warm-up and
batch that fit the count.

    propose("mine", ["photos/"]) ─▶ (RunConfig, what was found, in sentences)

    batch    as large as the size allows, at most a quarter of the photos, and no larger than the
             commonest picture or text permits
    steps    so many passes over the photos, within bounds

A beginning, to be edited; `run/inspection.py` holds an edited one against the data.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clippo_core.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimConfig,
    RenderConfig,
    RetrievalConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
)
from clippo_core.config.small import SMALL, on_a_laptop
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources import kinds, photos
from clippo_core.data.sources.guess import captions_kind, guess_source
from clippo_core.data.survey import Survey, survey
from clippo_core.errors import ConfigError, DataError

TEXT_PAIR_SHARE = 0.25
"""Share of text pairs in a batch, where there are any: the paper's first choice."""


@dataclass(frozen=True)
class Size:
    """A tower, and how it is trained."""

    model: ModelConfig
    image_px: int
    most_pairs: int
    """Largest batch."""
    epochs: int
    least_steps: int
    most_steps: int
    train: TrainConfig
    """Everything but steps and batch."""


SIZES = {
    "tiny": Size(
        SMALL,
        image_px=112,
        most_pairs=96,
        epochs=20,
        least_steps=100,
        most_steps=2000,
        train=on_a_laptop(1, 1),
    ),
    "b16": Size(
        ModelConfig(),
        image_px=224,
        most_pairs=4096,
        epochs=30,
        least_steps=1000,
        most_steps=250_000,
        train=TrainConfig(),
    ),
}
"""`tiny` trains on two cores within some ten minutes; `b16` is the paper's tower, for a GPU."""


def propose(
    name: str, pairs: Sequence[str], retrieval: Sequence[tuple[str, str]] = (), size: str = "tiny"
) -> tuple[RunConfig, list[str]]:
    """(The run, a sentence for each source and choice.) pairs: as `guess_source` takes them;
    retrieval: (annotations, folder of pictures) of each benchmark. Raises DataError, ConfigError.
    """
    if size not in SIZES:
        raise ConfigError(f"there is no size {size}; there are {', '.join(SIZES)}.")
    sources = tuple(_whole(guess_source(given)) for given in pairs)
    found = [survey(source) for source in sources]
    chosen = SIZES[size]
    notes = [
        f"{source.path}: {source.kind}, {_counted(one)}"
        for source, one in zip(sources, found, strict=True)
    ]
    for source, one in zip(sources, found, strict=True):
        if not one.records:
            fault = one.problems[0] if one.problems else "it holds no record."
            raise DataError(f"{source.path}: none of its records can be used; the first: {fault}")
    share = _text_share(found)
    n_pairs = _batch(found, share, chosen)
    steps = _steps(found, share, n_pairs, chosen)
    evaluate = EvaluateConfig(retrieval=tuple(_benchmark(*one) for one in retrieval))
    ramp = min(10_000, max(1, steps // 10))
    config = RunConfig(
        name=name,
        data=DataConfig(sources=sources, text_pair_share=share),
        render=RenderConfig(image_px=chosen.image_px),
        model=chosen.model,
        optim=OptimConfig(warmup_steps=ramp, timescale_steps=ramp, cooldown_steps=ramp),
        train=dataclasses.replace(chosen.train, steps=steps, batch_pairs=n_pairs),
        evaluate=evaluate,
    )
    kinds.source_names(config.data)  # two sources of one name are refused
    notes.append(f"{steps:,} steps of {n_pairs:,} pairs, on pages of {chosen.image_px} px")
    if not retrieval:
        notes.append("nothing will be evaluated: add --retrieval ANNOTATIONS IMAGES for a number")
    return config, notes


def _whole(source: SourceConfig) -> SourceConfig:
    """The source with whole local paths: the run may be started from another folder."""
    names = ("images", "second_path") if source.on_hub else ("path", "images", "second_path")
    paths: dict[str, Any] = {name: _absolute(getattr(source, name)) for name in names}
    return dataclasses.replace(source, **paths)


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path and "://" not in path else path


def _counted(one: Survey) -> str:
    """What a survey found, for people."""
    least = "at least " if one.is_least else ""
    what = "photos with captions" if one.has_photos else "text pairs"
    bad = f", {one.unusable:,} more cannot be used" if one.unusable else ""
    return f"{least}{one.records:,} {what}{bad}"


def _text_share(found: Sequence[Survey]) -> float:
    """Share of text pairs: none or all where the other kind is missing."""
    are = {one.has_photos for one in found}
    return TEXT_PAIR_SHARE if len(are) == 2 else 0.0 if are == {True} else 1.0


def _batch(found: Sequence[Survey], share: float, size: Size) -> int:
    """The largest power of two (or the size's own bound) that the data permit. Raises DataError."""
    most = size.most_pairs
    for one, part in _pools(found, share):
        records = sum(each.records for each in one)
        common = min(each.most_in_a_batch * records / each.records for each in one)
        most = min(most, int(max(2, min(records / 4, common / 2)) / part))
    if most >= size.most_pairs:
        return size.most_pairs
    batch = 1 << (most.bit_length() - 1)
    for one, part in _pools(found, share):
        if sum(each.records for each in one) < max(2, batch * part):
            n = sum(each.records for each in one)
            raise DataError(f"there are only {n} usable pairs; training contrasts at least two.")
    return batch


def _pools(found: Sequence[Survey], share: float) -> list[tuple[list[Survey], float]]:
    """(surveys, share of the batch) of photos and of text pairs, as far as there are any."""
    photos_first = [[one for one in found if one.has_photos is kind] for kind in (True, False)]
    pools = zip(photos_first, (1 - share, share), strict=True)
    return [(one, part) for one, part in pools if one and part]


def _steps(found: Sequence[Survey], share: float, n_pairs: int, size: Size) -> int:
    """Passes over the photos (or over the texts, where there are no photos), within bounds."""
    one, part = _pools(found, share)[0]
    steps = round(size.epochs * sum(each.records for each in one) / (n_pairs * part))
    return min(size.most_steps, max(size.least_steps, steps))


def _benchmark(annotations: str, images: str) -> RetrievalConfig:
    """Retrieval on the photos of an annotation file: of its split `test`, else `val`, else all."""
    annotations, images = _absolute(annotations), _absolute(images)
    split = ""
    if captions_kind(annotations) == "karpathy":
        entries = list(photos.karpathy_records(annotations, images))
        splits = {entry.split for entry in entries}
        split = next((name for name in ("test", "val") if name in splits), "")
        count = sum(entry.split == split or not split for entry in entries)
    else:
        count = sum(1 for _ in photos.coco_records(annotations, images))
    stem = files.stem(annotations).removeprefix("dataset_")
    return RetrievalConfig(
        annotations, images, dataset=stem, split=split, expect_images=max(1, count)
    )
