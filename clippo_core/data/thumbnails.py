"""Small pictures for pages and examples: pixels as a data URI, shown without loading a file.

uint8 [h, w, 3] ─▶ shrunk to THUMB_PX ─▶ "data:image/png;base64,…"
"""

from __future__ import annotations

import base64
import io

import numpy as np

THUMB_PX = 160
"""Longest side: decks are uploaded whole at every publication."""


def data_uri(pixels: np.ndarray, longest_px: int = THUMB_PX, *, photo: bool = False) -> str:
    """uint8 [h, w] or [h, w, 3] as a data URI, shrunk to `longest_px` (never enlarged).

    photo: as a JPEG; otherwise as a PNG, which is exact.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
    image.thumbnail((longest_px, longest_px))
    target = io.BytesIO()
    if photo:
        image.convert("RGB").save(target, "JPEG", quality=82)
    else:
        image.save(target, "PNG", optimize=True)
    encoded = base64.b64encode(target.getvalue()).decode()
    return f"data:image/{'jpeg' if photo else 'png'};base64,{encoded}"
