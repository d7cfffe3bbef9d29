"""Position embeddings for another image size, by the reference's rule (big_vision models/vit.py,
`resample_posemb`).

    grid [g, g, width] ─▶ scipy.ndimage.zoom, order 1 ─▶ [g', g', width]

Linear, end points onto end points; not torch's bicubic, which pixel-aligns and overshoots. Text
positions have no grid and stay. It is written out in numpy, bit for bit as scipy computes it, so
that loading a model does not need scipy.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from clippo_core.config import ModelConfig
from clippo_core.errors import ConfigError
from clippo_core.models.tower import Tower


def resample_positions(positions: np.ndarray, n_patches: int) -> np.ndarray:
    """Position embeddings [1, g², width] resampled to [1, n_patches, width]; both counts must be
    squares.
    """
    old, new = math.isqrt(positions.shape[1]), math.isqrt(n_patches)
    if old * old != positions.shape[1] or new * new != n_patches:
        raise ConfigError(
            f"cannot resample {positions.shape[1]} positions to {n_patches}: both must be square"
            " grids."
        )
    if old == new:
        return positions
    grid = positions.reshape(old, old, -1).astype(np.float64)
    at = np.arange(new) * ((old - 1) / max(new - 1, 1))
    low = np.floor(at).astype(int)
    corners = ((low, 1 - (at - low)), (np.minimum(low + 1, old - 1), at - low))
    zoomed = np.zeros((new, new, grid.shape[-1]))
    for rows, row_weights in corners:
        for columns, column_weights in corners:
            weighted = grid[rows[:, None], columns] * row_weights[:, None, None]
            zoomed += weighted * column_weights[:, None]
    return zoomed.astype(positions.dtype).reshape(1, n_patches, -1)


def resize_positions(tower: Tower, image_px: int) -> Tower:
    """Make `tower` read images of `image_px` pixels, a multiple of 16, in place; returns it. Do it
    before an optimizer holds parameters.
    """
    patch_px = ModelConfig.PATCH_PX
    if image_px < patch_px or image_px % patch_px:
        raise ConfigError(f"image_px is {image_px}; it must be a multiple of {patch_px}.")
    old = tower.pos_embed
    resampled = resample_positions(old.detach().cpu().float().numpy(), (image_px // patch_px) ** 2)
    tower.pos_embed = nn.Parameter(
        torch.as_tensor(resampled).to(old.device, old.dtype), requires_grad=old.requires_grad
    )
    tower.image_px = image_px
    return tower
