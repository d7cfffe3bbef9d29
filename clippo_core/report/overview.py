"""What a report says about its run in words: summary, cautions, times, versions.

A caution is what a reader must know before believing a number. Nothing is read from a file here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from clippo_core.config import RunConfig
from clippo_core.measure.insight import Insight
from clippo_core.report import decks, digits
from clippo_core.report.curves import by_step, number_of
from clippo_core.report.rows import Row
from clippo_core.run.records import CheckpointInfo, EvalResult, Manifest, ValidationReport, Verdict

PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "timm",
    "deepspeed",
    "flytekit",
    "great-expectations",
    "scikit-learn",
)
"""Whose versions the report names."""

HEADLINES = (
    ("zero_shot_top1", "unseen pictures are named right, by the names alone"),
    ("i2t_recall@1", "unseen pictures find their own text first"),
    ("t2i_recall@1", "texts find their own unseen picture first"),
    ("overall", "questions about a picture are answered right"),
    ("average", "points in the mean over GLUE's tasks"),
)
"""What a main metric of this name says in words; the first that a run has is its headline."""

SHORTEST_SECONDS = 0.5
"""Parts of a stage that took less are left out of the table of times."""

KINDS = {
    "clippo": "CLIPPO tower",
    "one_tower_clip": "1T-CLIP tower",
    "two_tower_clip": "CLIP* pair of towers",
    "image_only": "vision transformer",
}
"""How a sentence names a model's kind."""


@dataclass(frozen=True)
class RunRecord:
    """Everything that a report tells of: the run's records, and what was found beside them."""

    root: str
    config: RunConfig
    validation: ValidationReport
    manifest: Manifest
    checkpoint: CheckpointInfo
    results: list[EvalResult]
    verdict: Verdict
    journal: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Evaluation -> hits and misses."""
    timings: dict[str, dict[str, float]] = field(default_factory=dict)
    """Evaluation -> part -> seconds."""
    insight: Insight = field(default_factory=Insight)


@dataclass(frozen=True)
class Headline:
    """A run's one figure."""

    figure: str
    """`91.1 of 100`."""
    words: str
    """What it counts, and what guessing gives."""
    small: str
    """The metric, its interval and n, and whether it is told apart from guessing."""


def headline(groups: list[dict[str, Any]]) -> Headline | None:
    """The first of HEADLINES among the main metrics; None where no evaluation has one."""
    rows = [row for row in main_rows(groups) if row.found.value is not None]
    for name, words in HEADLINES:
        for row in rows:
            if row.metric.rpartition("/")[2] == name:
                return _headline(row, words)
    return None


def _headline(row: Row, words: str) -> Headline:
    found = row.found
    guessing = "" if found.chance is None else f"; guessing gives {digits.share(found.chance)}"
    bounds = f", 95 % interval {digits.interval(found.bounds)}" if found.bounds else ""
    told = {
        True: "; above guessing by the interval's lower end",
        False: "; not told apart from guessing",
        None: "",
    }[row.is_above_chance]
    return Headline(
        f"{digits.share(found.value)} of 100",
        f"{words}{guessing}.",
        f"{row.metric}{bounds}, n = {digits.count(found.n)}{told}.",
    )


def summary(run: RunRecord) -> str:
    """What was run, on what, and with how many results, in three sentences."""
    model, manifest, checkpoint = run.config.model, run.manifest, run.checkpoint
    sources = ", ".join(
        f"{name} {100 * share:.0f} %"
        for name, share in sorted(manifest.shares_by_source.items(), key=lambda i: -i[1])
    )
    with_numbers = [
        result
        for result in run.results
        if not result.failure and any(m.value is not None for m in result.metrics.values())
    ]
    failed = [result for result in run.results if result.failure]
    left = len(run.results) - len(with_numbers) - len(failed)
    outcome = f"Of {len(run.results)} evaluations {len(with_numbers)} have numbers"
    outcome += f", {len(failed)} failed" if failed else ""
    outcome += f", {left} not run" if left else ""
    return (
        f"A {KINDS[model.kind]} of width {model.width} and depth {model.depth} was trained for"
        f" {digits.count(checkpoint.step)} steps on {digits.count(checkpoint.pairs_seen)} pairs,"
        f" drawn from {digits.count(manifest.n_pairs)} ({sources}). Its loss over the last steps is"
        f" {digits.value(checkpoint.loss)} nats. {outcome}."
    )


