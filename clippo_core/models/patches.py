"""The patch embedding: a convolution whose stride is its kernel, in training one matrix product.

    [n, 3, H, W] ─▶ 16x16 patches, each one row of 768 numbers ─▶ rows · weightᵀ + bias

Patches do not overlap, so this is the same function, to rounding; layout and name of the weight are
the convolution's. Convolutions of this kind are served badly by their libraries, above all
backward. A model in evaluation mode uses the convolution: an export that timm reads then gives the
same features to the last bit.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchProduct(nn.Conv2d):
    """A convolution of square patches side by side, `kernel_size` = `stride`."""

    def __init__(self, channels: int, width: int, patch_px: int) -> None:
        super().__init__(channels, width, patch_px, patch_px)

    def forward(self, images: Tensor) -> Tensor:
        """[n, channels, H, W], H and W multiples of the patch -> [n, width, rows, columns]."""
        if not self.training:
            return super().forward(images)
        n, channels, height, width = images.shape
        px = self.kernel_size[0]
        rows, columns = height // px, width // px
        patches = images.reshape(n, channels, rows, px, columns, px).permute(0, 2, 4, 1, 3, 5)
        flat = patches.reshape(n, rows * columns, channels * px * px)
        tokens = F.linear(flat, self.weight.reshape(self.out_channels, -1), self.bias)
        return tokens.transpose(1, 2).unflatten(2, (rows, columns))
