"""Figures of a run, drawn with matplotlib as SVG for a page: text as text, light and dark, the same bytes for the same numbers.

    training_figures(journal) · recall_by_language(result) · modality_gap_figure(images, texts) · comparison_figure(rows)

Every axis has its unit and every sample its n. Pictures made of pixels (contact sheet, patch kernel) stand in `pictures.py`, the light
curves of the live page in `live.py`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from clippo_core.analysis import digits
from clippo_core.analysis.live import buckets, by_step, number_of
from clippo_core.analysis.rows import Row
from clippo_core.analysis.style import SERIES
from clippo_core.analysis.svg import INK, SOFT, canvas, house_style, to_svg
from clippo_core.config import XM3600_LANGUAGES
from clippo_core.records import EvalResult

FAMILIES = ("Latin", "Greek, Cyrillic", "Arabic, Hebrew", "Brahmic", "Han, Kana, Hangul")
"""Families of scripts, in the order of the series' colours."""

SCRIPTS: dict[str, str] = {
    **dict.fromkeys(XM3600_LANGUAGES, "Latin"),
    **dict.fromkeys(("el", "ru", "uk"), "Greek, Cyrillic"),
    **dict.fromkeys(("ar", "fa", "he"), "Arabic, Hebrew"),
    **dict.fromkeys(("bn", "hi", "te", "th"), "Brahmic"),
    **dict.fromkeys(("ja", "ko", "zh"), "Han, Kana, Hangul"),
}
"""Language of XM3600 -> family of scripts."""


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


def training_figures(records: list[dict[str, Any]]) -> list[Figure]:
    """Loss, similarity, logit scale, learning rate and speed over steps, of a journal's lines; curves that it lacks are left out."""
    steps = by_step(records)
    drawn = [
        _loss_figure(steps),
        _curves(
            "similarity",
            "Similarity in a batch",
            "cosine",
            steps,
            {"positive_similarity": "matching", "negative_similarity": "others, mean"},
        ),
        _curves("accuracy", "Own pair ranked first in its batch", "share, 0 to 1", steps, {"accuracy": ""}, from_zero=True),
        _curves("logit-scale", "Logit scale", "exp(t)", steps, {"logit_scale": ""}),
        _curves("learning-rate", "Learning rate", "learning rate", steps, {"lr": ""}, from_zero=True),
        _curves("speed", "Training speed", "pairs per second", steps, {"pairs_per_second": ""}, from_zero=True),
    ]
    return [figure for figure in drawn if figure is not None]


