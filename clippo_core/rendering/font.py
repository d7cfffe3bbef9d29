"""A bitmap font: code point -> up to 16 columns of 16 pixels each, one uint16 per column with bit
y = pixel row y.

    .hex line   0041:0000000018242442427E424242420000          (8 x 16 pixels; 64 digits: 16 x 16)
    column x    sum over y of pixel(x, y) << y

`load_fonts` reads the shipped Unifont 15.0.01 (`assets/unifont-15.0.01.xz`, written by
`tools/build_font.py`) or .hex files, later ones filling the gaps of earlier ones.
Trimming, wrapping and overlaying are in `layout.py` and `shaped/`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clippo_core.errors import RenderError
from clippo_core.untrusted.names import refusal
from clippo_core.untrusted.numbers import whole_number
from clippo_core.untrusted.text import read_lines

ASSETS = Path(__file__).resolve().parent.parent / "assets"
SHIPPED_FONT = ASSETS / "unifont-15.0.01.xz"
CHANGED_LIST = ASSETS / "unifont-15.0.01-changed-since-9.0.06.txt"
N_CODE_POINTS = 0x110000
CELL_PX = 16
NO_MARK = 127
"""Value of `Glyphs.mark_offset` for a glyph that is no combining mark."""

_BITS = re.compile(r"[0-9A-Fa-f]{32}|[0-9A-Fa-f]{64}")
_ASSET_MAGIC = b"clippo-font 1\n"


@dataclass(frozen=True)
class Glyphs:
    """The glyphs of one font, by ascending code point."""

    code_points: NDArray[np.uint32]
    """[n] strictly ascending."""
    cells: NDArray[np.uint16]
    """[n, 16] column masks of the 16 x 16 cell; a half-width glyph fills the left 8."""
    cell_px: NDArray[np.uint8]
    """[n] 8 (half width) or 16 (full width)."""
    mark_offset: NDArray[np.int8]
    """[n] where a combining mark's cell starts, in pixels from the end of its base's cell (-16,
    -12, -8 or 0); NO_MARK otherwise."""


@dataclass(frozen=True)
class Font:
    """Glyphs of one or several files, and the table from code points to them. Slot 0 is the blank
    cell of missing glyphs.
    """

    slots: NDArray[np.int32]
    """[0x110000] row of a code point in the other arrays; 0 = no glyph. Surrogates have the slot of
    U+FFFD."""
    cells: NDArray[np.uint16]
    """[1 + n, 16] column masks; all zero in slot 0."""
    cell_px: NDArray[np.uint8]
    """[1 + n] 8 or 16."""
    mark_offset: NDArray[np.int8]
    """[1 + n] as in `Glyphs`."""
    sha256: tuple[str, ...]
    """sha256 (hex) of each file, in order."""
    is_shipped: bool
    """Whether it is the shipped Unifont 15.0.01."""


def load_fonts(paths: Sequence[str | Path] | None = None) -> Font:
    """The shipped font (`paths` None or empty), or .hex files, later ones filling what earlier ones
    lack.

    Raises RenderError naming a file that cannot be read. Equal paths of unchanged files are loaded
    once per process.
    """
    files = [Path(path) for path in paths or (SHIPPED_FONT,)]
    try:
        stamps = tuple((str(path), path.stat().st_mtime_ns) for path in files)
    except OSError as error:
        raise RenderError(
            f"font {error.filename}: {error.strerror}; give paths of Unifont .hex files, or none"
            " for the shipped font."
        ) from None
    return _load(stamps)


def read_hex(path: str | Path) -> Glyphs:
    """Glyphs of a Unifont .hex file (`CODEPOINT:BITS`, 32 or 64 hex digits, rows from the top,
    leftmost pixel first).
    """
    where = f"font {path}"
    halves: dict[int, str] = {}
    with _opened(Path(path)) as file:
        for line in read_lines(file, where, error=RenderError):
            place = f"{where}, line {line.number}"
            code, _, bits = line.text.strip().partition(":")
            if not line.problem and not line.text.strip():
                continue
            if line.problem or not _BITS.fullmatch(bits):
                fault = line.problem or "it is not `CODEPOINT:` and 32 or 64 hex digits"
                raise refusal(RenderError, place, fault, "give a Unifont .hex file")
            last = N_CODE_POINTS - 1
            code_point = whole_number(code, place, base=16, maximum=last, error=RenderError)
            half = "".join(bits[i : i + 2] + "00" for i in range(0, 32, 2)) + "h"
            halves[code_point] = half if len(bits) == 32 else bits
    if not halves:
        raise RenderError(f"{where} holds no glyph; give a Unifont .hex file.")
    code_points = np.array(sorted(halves), np.uint32)
    texts = [halves[int(code_point)] for code_point in code_points]
    rows = np.frombuffer(bytes.fromhex("".join(text[:64] for text in texts)), ">u2").reshape(-1, 16)
    cell_px = np.array([8 if text.endswith("h") else 16 for text in texts], np.uint8)
    return Glyphs(code_points, transpose_bits(rows), cell_px, np.full(len(texts), NO_MARK, np.int8))


def read_asset(path: Path = SHIPPED_FONT) -> Glyphs:
    """Glyphs of the packed asset; its layout stands in `pack_asset`."""
    try:
        with _opened(path) as file:
            payload = lzma.decompress(file.read())
    except lzma.LZMAError:
        payload = b""
    if not payload.startswith(_ASSET_MAGIC):
        raise RenderError(
            f"font {path} is damaged; reinstall the package, or rebuild it with"
            " tools/build_font.py."
        )
    head = len(_ASSET_MAGIC) + 4
    n = int.from_bytes(payload[head - 4 : head], "little")
    code_points = np.cumsum(np.frombuffer(payload, "<u4", n, head), dtype=np.uint32)
    cell_px = np.frombuffer(payload, np.uint8, n, head + 4 * n)
    mark_offset = np.frombuffer(payload, np.int8, n, head + 5 * n)
    at = head + 6 * n
    n_half = int((cell_px == 8).sum())
    cells = np.zeros((n, CELL_PX), np.uint16)
    cells[cell_px == 8, :8] = np.frombuffer(payload, "<u2", 8 * n_half, at).reshape(-1, 8)
    cells[cell_px == 16] = np.frombuffer(
        payload, "<u2", 16 * (n - n_half), at + 16 * n_half
    ).reshape(-1, 16)
    return Glyphs(code_points, cells, cell_px, mark_offset)


def pack_asset(glyphs: Glyphs) -> bytes:
    """The bytes of the asset: magic, n, code-point steps u32, widths u8, mark offsets i8, half
    cells [8] and full cells [16] u16; xz.
    """
    steps = np.diff(glyphs.code_points, prepend=np.uint32(0)).astype("<u4")
    half = glyphs.cells[glyphs.cell_px == 8, :8].astype("<u2")
    full = glyphs.cells[glyphs.cell_px == 16].astype("<u2")
    arrays = (steps, glyphs.cell_px, glyphs.mark_offset, half, full)
    payload = (
        _ASSET_MAGIC
        + len(steps).to_bytes(4, "little")
        + b"".join(array.tobytes() for array in arrays)
    )
    # Two bytes a column: lc/lp/pb tuned to 16-bit data; measured the smallest.
    filters = [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 9 | lzma.PRESET_EXTREME,
            "dict_size": 1 << 22,
            "lc": 3,
            "lp": 1,
            "pb": 1,
        }
    ]
    return lzma.compress(payload, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters)


def transpose_bits(rows: NDArray[np.unsignedinteger]) -> NDArray[np.uint16]:
    """[n, 16] rows (most significant bit = leftmost pixel) -> [n, 16] column masks (bit y = pixel
    row y).
    """
    big_endian = np.ascontiguousarray(rows, ">u2").view(np.uint8).reshape(-1, 16, 2)
    pixels = np.unpackbits(big_endian, axis=2)
    packed = np.packbits(pixels.transpose(0, 2, 1), axis=2, bitorder="little")
    return np.ascontiguousarray(packed).view("<u2").reshape(-1, 16).astype(np.uint16)


@functools.cache
def changed_code_points() -> NDArray[np.uint32]:
    """Ascending code points that the shipped 15.0.01 draws otherwise than 9.0.06, the font of the
    paper's code (also: one has none).
    """
    ranges = []
    for line in CHANGED_LIST.read_text(encoding="ascii").splitlines():
        if line and not line.startswith("#"):
            first, _, last = line.partition("-")
            ranges.append(np.arange(int(first, 16), int(last or first, 16) + 1, dtype=np.uint32))
    return np.concatenate(ranges)


@functools.lru_cache(maxsize=4)
def _load(stamps: tuple[tuple[str, int], ...]) -> Font:
    paths = [Path(path) for path, _ in stamps]
    is_shipped = paths == [SHIPPED_FONT]
    slots = np.zeros(N_CODE_POINTS, np.int32)
    cells, cell_px, mark_offset = (
        [np.zeros((1, CELL_PX), np.uint16)],
        [np.full(1, 8, np.uint8)],
        [np.full(1, NO_MARK, np.int8)],
    )
    n = 1
    for path in paths:
        glyphs = read_asset(path) if path == SHIPPED_FONT else _with_mark_offsets(read_hex(path))
        new = slots[glyphs.code_points] == 0
        slots[glyphs.code_points[new]] = np.arange(n, n + int(new.sum()))
        cells.append(glyphs.cells[new])
        cell_px.append(glyphs.cell_px[new])
        mark_offset.append(glyphs.mark_offset[new])
        n += int(new.sum())
    slots[0xD800:0xE000] = slots[0xFFFD]
    sha256 = tuple(_sha256(path) for path in paths)
    arrays = (slots, np.concatenate(cells), np.concatenate(cell_px), np.concatenate(mark_offset))
    for array in arrays:
        array.flags.writeable = False
    return Font(*arrays, sha256=sha256, is_shipped=is_shipped)


def _with_mark_offsets(glyphs: Glyphs) -> Glyphs:
    """.hex files do not say which glyphs are overlaid; the shipped asset does."""
    shipped = read_asset()
    at = np.searchsorted(shipped.code_points, glyphs.code_points).clip(
        max=len(shipped.code_points) - 1
    )
    known = shipped.code_points[at] == glyphs.code_points
    return Glyphs(
        glyphs.code_points,
        glyphs.cells,
        glyphs.cell_px,
        np.where(known, shipped.mark_offset[at], NO_MARK).astype(np.int8),
    )


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A font's file, open. Raises RenderError."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise RenderError(
            f"font {path}: {error.strerror}; give paths of Unifont .hex files, or none for the"
            " shipped font."
        ) from None
