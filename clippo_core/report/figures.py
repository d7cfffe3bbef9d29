"""Figures of a run, drawn with matplotlib as SVG for a page: text as text, light and dark, the same
bytes for the same numbers.

    recall_by_language(result) · modality_gap_figure(images, texts) · comparison_figure(rows)

Every axis has its unit and every sample its n. Pictures made of pixels (contact sheet, patch
kernel) stand in `pictures.py`, the curves of training in `live.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clippo_core.data.scripts import SCRIPTS
from clippo_core.extras import optional_import
from clippo_core.report import digits
from clippo_core.report.rows import Row
from clippo_core.report.style import SERIES
from clippo_core.report.svg import INK, SOFT, canvas, house_style, to_svg
from clippo_core.run.records import EvalResult, Metric

FAMILIES = {
    "Latin": ("Latin",),
    "Greek, Cyrillic": ("Greek", "Cyrillic"),
    "Arabic, Hebrew": ("Arabic", "Hebrew"),
    "Brahmic": ("Bengali", "Devanagari", "Telugu", "Thai"),
    "Han, Kana, Hangul": ("Chinese", "Japanese", "Korean"),
}
"""Families of scripts, in the order of the series' colours: each is one colour of a chart."""


@dataclass(frozen=True)
class Figure:
    """One figure of a page."""

    name: str
    """Unique on the page; letters and dashes."""
    title: str
    svg: str
    """Markup that is safe to insert as it is."""
    caption: str = ""
    is_wide: bool = False
    """Takes the page's whole width."""


def recall_by_language(result: EvalResult, kind: str = "i2t_recall@1") -> Figure | None:
    """Bars of `<set>/<language>/<kind>`, sorted, coloured by script, with 95 % intervals, chance
    and unweighted mean; None without any.
    """
    pattern = re.compile(rf"^[^/]+/([^/]+)/{re.escape(kind)}$")
    named = ((pattern.match(name), metric) for name, metric in result.metrics.items())
    found = {match[1]: metric for match, metric in named if match and metric.value is not None}
    if not found:
        return None
    values_of = {language: float(metric.value or 0.0) for language, metric in found.items()}
    found = dict(sorted(found.items(), key=lambda item: (-values_of[item[0]], item[0])))
    best, *_, worst = [*found, *found]
    name = f"languages-{result.name}-{kind.partition('_')[0]}"
    title = f"Recall by language, {'image to text' if kind[0] == 'i' else 'text to image'}"
    alt = (
        f"{title}: best {best} {digits.share(values_of[best])}, worst {worst}"
        f" {digits.share(values_of[worst])}, {len(found)} languages"
    )
    many = len(found) > 12
    with house_style():
        figure, axes = canvas(8.8 if many else 2.9 + 0.3 * len(found), 3.2)
        _bars(axes, found)
        axes.set_ylabel(f"recall@{kind.rpartition('@')[2]}, %")
        anchor = (
            {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0)}
            if many
            else {"loc": "upper left", "bbox_to_anchor": (1.0, 1.02)}
        )
        axes.legend(**anchor, ncols=4 if many else 1, frameon=False)
        svg = to_svg(figure, name, alt)
    sizes = sorted({metric.n for metric in found.values()})
    n = " to ".join(digits.count(size) for size in dict.fromkeys([sizes[0], sizes[-1]]))
    has_bounds = any(metric.bounds for metric in found.values())
    whiskers = "; whiskers: 95 % bootstrap interval" if has_bounds else ""
    return Figure(name, title, svg, f"n = {n} queries per language{whiskers}.", is_wide=many)


def _bars(axes: Any, found: dict[str, Metric]) -> None:
    """One bar per language in the order of `found`, with its interval; lines of mean and chance."""
    values = np.array([float(metric.value or 0.0) for metric in found.values()])
    families = [_family(language) for language in found]
    across = np.arange(len(found))
    for family in (*FAMILIES, "other"):
        where = [position for position, one in enumerate(families) if one == family]
        if where:
            colour = SERIES[list(FAMILIES).index(family)] if family in FAMILIES else SOFT
            axes.bar(across[where], values[where], 0.7, color=colour, label=family)
    bounds = [metric.bounds for metric in found.values()]
    for x, bound in zip(across, bounds, strict=True):
        if bound:
            axes.plot([x, x], bound, color=INK, linewidth=1.1)
    mean = float(values.mean())
    axes.axhline(mean, color=INK, linewidth=0.9, label=f"unweighted mean {digits.share(mean)}")
    chance = [metric.chance for metric in found.values() if metric.chance is not None]
    if chance:
        level = float(np.mean(chance))
        label = f"chance {digits.value(level, 2)}"
        axes.axhline(level, color=SOFT, linestyle="--", linewidth=1.1, label=label)
    axes.set_xticks(across, list(found))
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.set_ylim(0, _top([*values, *(b[1] for b in bounds if b)], chance))


