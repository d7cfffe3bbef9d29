"""A run's config held against what is there, before anything is computed: every fault at once.

    inspect_text(json)        unknown fields and wrong values, then all of the below
    inspect_run(config)       every path; the sources counted, their first pictures opened; the
                              batch against the data; disk; passes over the data
    inspect_benchmarks(...)   paths and first pictures of the evaluations; the plan's deck shows it

A fault is one sentence; nothing is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clippo_core import storage
from clippo_core.config import EvaluateConfig, ModelConfig, RunConfig, SourceConfig
from clippo_core.config.check import decode, parse_json
from clippo_core.config.model import PROMOTED
from clippo_core.data.pairs import text_pairs_per_batch
from clippo_core.data.sources import kinds
from clippo_core.data.survey import Survey, first_pictures, survey
from clippo_core.data.validate.evaluated import listed_pictures
from clippo_core.errors import ClippoError, ConfigError, DataError, NotFoundError
from clippo_core.evaluate.registry import EVALUATIONS

SHRUNK_BYTES = 30_000
"""About so many bytes has a photo that was shrunk to `data.max_short_side_px`."""
STATE_BYTES = 12
"""A checkpoint's bytes per parameter: weights, and at most two moments, in float32."""


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    facts: list[str] = field(default_factory=list)
    """What is as it should be, a line each."""
    faults: list[str] = field(default_factory=list)
    """What would stop the run or spoil its result, a sentence each."""

    def add(self, other: Inspection) -> None:
        """Take in what another look found."""
        self.facts.extend(other.facts)
        self.faults.extend(other.faults)


def inspect_text(text: str) -> Inspection:
    """A run's config as JSON. Faults of the JSON come first; as far as the rest can be read without
    them, it is looked at as well.
    """
    found = Inspection()
    try:
        config = RunConfig.from_json(text)
    except ConfigError as error:
        found.faults.extend(str(error).split("\n"))
        try:  # what is misspelt is left out, and the rest looked at
            config = decode(RunConfig, parse_json(text, "RunConfig"), lenient=True)
        except ConfigError:
            return found
    found.add(inspect_run(config))
    return found


def inspect_run(config: RunConfig) -> Inspection:
    """Sources, weights to start from, benchmarks, batch and disk of a run."""
    found = Inspection()
    starts = [config.model.tokenizer, config.model.initial_weights, *config.render.fonts]
    for uri in starts:
        if uri and uri != PROMOTED and (fault := _missing(uri)):
            found.faults.append(fault)
    surveys = [(source, _surveyed(source, found)) for source in config.data.sources]
    whole = [(source, one) for source, one in surveys if one is not None]
    try:
        kinds.source_names(config.data)
    except ConfigError as error:
        found.faults.append(str(error))
    if len(whole) == len(surveys):
        _compare_batch(config, [one for _, one in whole], found)
    _compare_disk(config, whole, found)
    found.add(inspect_benchmarks(config.evaluate))
    return found


def inspect_benchmarks(evaluate: EvaluateConfig) -> Inspection:
    """Everything that the evaluations read is there, and their first pictures can be decoded."""
    found = Inspection()
    for name, one in EVALUATIONS.items():
        for config in one.configs(evaluate):
            label = f"{name} ({config.dataset})"
            needed = [item.uri for item in one.reads(config) if item.uri and not item.is_optional]
            missing = [fault for uri in needed if (fault := _missing(uri))]
            found.faults.extend(f"{label}: {fault}" for fault in missing)
            for pictures in [] if missing else one.shows(config):
                _open_pictures(label, pictures.images, listed_pictures(pictures), found)
            if not missing and not one.shows(config):
                found.facts.append(f"{label}: its files are there")
    return found


def _open_pictures(label: str, folder: str, uris: Iterator[str], found: Inspection) -> None:
    """Open the first pictures of a benchmark."""
    try:
        opened, problems = first_pictures(uris)
    except ClippoError as error:
        found.faults.append(f"{label}: {error}")
        return
    if problems:
        found.faults.append(
            f"{label}: {len(problems)} of its first {opened} pictures cannot be used; the first:"
            f" {problems[0]}"
        )
    elif not opened and not _holds_parquet(folder):
        found.faults.append(f"{label}: {folder} holds none of its pictures; check the paths.")
    else:
        what = f"its first {opened} pictures open" if opened else "its files are there"
        found.facts.append(f"{label}: {what}")


