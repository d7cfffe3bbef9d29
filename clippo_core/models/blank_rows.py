"""Rendered text without its trailing blank rows: the tokens of all images of a batch in one packed
sequence, so that no blank patch costs anything.

    rows used by each text ─▶ tallest first, so that equal lengths stand side by side

    tokens   photo 0 │ photo 1 │ … │ text 5: 3 rows │ text 0: 2 rows │ text 2: 1 row
    spans    where each image begins and ends; attention stays within them (`packed_attention.py`)

`pack` runs on the host, from heights that the loader counted (`rendering/draw.py`, `used_rows`), so
that no forward pass waits for the device to learn a length; what it makes is copied without
blocking. A text's embedding follows from the text alone. It is an experiment
(`ModelConfig.skip_blank_rows`): another function than the reference, whose released weights attend
to blank rows too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS_VERSION = 2
"""Which rows of a text enter the tower: 1 rounded heights up to 1/8, 1/4, 1/2 or all of the
page; 2 stops at the last row with ink."""


class Spans(NamedTuple):
    """Where the sequences of a packed tensor begin and end."""

    ends: Tensor
    """int32 [n + 1], 0 and the cumulative lengths, on the device of the tokens."""
    host_ends: Tensor
    """The same on the host."""
    longest: int
    """Tokens that no sequence has more of: those of a whole page."""


class Packing(NamedTuple):
    """One batch, packed."""

    source: Tensor
    """int64 [rows]: which row of all pages, numbered through, each packed row of text is."""
    place: Tensor
    """int64 [n]: where each text stands among the packed ones."""
    images: Spans
    """Photos and texts."""
    texts: Spans
    """Texts alone."""


def pack(rows: Tensor, n_photos: int, page_rows: int, device: torch.device) -> Packing:
    """The packing of `n_photos` whole photos and of texts of `rows` rows each, int64 [n] in
    1..page_rows, n at least 1. Pages and photos are squares of page_rows² patches; `rows` had
    better be on the host.
    """
    heights: NDArray[np.int64] = rows.cpu().numpy()
    order = np.argsort(-heights, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    packed = heights[order]
    before = np.cumsum(packed) - packed
    source = np.repeat(order * page_rows - before, packed) + np.arange(packed.sum())
    texts = np.concatenate([[0], np.cumsum(packed * page_rows)])
    photos = np.arange(n_photos + 1) * page_rows**2
    return Packing(
        _sent(source, device),
        _sent(place, device),
        _spans(np.concatenate([photos[:-1], photos[-1] + texts]), page_rows, device),
        _spans(texts, page_rows, device),
    )


def _spans(ends: NDArray[np.int64], page_rows: int, device: torch.device) -> Spans:
    host = ends.astype(np.int32)
    return Spans(_sent(host, device), torch.from_numpy(host), page_rows**2)


def _sent(values: NDArray[np.int64] | NDArray[np.int32], device: torch.device) -> Tensor:
    """On the device, without waiting for it."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