def recall_by_language(result: EvalResult, kind: str = "i2t_recall@1") -> Figure | None:
    """Bars of `<set>/<language>/<kind>`, sorted, coloured by script, with 95 % intervals, chance and unweighted mean; None without any."""
    pattern = re.compile(rf"^[^/]+/([^/]+)/{re.escape(kind)}$")
    found = {match[1]: name for name in result.metrics if (match := pattern.match(name))}
    if not found:
        return None
    languages = sorted(found, key=lambda language: (-result.metrics[found[language]], language))
    values = np.array([result.metrics[found[language]] for language in languages])
    scripts = [SCRIPTS.get(language, "other") for language in languages]
    name = f"languages-{result.name}-{kind.partition('_')[0]}"
    direction = "image to text" if kind.startswith("i2t") else "text to image"
    with house_style():
        many = len(languages) > 12
        figure, axes = canvas(8.8 if many else 2.9 + 0.3 * len(languages), 3.2)
        across = np.arange(len(languages))
        for family in (*FAMILIES, "other"):
            where = [position for position, script in enumerate(scripts) if script == family]
            if where:
                colour = SERIES[FAMILIES.index(family)] if family != "other" else SOFT
                axes.bar(across[where], values[where], 0.7, color=colour, label=family)
        bounds = [result.confidence.get(found[language]) for language in languages]
        _whiskers(axes, across, bounds)
        axes.axhline(values.mean(), color=INK, linewidth=0.9, label=f"unweighted mean {digits.share(float(values.mean()))}")
        chance = [result.chance[found[language]] for language in languages if found[language] in result.chance]
        if chance:
            axes.axhline(
                float(np.mean(chance)), color=SOFT, linestyle="--", linewidth=1.1, label=f"chance {digits.value(float(np.mean(chance)), 2)}"
            )
        axes.set_xticks(across, languages)
        axes.set_xlim(-0.6, len(languages) - 0.4)
        axes.set_ylim(0, min(100, 1.08 * max(float(values.max()), *(b[1] for b in bounds if b), 1)))
        axes.set_ylabel(f"recall@{kind.rpartition('@')[2]}, %")
        anchor = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0)} if many else {"loc": "upper left", "bbox_to_anchor": (1.0, 1.02)}
        axes.legend(**anchor, ncols=4 if many else 1, frameon=False)
        sizes = [result.n_by_metric.get(found[language], result.n_examples) for language in languages]
        n = digits.count(sizes[0]) if len(set(sizes)) == 1 else f"{digits.count(min(sizes))} to {digits.count(max(sizes))}"
        title = f"Recall by language, {direction}"
        ends = f"best {languages[0]} {digits.share(values[0])}, worst {languages[-1]} {digits.share(values[-1])}"
        alt = f"{title}: {ends}, {len(languages)} languages"
        svg = to_svg(figure, name, alt)
    note = f"n = {n} queries a language; whiskers: 95 % bootstrap interval." if any(bounds) else f"n = {n} queries a language."
    return Figure(name, title, svg, note, is_wide=many)


def modality_gap_figure(photos: np.ndarray, texts: np.ndarray, explained: np.ndarray, gap: float, note: str = "") -> Figure:
    """Two clouds of matched points [n, 2] on the first two principal components, a line between each pair, the gap in the title.

    explained: [2] the components' shares of the variance, 0..1 (see `gather.principal_plane`).
    """
    n = len(photos)
    with house_style():
        from matplotlib.collections import LineCollection

        figure, axes = canvas(5.6, 4.2)
        axes.add_collection(LineCollection(list(zip(photos, texts, strict=True)), colors=SOFT, linewidths=0.5, alpha=0.35))
        axes.scatter(photos[:, 0], photos[:, 1], s=13, color=SERIES[0], marker="o", linewidths=0, label="photos")
        axes.scatter(texts[:, 0], texts[:, 1], s=16, color=SERIES[1], marker="^", linewidths=0, label="their texts")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"1st principal component ({100 * explained[0]:.0f} % of the variance)")
        axes.set_ylabel(f"2nd ({100 * explained[1]:.0f} %)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False)
        title = f"Modality gap {digits.value(gap)}"
        svg = to_svg(figure, "modality-gap", f"{title}: embeddings of {n} photos and their texts as two clouds")
    return Figure("modality-gap", title, svg, f"n = {n} matched pairs; gap = distance of the two clouds' means, 0 to 2. {note}".strip())


def comparison_figure(rows: list[Row]) -> Figure | None:
    """Main metrics as dots with 95 % intervals, chance beside them, and the paper's where the metric is the very same; None without any."""
    shown = [row for row in rows if row.is_main and row.ours is not None and math.isfinite(row.ours)][:40]
    if not shown:
        return None
    with house_style():
        figure, axes = canvas(8.6, 0.9 + 0.27 * len(shown))
        down = -np.arange(len(shown), dtype=float)
        for y, row in zip(down, shown, strict=True):
            if row.bounds:
                axes.plot(row.bounds, [y, y], color=SERIES[0], linewidth=2.2, solid_capstyle="butt")
        values = [row.ours for row in shown]
        axes.plot(values, down, "o", color=SERIES[0], markersize=6, label="ours, 95 % interval")
        chance = [(row.chance, y) for row, y in zip(shown, down, strict=True) if row.chance is not None]
        if chance:
            axes.plot(*zip(*chance, strict=True), "|", color=SOFT, markersize=11, markeredgewidth=2, label="chance or majority")
        paper = [(row.paper[0].value, y) for row, y in zip(shown, down, strict=True) if row.paper and not row.paper_metric]
        if paper:
            axes.plot(*zip(*paper, strict=True), "D", color=SERIES[1], markersize=6.5, fillstyle="none", markeredgewidth=1.5, label="paper")
        axes.set_yticks(down, [f"{row.metric}  (n = {digits.count(row.n)})" for row in shown])
        axes.set_ylim(down[-1] - 0.7, 0.7)
        axes.set_xlim(min(0.0, *(float(v) for v in values if v is not None)) - 1, 101)
        axes.set_xlabel("score, 0 to 100")
        axes.grid(axis="x", color=SOFT, alpha=0.25, linewidth=0.7)
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)
        svg = to_svg(figure, "comparison", f"{len(shown)} main metrics with intervals beside chance" + (" and the paper" if paper else ""))
    note = "The paper's dot stands only where its metric and benchmark are the very same." if paper else ""
    return Figure("comparison", "Main metrics", svg, note, is_wide=True)


