"""The report of a run: one HTML file that needs nothing else, neither network nor folder, and says
first what matters.

    what was run, on what, with which verdict ─▶ all numbers ─▶ training ─▶ pictures
    ─▶ data ─▶ recipe ─▶ provenance

Every number stands with its n, its interval where there is one, and what guessing gives; what
failed or was not run says why. It computes no metric and decides nothing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clippo_core import storage
from clippo_core.config import RunConfig, to_json
from clippo_core.errors import NotFoundError
from clippo_core.measure.insight import Insight
from clippo_core.report import decks, digits
from clippo_core.report.differences import paper_run, recipe_differences
from clippo_core.report.figures import (
    Figure,
    comparison_figure,
    modality_gap_figure,
    recall_by_language,
)
from clippo_core.report.findings import geometry_findings, length_findings
from clippo_core.report.lengths import lengths_figure
from clippo_core.report.live import by_step, number_of, training_charts
from clippo_core.report.pages import fragment
from clippo_core.report.pictures import patch_figure
from clippo_core.report.rows import PublishedLookup, Row, nearest, summary_table
from clippo_core.report.style import PAGE_CSS
from clippo_core.run.folder import BaseFolder, RunFolder
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

KINDS = {
    "clippo": "CLIPPO tower",
    "one_tower_clip": "1T-CLIP tower",
    "two_tower_clip": "CLIP* pair of towers",
    "image_only": "vision transformer",
}
"""How a sentence names a model's kind."""


@dataclass(frozen=True)
class Report:
    """A written report."""

    path: str
    """File or object."""
    html: str


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


def write_report(
    root: str,
    config: RunConfig,
    validation: ValidationReport,
    manifest: Manifest,
    checkpoint: CheckpointInfo,
    results: list[EvalResult],
    verdict: Verdict,
    *,
    evaluation_folders: Mapping[str, str] | None = None,
) -> Report:
    """Write <root>/report.html (root: folder or bucket prefix) from a run's records, its journal,
    shards, checkpoint and examples.

    The terminal's summary goes to <config.root>/<config.name>-summary.txt, and what took a tower to
    <root>/analysis.json. `evaluation_folders` says where each evaluation left its examples; without
    it, <root>/evaluations/<name>. What cannot be read is left out of the page with the reason, for
    a report must not fail where the run did not.
    """
    from clippo_core.measure.insight import gather_insight
    from clippo_core.published import published

    folders = {result.name: RunFolder(root).evaluation(result.name) for result in results} | dict(
        evaluation_folders or {}
    )
    run = RunRecord(
        root=root,
        config=config,
        validation=validation,
        manifest=manifest,
        checkpoint=checkpoint,
        results=results,
        verdict=verdict,
        journal=_read_journal(checkpoint.journal),
        examples={
            result.name: decks.read_examples(folders[result.name])
            for result in results
            if result.metrics or not result.failure
        },
        timings={result.name: decks.read_timings(folders[result.name]) for result in results},
        insight=gather_insight(
            root,
            checkpoint,
            manifest,
            config.render,
            tokenizers=_tokenizers(config),
            seed=config.seed,
        ),
    )
    html = report_page(run, published)
    path = RunFolder(root).report
    storage.write_text(path, html)
    summary = f"{summary_table(results)}\n\n{verdict.reason}\nReport: {path}\n"
    storage.write_text(BaseFolder(config.root).summary(config.name), summary)
    return Report(path, html)


def report_page(
    run: RunRecord, published: PublishedLookup | None = None, *, written_at: float | None = None
) -> str:
    """The whole page. `published` gives the paper's values of a metric; `written_at` is seconds
    since 1970 (None: now).
    """
    from markupsafe import Markup

    paper_name, paper = paper_run(run.config)
    groups = [decks.metric_group(result, run.config, published) for result in run.results]
    charts = Markup(training_charts(run.journal, run.config.train.steps))
    marks = sorted(
        {mark for result in run.results for mark in decks.badges_of(result)} - {"failed"}
    )
    parts = {
        "verdict_part": fragment(
            "verdict", verdict=run.verdict, reason=decks.split_reason(run.verdict)
        ),
        "facts_part": fragment("facts", entries=decks.run_facts(run.config)),
        "metrics_part": fragment("metrics", groups=groups, show_protocol=True),
        "comparison_part": _figures([comparison_figure(_main_rows(groups))]),
        "training_part": charts if by_step(run.journal) else "",
        "language_part": _figures(
            [
                recall_by_language(r, kind)
                for r in run.results
                for kind in ("i2t_recall@1", "t2i_recall@1")
            ]
        ),
        "geometry_part": (
            fragment("findings", findings=geometry_findings(run.insight))
            + _figures(_geometry_figures(run, published))
        ),
        "lengths_part": _lengths_part(run.insight),
        "examples_parts": _example_parts(run),
        "expectations_part": fragment(
            "expectations", report=run.validation, reasons=decks.exclusions(run.validation)
        ),
        "shards_part": fragment("facts", entries=decks.manifest_facts(run.manifest)),
        "data_part": fragment("data", data=run.validation),
        "contact_part": (
            fragment("contact", items=run.insight.contact) if run.insight.contact else ""
        ),
        "recipe_part": fragment(
            "recipe", differences=recipe_differences(run.config, paper), paper_name=paper_name
        ),
    }
    page = fragment(
        "report",
        css=PAGE_CSS,
        name=run.config.name,
        marks=marks,
        summary=_summary(run),
        cautions=_cautions(run, groups),
        insight_notes=run.insight.notes,
        sources=_sources(groups),
        times=_times(run),
        provenance=_provenance(run),
        config_json=to_json(run.config),
        written=time.strftime(
            "%Y-%m-%d %H:%M UTC", time.gmtime(time.time() if written_at is None else written_at)
        ),
        **parts,
    )
    return str(page)


