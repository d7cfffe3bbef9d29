"""Curves of a training run as hand-made SVG, cheap enough to be drawn every few seconds.

    journal's lines ─▶ at most POINTS buckets of steps ─▶ one figure per chart of CHARTS

A bucket has its mean, and for the loss its range, so that a spike stays visible. The watched
page and the report show the same curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clippo_core.report import digits
from clippo_core.report.style import series

POINTS = 240
"""Buckets of steps that a curve is reduced to."""

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 22


@dataclass(frozen=True)
class _Chart:
    title: str
    unit: str
    fields: tuple[str, ...]
    """Fields of a journal line, one curve each."""
    labels: tuple[str, ...] = ()
    """Names of the curves, where there are several."""
    has_range: bool = False
    """Shade the smallest to largest value of each bucket."""
    from_zero: bool = False
    has_chance: bool = False
    """Draw the loss of guessing as a dashed line."""


CHARTS = (
    _Chart("Loss", "nats, mean of both directions", ("loss",), has_range=True, has_chance=True),
    _Chart(
        "Similarity",
        "cosine",
        ("positive_similarity", "negative_similarity"),
        ("matching", "others"),
    ),
    _Chart("Own pair ranked first", "share of its batch", ("accuracy",), from_zero=True),
    _Chart("Logit scale", "exp(t)", ("logit_scale",)),
    _Chart("Learning rate", "", ("lr",), from_zero=True),
    _Chart("Gradient norm", "before clipping", ("grad_norm",), has_range=True, from_zero=True),
    _Chart("Speed", "pairs per second", ("pairs_per_second",), from_zero=True),
)


def draw(chart: _Chart, steps: list[dict[str, Any]]) -> str:
    """One figure: axes with three to five round ticks, one polyline per field, the latest value in
    words.
    """
    x = np.array([step["step"] for step in steps], float)
    curves = [
        buckets(x, np.array([number_of(step, name) for step in steps])) for name in chart.fields
    ]
    finite = [curve for curve in curves if len(curve)]
    unit = f" <span>{chart.unit}</span>" if chart.unit else ""
    if not finite:
        return (
            f'<figure class="chart"><figcaption>{chart.title}{unit}</figcaption><p class="soft">not'
            " in the journal</p></figure>"
        )
    spread = np.concatenate(
        [curve[:, 2:4].ravel() if chart.has_range else curve[:, 1] for curve in finite]
    )
    chance = _chance(steps) if chart.has_chance else None
    if chance is not None:
        spread = np.append(spread, chance)
    ticks = _ticks(0.0 if chart.from_zero else float(spread.min()), float(spread.max()))
    low, high = min(ticks[0], float(spread.min())), max(ticks[-1], float(spread.max()))
    first, final = float(x[0]), float(max(x[-1], x[0] + 1))

    def place(columns: np.ndarray) -> str:
        across = LEFT + (columns[:, 0] - first) / (final - first) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (columns[:, 1] - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return " ".join(f"{a:.1f},{d:.1f}" for a, d in zip(across, down, strict=True))

    parts = [_axes(ticks, low, high, first, final)]
    if chance is not None:
        unit += f" <span>dashed: guessing, {digits.value(chance)}</span>"
        line = place(np.array([[first, chance], [final, chance]]))
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-opacity=".6"'
            ' stroke-dasharray="4 3"/>'
        )
    for position, curve in enumerate(curves):
        parts += _curve(curve, series(position), place, chart.has_range, is_dashed=position > 0)
    latest = [digits.value(number_of(steps[-1], name)) for name in chart.fields]
    spoken = ", ".join(
        f"{label} {text}".strip()
        for label, text in zip(chart.labels or ("now",), latest, strict=True)
    )
    return (
        f'<figure class="chart"><figcaption>{chart.title}{unit}{_legend(chart)}</figcaption><svg'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{chart.title} over steps:'
        f' {spoken}">{"".join(parts)}</svg></figure>'
    )


def _curve(
    curve: np.ndarray,
    colour: str,
    place: Callable[[np.ndarray], str],
    has_range: bool,
    is_dashed: bool,
) -> list[str]:
    """A polyline of `buckets`, over the polygon of their range; one step alone shows as a dot."""
    found, is_line = [], len(curve) > 1
    if has_range and len(curve):
        edge = place(np.vstack([curve[:, [0, 2]], curve[::-1][:, [0, 3]]]))
        found.append(f'<polygon points="{edge}" fill="{colour}" fill-opacity=".35"/>')
    line = place(curve[:, :2] if is_line else np.repeat(curve[:, :2], 2, axis=0))
    dashes = ' stroke-dasharray="5 3"' if is_dashed and is_line else ""
    found.append(
        f'<polyline points="{line}" fill="none" stroke="{colour}"'
        f' stroke-width="{1.8 if is_line else 5}" stroke-linecap="round"{dashes}/>'
    )
    return found


def _chance(steps: list[dict[str, Any]]) -> float | None:
    """Loss of guessing in a batch of the steps' mean size, nats; None where that is unknown."""
    pairs = [number_of(step, "pairs_seen") / step["step"] for step in steps if step["step"] > 0]
    return math.log(pairs[-1]) if pairs and math.isfinite(pairs[-1]) and pairs[-1] > 1 else None


