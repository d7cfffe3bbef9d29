"""Builds the shipped font asset from Debian's `unifont` and `fonts-unifont` 1:15.0.01-2, the same
bytes every time.

    python tools/build_font.py --hex unifont.hex --upper unifont_upper.otf
                                --combining plane00-combining.txt [--out FOLDER]
                                [--reference unifont-9.0.06.hex unifont_upper-9.0.06.hex]

The packages put the files into /usr/share/unifont and /usr/share/fonts/opentype/unifont. The BMP
comes from the .hex file; Debian has the upper planes as OpenType only, whose outlines are unions of
squares on the 16-pixel grid and give the bitmaps back without loss. `--reference` also rewrites the
list of code points that 9.0.06 draws otherwise: only their numbers, no glyph of 9.0.06 (GPL) is
stored. Users of the package never need this tool, because the asset is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clippo_core.rendering.font import (
    ASSETS,
    CELL_PX,
    CHANGED_LIST,
    NO_MARK,
    SHIPPED_FONT,
    Glyphs,
    load_fonts,
    pack_asset,
    read_hex,
    transpose_bits,
)

UNITS_PER_PX = 4
"""Unifont's outlines: 64 units an em, 16 pixels an em."""
ASCENT_PX = 14
"""Pixel rows above the base line."""


def build(hex_path: Path, upper_path: Path, combining_path: Path) -> bytes:
    """The bytes of `assets/unifont-15.0.01.xz`."""
    basic = read_hex(hex_path)
    upper = read_outlines(upper_path)
    offsets = basic.mark_offset.copy()
    for line in combining_path.read_text(encoding="ascii").split():
        code, _, offset = line.partition(":")
        offsets[np.flatnonzero(basic.code_points == int(code, 16))] = int(offset)
    above = upper.code_points > 0xFFFF
    glyphs = Glyphs(
        np.concatenate([basic.code_points, upper.code_points[above]]),
        np.concatenate([basic.cells, upper.cells[above]]),
        np.concatenate([basic.cell_px, upper.cell_px[above]]),
        np.concatenate([offsets, upper.mark_offset[above]]),
    )
    return pack_asset(glyphs)


def read_outlines(path: Path) -> Glyphs:
    """Bitmaps of a Unifont .otf. A zero advance marks a combining glyph, whose left side bearing is
    its offset.
    """
    from fontTools.pens.recordingPen import RecordingPen
    from fontTools.ttLib import TTFont

    logging.getLogger("fontTools").setLevel(
        logging.ERROR
    )  # the font's timestamps are zero, on purpose
    font = TTFont(path)
    outlines, bearings = font.getGlyphSet(), font["hmtx"].metrics
    names = sorted(font.getBestCmap().items())
    rows = np.zeros((len(names), CELL_PX), np.uint16)
    cell_px = np.zeros(len(names), np.uint8)
    offsets = np.full(len(names), NO_MARK, np.int8)
    for index, (_, name) in enumerate(names):
        advance, bearing = bearings[name]
        pen = RecordingPen()
        outlines[name].draw(pen)
        left_px = 0 if advance else bearing // UNITS_PER_PX
        bitmap = _fill(pen.value, left_px)
        rows[index] = bitmap @ (1 << np.arange(CELL_PX - 1, -1, -1))
        wide = (
            advance == CELL_PX * UNITS_PER_PX
            if advance
            else left_px < -8 or bool(bitmap[:, 8:].any())
        )
        cell_px[index] = 16 if wide else 8
        offsets[index] = NO_MARK if advance else left_px
    return Glyphs(
        np.array([code for code, _ in names], np.uint32), transpose_bits(rows), cell_px, offsets
    )


def changed_list(shipped: Path, reference: Sequence[Path]) -> str:
    """The text of the list of code points whose pixels differ between the shipped font and
    `reference`, as ranges.
    """
    ours, theirs = load_fonts([shipped]), load_fonts(reference)
    differ = np.flatnonzero((ours.cells[ours.slots] != theirs.cells[theirs.slots]).any(axis=1))
    breaks = np.flatnonzero(np.diff(differ) != 1) + 1
    runs = [(run[0], run[-1]) for run in np.split(differ, breaks)]
    lines = [f"{first:04X}" if first == last else f"{first:04X}-{last:04X}" for first, last in runs]
    hashes = [
        f"# {path.name} sha256 {sha256}"
        for path, sha256 in zip(reference, theirs.sha256, strict=True)
    ]
    head = [
        (
            "# Code points that Unifont 15.0.01 draws otherwise than 9.0.06, or that only one of"
            " them has."
        ),
        *hashes,
    ]
    return "\n".join([*head, f"# {len(differ)} code points", *lines]) + "\n"


def _fill(commands: list[tuple[str, tuple]], left_px: int) -> NDArray[np.int64]:
    """[16, 16] of 0 and 1: non-zero winding at the pixel centres, from the vertical edges of closed
    polygons.
    """
    winding = np.zeros((CELL_PX, CELL_PX + 1), np.int64)
    start = here = (0, 0)
    for command, points in commands:
        if command == "moveTo":
            start = here = points[0]
            continue
        if command not in ("lineTo", "closePath", "endPath"):
            raise ValueError(
                f"an outline of Unifont has a {command}; it should be a union of squares"
            )
        there = points[0] if points else start
        if here[0] == there[0]:
            column = here[0] // UNITS_PER_PX - left_px
            top, bottom = (
                ASCENT_PX - max(here[1], there[1]) // UNITS_PER_PX,
                ASCENT_PX - min(here[1], there[1]) // UNITS_PER_PX,
            )
            winding[top:bottom, column] += 1 if there[1] > here[1] else -1
        here = there
    return (np.cumsum(winding, axis=1)[:, :CELL_PX] != 0).astype(np.int64)


def main() -> None:
    """Command line, as in the file's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--hex", type=Path, required=True, help="unifont.hex of the package `unifont`"
    )
    parser.add_argument(
        "--upper", type=Path, required=True, help="unifont_upper.otf of the package `fonts-unifont`"
    )
    parser.add_argument(
        "--combining",
        type=Path,
        required=True,
        help="plane00-combining.txt of the package `unifont`",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        nargs="*",
        default=[],
        help=".hex files of 9.0.06, to rewrite the list of changes",
    )
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write to")
    arguments = parser.parse_args()
    asset = arguments.out / SHIPPED_FONT.name
    asset.write_bytes(build(arguments.hex, arguments.upper, arguments.combining))
    print(
        f"{asset} {asset.stat().st_size} bytes sha256"
        f" {hashlib.sha256(asset.read_bytes()).hexdigest()}"
    )
    if arguments.reference:
        (arguments.out / CHANGED_LIST.name).write_text(
            changed_list(asset, arguments.reference), encoding="ascii"
        )


if __name__ == "__main__":
    main()