def _loss_figure(steps: list[dict[str, Any]]) -> Figure | None:
    pairs = [number_of(step, "pairs_seen") / step["step"] for step in steps if step["step"] > 0]
    chance = math.log(pairs[-1]) if pairs and math.isfinite(pairs[-1]) and pairs[-1] > 1 else None
    note = (
        ""
        if chance is None
        else f"Dashed: ln {digits.count(round(pairs[-1]))} = {chance:.2f}, the loss of guessing in a batch of that many pairs."
    )
    return _curves("loss", "Loss", "nats", steps, {"loss": ""}, chance=chance, has_range=True, from_zero=True, note=note)


def _curves(
    name: str,
    title: str,
    unit: str,
    steps: list[dict[str, Any]],
    fields: dict[str, str],
    *,
    chance: float | None = None,
    has_range: bool = False,
    from_zero: bool = False,
    note: str = "",
) -> Figure | None:
    x = np.array([step["step"] for step in steps], float)
    curves = [(label, buckets(x, np.array([number_of(step, field) for step in steps]))) for field, label in fields.items()]
    curves = [(label, curve) for label, curve in curves if len(curve)]
    if not curves:
        return None
    with house_style():
        figure, axes = canvas(4.3, 2.5)
        for position, (label, curve) in enumerate(curves):
            colour, line = SERIES[position], ("-", "--")[position % 2]
            if has_range and (curve[:, 3] > curve[:, 2]).any():
                axes.fill_between(curve[:, 0], curve[:, 2], curve[:, 3], color=colour, alpha=0.3, linewidth=0)
            axes.plot(
                curve[:, 0], curve[:, 1], color=colour, linestyle=line, linewidth=1.5, label=label or None, marker="o" * (len(curve) == 1)
            )
        if chance is not None:
            axes.axhline(chance, color=SOFT, linestyle="--", linewidth=1)
        if from_zero:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if curves[0][1][:, 1].min() < 0 else 0)
        axes.set_xlabel(f"step (n = {digits.count(len(steps))})")
        axes.set_ylabel(unit)
        if len(curves) > 1:
            axes.legend(loc="best", frameon=False)
        ends = ", ".join(f"{label} {digits.value(curve[0, 1])} to {digits.value(curve[-1, 1])}".strip() for label, curve in curves)
        svg = to_svg(figure, name, f"{title} over {len(steps)} steps: from {ends}")
    return Figure(name, title, svg, note)


def _whiskers(axes: Any, across: np.ndarray, bounds: list[list[float] | None]) -> None:
    for x, bound in zip(across, bounds, strict=True):
        if bound:
            axes.plot([x, x], bound, color=INK, linewidth=1.1)
