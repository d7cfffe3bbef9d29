"""Augmentations of rendered text for training (`config.AugmentConfig`), all off by default.

    layout, on the host     spacing · letters twice as large · offset of the whole text
                            texts -> masks, the usual shape
    pixels, on the device   stroke weight · inversion · contrast · noise
                            masks -> pixels

Both are functions of a text and of numbers in 0..1, and `numbers_of_step` draws those from (seed,
step, place in the global batch): a run goes on bit for bit, on any number of ranks. Only training
varies text: evaluation, shards and everything with a render digest is plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clippo_core.config import AugmentConfig, RenderConfig, replace
from clippo_core.rendering.draw import INK, PAGE, ROW_PX, expand
from clippo_core.rendering.renderer import Renderer

if TYPE_CHECKING:
    import torch

LAYOUT_NUMBERS, PIXEL_NUMBERS = 4, 6
"""Numbers that a text's layout takes (spacing, right, down, doubled), and its pixels (stroke,
contrast, inversion, noise, its y, its x)."""
NEUTRAL = (0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""A text's numbers with which it is rendered plainly, whatever is on."""


def numbers_of_step(
    seed: int, step: int, batch_pairs: int, share: float = 1.0
) -> NDArray[np.float64]:
    """[batch_pairs, 2, 10] in 0..1: for the first and second text of each pair of a global batch,
    layout numbers, then pixel numbers.

    All but a `share` of the texts get NEUTRAL ones.
    """
    rng = np.random.default_rng([seed % 2**63, step])
    numbers = rng.random((batch_pairs, 2, LAYOUT_NUMBERS + PIXEL_NUMBERS))
    numbers[rng.random((batch_pairs, 2)) >= share] = NEUTRAL
    return numbers


def noise_of_step(seed: int, step: int, image_px: int) -> NDArray[np.float32]:
    """[2 * image_px, 2 * image_px] standard normal; each text of a step takes a window of it."""
    rng = np.random.default_rng([seed % 2**63, step, 1])
    return rng.standard_normal((2 * image_px, 2 * image_px), dtype=np.float32)


class AugmentedRenderer:
    """Renders texts with a varying layout; masks of the same shape as the plain renderer's. Raises
    ConfigError as AugmentConfig does.
    """

    def __init__(self, config: RenderConfig, augment: AugmentConfig) -> None:
        self.augment, self.image_px = augment, config.image_px
        spacings = range(augment.max_extra_px + 1)
        self._plain = [Renderer.from_config(config, extra_px=extra) for extra in spacings]
        half = (
            replace(config, image_px=config.image_px // (2 * ROW_PX) * ROW_PX)
            if augment.double_share
            else None
        )
        self._half = (
            [Renderer.from_config(half, extra_px=extra) for extra in spacings] if half else []
        )

    def masks(self, texts: Sequence[str], numbers: NDArray[np.float64]) -> NDArray[np.uint16]:
        """Column masks uint16 [n, image_px / 16, image_px], varied by `numbers` [n, 4] in 0..1."""
        augment = self.augment
        extra = (numbers[:, 0] * (augment.max_extra_px + 1)).astype(int)
        offset = (numbers[:, 1:3] * (augment.max_offset_px + 1)).astype(int).tolist()
        is_double = numbers[:, 3] < augment.double_share
        masks = np.zeros((len(texts), self.image_px // ROW_PX, self.image_px), np.uint16)
        for doubled, renderers in ((False, self._plain), (True, self._half)):
            for spacing, renderer in enumerate(renderers):
                chosen = np.flatnonzero((extra == spacing) & (is_double == doubled)).tolist()
                if chosen:
                    drawn = renderer.masks([texts[i] for i in chosen])
                    masks[chosen] = _on_page(double(drawn), masks.shape[1:]) if doubled else drawn
        for i, (right_px, down_px) in enumerate(offset):
            if right_px or down_px:
                masks[i] = shift(masks[i], right_px, down_px)
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
    for step, keep in (
        (8, 0x00FF00FF),
        (4, 0x0F0F0F0F),
        (2, 0x33333333),
        (1, 0x55555555),
    ):  # spread bit y to 2 y
        wide = (wide | wide << np.uint32(step)) & np.uint32(keep)
    wide |= wide << np.uint32(1)
    rows = np.stack([wide & 0xFFFF, wide >> ROW_PX], axis=2).astype(np.uint16)
    return rows.reshape(len(masks), 2 * masks.shape[1], masks.shape[2]).repeat(2, axis=2)


def augmented_pixels(
    masks: torch.Tensor,
    augment: AugmentConfig,
    numbers: torch.Tensor,
    noise: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Pixels [n, 1, px, px] in -1..1, as `draw.expand` gives them with one channel, varied by
    `numbers` [n, 6] in 0..1.

    `noise` as `noise_of_step` makes it, where augment.noise is not 0. All on the masks' device;
    `dtype` float32 if None.
    """
    import torch

    stroke, contrast, inversion, strength, top, left = numbers.to(torch.float32).unbind(1)
    if augment.stroke_share:
        chosen = (stroke < augment.stroke_share)[:, None, None]
        masks = torch.where(chosen, _embolden(masks), masks.view(torch.int16)).view(torch.uint16)
    image = expand(masks, channels=1)
    page, ink = (
        torch.full((), value, dtype=torch.float32, device=masks.device) / 255 * 2 - 1
        for value in (PAGE, INK)
    )
    is_inverted = (inversion < augment.inversion_share)[:, None, None, None]
    if augment.inversion_share:
        image = torch.where(
            is_inverted, torch.where(image == ink, page, ink), image
        )  # ink-coloured page, page-coloured ink
    if augment.contrast:
        ground = torch.where(is_inverted, ink, page)
        image = ground + (image - ground) * (1 - contrast[:, None, None, None] * augment.contrast)
    if augment.noise:
        assert noise is not None, "augment.noise is on, so noise_of_step's array is needed"
        height, width = image.shape[2:]
        windows = noise.unfold(0, height, 1).unfold(1, width, 1)[
            (top * height).long(), (left * width).long()
        ]
        image = (image + augment.noise * strength[:, None, None, None] * windows[:, None]).clamp(
            -1, 1
        )
    return image.to(dtype or torch.float32)


def _embolden(masks: torch.Tensor) -> torch.Tensor:
    """int16 masks with every stroke one pixel wider to the right."""
    import torch

    bits = masks.view(torch.int16)
    wider = bits.clone()
    wider[:, :, 1:] |= bits[:, :, :-1]
    return wider


def _on_page(masks: NDArray[np.uint16], shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Masks [n, rows, px] padded with blanks to `shape`, for pages whose size is no multiple of
    32.
    """
    return np.pad(masks, ((0, 0), (0, shape[0] - masks.shape[1]), (0, shape[1] - masks.shape[2])))
