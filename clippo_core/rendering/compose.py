"""Two things on one page: a pair of sentences, or a question with a photo.

    join_pair         "first [SEP] second": one text, rendered like any other
    question_overlay  the question's rows replace the photo's top rows
    question_above    the photo is shrunk to the rows below the question

The paper does not say which of the two it used for questions, nor the separator ([SEP] is from
memory): both are settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clippo_core.errors import RenderError
from clippo_core.rendering.draw import ROW_PX, expand

if TYPE_CHECKING:
    import torch

SEPARATOR = "[SEP]"


def join_pair(first: str, second: str, separator: str = SEPARATOR) -> str:
    """One text of two, with `separator` and a space on either side between them; an empty separator
    leaves one space.
    """
    return f"{first} {separator} {second}" if separator else f"{first} {second}"


def question_overlay(photos: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 3, H, W]: the question's text rows, down to the last one with ink, over the photo's
    top. masks uint16 [n, H/16, W].
    """
    import torch

    drawn, used = _question(photos, masks)
    y = torch.arange(photos.shape[2], device=photos.device)
    return torch.where((y < used[:, None] * ROW_PX)[:, None, :, None], drawn, photos)


def question_above(photos: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 3, H, W]: the photo squashed (bilinear, no antialias) into the rows below the
    question; a full page leaves none of it.
    """
    import torch
    from torch.nn.functional import interpolate

    drawn, used = _question(photos, masks)
    out = drawn.clone()
    height = photos.shape[2]
    for rows in torch.unique(used).tolist():
        chosen = used == rows
        left = height - rows * ROW_PX
        if left > 0:
            size = (left, photos.shape[3])
            out[chosen, :, rows * ROW_PX :] = interpolate(
                photos[chosen].float(), size, mode="bilinear", align_corners=False
            ).to(torch.uint8)
    return out


def _question(photos: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The question as uint8 [n, 3, H, W], and its rows [n]."""
    import torch

    n, _, height, width = photos.shape
    if photos.dtype != torch.uint8 or tuple(masks.shape) != (n, height // ROW_PX, width):
        raise RenderError(
            f"photos {photos.dtype} {tuple(photos.shape)} and masks {tuple(masks.shape)} do not"
            " belong together; photos are uint8 [n, 3, H, W], masks uint16 [n, H/16, W] with the"
            " same n."
        )
    inked = (masks.view(torch.int16) != 0).any(dim=2)
    numbers = torch.arange(1, inked.shape[1] + 1, device=masks.device)
    return expand(masks, torch.uint8), (inked * numbers).amax(dim=1)
