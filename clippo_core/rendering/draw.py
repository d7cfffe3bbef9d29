"""Column masks -> pixels, in numpy and in torch: pixel (y, x) of row r is bit y of masks[r, x]; ink
on a grey page.

    uint8   ink 0, page 127
    float   v / 255 * 2 - 1 in float32, then the dtype: ink -1, page -0.0039215684

`expand` runs wherever the masks are, and compiles; so only 2 bytes per column cross to the device.
torch is imported where it is used, because validation and rendering run without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clippo_core.errors import RenderError

if TYPE_CHECKING:
    import torch

ROW_PX = 16
"""Height of a text row."""
BLOCK_ROWS = 256
INK, PAGE = 0, 127
"""Brightness of glyphs and of the page, 0 to 255."""


def expand_numpy(
    masks: NDArray[np.uint16], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """uint8 [n, 16 * rows, px] of masks uint16 [n, rows, px]: ink 0 on 127; into `out`,
    C-contiguous of that shape, if it is given.
    """
    n, rows, px = masks.shape
    image = np.empty((n, rows * ROW_PX, px), np.uint8) if out is None else out
    if (
        image.shape != (n, rows * ROW_PX, px)
        or image.dtype != np.uint8
        or not image.flags.c_contiguous
    ):
        raise RenderError(
            f"out is {image.dtype} {image.shape}; it must be C-contiguous uint8"
            f" {(n, rows * ROW_PX, px)}."
        )
    image.fill(PAGE)
    inked = np.flatnonzero(np.any(masks, axis=2))
    target = image.reshape(n * rows, ROW_PX, px)
    # Most rows of a page are blank; the others go in blocks that fit the cache.
    block = np.empty((min(len(inked), BLOCK_ROWS), ROW_PX, px), np.uint8)
    for begin in range(0, len(inked), BLOCK_ROWS):
        lines = inked[begin : begin + BLOCK_ROWS]
        target[lines] = _pixels(masks.reshape(n * rows, px)[lines], block[: len(lines)])
    return image


def _pixels(lines: NDArray[np.uint16], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fills `pixels` [lines, 16, px] with 0 (ink) and 127, of masks [lines, px]; by bytes, the size
    that processors compare fastest.
    """
    halves = lines.astype(np.uint8), (lines >> 8).astype(np.uint8)
    one_bit = np.empty_like(halves[0])
    for y in range(ROW_PX):
        np.bitwise_and(halves[y // 8], np.uint8(1 << y % 8), out=one_bit)
        np.equal(one_bit, 0, out=pixels[:, y].view(np.bool_))
    return np.multiply(pixels, np.uint8(PAGE), out=pixels)


def expand(
    masks: torch.Tensor, dtype: torch.dtype | None = None, channels: int = 3
) -> torch.Tensor:
    """[n, channels, 16 * rows, px] of masks uint16 [n, rows, px], on their device.

    `dtype` float32 (default), bfloat16, float16: in -1..1; uint8: 0 and 127. The channels share one
    memory (stride 0). Raises RenderError for what is no masks, and for other dtypes.
    """
    import torch

    if dtype is not None and dtype != torch.uint8 and not dtype.is_floating_point:
        raise RenderError(
            f"dtype is {dtype}; pixels are torch.uint8 (0 and 127) or a floating type (-1..1)."
        )
    ink = _ink(masks)
    n, rows, height, px = ink.shape
    if dtype == torch.uint8:
        image = (~ink).to(torch.uint8) * PAGE
    else:
        low, high = (  # filled there: a copy of a number would wait for the device
            torch.full((), value, dtype=torch.float32, device=ink.device) / 255 * 2 - 1
            for value in (INK, PAGE)
        )
        image = torch.where(ink, low.to(dtype or torch.float32), high.to(dtype or torch.float32))
    return image.reshape(n, 1, rows * height, px).expand(-1, channels, -1, -1)


def used_rows(masks: torch.Tensor) -> torch.Tensor:
    """Rows of each text up to the last one with ink, int64 [n] in 1..rows, of masks uint16 [n,
    rows, px]; a blank text has 1. Raises RenderError for what is no masks.
    """
    import torch

    _check_masks(masks)
    inked = (masks.view(torch.int16) != 0).any(-1)
    numbers = torch.arange(1, inked.shape[1] + 1, device=masks.device)
    return (inked * numbers).amax(1).clamp(min=1)


def _ink(masks: torch.Tensor) -> torch.Tensor:
    """bool [n, rows, 16, px]."""
    import torch

    _check_masks(masks)
    # torch has few operations on uint16. The sign bit of int16 moves in from the left, where `& 1`
    # does not look.
    bits = torch.arange(ROW_PX, dtype=torch.int16, device=masks.device)[:, None]
    return (masks.view(torch.int16).unsqueeze(2) >> bits) & 1 != 0


def _check_masks(masks: torch.Tensor) -> None:
    import torch

    if masks.dtype not in (torch.uint16, torch.int16) or masks.dim() != 3:
        raise RenderError(
            f"masks are {masks.dtype} {tuple(masks.shape)}; whoever reads them takes uint16"
            " [n, rows, px], as Renderer.masks gives them."
        )
