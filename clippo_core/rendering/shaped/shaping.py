"""The shaped layout (opt-in): texts as their readers write them, as far as a bitmap font can.

    NFC · newline breaks the row, words wrap · right-to-left order (bidi.py)
    Arabic forms that join (joining.py) · marks laid over their base with Unifont's offsets
    zero-width characters removed · a box for what the font lacks

A text of plain letters goes the vectorised way: code point -> cell. Only a text with marks,
right-to-left letters or controls is taken apart character by character. Indic vowel signs stand in
their places, because Unifont's cells are made to be overlaid; conjuncts are not formed: the font
has none, and the virama stays visible. It never replaces the reference layout silently.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clippo_core.rendering.font import CELL_PX, NO_MARK, Font
from clippo_core.rendering.layout import Placed, lower_ascii, measure
from clippo_core.rendering.shaped import bidi, wrapping
from clippo_core.rendering.shaped.joining import join

SHAPING_VERSION = 1
"""Raised with any change of the shaped layout's pixels; part of the render digest."""
MAX_MARKS = 4
"""Marks drawn over one base; more are left out."""
COMPLEX, IGNORED = 64, 128
"""Flags of a code point that needs more than its own cell, and of one that is never drawn; beside
the flags of `wrapping`."""
ZERO_WIDTH_SPACE = "\u200b"
MAX_CACHED_CLUSTERS = 65_536

_BOX = [0, 0x3FFC, *[0x2004] * 4, 0x3FFC, 0]
"""Column masks of the box for missing glyphs: 8 px wide, rows 2 to 13."""
_IGNORABLE: tuple[tuple[int, int], ...] = (
    (0xAD, 0xAE),
    (0x34F, 0x350),
    (0x61C, 0x61D),
    (0x115F, 0x1161),
    (0x17B4, 0x17B6),
    (0x180B, 0x1810),
    (0x200B, 0x2010),
)
_IGNORABLE += (
    (0x202A, 0x202F),
    (0x2060, 0x2070),
    (0x3164, 0x3165),
    (0xFE00, 0xFE10),
    (0xFEFF, 0xFF00),
    (0xFFA0, 0xFFA1),
    (0xFFF0, 0xFFF9),
)
_IGNORABLE += ((0x1BCA0, 0x1BCA4), (0x1D173, 0x1D17B), (0xE0000, 0xE1000))
"""Default-ignorable code points of Unicode: never drawn, though the font has boxes with letters for
them."""
_ASSIGNED = (
    (0, 0x3400),
    (0xA000, 0xAC00),
    (0xD7A4, 0xD800),
    (0xF900, 0x20000),
    (0x2F800, 0x2FA20),
    (0xE0000, 0xE1000),
)
"""Where code points are looked up one by one: all but ideographs, Hangul syllables, surrogates and
private use, which are plain."""
_NEWLINES = re.compile(f"[{wrapping.NEWLINES}]")


@dataclass
class Shaped:
    """The drawn units of one text in logical order: single glyphs, and clusters of a base and its
    marks.
    """

    units: list[int] = field(default_factory=list)
    """Slot of a glyph; of a cluster, the number of slots plus its index among the chunk's
    clusters."""
    flags: list[int] = field(default_factory=list)
    """Line flags of `wrapping`."""
    levels: list[int] = field(default_factory=list)
    """Bidirectional levels."""


