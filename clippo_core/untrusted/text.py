"""Lines and whole texts from outside, plain or gzip, in bounded memory.

    for line in read_lines(file, uri, packed=True):
        if line.problem: ...            the record is counted, the next line is read

Only \\n and \\r\\n end a line. A byte order mark in front is dropped. What a line means is for its
reader to know.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TypeAlias

from clippo_core.errors import ClippoError, DataError
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import reason, refusal

Source: TypeAlias = IO[bytes] | Iterable[bytes]
"""An open binary file, or its content in pieces."""

_BOM = b"\xef\xbb\xbf"
_PIECE_BYTES = 2**20
_PACKED_BYTES = 2**16
"""A piece of a gzip file: what follows a member in it is copied once for each member."""
_GZIP = 31
"""zlib's number for: a gzip header and checksum, the largest window."""


@dataclass(frozen=True)
class Line:
    """One line of a text."""

    number: int
    """From 1."""
    text: str
    """Without its end; empty where there is a problem."""
    problem: str = ""
    """Why it cannot be used: not UTF-8, a NUL, too long."""


def read_lines(
    source: Source,
    where: str,
    *,
    packed: bool = False,
    error: type[ClippoError] = DataError,
    limits: Limits = LIMITS,
) -> Iterator[Line]:
    """The lines of a text, each with a problem where it cannot be used. packed: gzip.

    Memory is bounded by the longest line allowed. Raises `error`, naming `where`, for a gzip file
    that is damaged, cut short or unpacks to more than its size lets expect.
    """
    pieces = unpacked(source, where, error=error, limits=limits) if packed else _pieces(source)
    number, rest, skipping = 0, bytearray(), False
    for piece in pieces:
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            number += 1
            rest += piece[start:end]
            start = end + 1
            yield _too_long(number, limits) if skipping else _line(number, bytes(rest), limits)
            rest, skipping = bytearray(), False
        if not skipping:
            rest += piece[start:]
        if len(rest) > limits.line_bytes + 1:  # the 1 may be a carriage return
            rest, skipping = bytearray(), True
    if skipping:
        yield _too_long(number + 1, limits)
    elif rest:
        yield _line(number + 1, bytes(rest), limits)


def read_text(
    source: Source,
    where: str,
    *,
    packed: bool = False,
    error: type[ClippoError] = DataError,
    limits: Limits = LIMITS,
) -> str:
    """A whole text, of at most limits.text_bytes. Raises `error`, also for one that is no UTF-8."""
    data = read_whole(source, where, packed=packed, error=error, limits=limits)
    try:
        text = data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as fault:
        words = f"it is not UTF-8 (at byte {fault.start:,})"
        raise refusal(error, where, words, "give it as UTF-8 text") from None
    if "\0" in text:
        raise refusal(error, where, "it holds a NUL, and is no text", "give it as UTF-8 text")
    return text


def read_whole(
    source: Source,
    where: str,
    *,
    packed: bool = False,
    max_bytes: int = 0,
    error: type[ClippoError] = DataError,
    limits: Limits = LIMITS,
) -> bytes:
    """All bytes of a file, unpacked if `packed`; max_bytes: 0 = limits.text_bytes. Raises."""
    pieces = unpacked(source, where, error=error, limits=limits) if packed else _pieces(source)
    bound, data = max_bytes or limits.text_bytes, bytearray()
    for piece in pieces:
        if len(data) + len(piece) > bound:
            raise refusal(error, where, f"it has more than {bound:,} bytes", "shorten or split it")
        data += piece
    return bytes(data)


def unpacked(
    source: Source,
    where: str,
    *,
    error: type[ClippoError] = DataError,
    limits: Limits = LIMITS,
) -> Iterator[bytes]:
    """The content of a gzip file (of one or more members) in pieces of at most 1 MiB.

    Raises `error` for one that is damaged or cut short, and as soon as it has unpacked to more than
    limits.gzip_ratio of what was read (beyond limits.gzip_slack_bytes), or limits.gzip_bytes.
    """
    n_in = n_out = n_members = 0
    member = None
    for piece in _pieces(source, _PACKED_BYTES):
        n_in += len(piece)
        while piece:
            if member is None:
                piece = piece.lstrip(b"\0") if n_members else piece  # padding
                if not piece:
                    break
                member = zlib.decompressobj(_GZIP)
            try:
                out = member.decompress(piece, _PIECE_BYTES)
            except zlib.error as fault:
                words = f"it is no gzip file, or damaged ({reason(fault)})"
                raise refusal(error, where, words, "fetch it again") from None
            n_out += len(out)
            if (
                n_out > max(limits.gzip_slack_bytes, limits.gzip_ratio * n_in)
                or n_out > limits.gzip_bytes
            ):
                words = f"its first {n_in:,} bytes unpack to more than {n_out - 1:,}"
                raise refusal(error, where, words, "unpack it yourself if you trust it")
            if out:
                yield out
            piece = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                member, n_members = None, n_members + 1
    if member is not None or not n_in:
        raise refusal(error, where, "it is cut short (its gzip data do not end)", "fetch it again")


def _pieces(source: Source, size: int = _PIECE_BYTES) -> Iterator[bytes]:
    if hasattr(source, "read"):
        while piece := source.read(size):
            yield piece
        return
    for whole in source:
        for start in range(0, len(whole), size):
            yield bytes(whole[start : start + size])


def _line(number: int, raw: bytes, limits: Limits) -> Line:
    raw = raw.removesuffix(b"\r")
    if number == 1:
        raw = raw.removeprefix(_BOM)
    if len(raw) > limits.line_bytes:
        return _too_long(number, limits)
    if b"\0" in raw:
        return Line(number, "", f"line {number} holds a NUL")
    try:
        return Line(number, raw.decode())
    except UnicodeDecodeError as fault:
        return Line(
            number, "", f"line {number} is not UTF-8 ({fault.reason} at byte {fault.start})"
        )


def _too_long(number: int, limits: Limits) -> Line:
    return Line(number, "", f"line {number} is longer than {limits.line_bytes:,} bytes")
