"""A matplotlib figure as an <svg> that stands inside a page: text as text, the page's own colours,
the same bytes for the same numbers.

    with house_style():
        figure, axes = canvas(8.6, 3.2)
        axes.plot(…, color=SERIES[0])
        markup = to_svg(figure, "unique-name", "what a reader who cannot see it is told")

It draws nothing itself (`figures.py`, `lengths.py`).
"""

from __future__ import annotations

import html
import io
import re
from typing import Any

from clippo_core.extras import optional_import
from clippo_core.report.style import SERIES, series

INK = "#010203"
"""Placeholder for the page's own text colour; `to_svg` turns it into `currentColor`."""

SOFT = "#7b8590"
"""Grey that reads on light and dark ground."""


def house_style() -> Any:
    """Context in which a figure is drawn: text stays text, the page's colours, one light grid."""
    with optional_import():
        import matplotlib

    matplotlib.use("Agg")
    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 9,
            # Labels come from data files: a dollar sign is a dollar sign.
            "text.parse_math": False,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": SOFT,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "grid.color": SOFT,
            "grid.alpha": 0.25,
            "grid.linewidth": 0.7,
            "axes.axisbelow": True,
            "axes.facecolor": "none",
            "figure.facecolor": "none",
            "path.simplify": True,
        }
    )


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure outside pyplot's registry, so that nothing is left open; inches at 100 px."""
    with optional_import():
        from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def to_svg(figure: Any, name: str, alt: str) -> str:
    """The figure's <svg> element: no metadata, ids that cannot meet another figure's, colours of
    the page.
    """
    with optional_import():
        import matplotlib

    target = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            target,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
            transparent=True,
        )
    text = target.getvalue()
    width = float(re.search(r'width="([\d.]+)pt"', text)[1]) * 100 / 72  # type: ignore[index]  # matplotlib always writes it
    box = re.search(r'viewBox="[^"]*"', text)[0]  # type: ignore[index]  # matplotlib always writes it
    body = text[text.index(">", text.index("<svg")) + 1 :]
    # A <style> inside an SVG would hold for the whole page; matplotlib's one rule moves to the
    # element.
    body = re.sub(
        r"\s*<metadata>.*?</metadata>|\s*<defs>\s*<style.*?</style>\s*</defs>",
        "",
        body,
        flags=re.DOTALL,
    )
    body = (
        re.sub(r'\bid="', f'id="{name}-', body)
        .replace("url(#", f"url(#{name}-")
        .replace('href="#', f'href="#{name}-')
    )
    body = re.sub(
        r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", body
    ).replace(INK, "currentColor")
    for position, colour in enumerate(SERIES):
        body = body.replace(colour, series(position))
    look = (
        f"width:100%;max-width:{width:.0f}px;height:auto;stroke-linejoin:round;stroke-linecap:butt"
    )
    return f'<svg role="img" aria-label="{html.escape(alt)}" {box} style="{look}">{body.strip()}'