def cautions(run: RunRecord, groups: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before believing a number, the gravest first."""
    found = [
        f"{decks.evaluation_title(result)} failed: {result.failure}"
        for result in run.results
        if result.failure
    ]
    if run.checkpoint.step < run.config.train.steps:
        done, planned = digits.count(run.checkpoint.step), digits.count(run.config.train.steps)
        found.append(f"Training stopped at step {done} of {planned}.")
    rows = main_rows(groups)
    low = [row.metric for row in rows if row.is_above_chance is False]
    if low:
        found.append(f"Not above chance (the interval reaches it): {', '.join(low)}.")
    found += [f"{row.metric}: {row.found.flag}" for row in rows if row.found.flag]
    broken = [line for line in run.validation.expectations if not line.passed]
    found += [
        f"Data: “{line.name}” is broken by {digits.count(line.failed)} of"
        f" {digits.count(line.checked)} records."
        for line in broken
    ]
    steps = by_step(run.journal)
    skipped = int(steps[-1].get("skipped") or 0) if steps else 0
    if skipped:
        found.append(
            f"{digits.count(skipped)} training steps were skipped, because their loss was not"
            " finite."
        )
    if any(result.is_demo for result in run.results):
        found.append(
            "This is the demo: it has small tasks of its own, and its numbers cannot be compared"
            " with those of a benchmark."
        )
    partial = [
        decks.evaluation_title(result)
        for result in run.results
        if result.is_partial and not result.is_demo
    ]
    if partial:
        found.append(
            "Only part of the benchmark was used, so these are not comparable with published"
            " numbers:"
            f" {'; '.join(partial)}."
        )
    return found


@dataclass(frozen=True)
class StageTime:
    """What a stage is known to have taken."""

    stage: str
    seconds: float
    share: float
    """Of the longest stage, 0..1."""
    parts: str
    """Its parts with their times; empty where it has but one."""


def times(run: RunRecord) -> list[StageTime]:
    """The time of each stage, in their order; stages that took next to nothing are left out."""
    by_stage: dict[str, list[tuple[str, float]]] = {}
    for stage, part, seconds in _parts_of_time(run):
        if seconds >= SHORTEST_SECONDS:
            by_stage.setdefault(stage, []).append((part.replace("_", " "), seconds))
    totals = {stage: math.fsum(s for _, s in parts) for stage, parts in by_stage.items()}
    return [
        StageTime(
            stage,
            totals[stage],
            totals[stage] / max(totals.values()),
            ", ".join(f"{part} {digits.duration(s)}" for part, s in parts) * (len(parts) > 1),
        )
        for stage, parts in by_stage.items()
    ]


def _parts_of_time(run: RunRecord) -> list[tuple[str, str, float]]:
    """(stage, part, seconds) of what is known to have taken time."""
    steps = by_step(run.journal)
    speeds = [number_of(step, "pairs_per_second") for step in steps]
    pairs = [number_of(step, "pairs_seen") for step in steps]
    found: list[tuple[str, str, float]] = []
    if steps and all(map(math.isfinite, [*speeds, *pairs])) and min(speeds) > 0:
        each = [now - before for before, now in zip([0.0, *pairs], pairs, strict=False)]
        found.append(
            (
                "pretrain",
                "all steps",
                sum(count / speed for count, speed in zip(each, speeds, strict=True)),
            )
        )
    for name, parts in run.timings.items():
        found += [(name, part, seconds) for part, seconds in parts.items()]
    return found


def provenance(run: RunRecord) -> list[tuple[str, str]]:
    """(name, value) of what made the run: addresses, sha256 sums, versions."""
    import platform
    from importlib import metadata

    checkpoint, manifest = run.checkpoint, run.manifest
    found = [
        ("run folder", run.root),
        ("checkpoint", checkpoint.uri),
        ("weights, sha256", checkpoint.weights_sha256),
        ("config, sha256", checkpoint.config_digest),
        ("training code, sha256", checkpoint.code_digest),
        ("shards", manifest.uri),
        ("data, sha256", manifest.data_digest),
        ("rendering, sha256", manifest.render_digest),
        ("processes", str(checkpoint.world_size)),
    ]
    found += [
        (f"code of {result.name}, sha256", result.code_digest)
        for result in run.results
        if result.code_digest
    ]
    found.append(("Python", platform.python_version()))
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append((package, "not installed"))
    return found


def main_rows(groups: list[dict[str, Any]]) -> list[Row]:
    """The rows of main metrics, each with the nearest published number."""
    rows = [row for group in groups for row in group["rows"] if row.is_main]
    return [dataclasses.replace(row, paper=row.paper[:1]) for row in rows]