def _legend(chart: _Chart) -> str:
    marks = ("━", "╍")
    return "".join(
        f' <span style="color:{series(position)}">{marks[position % 2]} {label}</span>'
        for position, label in enumerate(chart.labels)
    )


def _axes(ticks: list[float], low: float, high: float, first: float, final: float) -> str:
    lines = []
    for tick in ticks:
        y = HEIGHT - BOTTOM - (tick - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        lines.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
            ' stroke="currentColor" stroke-opacity=".15"/>'
        )
        lines.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}"'
            f' text-anchor="end">{_tick_text(tick, ticks)}</text>'
        )
    lines.append(f'<text x="{LEFT}" y="{HEIGHT - 4}">step {digits.count(int(first))}</text>')
    lines.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}"'
        f' text-anchor="end">{digits.count(int(final))}</text>'
    )
    return f'<g font-size="11" fill="currentColor" font-family="inherit">{"".join(lines)}</g>'


def _ticks(low: float, high: float) -> list[float]:
    """Three to five round values that lie around `low`..`high`."""
    if high - low < 1e-12 * max(abs(high), abs(low), 1e-300):
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    size = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(size))
    width = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= size * 0.999)
    first, last = math.floor(low / width + 1e-9), math.ceil(high / width - 1e-9)
    return [position * width for position in range(first, last + 1)]


def _tick_text(tick: float, ticks: list[float]) -> str:
    width = ticks[1] - ticks[0]
    if 0 < max(abs(t) for t in ticks) < 1e-2:
        return "0" if abs(tick) < width / 2 else f"{tick:.3g}".replace("e-0", "e-")
    decimals = max(-math.floor(math.log10(width) + 1e-9), 0)
    if abs(round(width, decimals) - width) > 1e-9 * width:
        decimals += 1
    return f"{tick:,.{decimals}f}"


def buckets(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[m, 4] step, mean, smallest, largest of at most POINTS runs of neighbouring finite values."""
    keep = np.isfinite(y)
    x, y = x[keep], y[keep]
    if not len(x):
        return np.zeros((0, 4))
    edges = np.unique(np.linspace(0, len(x), min(POINTS, len(x)) + 1).astype(int))
    starts, sizes = edges[:-1], np.diff(edges)
    return np.column_stack(
        [
            np.add.reduceat(x, starts) / sizes,
            np.add.reduceat(y, starts) / sizes,
            np.minimum.reduceat(y, starts),
            np.maximum.reduceat(y, starts),
        ]
    )


def by_step(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines that have a step, ascending, the last line of a step winning: a resumed run may repeat
    some.
    """
    latest = {
        int(record["step"]): record
        for record in records
        if isinstance(record.get("step"), (int, float))
    }
    return [latest[step] for step in sorted(latest)]


def number_of(record: dict[str, Any], name: str) -> float:
    """A field of a journal's line; NaN where it is missing or no number."""
    number = record.get(name)
    return float(number) if isinstance(number, (int, float)) else math.nan
