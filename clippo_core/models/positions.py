"""Position embeddings for another image size, by the reference's rule (big_vision models/vit.py,
`resample_posemb`).

    grid [g, g, width] ─▶ scipy.ndimage.zoom, order 1 ─▶ [g', g', width]

Linear, end points onto end points; not torch's bicubic, which pixel-aligns and overshoots. Text
positions have no grid and stay.
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
    from scipy.ndimage import zoom

    grid = positions.reshape(old, old, -1)
    return zoom(grid, (new / old, new / old, 1), order=1).reshape(1, n_patches, -1)


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