def _figures(figures: list[Figure | None] | list[Figure]) -> str:
    return fragment("figures", figures=[figure for figure in figures if figure is not None])


def _main_rows(groups: list[dict[str, Any]]) -> list[Row]:
    """The rows of main metrics, each with the nearest published number."""
    rows = [row for group in groups for row in group["rows"] if row.is_main]
    return [dataclasses.replace(row, paper=row.paper[:1]) for row in rows]


def _geometry_figures(run: RunRecord, published: PublishedLookup | None) -> list[Figure]:
    insight = run.insight
    drawn = []
    if insight.gap is not None:
        note = f"Mean cosine of a pair {digits.value(insight.matched_cosine)}. {insight.pairs_from}"
        paper = nearest(published("modality_gap"), run.config)[:3] if published else []
        if paper:
            known = "; ".join(
                f"{digits.value(one.value)} ({one.model}, {one.data})" for one in paper
            )
            note += f" Published, on other pairs: {known}."
        drawn.append(
            modality_gap_figure(
                insight.photo_points, insight.text_points, insight.explained, insight.gap, note
            )
        )
    if len(insight.components):
        drawn.append(patch_figure(insight.components, insight.shares))
    return drawn


def _lengths_part(insight: Insight) -> str:
    """Who is shorter in how many languages, the lengths by language, and their figure; empty
    without any.
    """
    if not insight.lengths:
        return ""
    table = fragment("lengths", lengths=insight.lengths, source=insight.lengths_from)
    return (
        fragment("findings", findings=length_findings(insight))
        + table
        + _figures([lengths_figure(insight.lengths)])
    )


def _tokenizers(config: RunConfig) -> dict[str, str]:
    """Name -> file: those that the run names for comparison, and the one that its tower reads."""
    named = {name: path for name, _, path in (entry.partition("=") for entry in config.tokenizers)}
    return named | (
        {"this run's tokenizer": config.model.tokenizer} if config.model.tokenizer else {}
    )


def _sources(groups: list[dict[str, Any]]) -> list[str]:
    """Where the published values in the table come from, each once."""
    shown = [row.paper[0] for group in groups for row in group["rows"] if row.paper]
    return list(dict.fromkeys(f"{one.source} ({one.trust} source)" for one in shown))


def _example_parts(run: RunRecord) -> list[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    for result in run.results:
        shown = decks.clean_examples(run.examples.get(result.name, []))
        if shown:
            part = fragment(
                "examples",
                hits=[e for e in shown if e["hit"]],
                misses=[e for e in shown if not e["hit"]],
            )
            parts.append((decks.evaluation_title(result), part))
    return parts


def _summary(run: RunRecord) -> str:
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


def _cautions(run: RunRecord, groups: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before believing a number, the gravest first."""
    found = [
        f"{decks.evaluation_title(result)} failed: {result.failure}"
        for result in run.results
        if result.failure
    ]
    if run.checkpoint.step < run.config.train.steps:
        done, planned = digits.count(run.checkpoint.step), digits.count(run.config.train.steps)
        found.append(f"Training stopped at step {done} of {planned}.")
    rows = _main_rows(groups)
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
            f"{digits.count(skipped)} training steps were skipped, for their loss was not finite."
        )
    if any(result.is_demo for result in run.results):
        found.append(
            "This is the demo: its tasks are small ones of their own, and no number of it compares"
            " with a benchmark's."
        )
    partial = [
        decks.evaluation_title(result)
        for result in run.results
        if result.is_partial and not result.is_demo
    ]
    if partial:
        found.append(
            "Only part of the benchmark, so not comparable with published numbers:"
            f" {'; '.join(partial)}."
        )
    return found


def _times(run: RunRecord) -> list[tuple[str, str, float]]:
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


def _provenance(run: RunRecord) -> list[tuple[str, str]]:
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


def _read_journal(uri: str) -> list[dict[str, Any]]:
    from clippo_core.run import journal

    try:
        return journal.read(uri) if uri else []
    except NotFoundError:
        return []


__all__ = ["Report", "RunRecord", "report_page", "summary_table", "write_report"]
