"""Side by side: results of one or many checkpoints, the published numbers of the same metric, and chance; as a table and a figure.

    metric | model | ours [95 % interval] | chance | n | published | difference | verdict | whose number, and where it was read

A difference is judged (`within the interval`, `higher`, `lower`) only where the whole benchmark was scored: a partial or a demo's result
stands beside a published number, but is said not to be comparable. Numbers are never matched across datasets. It makes no results; give
it `evaluate.results.read_results("runs")`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from clippo_core import storage
from clippo_core.analysis import digits
from clippo_core.published import Published, published
from clippo_core.records import EvalResult

PAPER_MODEL = "CLIPPO B/16"
"""The model whose numbers, on any training data, stand beside ours unless others are asked for."""


@dataclass(frozen=True)
class Comparison:
    """One of our numbers (or the reason why there is none) beside one published number (or none)."""

    metric: str
    model: str
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    n: int | None = None
    published: float | None = None
    published_model: str = ""
    published_data: str = ""
    source: str = ""
    trust: str = ""
    """primary: the authors' own file; secondary: a copy by somebody else."""
    difference: float | None = None
    """Ours minus the published number."""
    verdict: str = ""
    """`within the interval`, `higher`, `lower`, `not comparable: reason`, `not judged: no interval`; empty: nothing was published."""
    against_chance: str = ""
    """`above chance`: the interval's lower end is; `not above chance`; empty where either is unknown."""
    status: str = ""
    """demo, partial, flags, not run, failed."""


def compare(
    results: Sequence[EvalResult],
    labels: Mapping[str, str] | None = None,
    beside: Sequence[str] = (PAPER_MODEL,),
    lookup: Callable[[str], list[Published]] = published,
    only_main: bool = True,
) -> list[Comparison]:
    """Every main or published metric of every result, once for each published number of the models `beside` (empty = of all).

    labels: weights_sha256 -> name. only_main: leave out metrics that neither stand for their evaluation nor were published.
    """
    found = []
    for result in results:
        model = (labels or {}).get(result.weights_sha256, result.weights_sha256[:8] or "unknown")
        marks = [mark for mark, holds in (("demo", result.is_demo), ("partial", result.is_partial)) if holds]
        if result.failure:
            found.append(Comparison(f"{result.dataset}/*", model, status="; ".join([*marks, f"failed: {result.failure}"])))
        for metric in [*result.metrics, *result.not_run]:
            numbers = [number for number in lookup(metric) if not beside or number.model in beside]
            if numbers or metric in result.main_metrics or not only_main:
                theirs: list[Published | None] = [*numbers] or [None]
                found += [_beside(result, metric, model, marks, number) for number in theirs]
    return sorted(found, key=lambda row: row.metric)