def modality_gap_figure(
    photos: np.ndarray, texts: np.ndarray, explained: np.ndarray, gap: float, note: str = ""
) -> Figure:
    """Two clouds of matched points [n, 2] on the first two principal components, a line between
    each pair, the gap in the title.

    explained: [2] the components' shares of the variance, 0..1 (see `gather.principal_plane`).
    """
    n = len(photos)
    with house_style():
        with optional_import():
            from matplotlib.collections import LineCollection

        figure, axes = canvas(5.6, 4.2)
        axes.add_collection(
            LineCollection(
                list(zip(photos, texts, strict=True)), colors=SOFT, linewidths=0.5, alpha=0.35
            )
        )
        axes.scatter(
            photos[:, 0],
            photos[:, 1],
            s=13,
            color=SERIES[0],
            marker="o",
            linewidths=0,
            label="photos",
        )
        axes.scatter(
            texts[:, 0],
            texts[:, 1],
            s=16,
            color=SERIES[1],
            marker="^",
            linewidths=0,
            label="their texts",
        )
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"1st principal component ({100 * explained[0]:.0f} % of the variance)")
        axes.set_ylabel(f"2nd ({100 * explained[1]:.0f} %)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False)
        title = f"Modality gap {digits.value(gap)}"
        svg = to_svg(
            figure,
            "modality-gap",
            f"{title}: embeddings of {n} photos and their texts as two clouds",
        )
    return Figure(
        "modality-gap",
        title,
        svg,
        f"n = {n} matched pairs; gap = distance of the two clouds' means, 0 to 2. {note}".strip(),
    )


def comparison_figure(rows: Sequence[Row]) -> Figure | None:
    """Metrics as dots with 95 % intervals, a colour per model; None without any.

    Beside them stand chance and the published values, these only where their metric and benchmark
    are the very same.
    """
    shown = [row for row in rows if row.found.value is not None]
    metrics = list(dict.fromkeys(row.metric for row in shown))
    models = list(dict.fromkeys(row.model for row in shown))
    if not metrics:
        return None
    with house_style():
        figure, axes = canvas(8.6, 0.9 + (0.11 + 0.16 * len(models)) * len(metrics))
        for m, model in enumerate(models):
            mine = [row for row in shown if row.model == model]
            shift = 0.35 - 0.7 * (m + 0.5) / len(models)
            _dots(axes, mine, [shift - metrics.index(row.metric) for row in mine], m)
        lowest = min(0.0, *(float(row.found.value or 0.0) for row in shown))
        chance = {(row.found.chance, row.metric) for row in shown}
        published = {
            (p.value, row.metric) for row in shown for p in row.paper if not row.paper_metric
        }
        bar = {"marker": "|", "color": SOFT, "markersize": 11, "markeredgewidth": 2}
        diamond = {"marker": "D", "color": SERIES[1], "markersize": 6, "fillstyle": "none"}
        for name, points, style in (
            ("chance or majority", chance, bar),
            ("published", published, diamond),
        ):
            known = sorted((x, -metrics.index(m)) for x, m in points if x is not None)
            if known:
                axes.plot(*zip(*known, strict=True), linestyle="", label=name, **style)
        counts = {row.metric: row.found.n for row in reversed(shown)}
        axes.set_yticks(
            [-i for i in range(len(metrics))],
            [f"{metric}  (n = {digits.count(counts[metric])})" for metric in metrics],
        )
        axes.set_ylim(0.3 - len(metrics), 0.7)
        axes.set_xlim(lowest - 1, 101)
        axes.set_xlabel("score, 0 to 100")
        axes.grid(axis="x", color=SOFT, alpha=0.25, linewidth=0.7)
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)
        alt = f"{len(metrics)} metrics of {len(models)} models with intervals beside chance"
        svg = to_svg(figure, "comparison", alt + (" and published values" if published else ""))
    note = (
        "Published values stand only where their metric and benchmark are the very same."
        if published
        else ""
    )
    return Figure("comparison", "Main metrics", svg, note, is_wide=True)


def _dots(axes: Any, rows: list[Row], down: list[float], position: int) -> None:
    """One model's numbers with their intervals, at heights `down`."""
    # The second colour is that of published values.
    colour = SERIES[(0, 2, 3, 4)[position % 4]]
    for row, y in zip(rows, down, strict=True):
        if row.found.bounds:
            axes.plot(row.found.bounds, [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
    label = f"{rows[0].model}, 95 % interval"
    values = [row.found.value for row in rows]
    axes.plot(values, down, "o", color=colour, markersize=5.5, label=label)


def _family(language: str) -> str:
    """The family of a language's script; `other` for a language that XM3600 does not have."""
    script = SCRIPTS.get(language)
    return next((name for name, scripts in FAMILIES.items() if script in scripts), "other")


def _top(values: Sequence[float], chance: Sequence[float]) -> float:
    """Upper end of an axis of percentages: above all that is drawn; 100 if all values are 0."""
    return min(100.0, 1.08 * max([*values, *chance])) if max(values) > 0 else 100.0
