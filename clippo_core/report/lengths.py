"""The figure of text lengths by language: CLIPPO's patches beside the pieces of tokenizers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clippo_core.measure.lengths import Lengths, shorter_than
from clippo_core.report.figures import Figure
from clippo_core.report.pages import shorten
from clippo_core.report.style import SERIES
from clippo_core.report.svg import INK, canvas, house_style, to_svg


def lengths_figure(lengths: Sequence[Lengths]) -> Figure:
    """Dots by language: CLIPPO's inked patches and each tokenizer's pieces; hollow where over a
    tenth of the characters are unknown.

    `lengths`: at least one language. Without tokenizers only CLIPPO's two lengths are drawn.
    """
    names = list(lengths[0].tokens)
    order = sorted(lengths, key=lambda one: one.patches)
    down = -np.arange(len(order))
    with house_style():
        figure, axes = canvas(8.6, 1.2 + 0.2 * len(order))
        for mark, size, values, label in (
            ("s", 5, [one.patches for one in order], "CLIPPO, patches with ink"),
            ("|", 8, [one.rows for one in order], "CLIPPO, rows × patches in a row"),
        ):
            axes.plot(values, down, mark, color=INK, markersize=size, label=label)
        for position, name in enumerate(names):
            style = {"color": SERIES[position % len(SERIES)], "markersize": 5}
            known = np.array([one.unknown_share[name] <= 0.1 for one in order])
            pieces = np.array([one.tokens[name] for one in order])
            axes.plot(pieces[known], down[known], "o", label=shorten(name, 24), **style)
            axes.plot(pieces[~known], down[~known], "o", fillstyle="none", label="_", **style)
        axes.set_yticks(down, [shorten(one.language, 24) for one in order])
        axes.set_xlabel("mean length of a text, patches" + " or tokens" * bool(names))
        axes.set_ylim(down[-1] - 0.7, 0.7)
        axes.set_xlim(left=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=8)
        svg = to_svg(
            figure,
            "lengths",
            f"Mean length of texts in {len(order)} languages, in patches"
            + " and in tokens" * bool(names),
        )
    note = f"{sum(one.n_texts for one in lengths):,} texts."
    if names:
        counts = {shorten(name, 40): shorter_than(lengths, name)[0] for name in names}
        shorter = "; ".join(
            f"than pieces of {name} in {count} of {len(lengths)} languages"
            for name, count in counts.items()
        )
        note += (
            f" Fewer patches with ink {shorter}. Hollow: a tokenizer knows less than 90 % of the"
            " characters."
        )
    return Figure("lengths", "Length of a text by language", svg, note, is_wide=True)
