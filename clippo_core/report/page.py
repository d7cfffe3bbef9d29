"""The report of a run: one HTML file that needs nothing else, neither network nor folder, and says
first what matters.

    one figure and what it means ─▶ verdict ─▶ what was run, on what ─▶ all numbers
    ─▶ hits and misses ─▶ training ─▶ pictures ─▶ data ─▶ recipe ─▶ provenance

Every number stands with its n, its interval where there is one, and what guessing gives; what
failed or was not run says why. It computes no metric and decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clippo_core import storage
from clippo_core.config import RunConfig, to_json
from clippo_core.errors import NotFoundError
from clippo_core.extras import optional_import
from clippo_core.measure.insight import Insight
from clippo_core.report import decks, digits, overview, runs
from clippo_core.report.curves import by_step
from clippo_core.report.differences import paper_run, recipe_differences
from clippo_core.report.figures import (
    Figure,
    comparison_figure,
    modality_gap_figure,
    recall_by_language,
)
from clippo_core.report.findings import geometry_findings, length_findings
from clippo_core.report.lengths import lengths_figure
from clippo_core.report.live import training_charts
from clippo_core.report.overview import RunRecord
from clippo_core.report.pages import fragment
from clippo_core.report.pictures import patch_figure
from clippo_core.report.rows import PublishedLookup, nearest, summary_table
from clippo_core.report.style import PAGE_CSS
from clippo_core.report.tracker import track_outcome
from clippo_core.run.folder import BaseFolder, RunFolder
from clippo_core.run.records import CheckpointInfo, EvalResult, Manifest, ValidationReport, Verdict


@dataclass(frozen=True)
class Report:
    """A written report."""

    path: str
    """File or object."""
    html: str
    """The page without links to other pages, for a deck."""
    words: str
    """For a terminal: table, verdict, address of the page."""


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
    path, content = RunFolder(root).report, _content(run, published)
    storage.write_text(path, fragment("report", has_links=True, **content))
    runs.write_runs_page(config.root)
    words = f"{summary_table(results)}\n\n{verdict.reason}\nReport: {path}"
    storage.write_text(BaseFolder(config.root).summary(config.name), f"{words}\n")
    track_outcome(config.train, root, checkpoint.step, results, verdict, path)
    # In a deck a link to the page beside it leads nowhere.
    return Report(path, str(fragment("report", has_links=False, **content)), words)


def report_page(
    run: RunRecord, published: PublishedLookup | None = None, *, written_at: float | None = None
) -> str:
    """The whole page, a function of the run's records and of `written_at`, the time that it shows,
    in seconds since 1970 (None: now). `published` gives the paper's values of a metric.
    """
    return str(fragment("report", has_links=True, **_content(run, published, written_at)))


def _content(
    run: RunRecord, published: PublishedLookup | None, written_at: float | None = None
) -> dict[str, Any]:
    """All that the page shows, by the template's names; its figures take a second."""
    groups = [decks.metric_group(result, run.config, published) for result in run.results]
    marks = {mark for result in run.results for mark in decks.badges_of(result)} - {"failed"}
    return dict(
        css=PAGE_CSS,
        name=run.config.name,
        marks=sorted(marks),
        headline=overview.headline(groups),
        summary=overview.summary(run),
        cautions=overview.cautions(run, groups),
        insight_notes=run.insight.notes,
        sources=_sources(groups),
        times=overview.times(run),
        provenance=overview.provenance(run),
        config_json=to_json(run.config),
        written=time.strftime(
            "%Y-%m-%d %H:%M UTC", time.gmtime(time.time() if written_at is None else written_at)
        ),
        **_parts(run, groups, published),
    )


def _parts(
    run: RunRecord, groups: list[dict[str, Any]], published: PublishedLookup | None
) -> dict[str, Any]:
    """The page's parts by the template's names; an empty one is left out there."""
    with optional_import():
        from markupsafe import Markup

    paper_name, paper = paper_run(run.config)
    charts = Markup(training_charts(run.journal, run.config.train.steps))
    return {
        "verdict_part": fragment(
            "verdict", verdict=run.verdict, reason=decks.split_reason(run.verdict)
        ),
        "facts_part": fragment("facts", entries=decks.run_facts(run.config)),
        "metrics_part": fragment("metrics", groups=groups, show_protocol=True),
        "comparison_part": _figures([comparison_figure(overview.main_rows(groups))]),
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
        "expectations_part": fragment("expectations", report=run.validation),
        "shards_part": fragment("facts", entries=decks.manifest_facts(run.manifest)),
        "data_part": fragment("data", data=run.validation),
        "contact_part": (
            fragment("contact", items=run.insight.contact) if run.insight.contact else ""
        ),
        "recipe_part": fragment(
            "recipe", differences=recipe_differences(run.config, paper), paper_name=paper_name
        ),
    }


def _figures(figures: list[Figure | None] | list[Figure]) -> str:
    return fragment("figures", figures=[figure for figure in figures if figure is not None])


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
            parts.append((decks.evaluation_title(result), decks.examples_part(shown)))
    return parts


def _read_journal(uri: str) -> list[dict[str, Any]]:
    from clippo_core.run import journal

    try:
        return journal.read(uri) if uri else []
    except NotFoundError:
        return []


__all__ = ["Report", "RunRecord", "report_page", "summary_table", "write_report"]
