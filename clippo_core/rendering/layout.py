"""The reference layout: texts -> column masks uint16 [n, image_px / 16, image_px], bit for bit
big_vision's `render_unifont`.

    code points   ASCII A-Z lower-cased, the first 768, surrogates as U+FFFD
                  (pp_ops.py of google-research/big_vision at 0127fb6)
    trim          ink columns [f, l]: from a = max(f - 1, 0) to min(max(l + 1, a + 4), 16);
                  a glyph without ink: 4 blank columns
    row           end // (image_px - widest), where `end` is the sum of widths up to and including
                  the glyph, over the whole text, and `widest` the widest glyph of this text;
                  rows beyond the page are dropped
    x             sum of the widths before it on its row

All texts of a chunk are laid out at once, as flat arrays over their glyphs. The shaped layout is
in `shaped/`, that of words in `words.py`, pixels are in `draw.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clippo_core.errors import RenderError
from clippo_core.rendering.font import CELL_PX

MAX_CODE_POINTS = 768
"""Code points of a text that are looked at; the rest is cut before anything else is done."""
SPACING_PX, MIN_WIDTH_PX = 1, 4
"""Blank columns left of a glyph's ink, and the fewest columns of a glyph."""
LAYOUT_VERSION = 1
"""Raised with any change of the reference layout's pixels; part of the render digest."""


@dataclass(frozen=True)
class Metrics:
    """Where each glyph's columns lie in the font's flat cell array, and how many there are."""

    start: NDArray[np.int32]
    """[slots] index of the first column in the flat cells."""
    width: NDArray[np.int32]
    """[slots] columns, 1 to 16."""


@dataclass(frozen=True)
class Placed:
    """A chunk's glyphs after layout, flat, in drawing order; those beyond the page included."""

    start: NDArray[np.int32]
    """[glyphs] index of the first column."""
    width: NDArray[np.int32]
    """[glyphs] columns."""
    text: NDArray[np.int32]
    """[glyphs] index of the text in the chunk, ascending."""
    row: NDArray[np.int32]
    """[glyphs] row on the page, ascending within a text; at or beyond the page's rows: not
    drawn."""
    one_line: bool = False
    """Whether rows continue one another, so that a glyph may begin on one and end on the next; its
    `row` is the one where it ends."""


def measure(cells: NDArray[np.uint16], monospace: bool = False, extra_px: int = 0) -> Metrics:
    """Trimmed glyphs of cells [slots, 16], whole if `monospace`; `extra_px`: blank columns kept on
    the right, where the cell has them.
    """
    at = np.arange(len(cells), dtype=np.int32) * CELL_PX
    if monospace:
        return Metrics(at, np.full(len(at), CELL_PX, np.int32))
    ink = cells != 0
    has_ink = ink.any(axis=1)
    first = np.where(has_ink, ink.argmax(axis=1), 0)
    last = np.where(has_ink, CELL_PX - 1 - ink[:, ::-1].argmax(axis=1), 0)
    begin = np.maximum(first - SPACING_PX, 0)
    stop = np.minimum(np.maximum(last + 1, begin + MIN_WIDTH_PX) + extra_px, CELL_PX)
    return Metrics((at + begin).astype(np.int32), (stop - begin).astype(np.int32))


def lower_ascii(slots: NDArray[np.int32]) -> NDArray[np.int32]:
    """The code point table in which A to Z have the slots of a to z, and nothing else is
    lower-cased.
    """
    lowered = slots.copy()
    lowered[ord("A") : ord("Z") + 1] = slots[ord("a") : ord("z") + 1]
    return lowered


def cut_texts(texts: Sequence[str]) -> list[str]:
    """Each text's first 768 code points. Raises RenderError naming the position of what is no
    `str`.
    """
    if isinstance(texts, (str, bytes)):
        raise RenderError(
            f"texts is one {type(texts).__name__}, not a list of str; put it into a list."
        )
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise RenderError(
                f"text {position} is a {type(text).__name__}, not a str; decode or drop it."
            )
    return [text[:MAX_CODE_POINTS] for text in texts]


def code_points(cut: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """All code points of the texts one after another, and the length of each text."""
    flat = np.frombuffer("".join(cut).encode("utf-32-le", "surrogatepass"), "<u4")
    return flat, np.fromiter(map(len, cut), np.int64, len(cut))


def place(
    slots: NDArray[np.int32], lengths: NDArray[np.int64], metrics: Metrics, image_px: int
) -> Placed:
    """The reference layout of a chunk: `slots` [glyphs] of all texts, `lengths` [texts] with zeros
    for empty ones.
    """
    width = metrics.width[slots]
    text = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    if not len(slots):
        return Placed(width, width, text, width)
    # reduceat mishandles empty segments: work on the others.
    filled = lengths[lengths > 0]
    first = np.cumsum(filled) - filled
    end = np.cumsum(width, dtype=np.int32)
    end -= np.repeat(end[first] - width[first], filled)
    # The reference divides in float32; integers give the same, for quotients and denominators are
    # small.
    usable = (image_px - np.maximum.reduceat(width, first)).astype(np.int32)
    return Placed(metrics.start[slots], width, text, end // np.repeat(usable, filled))


def draw_columns(placed: Placed, columns: NDArray[np.uint16], masks: NDArray[np.uint16]) -> None:
    """Writes the glyphs side by side from x = 0 of their rows into zeroed, contiguous `masks`
    [texts, rows, px]; `columns` is flat.
    """
    n_rows, image_px = masks.shape[1:]
    start, width, text, row = placed.start, placed.width, placed.text, placed.row
    if len(row) and row.max() >= n_rows:
        on_page = row < n_rows
        start, width, text, row = start[on_page], width[on_page], text[on_page], row[on_page]
    if not len(start):
        return
    if placed.one_line:
        n_rows, image_px, row = 1, n_rows * image_px, np.zeros_like(row)
    line = text * np.int32(n_rows) + row
    first = np.flatnonzero(np.diff(line, prepend=-1))
    end = np.cumsum(width, dtype=np.int32)
    every = np.arange(end[-1], dtype=np.int32)
    source = np.repeat(start - (end - width), width)
    source += every
    # The glyphs of a line are contiguous in the stream of columns, so one offset a line leads to
    # its pixels.
    begin = end[first] - width[first]
    target = np.repeat(
        line[first].astype(np.int64) * image_px - begin, np.diff(begin, append=end[-1])
    )
    target += every
    masks.reshape(-1)[target] = columns[source]
