"""Side by side: results of one or many checkpoints, the published numbers of the same metric, and
chance; as a table and a figure.

    metric | model | ours [95 % interval] | chance | n | published | difference | verdict
           | whose number, and where it was read

A difference is judged (`within the interval`, `higher`, `lower`) only where the whole benchmark was
scored: a partial or a demo's result stands beside a published number, but is said not to be
comparable. Numbers are never matched across datasets. Results to compare come from
`evaluate.results.read_results("runs")`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clippo_core import storage
from clippo_core.published import Published, published
from clippo_core.report import digits
from clippo_core.report.figures import comparison_figure
from clippo_core.report.rows import Row, failed_row, row_of
from clippo_core.run.records import EvalResult

PAPER_MODEL = "CLIPPO B/16"
"""The model whose numbers, on any training data, stand beside ours unless others are asked for."""

COLUMNS = (
    "metric",
    "model",
    "ours",
    "low",
    "high",
    "chance",
    "n",
    "published",
    "published_model",
    "published_data",
    "source",
    "trust",
    "difference",
    "verdict",
    "against_chance",
    "status",
)
"""Columns of the CSV.

trust: primary, the authors' own file, or secondary, a copy by somebody else. difference: ours minus
the published number. verdict: `within the interval`, `higher`, `lower`, `not comparable: reason`,
`not judged: no interval`. against_chance: `above chance` if the interval's lower end is,
`not above chance`. status: demo, partial, flags, not run, failed.
"""


def compare(
    results: Sequence[EvalResult],
    labels: Mapping[str, str] | None = None,
    beside: Sequence[str] = (PAPER_MODEL,),
    lookup: Callable[[str], list[Published]] = published,
    only_main: bool = True,
) -> list[Row]:
    """Every main or published metric of every result, with the published numbers.

    labels: weights_sha256 -> name. beside: the models whose published numbers are taken; empty =
    all. only_main: leave out metrics that neither stand for their evaluation nor were published.
    """
    found = []
    for result in results:
        model = (labels or {}).get(result.weights_sha256, result.weights_sha256[:8] or "unknown")
        if result.failure:
            found.append(failed_row(result, f"{result.dataset}/*", model=model))
        for metric in result.metrics:
            paper = [one for one in lookup(metric) if not beside or one.model in beside]
            if paper or metric in result.main_metrics or not only_main:
                found.append(row_of(result, metric, paper=paper, model=model))
    return sorted(found, key=lambda row: row.metric)


def lines_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as COLUMNS, once per published number; None or empty where there is nothing."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        lines += [_line(row, number) for number in row.paper] or [_line(row, None)]
    return lines


def to_csv(rows: Sequence[Row]) -> str:
    """All columns, numbers at full precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines_of(rows))
    return buffer.getvalue()


def to_markdown(rows: Sequence[Row]) -> str:
    """The table for people; sources as numbered notes."""
    notes: dict[str, int] = {}
    lines = [
        "| metric | model | ours | chance | n | published | difference | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines_of(rows):
        interval = (
            ""
            if line["low"] is None
            else f" [{digits.share(line['low'])}, {digits.share(line['high'])}]"
        )
        source = f"{line['source']} ({line['trust']})"
        note = f" ({notes.setdefault(source, len(notes) + 1)})" if line["source"] else ""
        whose = f" {line['published_model']}, {line['published_data']}{note}"
        difference = line["difference"]
        cells = [
            line["metric"],
            line["model"],
            digits.share(line["ours"]) + interval,
            digits.share(line["chance"]),
            digits.count(line["n"]),
            digits.share(line["published"]) + (whose if line["published"] is not None else ""),
            digits.MISSING if difference is None else f"{difference:+.1f}",
            "; ".join(filter(None, [line["verdict"], line["against_chance"], line["status"]])),
        ]
        lines.append(
            "| "
            + " | ".join(
                cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in cells
            )
            + " |"
        )
    lines += [""] * bool(notes) + [f"{number}. {source}" for source, number in notes.items()]
    return "\n".join(lines) + "\n"


def figure(rows: Sequence[Row]) -> str:
    """The comparison as an <svg> (`figures.comparison_figure`); empty without a number."""
    drawn = comparison_figure(rows)
    return "" if drawn is None else drawn.svg


def write_comparison(
    folder: str,
    results: Sequence[EvalResult],
    labels: Mapping[str, str] | None = None,
    beside: Sequence[str] = (PAPER_MODEL,),
) -> list[str]:
    """Write compare.csv, compare.md and compare.svg of `compare(results, labels, beside)` into
    `folder`; returns their URIs.
    """
    rows = compare(results, labels, beside)
    parts = {
        "compare.csv": to_csv(rows),
        "compare.md": to_markdown(rows),
        "compare.svg": _standalone(figure(rows)),
    }
    for name, text in parts.items():
        storage.write_text(storage.join(folder, name), text)
    return [storage.join(folder, name) for name in parts]


def _line(row: Row, number: Published | None) -> dict[str, Any]:
    found, above = row.found, row.is_above_chance
    line: dict[str, Any] = {
        "metric": row.metric,
        "model": row.model,
        "ours": found.value,
        "low": found.low,
        "high": found.high,
        "chance": found.chance,
        "n": None if found.value is None else found.n,
        "against_chance": "" if above is None else "above chance" if above else "not above chance",
        "status": "; ".join(row.notes),
    }
    if number is not None:
        line |= {
            "published": number.value,
            "published_model": number.model,
            "published_data": number.data,
            "source": number.source,
            "trust": number.trust,
        }
        if found.value is not None:
            line["difference"] = found.value - number.value
            line["verdict"] = _verdict(row, found.value, number.value)
    empty = dict.fromkeys(("published", "difference"))
    return dict.fromkeys(COLUMNS, "") | empty | line


def _verdict(row: Row, ours: float, theirs: float) -> str:
    if row.marks:
        return f"not comparable: {' and '.join(row.marks)}"
    if row.found.bounds is None:
        return "not judged: no interval"
    low, high = row.found.bounds
    if low <= theirs <= high:
        return "within the interval"
    return "higher" if ours > theirs else "lower"


def _standalone(svg: str) -> str:
    """An inline <svg> as a file of its own."""
    return svg.replace(
        "<svg ",
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ',
        1,
    )
