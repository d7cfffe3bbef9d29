"""Many results in one table, as CSV (a row a metric, full precision) and as Markdown (a column a model).

    | metric         | chance | n   | 3fa9c1d2             | 77e0b42a            |
    | glue/rte_...   | 52.7   | 277 | 58.1 [52.3, 63.9]    | not run (1)         |

What was not run, failed, is partial or flagged says so in its cell. The paper's numbers stand beside
ours in `analysis/compare.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from clippo_core import storage
from clippo_core.records import EvalResult

COLUMNS = ("model", "evaluation", "dataset", "split", "metric", "value", "low", "high", "chance", "n", "status", "weights_sha256")
"""Columns of the table, one row a metric; `status` says what a reader must know (partial, demo, flags, not run, failed)."""


def table(results: Sequence[EvalResult], labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """One row a (model, metric), also for metrics that were not run and evaluations that failed. labels: weights_sha256 -> name."""
    rows = []
    for result in results:
        shared: dict[str, Any] = {
            "model": (labels or {}).get(result.weights_sha256, result.weights_sha256[:8] or "unknown"),
            "evaluation": result.name,
            "dataset": result.dataset,
            "split": result.split,
            "weights_sha256": result.weights_sha256,
        }
        marks = [mark for mark, holds in (("demo", result.is_demo), ("partial", result.is_partial)) if holds]
        if result.failure:
            rows.append({**shared, "metric": f"{result.dataset}/*", "status": "; ".join([*marks, f"failed: {result.failure}"])})
        for metric, value in result.metrics.items():
            low, high = result.confidence.get(metric, (None, None))
            status = "; ".join([*marks, *([result.flags[metric]] if metric in result.flags else [])])
            n = result.n_by_metric.get(metric, result.n_examples)
            numbers = {"value": value, "low": low, "high": high, "chance": result.chance.get(metric), "n": n}
            rows.append({**shared, "metric": metric, **numbers, "status": status})
        for metric, reason in result.not_run.items():
            rows.append({**shared, "metric": metric, "status": "; ".join([*marks, f"not run: {reason}"])})
    return [{column: row.get(column) for column in COLUMNS} for row in rows]


def to_csv(results: Sequence[EvalResult], labels: Mapping[str, str] | None = None) -> str:
    """The table as CSV, numbers at full precision, empty where there is none."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table(results, labels))
    return buffer.getvalue()


def to_markdown(results: Sequence[EvalResult], labels: Mapping[str, str] | None = None) -> str:
    """The table as Markdown: a row a metric, a column a model, `value [low, high]`, chance and n beside; notes below.

    Partial, demo and flagged numbers carry a mark that a note explains, so that no cell looks comparable that is not.
    """
    rows = table(results, labels)
    models = list(dict.fromkeys(row["model"] for row in rows))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    cells = {(row["metric"], row["model"]): row for row in rows}
    notes: dict[str, int] = {}
    lines = ["| metric | chance | n | " + " | ".join(map(_escaped, models)) + " |", "|---|---|---|" + "---|" * len(models)]
    for metric in metrics:
        of_metric = [cells[metric, model] for model in models if (metric, model) in cells]
        shared = [_agreed(row["chance"] for row in of_metric), _agreed(row["n"] for row in of_metric)]
        values = [_cell(cells.get((metric, model)), notes) for model in models]
        lines.append("| " + " | ".join([_escaped(metric), *shared, *values]) + " |")
    lines += [""] * bool(notes) + [f"{number}. {_escaped(note)}" for note, number in notes.items()]
    return "\n".join(lines) + "\n"


def write_tables(folder: str, results: Sequence[EvalResult], labels: Mapping[str, str] | None = None) -> list[str]:
    """Write results.csv and results.md into `folder`; returns their URIs."""
    uris = [storage.join(folder, name) for name in ("results.csv", "results.md")]
    storage.write_text(uris[0], to_csv(results, labels))
    storage.write_text(uris[1], to_markdown(results, labels))
    return uris


def _cell(row: dict[str, Any] | None, notes: dict[str, int]) -> str:
    if row is None:
        return "–"
    mark = f" ({notes.setdefault(row['status'], len(notes) + 1)})" if row["status"] else ""
    if row["value"] is None:
        return "not run" + mark if "not run:" in row["status"] else "failed" + mark
    interval = "" if row["low"] is None else f" [{row['low']:.1f}, {row['high']:.1f}]"
    return f"{row['value']:.1f}{interval}{mark}"


def _agreed(values: Any) -> str:
    """The one value of a metric over models; where models differ, their range."""
    known = sorted({value for value in values if value is not None})
    shown = [f"{value:.1f}" if isinstance(value, float) else str(value) for value in known]
    return "–" if not shown else shown[0] if len(set(shown)) == 1 else f"{shown[0]}…{shown[-1]}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
