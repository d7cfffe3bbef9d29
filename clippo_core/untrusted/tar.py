"""Where the members of an uncompressed tar lie, so that each can be read alone by offset and size.

    for member in tar_members(read_at, size, uri):
        data = read_at(member.offset, member.size)

It reads ustar, GNU and PAX headers itself, because Python's tarfile opens compressed files
under the name of a tar, ends in silence at a damaged header, and follows chains of long names by
recursion. Nothing is unpacked. Folders, links and devices are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from clippo_core.errors import ClippoError, ShardError
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import read_name, refusal

_BLOCK = 512
_REMEDY = "make or fetch it again"
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstandard",
    b"PK\3\4": "zip",
}
_REGULAR = (b"0", b"\0", b"7", b"S")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders and pipes: no data follow, whatever size they claim."""
_OCTAL = re.compile(rb" *([0-7]*) *")
_NUMBERS = ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345))
"""Where mode, owners, time and device stand in a header."""
_RECORD = re.compile(rb"([1-9][0-9]{0,8}) ([^=]+)=", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """One regular file in a tar."""

    name: str
    """As in the tar; printable where there is a problem."""
    offset: int
    """Of its first byte in the tar."""
    size: int
    """In bytes."""
    problem: str = ""
    """Why it cannot be used: its name, or how it is stored."""


@dataclass
class _Next:
    """What extended headers say about the member that follows them."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False
    count: int = 0


@dataclass(frozen=True)
class _Tar:
    """An open tar, with what errors need."""

    read_at: Callable[[int, int], bytes]
    size: int
    where: str
    error: type[ClippoError]
    limits: Limits

    def refuse(self, fault: str, remedy: str = _REMEDY) -> ClippoError:
        return refusal(self.error, self.where, fault, remedy)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes."""
        data = self.read_at(offset, size) if offset + size <= self.size else b""
        if len(data) != size:
            raise self.refuse(f"it is cut short within the {size:,} bytes at offset {offset:,}")
        return data


def tar_members(
    read_at: Callable[[int, int], bytes],
    size: int,
    where: str,
    *,
    error: type[ClippoError] = ShardError,
    limits: Limits = LIMITS,
) -> Iterator[Member]:
    """The regular files of a tar, in its order.

    read_at(offset, size) gives bytes of the tar, whose size in bytes is `size`. Raises `error`,
    naming the offset, for a file that is compressed, empty, damaged, cut short, without an end
    marker, or goes on after it; members before the fault have been yielded by then.
    """
    tar = _Tar(read_at, size, where, error, limits)
    if size == 0:
        raise tar.refuse("it is empty (0 bytes)")
    start = read_at(0, min(size, 6))
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise tar.refuse(f"it is compressed with {name}, and no plain tar", "uncompress it")
    offset, n_members, following = 0, 0, _Next()
    while True:
        if offset + _BLOCK > size:
            raise tar.refuse(f"it is cut short at offset {offset:,}: its end marker is missing")
        header = tar.read(offset, _BLOCK)
        if not header.strip(b"\0"):
            break
        _check(tar, header, offset)
        kind, data, length = header[156:157], offset + _BLOCK, _length(tar, header, offset)
        if kind == b"\0" and header[:100].partition(b"\0")[0].endswith(b"/"):
            kind = b"5"  # how the oldest tars write a folder
        if kind in (b"x", b"X", b"g", b"L", b"K"):
            _extend(tar, following, kind, data, length)
        else:
            member = _member(header, following, data, length, limits)
            length = 0 if kind in _WITHOUT_DATA else member.size
            following = _Next()
            if data + length > size:
                fault = (
                    f"it is cut short: {length:,} bytes of a member should follow offset {data:,}"
                )
                raise tar.refuse(fault)
            if kind in _REGULAR:
                n_members += 1
                yield member
        offset = data + -(-length // _BLOCK) * _BLOCK
    if following.count:
        raise tar.refuse(f"it ends at offset {offset:,} where a member should follow")
    _check_end(tar, offset)
    if not n_members:
        raise tar.refuse("it holds no file", "fill it, or take it out of the source")


def _check(tar: _Tar, header: bytes, offset: int) -> None:
    """Raise unless the checksum is that of the bytes, unsigned or (old tars) signed, and all
    numbers are octal or in base 256, so that no text with a fitting checksum passes for a header.
    """
    bare = header[:148] + b" " * 8 + header[156:]
    total = sum(bare)
    signed = total - 256 * sum(byte > 127 for byte in bare)
    odd = any(header[a] < 0x80 and _octal(header[a:b]) is None for a, b in _NUMBERS)
    if odd or _octal(header[148:156]) not in (total, signed):
        what = "it is no tar" if offset == 0 else "it is damaged"
        raise tar.refuse(f"{what} (no valid header at offset {offset:,})")


def _length(tar: _Tar, header: bytes, offset: int) -> int:
    """Size of a member's data as its header says: octal digits, or base 256 for 8 GiB and more."""
    raw = header[124:136]
    length = int.from_bytes(raw[1:], "big") if raw[0] == 0x80 else _octal(raw)
    if length is None:
        raise tar.refuse(f"it is damaged (no size in the header at offset {offset:,})")
    return length


def _octal(raw: bytes) -> int | None:
    """The number in a header's field, 0 for an empty one; None where there is none."""
    found = _OCTAL.fullmatch(raw.partition(b"\0")[0])
    return int(found[1] or b"0", 8) if found else None


def _extend(tar: _Tar, following: _Next, kind: bytes, offset: int, length: int) -> None:
    """Read an extended header into what is known of the next member."""
    following.count += 1
    if length > tar.limits.tar_extension_bytes or following.count > tar.limits.tar_extensions:
        raise tar.refuse(f"it is damaged (extended headers without end at offset {offset:,})")
    if kind == b"K":
        return
    if kind == b"L":
        name = tar.read(offset, -(-length // _BLOCK) * _BLOCK).partition(b"\0")[0]
        if len(name) > length:
            raise tar.refuse(f"it is damaged (a long name without end at offset {offset:,})")
        _say(tar, following, offset, name=name)
        return
    data = tar.read(offset, length)
    records = _records(tar, data, offset)
    is_sparse = any(key.startswith(b"GNU.sparse.") for key in records)
    if kind == b"g" and (is_sparse or {b"path", b"size"} & set(records)):
        raise tar.refuse(f"the header at offset {offset:,} gives all members one name or size")
    if b"size" in records:
        digits = records[b"size"]
        if not re.fullmatch(rb"[0-9]{1,19}", digits) or int(digits) > tar.size:
            raise tar.refuse(f"it is damaged (an impossible size at offset {offset:,})")
        _say(tar, following, offset, size=int(digits))
    if b"path" in records:
        _say(tar, following, offset, name=records[b"path"])
    following.sparse = following.sparse or is_sparse


def _say(tar: _Tar, following: _Next, offset: int, **told: bytes | int) -> None:
    """Note a name or size; raise where there was one, for readers differ in which they take."""
    for field, value in told.items():
        if getattr(following, field) is not None:
            raise tar.refuse(f"it gives a member two {field}s (at offset {offset:,})")
        setattr(following, field, value)


def _records(tar: _Tar, data: bytes, offset: int) -> dict[bytes, bytes]:
    """PAX records, each `<length> <key>=<value>\\n`."""
    found, place = {}, 0
    while place < len(data) and data[place]:
        start = _RECORD.match(data, place)
        end = place + int(start[1]) if start else 0
        if not start or not start.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise tar.refuse(f"it is damaged (a bad extended header at offset {offset:,})")
        found[start[2]] = data[start.end() : end - 1]
        place = end
    return found


def _member(header: bytes, following: _Next, data: int, length: int, limits: Limits) -> Member:
    """The member of a header, after what stood before it."""
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    name = prefix + b"/" + name if prefix else name
    shown, problem = read_name(name if following.name is None else following.name, limits)
    if following.sparse or header[156:157] == b"S":
        problem = problem or "it is stored with holes (sparse), and cannot be read in place"
    return Member(shown, data, length if following.size is None else following.size, problem)


def _check_end(tar: _Tar, offset: int) -> None:
    """Raise where more than padding follows the end marker, as in tars that were concatenated."""
    left = tar.size - offset
    if left > tar.limits.tar_padding_bytes or tar.read(offset, left).strip(b"\0"):
        fault = f"more follows after its end marker at offset {offset:,}, as in tars put together"
        raise tar.refuse(fault, "split it")
