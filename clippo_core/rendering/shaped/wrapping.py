"""Breaking shaped text into rows: at newlines; where a row is full, before the last word that does
not fit.

    a row ends   at a newline | at the last allowed break that fits
                 | inside a word that is longer than the row
    spaces       at the end of a wrapped row are not drawn

All texts of a chunk go together: one step per row, by binary search in the cumulated widths.
`line_flags` says where breaks are allowed: after spaces and hyphens, around ideographs, kana,
emoji, and letters of scripts without spaces; not before closing nor after opening punctuation. It
is not UAX #14, whose pair table and dictionaries (Thai) it does without, and not the reference's
wrapping (`../layout.py`).
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
from numpy.typing import NDArray

from clippo_core.rendering.font import N_CODE_POINTS

SPACE, NEWLINE, BREAK_BEFORE, BREAK_AFTER, CLOSING, OPENING = 1, 2, 4, 8, 16, 32
NOT_DRAWN = -1
"""Row of newlines, and of spaces at the end of a wrapped row."""

NEWLINES = "\n\v\f\x85\u2028\u2029"
BLANKS = (
    " \t\u00a0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u202f\u205f\u3000"
)
_NO_BREAK = "\u00a0\u2007\u202f"
_HYPHENS = "-\u2010\u2012\u2013\u2014"
_NO_START = (
    "、。，．・：；？！ー々ゝゞヽヾ…‥"
    "ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ"
    "!?,.:;%"
    "\u0e2f\u0e30\u0e31\u0e32\u0e33\u0e45\u0e46"
)
_THAI_LAO_PREPOSED = "\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4"
_NO_SPACES = (
    (0x0E00, 0x0F00),
    (0x1000, 0x10A0),
    (0x1780, 0x1800),
    (0x19E0, 0x1A20),
    (0x1F000, 0x20000),
    (0x3040, 0x3100),
)
"""Thai and Lao, Myanmar, Khmer, Tai Lue, emoji, kana: a row may end between any two of their
letters."""
_IDEOGRAPHS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))


@functools.cache
def line_flags() -> NDArray[np.uint8]:
    """[0x110000] bits of each code point."""
    flags = np.zeros(N_CODE_POINTS, np.uint8)
    for begin, end in (*_NO_SPACES, *_IDEOGRAPHS):
        flags[begin:end] |= BREAK_BEFORE | BREAK_AFTER
    for code_point in (*range(0x3100), *range(0xFB00, 0x10000)):
        category = unicodedata.category(chr(code_point))
        flags[code_point] |= {"Pe": CLOSING, "Pf": CLOSING, "Ps": OPENING, "Pi": OPENING}.get(
            category, 0
        )
    flags[[ord(c) for c in BLANKS if c not in _NO_BREAK]] = SPACE | BREAK_AFTER
    for characters, bits in (
        (NEWLINES, NEWLINE),
        (_HYPHENS, BREAK_AFTER),
        (_NO_START, CLOSING),
        (_THAI_LAO_PREPOSED, OPENING),
    ):
        flags[[ord(c) for c in characters]] |= bits
    flags.flags.writeable = False
    return flags


def wrap(
    width: NDArray[np.int32],
    flags: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    image_px: int,
    max_rows: int,
) -> NDArray[np.int32]:
    """Row of each glyph, NOT_DRAWN or `max_rows` (beyond them), of texts laid one after another:
    `lengths` [texts], the others [glyphs].

    Every width is at most `image_px`. Newlines are glyphs of width 0.
    """
    n = len(width)
    is_newline, is_space = (flags & NEWLINE) != 0, (flags & SPACE) != 0
    before = np.concatenate([[0], np.cumsum(width)])  # pixels before glyph i
    next_newline, next_ink = _next(is_newline), _next(~is_space)
    last_ink, last_break = _last(~is_space), _last(_breaks(flags))
    begins: list[NDArray[np.int64]] = []
    drawn_ends: list[NDArray[np.int64]] = []
    stop = np.cumsum(lengths)[lengths > 0]
    start = stop - lengths[lengths > 0]
    while len(start) and len(begins) < max_rows:
        paragraph_end = np.minimum(next_newline[start], stop)
        full = (
            np.searchsorted(before, before[start] + image_px, side="right") - 1
        )  # the first glyph that does not fit
        wraps = full < paragraph_end
        full = np.minimum(full, paragraph_end)
        word = last_break[np.minimum(full, n - 1)]
        end = np.where(wraps & ~is_space[np.minimum(full, n - 1)] & (word > start), word, full)
        following = np.where(wraps, np.minimum(next_ink[end], paragraph_end), paragraph_end)
        begins.append(start)
        drawn_ends.append(np.where(wraps, last_ink[np.maximum(end - 1, 0)] + 1, end))
        following += following == paragraph_end  # the newline itself
        start, stop = following[following < stop], stop[following < stop]
    return _fill(n, begins, drawn_ends, start, is_newline, max_rows)


def _next(wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[n + 1] the first wanted index at or after i; n if there is none."""
    n = len(wanted)
    found = np.append(np.where(wanted, np.arange(n), n), n)
    return np.minimum.accumulate(found[::-1])[::-1]


def _last(wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[n] the last wanted index at or before i; -1 if there is none."""
    return np.maximum.accumulate(np.where(wanted, np.arange(len(wanted)), -1))


def _breaks(flags: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[n] whether a row may end before glyph i."""
    previous = np.concatenate([[np.uint8(0)], flags[:-1]]) if len(flags) else flags
    asked = ((flags & BREAK_BEFORE) | (previous & BREAK_AFTER)) != 0
    return asked & ((flags & (CLOSING | SPACE)) == 0) & ((previous & OPENING) == 0)


def _fill(
    n: int,
    begins: list[NDArray[np.int64]],
    drawn_ends: list[NDArray[np.int64]],
    unfinished: NDArray[np.int64],
    is_newline: NDArray[np.bool_],
    max_rows: int,
) -> NDArray[np.int32]:
    """Rows of the glyphs, from the range of each row in each text; what nothing names continues
    what stands before it.
    """
    value, is_named = np.zeros(n + 1, np.int32), np.zeros(n + 1, bool)
    for begin, end in zip(begins, drawn_ends, strict=True):
        value[np.maximum(end, begin)] = NOT_DRAWN
        is_named[np.maximum(end, begin)] = True
    for r, (begin, end) in enumerate(zip(begins, drawn_ends, strict=True)):
        value[begin] = np.where(end > begin, r, NOT_DRAWN)
        is_named[begin] = True
    value[unfinished], is_named[unfinished] = max_rows, True
    row = value[_last(is_named)[:n]]
    row[is_newline & (row < max_rows)] = NOT_DRAWN
    return row
