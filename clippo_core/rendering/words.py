"""The layout `words` (opt-in): every word begins at a patch border, so that equal words are equal
patches, wherever they stand.

    word     glyphs without white space between them, trimmed and lower-cased as in the reference
    width    the sum of its glyphs', and at least one blank column after them, up to the next
             multiple of 16
    page     one line, cut into rows at the page's edge, through a letter where it comes so
    dropped  glyphs that do not end on the page

White space is what `shaped` may wrap at (no-break spaces are glyphs), newlines and carriage
returns; any amount of it parts two words alike. Scripts without spaces are one long word. The
layout is made for towers that see few pairs, not for people, though they can read it; released
weights have never seen it.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from clippo_core.rendering.font import CELL_PX
from clippo_core.rendering.layout import Metrics, Placed
from clippo_core.rendering.shaped.wrapping import NEWLINE, SPACE, line_flags

WORDS_VERSION = 1
"""Raised with any change of this layout's pixels; part of the render digest."""


def place(
    points: NDArray[np.uint32],
    slots: NDArray[np.int32],
    lengths: NDArray[np.int64],
    metrics: Metrics,
    image_px: int,
    blank: int,
) -> Placed:
    """The layout of a chunk: code points and slots [glyphs] of all texts, `lengths` [texts].

    `blank`: where 16 blank columns stand in the flat cell array; white space is drawn with them.
    """
    text = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    is_space = _spaces()[points]
    width = np.where(is_space, np.int32(0), metrics.width[slots])
    if not len(slots):
        return Placed(width, width, text, width, one_line=True)
    starts_text = np.diff(text, prepend=-1) != 0
    after_space = np.concatenate([[True], is_space[:-1]]) | starts_text
    begins = np.flatnonzero(~is_space & after_space)
    # The first white space after a word fills its last patch; what follows has no width.
    ends = np.flatnonzero(is_space & ~after_space)
    if len(begins):
        word = np.searchsorted(begins, ends, side="right") - 1
        width[ends] = CELL_PX - np.add.reduceat(width, begins)[word] % CELL_PX
    end = np.cumsum(width, dtype=np.int32)
    first = np.flatnonzero(starts_text)
    end -= np.repeat(end[first] - width[first], lengths[lengths > 0])
    start = np.where(is_space, np.int32(blank), metrics.start[slots])
    return Placed(start, width, text, (end - 1) // np.int32(image_px), one_line=True)


@functools.cache
def _spaces() -> NDArray[np.bool_]:
    """[0x110000] whether a code point is white space."""
    found = (line_flags() & (SPACE | NEWLINE)) != 0
    found[ord("\r")] = True
    return found