def _holds_parquet(folder: str) -> bool:
    return any(stat.name.endswith(".parquet") for stat in storage.list_files(folder))


def _missing(uri: str) -> str:
    """The sentence for a file or folder that isn't there, "" for one that is."""
    fault = f"{uri}: there is no such file, or the folder is empty; check the path."
    try:
        # A bucket's folder may hold a million files: they are not listed.
        is_there = not storage.is_local(uri) and storage.exists(uri)
        return "" if is_there or storage.list_files(uri) else fault
    except NotFoundError as error:  # a bucket says whether it is missing or forbidden
        return fault if storage.is_local(uri) else str(error)


def _surveyed(source: SourceConfig, found: Inspection) -> Survey | None:
    """What a source holds; what is wrong with it is noted."""
    try:
        if source.images and (fault := _missing(source.images)):
            raise DataError(fault)
        one = survey(source)
    except ClippoError as error:
        found.faults.append(f"source {source.path}: {error}")
        return None
    if not one.records or one.problems:
        bad = one.unusable or len(one.problems)
        first = one.problems[0] if one.problems else "it holds no record."
        found.faults.append(
            f"source {source.path}: {bad:,} of its first {one.records + one.unusable:,} records"
            f" cannot be used; the first: {first}"
        )
    least = "at least " if one.is_least else ""
    found.facts.append(
        f"source {source.path}: {least}{one.records:,} records"
        + (f", its first {one.opened} pictures open" if one.opened and not one.problems else "")
    )
    return one if one.records else None


def _compare_batch(config: RunConfig, surveys: list[Survey], found: Inspection) -> None:
    """Whether a batch finds enough photos and text pairs, and how often each comes."""
    batch = config.train.batch_pairs
    n_texts = text_pairs_per_batch(batch, config.data.text_pair_share)
    for has_photos, places, kind in ((True, batch - n_texts, "photos"), (False, n_texts, "texts")):
        pool = [one for one in surveys if one.has_photos is has_photos]
        n = sum(one.records for one in pool)
        if not places:
            continue
        if n < places and not any(one.is_least for one in pool):
            found.faults.append(
                f"train.batch_pairs is {batch:,}: a batch takes {places:,} {kind}, and there are"
                f" {n:,}; lower it, or add data."
            )
            continue
        for one in pool:
            most = one.most_in_a_batch * n // one.records
            if one.top and most < places:
                found.faults.append(
                    f"train.batch_pairs is {batch:,}, but {one.top} is so common that batches hold"
                    f" at most {most:,} {kind}, each at most once; lower it, or take some out."
                )
        epochs = config.train.steps * places / n
        found.facts.append(f"{config.train.steps:,} steps pass {epochs:,.1f} times over the {kind}")


def _compare_disk(
    config: RunConfig, surveys: list[tuple[SourceConfig, Survey]], found: Inspection
) -> None:
    """Whether shards and checkpoints fit where the run is written."""
    n_bytes = 0.0
    for source, one in surveys:
        if source.kind != "webdataset":  # its tars are read as they lie
            shrunk = SHRUNK_BYTES if config.data.max_short_side_px else one.mean_bytes
            n_bytes += one.records * (min(one.mean_bytes, shrunk) + 1000)
    n_checkpoints = config.train.keep_checkpoints + 1
    n_bytes += n_checkpoints * STATE_BYTES * parameters(config.model, config.render.image_px)
    said = f"shards and checkpoints take about {n_bytes / 1e9:,.1f} GB"
    if not storage.is_local(config.root):
        found.facts.append(f"{said} in {config.root}")
        return
    root = Path(storage.local_path(config.root)).absolute()
    folder = next(place for place in (root, *root.parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        found.faults.append(
            f"{config.root}: {said}, and {free / 1e9:,.1f} GB are free; free some, or set `root`."
        )
    else:
        found.facts.append(f"{said}; {free / 1e9:,.1f} GB are free")


def parameters(model: ModelConfig, image_px: int) -> int:
    """About how many parameters a tower has: blocks, patches, positions, pooling, head."""
    width, patch = model.width, model.PATCH_PX
    block = 4 * width**2 + 2 * width * model.mlp_dim
    patches = 3 * patch**2 * width + (image_px // patch) ** 2 * width
    towers = 2 if model.kind == "two_tower_clip" else 1
    return towers * ((model.depth + 1) * block + patches + width * model.embed_dim)