class Shaper:
    """Lays out chunks of texts; made once for a font and a page."""

    def __init__(
        self, font: Font, image_px: int, monospace: bool = False, extra_px: int = 0
    ) -> None:
        self.image_px, self.monospace, self.extra_px = image_px, monospace, extra_px
        self.box = len(font.cells)
        self._flags, is_mark = _character_data()
        self.slots = _slots_with_box(lower_ascii(font.slots), self.box, self._flags)
        box_cell = np.zeros((1, CELL_PX), np.uint16)
        box_cell[0, : len(_BOX)] = _BOX
        self._cells = np.concatenate([font.cells, box_cell])
        self._cell_px, self._mark_offset = (
            np.append(font.cell_px, np.uint8(8)),
            np.append(font.mark_offset, np.int8(NO_MARK)),
        )
        self._is_overlaid = is_mark & (self._mark_offset[self.slots] != NO_MARK)
        self._metrics = measure(self._cells, monospace, extra_px)
        self._cells_of_clusters: dict[tuple[int, ...], NDArray[np.uint16]] = {}

    def place(
        self,
        cut: Sequence[str],
        points: NDArray[np.uint32],
        lengths: NDArray[np.int64],
        max_rows: int,
    ) -> tuple[Placed, NDArray[np.uint16]]:
        """Layout of a chunk as by `layout.place`, and the flat columns that it points into; rows
        beyond the page all read `max_rows`.

        `points` and `lengths` are `layout.code_points(cut)`.
        """
        units, flags = self.slots[points], self._flags[points]
        levels: dict[int, list[int]] = {}
        clusters: list[NDArray[np.uint16]] = []
        stops = np.cumsum(lengths)
        complex_texts = np.unique(
            np.searchsorted(stops, np.flatnonzero(flags & COMPLEX), side="right")
        ).tolist()
        if complex_texts:
            pieces, done = [], 0
            begins, lengths = stops - lengths, lengths.copy()
            for i in complex_texts:
                shaped = self.shape(cut[i], clusters)
                pieces += [(units[done : begins[i]], flags[done : begins[i]])]
                pieces += [(np.array(shaped.units, np.int32), np.array(shaped.flags, np.uint8))]
                done, lengths[i] = stops[i], len(shaped.units)
                if any(shaped.levels):
                    levels[i] = shaped.levels
            pieces += [(units[done:], flags[done:])]
            units, flags = (np.concatenate(part) for part in zip(*pieces, strict=True))
        columns, start, width = self._cells.reshape(-1), self._metrics.start, self._metrics.width
        if clusters:
            cells = np.stack(clusters)
            metrics = measure(cells, self.monospace, self.extra_px)
            start, width = (
                np.concatenate([start, columns.size + metrics.start]),
                np.concatenate([width, metrics.width]),
            )
            columns = np.concatenate([columns, cells.reshape(-1)])
        start, width = start[units], np.where(flags & wrapping.NEWLINE, np.int32(0), width[units])
        row = wrapping.wrap(width, flags, lengths, self.image_px, max_rows)
        text = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        order = _drawing_order(row, np.cumsum(lengths) - lengths, levels)
        return Placed(start[order], width[order], text[order], row[order]), columns

    def shape(self, text: str, clusters: list[NDArray[np.uint16]]) -> Shaped:
        """One text, taken apart; the cells [16] of its clusters are appended to `clusters`."""
        shaped = Shaped()
        text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
        for position, paragraph in enumerate(_NEWLINES.split(text)):
            if position:
                shaped.units.append(0)
                shaped.flags.append(wrapping.NEWLINE)
                shaped.levels.append(0)
            for slots, flags, level in self._clusters_of(paragraph):
                shaped.units.append(
                    slots[0] if len(slots) == 1 else len(self._cells) + len(clusters)
                )
                shaped.flags.append(flags)
                shaped.levels.append(level)
                if len(slots) > 1:
                    clusters.append(self._cell_of(tuple(slots)))
        return shaped

    def _clusters_of(self, paragraph: str) -> list[tuple[list[int], int, int]]:
        """(slots of the base and its marks, line flags, level) in logical order."""
        forms: Sequence[str] = paragraph
        levels = [0] * len(paragraph)
        if bidi.needs_bidi(paragraph):
            levels, base_level = bidi.embedding_levels(paragraph)
            levels = bidi.reset_trailing_space(paragraph, levels, base_level)
            forms = [
                bidi.mirrored(form) if form and level % 2 else form
                for form, level in zip(join(paragraph), levels, strict=True)
            ]
        points = np.array([ord(character) for character in paragraph], np.int64)
        all_flags, overlaid = self._flags[points].tolist(), self._is_overlaid[points].tolist()
        slots = self.slots[[ord(form) if form else 0 for form in forms]].tolist() if forms else []
        clusters: list[tuple[list[int], int, int]] = []
        for character, form, slot, flags, level, is_mark in zip(
            paragraph, forms, slots, all_flags, levels, overlaid, strict=True
        ):
            if character == ZERO_WIDTH_SPACE and clusters:
                clusters[-1] = (
                    clusters[-1][0],
                    clusters[-1][1] | wrapping.BREAK_AFTER,
                    clusters[-1][2],
                )
            if flags & IGNORED or not form or level < 0:
                continue
            if not is_mark or not clusters:
                clusters.append(([slot], flags & ~COMPLEX, level))
            elif len(clusters[-1][0]) <= MAX_MARKS:
                clusters[-1][0].append(slot)
        return clusters

    def _cell_of(self, slots: tuple[int, ...]) -> NDArray[np.uint16]:
        """Cell [16] of a base with its marks."""
        if slots not in self._cells_of_clusters:
            if len(self._cells_of_clusters) >= MAX_CACHED_CLUSTERS:
                self._cells_of_clusters.clear()
            self._cells_of_clusters[slots] = self._overlay(slots)
        return self._cells_of_clusters[slots]

    def _overlay(self, slots: tuple[int, ...]) -> NDArray[np.uint16]:
        """A mark's cell starts `mark_offset` from the end of its base's cell; with offset 0
        (right-to-left scripts) it is centred.
        """
        base_px = int(self._cell_px[slots[0]])
        canvas = np.zeros(3 * CELL_PX, np.uint16)
        canvas[CELL_PX : 2 * CELL_PX] = self._cells[slots[0]]
        for mark in slots[1:]:
            offset = int(self._mark_offset[mark])
            origin = CELL_PX + (
                base_px + offset if offset else (base_px - int(self._cell_px[mark])) // 2
            )
            canvas[origin : origin + CELL_PX] |= self._cells[mark]
        left = min(int((canvas != 0).argmax()) if canvas.any() else CELL_PX, CELL_PX)
        return canvas[left : left + CELL_PX]