def to_csv(rows: Sequence[Comparison]) -> str:
    """All columns, numbers at full precision."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(Comparison)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()


def to_markdown(rows: Sequence[Comparison]) -> str:
    """The table for people; sources as numbered notes."""
    notes: dict[str, int] = {}
    lines = ["| metric | model | ours | chance | n | published | difference | verdict |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        interval = "" if row.low is None or row.high is None else f" [{digits.share(row.low)}, {digits.share(row.high)}]"
        note = f" ({notes.setdefault(f'{row.source} ({row.trust})', len(notes) + 1)})" if row.source else ""
        whose = f" {row.published_model}, {row.published_data}{note}" if row.published is not None else ""
        cells = [
            row.metric,
            row.model,
            digits.share(row.ours) + interval,
            digits.share(row.chance),
            digits.count(row.n),
            digits.share(row.published) + whose,
            digits.MISSING if row.difference is None else f"{row.difference:+.1f}",
            "; ".join(filter(None, [row.verdict, row.against_chance, row.status])),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in cells) + " |")
    lines += [""] * bool(notes) + [f"{number}. {source}" for source, number in notes.items()]
    return "\n".join(lines) + "\n"


def figure(rows: Sequence[Comparison]) -> str:
    """An <svg>: a line a metric, each model's number with its interval, chance, and the published numbers. Empty without a number."""
    from clippo_core.analysis.style import SERIES
    from clippo_core.analysis.svg import SOFT, canvas, house_style, to_svg

    metrics = list(dict.fromkeys(row.metric for row in rows if row.ours is not None))
    models = list(dict.fromkeys(row.model for row in rows if row.ours is not None))
    if not metrics:
        return ""
    ours = {(row.metric, row.model): row for row in rows if row.ours is not None}
    with house_style():
        drawing, axes = canvas(8.6, 1.0 + 0.16 * len(metrics) * (1 + len(models)))
        for m, model in enumerate(models):
            colour, shift = SERIES[m % len(SERIES)], 0.35 - 0.7 * (m + 0.5) / len(models)
            places = [(ours[metric, model], shift - i) for i, metric in enumerate(metrics) if (metric, model) in ours]
            for row, y in places:
                if row.low is not None:
                    axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            values, heights = [row.ours for row, _ in places], [y for _, y in places]
            axes.plot(values, heights, "o", color=colour, markersize=5, label=f"{model}, 95 % interval")
        for marker, name, points in (
            ("|", "chance or majority", {(row.chance, row.metric) for row in rows}),
            ("D", "published", {(row.published, row.metric) for row in rows}),
        ):
            known = sorted((value, -metrics.index(metric)) for value, metric in points if value is not None and metric in metrics)
            if known:
                style = {"markersize": 11, "markeredgewidth": 2} if marker == "|" else {"markersize": 5, "fillstyle": "none"}
                axes.plot([value for value, _ in known], [y for _, y in known], marker, color=SOFT, linestyle="", label=name, **style)
        counts = {metric: next(row.n for row in rows if row.metric == metric and row.ours is not None) for metric in metrics}
        axes.set_yticks([-i for i in range(len(metrics))], [f"{metric}  (n = {digits.count(counts[metric])})" for metric in metrics])
        axes.set_ylim(-len(metrics) + 0.4, 0.6)
        axes.set_xlabel("score, 0 to 100")
        axes.grid(axis="x", color=SOFT, alpha=0.25, linewidth=0.7)
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)
        return to_svg(drawing, "side-by-side", f"{len(metrics)} metrics of {len(models)} models beside chance and published numbers")


def write_comparison(
    folder: str, results: Sequence[EvalResult], labels: Mapping[str, str] | None = None, beside: Sequence[str] = (PAPER_MODEL,)
) -> list[str]:
    """Write compare.csv, compare.md and compare.svg of `compare(results, labels, beside)` into `folder`; returns their URIs."""
    rows = compare(results, labels, beside)
    parts = {"compare.csv": to_csv(rows), "compare.md": to_markdown(rows), "compare.svg": _standalone(figure(rows))}
    for name, text in parts.items():
        storage.write_text(storage.join(folder, name), text)
    return [storage.join(folder, name) for name in parts]


def _beside(result: EvalResult, metric: str, model: str, marks: list[str], number: Published | None) -> Comparison:
    ours, chance = result.metrics.get(metric), result.chance.get(metric)
    low, high = result.confidence.get(metric, (None, None))
    notes = [*marks, *([result.flags[metric]] if metric in result.flags else [])]
    notes += [f"not run: {result.not_run[metric]}"] if metric in result.not_run else []
    theirs: dict[str, Any] = {}
    if number is not None:
        theirs = {
            "published": number.value,
            "published_model": number.model,
            "published_data": number.data,
            "source": number.source,
            "trust": number.trust,
        }
        if ours is not None:
            theirs["difference"] = ours - number.value
            theirs["verdict"] = _verdict(number.value, ours, low, high, marks)
    return Comparison(
        metric=metric,
        model=model,
        ours=ours,
        low=low,
        high=high,
        chance=chance,
        n=result.n_by_metric.get(metric, result.n_examples) if ours is not None else None,
        against_chance="" if low is None or chance is None else "above chance" if low > chance else "not above chance",
        status="; ".join(notes),
        **theirs,
    )


def _verdict(theirs: float, ours: float, low: float | None, high: float | None, marks: list[str]) -> str:
    if marks:
        return f"not comparable: {' and '.join(marks)}"
    if low is None or high is None:
        return "not judged: no interval"
    if low <= theirs <= high:
        return "within the interval"
    return "higher" if ours > theirs else "lower"


def _standalone(svg: str) -> str:
    """An inline <svg> as a file of its own."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
