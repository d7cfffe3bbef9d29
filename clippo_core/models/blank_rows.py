"""Which rendered texts can go through the tower together when trailing blank rows are left out:
groups of equal height.

    rows used by each text ─▶ rounded up to 1/8, 1/4, 1/2 or all of the page
                           ─▶ one group per height, in the batch's order

A text's group follows from the text alone, so its embedding does not depend on the batch. A group
is filled up with repetitions to a sixteenth of the batch: a compiled tower then meets few shapes.
It is an experiment (`ModelConfig.skip_blank_rows`): another function than the reference, whose
released weights attend to blank rows too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_SHARES = (8, 4, 2, 1)
_SHAPES_A_BATCH = 16


class RowGroup(NamedTuple):
    """Texts of one height."""

    rows: int
    """Text rows that enter the tower."""
    places: Tensor
    """int64 [k]: places in the batch, the first `n_texts` of them different, the others fill up."""
    n_texts: int


def row_groups(masks: Tensor) -> list[RowGroup]:
    """Groups of the texts in column masks, int16 [n, page rows, W]; every text is in one, blank
    ones in the lowest.
    """
    n, page_rows, _ = masks.shape
    heights = torch.tensor(
        sorted({-(-page_rows // share) for share in _SHARES}), device=masks.device
    )
    inked = (masks != 0).any(-1)
    used = torch.where(inked.any(1), page_rows - inked.flip(1).int().argmax(1), 1)
    group_of = torch.bucketize(used, heights)
    fill = max(1, n // _SHAPES_A_BATCH)
    groups = []
    for number, rows in enumerate(heights.tolist()):
        index = torch.nonzero(group_of == number).flatten()
        n_texts = len(index)
        if n_texts:
            filled = torch.arange(-(-n_texts // fill) * fill, device=masks.device) % n_texts
            groups.append(RowGroup(rows, index[filled], n_texts))
    return groups
