"""An independent statement of the reference layout, glyph by glyph, from the rules alone; the tests
hold the pipeline to it.

It shares no code with `clippo_core.rendering`: it parses .hex lines itself, lower-cases bytes,
divides in float32 as the reference does and writes rows of pixels. It is slow, and has no options
beyond those of the reference.
"""

import functools

import numpy as np

INK, PAGE = 0, 127


def hex_font(*paths):
    """Glyph of a code point, bool [16, 16] or None, of .hex files; the first file that has it
    wins.
    """
    lines = {}
    for path in paths:
        with open(path, encoding="ascii") as file:
            for line in file:
                code, bits = line.strip().split(":")
                lines.setdefault(int(code, 16), bits)
    return lambda code: hex_glyph(lines[code]) if code in lines else None


def hex_glyph(bits):
    """bool [16, 16] of one .hex line: 16 rows from the top, the leftmost pixel in the highest bit;
    8 pixels wide in the left half.
    """
    digits = len(bits) // 16
    cell = np.zeros((16, 16), bool)
    for y in range(16):
        row = int(bits[y * digits : (y + 1) * digits], 16)
        for x in range(4 * digits):
            cell[y, x] = row >> (4 * digits - 1 - x) & 1
    return cell


def trimmed(cell, monospace=False):
    """The columns of a 16 x 16 cell that are drawn; of nothing, 4 blank ones."""
    cell = np.zeros((16, 16), bool) if cell is None else cell
    if monospace:
        return cell
    inked = [x for x in range(16) if cell[:, x].any()] or [0]
    first, last = inked[0], inked[-1]
    begin = max(first - 1, 0)
    return cell[:, begin : max(last + 1, begin + 4)]


class NaiveRenderer:
    """Draws with `glyph`, a function from code point to bool [16, 16] or None."""

    def __init__(self, glyph, image_px, monospace=False):
        self.image_px = image_px
        self.columns = functools.cache(lambda code: trimmed(glyph(code), monospace))

    def render(self, text):
        """uint8 [image_px, image_px] of one text."""
        folded = (
            text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")
        )  # bytes.lower() touches A to Z alone
        page = np.full((self.image_px, self.image_px), PAGE, np.uint8)
        cells = [
            self.columns(0xFFFD if 0xD800 <= ord(c) < 0xE000 else ord(c)) for c in folded[:768]
        ]
        if not cells:
            return page
        usable = np.float32(self.image_px - max(cell.shape[1] for cell in cells))
        end = x = 0
        row_before = -1
        for cell in cells:
            end += cell.shape[1]
            row = int(np.floor(np.float32(end) / usable))
            x = x if row == row_before else 0
            row_before = row
            if row < self.image_px // 16:
                page[row * 16 : row * 16 + 16, x : x + cell.shape[1]][cell] = INK
            x += cell.shape[1]
        return page
