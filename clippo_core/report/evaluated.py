"""What the evaluations of a finished model end with: a small table, and one page with all numbers
and examples.

    results ─▶ <root>/evaluation-<weights>/report.html and results.json
            ─▶ the table, what failed, where the page is

The report of a whole run, with its training and data, is `page.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clippo_core import storage
from clippo_core.errors import EvaluationError
from clippo_core.published import Published, published
from clippo_core.released import RELEASED
from clippo_core.report import decks, digits
from clippo_core.report.pages import fragment
from clippo_core.report.rows import PublishedLookup, summary_table
from clippo_core.report.style import PAGE_CSS
from clippo_core.run import records
from clippo_core.run.folder import BaseFolder, RunFolder
from clippo_core.run.records import CheckpointInfo, EvalResult


@dataclass(frozen=True)
class Evaluated:
    """A written page, and what a terminal shows of it."""

    report: str
    """Address of the page."""
    results: str
    """Address of all results in one JSON file."""
    html: str
    words: str
    """Table, failures, address of the page."""


def conclude(
    model: CheckpointInfo,
    results: Sequence[EvalResult],
    folders: Mapping[str, str],
    root: str,
) -> Evaluated:
    """Write the page of the evaluations of `model` below `root` (local or s3://).

    folders: evaluation -> where it left its examples. Raises EvaluationError where none gave a
    number, StorageError.
    """
    failed = [f"{result.name} ({result.failure})" for result in results if result.failure]
    numbers = [m for r in results for m in r.metrics.values() if m.value is not None]
    if not numbers:
        why = "; ".join(failed) or "no evaluation was asked for; name one (docs/models.md)."
        raise EvaluationError(f"Nothing could be evaluated: {why}")
    run = RunFolder(BaseFolder(root).evaluation_of(model.weights_sha256))
    html = evaluation_page(model, results, folders)
    storage.write_text(run.report, html)
    storage.write_text(run.results, f"[{', '.join(map(records.dumps, results))}]\n")
    words = f"{summary_table(list(results))}\n\nReport: {run.report}"
    if failed:
        words += f"\nFailed: {', '.join(result.name for result in results if result.failure)}"
    return Evaluated(run.report, run.results, html, words)


def evaluation_page(
    model: CheckpointInfo, results: Sequence[EvalResult], folders: Mapping[str, str]
) -> str:
    """The page, a function of its arguments and of the examples in `folders`."""
    lookup = _published_of(model.uri)
    shown = [result for result in results if result.metrics or result.failure]
    examples = [
        (decks.evaluation_title(result), decks.read_examples(folders.get(result.name, "")))
        for result in shown
    ]
    facts = [("model", model.uri), ("sha256 of weights", model.weights_sha256[:12])]
    if model.step:
        facts.append(("steps of training", digits.count(model.step)))
    if model.uri in RELEASED:
        facts.append(("trained on", RELEASED[model.uri].data))
    page = fragment(
        "evaluated",
        css=PAGE_CSS,
        name=model.uri,
        marks=sorted({mark for result in results for mark in decks.badges_of(result)}),
        facts_part=fragment("facts", entries=facts),
        metrics_part=fragment(
            "metrics",
            groups=[decks.metric_group(result, None, lookup) for result in shown],
            show_protocol=True,
        ),
        examples_parts=[(title, decks.examples_part(found)) for title, found in examples if found],
    )
    return str(page)


def _published_of(uri: str) -> PublishedLookup:
    """The published values of a metric; those of this very model first, where it is a released
    one.
    """
    row = RELEASED[uri].row if uri in RELEASED else None

    def find(metric: str) -> list[Published]:
        return sorted(published(metric), key=lambda one: (one.model, one.data) != row)

    return find