def _slots_with_box(
    slots: NDArray[np.int32], box: int, flags: NDArray[np.uint8]
) -> NDArray[np.int32]:
    """The code point table of shaped text: a box for what has no glyph, nothing for what is not
    drawn.
    """
    table = np.where(slots == 0, np.int32(box), slots)
    table[flags & (IGNORED | wrapping.NEWLINE) != 0] = 0
    blank = np.array([ord(c) for c in wrapping.BLANKS])
    table[blank[slots[blank] == 0]] = 0
    table[ord("\t")] = slots[ord(" ")]
    return table


@functools.cache
def _character_data() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """[0x110000] the line flags, COMPLEX and IGNORED of each code point; and whether it is a
    mark.
    """
    flags = wrapping.line_flags().copy()
    is_mark = np.zeros(len(flags), bool)
    for begin, end in _IGNORABLE:
        flags[begin:end] = COMPLEX | IGNORED
    for begin, end in _ASSIGNED:
        for code_point in range(begin, end):
            character = chr(code_point)
            category = unicodedata.category(character)
            right_to_left = unicodedata.bidirectional(character) in ("R", "AL", "AN")
            is_mark[code_point] = category[0] == "M"
            if (
                is_mark[code_point]
                or right_to_left
                or not unicodedata.is_normalized("NFC", character)
            ):
                flags[code_point] |= COMPLEX
            elif category in ("Cc", "Cf") and character not in wrapping.NEWLINES + "\t":
                flags[code_point] |= COMPLEX | IGNORED
    flags[0x1160:0x1200] |= COMPLEX  # vowels and finals of Hangul, which compose
    flags.flags.writeable = is_mark.flags.writeable = False
    return flags, is_mark


def _drawing_order(
    row: NDArray[np.int32], begins: NDArray[np.int64], levels: dict[int, list[int]]
) -> NDArray[np.int64]:
    """Indices of the units to draw, by text and row, from left to right within a row; `levels` of
    the texts with right-to-left units.
    """
    drawn = np.flatnonzero(row != wrapping.NOT_DRAWN)
    for i, text_levels in levels.items():
        first, last = np.searchsorted(drawn, (begins[i], begins[i] + len(text_levels)))
        units = drawn[first:last]
        breaks = np.flatnonzero(np.diff(row[units])) + 1
        for line in np.split(np.arange(first, last), breaks):
            chosen = drawn[line]
            drawn[line] = chosen[
                bidi.visual_order([text_levels[unit - begins[i]] for unit in chosen])
            ]
    return drawn
