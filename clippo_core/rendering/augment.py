"""Augmentations of drawn text, all off by default: for a model that reads more than one font's cleanest rendering.

    layout, on the host     spacing 0 to 2 px · offset of the whole text · letters twice as large          masks -> masks, the same shape
    pixels, on the device   stroke weight · contrast · inversion · noise                                   masks -> pixels

Both are functions of their random generator alone. It is not used by evaluation, nor by any preset: a drawing that carries a render digest
is never augmented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clippo_core.config import RenderConfig, replace, require
from clippo_core.rendering.draw import INK, PAGE, ROW_PX, expand
from clippo_core.rendering.renderer import Renderer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LayoutAugmentation:
    """How the layout of each text varies."""

    max_extra_px: int = 0
    """Blank columns after each glyph: 0 to this many, drawn anew for each text; at most 8."""
    max_offset_px: int = 0
    """The text is moved right, and down, by 0 to this many pixels; what leaves the page is lost."""
    double_share: float = 0.0
    """Share of texts with every pixel doubled in both directions, on a page with half as many rows."""

    def __post_init__(self) -> None:
        require(0 <= self.max_extra_px <= 8, f"max_extra_px is {self.max_extra_px}; use 0 to 8.")
        require(self.max_offset_px >= 0, f"max_offset_px is {self.max_offset_px}; use 0 or more.")
        require(0 <= self.double_share <= 1, f"double_share is {self.double_share}; it is a share, 0 to 1.")


@dataclass(frozen=True)
class PixelAugmentation:
    """How the pixels of each drawing vary."""

    stroke_share: float = 0.0
    """Share of drawings with strokes one pixel wider."""
    contrast: float = 0.0
    """The distance of ink from page is multiplied by 1 - u * contrast, u uniform in 0..1 for each drawing."""
    inversion_share: float = 0.0
    """Share of drawings with page and ink swapped: light on dark."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, in units of -1..1; the result is clamped to -1..1."""

    def __post_init__(self) -> None:
        for name in ("stroke_share", "contrast", "inversion_share"):
            require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}; use 0 to 1.")
        require(self.noise >= 0, f"noise is {self.noise}; use 0 or more.")


class AugmentedRenderer:
    """Draws texts with a varying layout; masks of the same shape as the plain renderer's."""

    def __init__(self, config: RenderConfig, augmentation: LayoutAugmentation) -> None:
        half_px = config.image_px // (2 * ROW_PX) * ROW_PX
        require(
            augmentation.double_share == 0 or half_px >= 32,
            f"double_share needs pages of at least 64 px, and render.image_px is {config.image_px}.",
        )
        self.augmentation, self.image_px = augmentation, config.image_px
        spacings = range(augmentation.max_extra_px + 1)
        self._plain = [Renderer.from_config(config, extra_px=extra) for extra in spacings]
        half = replace(config, image_px=half_px) if augmentation.double_share else None
        self._half = [Renderer.from_config(half, extra_px=extra) for extra in spacings] if half else []

    def masks(self, texts: Sequence[str], rng: np.random.Generator) -> NDArray[np.uint16]:
        """Column masks uint16 [n, image_px / 16, image_px]."""
        n = len(texts)
        extra = rng.integers(0, self.augmentation.max_extra_px + 1, n)
        offset = rng.integers(0, self.augmentation.max_offset_px + 1, (n, 2))
        is_double = rng.random(n) < self.augmentation.double_share
        masks = np.zeros((n, self.image_px // ROW_PX, self.image_px), np.uint16)
        for doubled in (False, True):
            for spacing in range(len(self._plain)):
                chosen = np.flatnonzero((extra == spacing) & (is_double == doubled)).tolist()
                if chosen:
                    renderer = (self._half if doubled else self._plain)[spacing]
                    drawn = renderer.masks([texts[i] for i in chosen])
                    masks[chosen] = _on_page(double(drawn), masks.shape[1:]) if doubled else drawn
        if self.augmentation.max_offset_px:
            for i in range(n):
                masks[i] = shift(masks[i], int(offset[i, 0]), int(offset[i, 1]))
        return masks


def shift(masks: NDArray[np.uint16], right_px: int, down_px: int) -> NDArray[np.uint16]:
    """Masks [rows, px] of the same picture moved; what leaves the page is lost."""
    rows, px = masks.shape
    moved = np.zeros((rows + down_px // ROW_PX + 1, px), np.uint32)
    wide = np.zeros((rows, px), np.uint32)
    wide[:, right_px:] = masks[:, : max(px - right_px, 0)]
    wide <<= down_px % ROW_PX
    moved[down_px // ROW_PX : down_px // ROW_PX + rows] |= wide & 0xFFFF
    moved[down_px // ROW_PX + 1 :] |= wide >> ROW_PX
    return moved[:rows].astype(np.uint16)


def double(masks: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Masks [n, 2 * rows, 2 * px] of the same pictures twice as large."""
    wide: NDArray[np.uint32] = masks.astype(np.uint32)
    for step, keep in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):  # spread bit y to 2 y
        wide = (wide | wide << np.uint32(step)) & np.uint32(keep)
    wide |= wide << np.uint32(1)
    rows = np.stack([wide & 0xFFFF, wide >> ROW_PX], axis=2).astype(np.uint16)
    return rows.reshape(len(masks), 2 * masks.shape[1], masks.shape[2]).repeat(2, axis=2)


def augmented_pixels(
    masks: torch.Tensor, augmentation: PixelAugmentation, generator: torch.Generator, dtype: torch.dtype | None = None, channels: int = 3
) -> torch.Tensor:
    """Pixels in -1..1 as by `draw.expand`, varied; `generator` lives on the masks' device."""
    import torch

    def uniform() -> torch.Tensor:
        return torch.rand(len(masks), 1, 1, 1, generator=generator, device=masks.device)

    wider = _embolden(masks)
    chosen = (uniform() < augmentation.stroke_share)[:, :, :, 0]
    image = expand(torch.where(chosen, wider, masks.view(torch.int16)).view(torch.uint16), channels=1)
    page, ink = (torch.tensor(value, dtype=torch.float32, device=masks.device) / 255 * 2 - 1 for value in (PAGE, INK))
    is_inverted = uniform() < augmentation.inversion_share
    image = torch.where(
        is_inverted, torch.where(image == ink, page, ink), image
    )  # the page as dark as ink was, the ink as grey as the page
    if augmentation.contrast:
        ground = torch.where(is_inverted, ink, page)
        image = ground + (image - ground) * (1 - uniform() * augmentation.contrast)
    if augmentation.noise:
        image = image + augmentation.noise * torch.randn(image.shape, generator=generator, device=masks.device)
        image = image.clamp(-1, 1)
    return image.to(dtype or torch.float32).expand(-1, channels, -1, -1)


def _embolden(masks: torch.Tensor) -> torch.Tensor:
    """int16 masks with every stroke one pixel wider to the right."""
    import torch

    bits = masks.view(torch.int16)
    wider = bits.clone()
    wider[:, :, 1:] |= bits[:, :, :-1]
    return wider


def _on_page(masks: NDArray[np.uint16], shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Masks [n, rows, px] padded with blanks to `shape`, for pages whose size is no multiple of 32."""
    return np.pad(masks, ((0, 0), (0, shape[0] - masks.shape[1]), (0, shape[1] - masks.shape[2])))
