"""Pictures made of pixels, as PNG or JPEG data URIs inside the page: contact sheets, hits and
misses, the patch kernel's components.

    contact item = photo beside its rendered text:   [ photo ][ drawing ]   caption, language

A data URI that comes from a file is let through only if it is a picture and nothing else. Curves
are in `figures.py`.
"""

from __future__ import annotations

import html

import numpy as np

from clippo_core.data.thumbnails import data_uri
from clippo_core.report.figures import Figure


def patch_figure(components: np.ndarray, shares: np.ndarray) -> Figure:
    """The first principal components [n, 3, 16, 16] of the patch kernel as tiles, with their shares
    of the variance, 0..1.

    Each tile is scaled about mid-grey by its own largest absolute value; the sign of a component is
    arbitrary.
    """
    n, columns, tile, gap, label = len(components), 10, 72, 14, 16
    parts = []
    for position, (component, share) in enumerate(zip(components, shares, strict=True)):
        scaled = 127.5 + 127.5 * component / max(float(np.abs(component).max()), 1e-12)
        uri = data_uri(np.clip(np.rint(scaled), 0, 255).astype(np.uint8).transpose(1, 2, 0))
        x, y = position % columns * (tile + gap), position // columns * (tile + gap + label)
        parts.append(
            f'<image x="{x}" y="{y}" width="{tile}" height="{tile}" href="{uri}"'
            ' style="image-rendering:pixelated"/>'
        )
        parts.append(
            f'<text x="{x}" y="{y + tile + 13}" font-size="11" fill="currentColor">{position + 1}:'
            f" {100 * share:.1f} %</text>"
        )
    wide = min(n, columns) * (tile + gap) - gap
    high = -(-n // columns) * (tile + gap + label) - gap
    total = 100 * float(np.sum(shares))
    alt = html.escape(
        f"First {n} principal components of the patch kernel; together {total:.1f} % of its"
        " variance"
    )
    svg = (
        f'<svg role="img" aria-label="{alt}" viewBox="0 0 {wide} {high}"'
        f' style="width:100%;max-width:{wide}px;height:auto">'
        f"{''.join(parts)}</svg>"
    )
    height, width = components.shape[2:]
    caption = (
        f"{height} × {width} px × 3 colours each; under a tile its share of the variance, together"
        f" {total:.1f} %. Signs are arbitrary."
    )
    return Figure(
        "patch-kernel", f"First {n} components of the patch kernel", svg, caption, is_wide=True
    )
