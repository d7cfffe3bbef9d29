"""Arrays from outside: .npy and .npz, read without numpy's loader and never unpickled.

    with open_npz(file, path) as arrays:
        arrays.facts["params/img/head/kernel"].shape        known and checked before any is read
        arrays.read("params/img/head/kernel")

Each header is matched against the one form that writers use, not evaluated. Before memory is taken,
an array's shape times its item size must equal the bytes that lie there. bfloat16, which numpy does
not know, comes as 2-byte void (V2). Names, shapes and values are for the reader to judge.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from clippo_core.errors import CheckpointError, ClippoError
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import printable, read_name, reason, refusal

if TYPE_CHECKING:
    import numpy as np

_REMEDY = "fetch or write it again"
_MAGIC = b"\x93NUMPY"
_ITEM = re.compile(
    rb"""\s*(['"])(descr|fortran_order|shape)\1\s*:\s*"""
    rb"""(?:(['"])([<>|=]?[a-zA-Z][0-9]{1,2})\3|(True|False)|(\([0-9,\s]{0,999}\)))\s*(,|$)"""
)
_DTYPES = {"i1", "u1", "V2"} | {f"{kind}{size}" for kind in "iu" for size in (2, 4, 8)}
_DTYPES |= {"f2", "f4", "f8"}
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class ArrayFacts:
    """What an array's header says."""

    dtype: str
    """numpy's code with byte order, as `<f4`; `|V2` is bfloat16."""
    shape: tuple[int, ...]
    is_fortran: bool
    """Whether the first index changes fastest."""
    header_bytes: int

    @property
    def n_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * int(self.dtype[2:])


class Npz:
    """The arrays of an open .npz by name, without `.npy`. Use `open_npz`."""

    def __init__(
        self, archive: zipfile.ZipFile, where: str, error: type[ClippoError], limits: Limits
    ) -> None:
        self.where = where
        self._archive, self._error = archive, error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self.facts: dict[str, ArrayFacts] = {}
        """Name -> what its header says, in the file's order."""
        self._check_directory(limits)
        for name, member in self._members.items():
            with self._named(name), archive.open(member) as file:
                facts = _read_header(file, f"{where}, array {name}", error, limits)
                self._compare(name, facts, member.file_size)
                self.facts[name] = facts

    def read(self, name: str) -> np.ndarray:
        """One array, of its own dtype and shape. Raises `error` where it is missing or damaged."""
        if name not in self.facts:
            fault = f"array {printable(name)} is missing"
            raise refusal(self._error, self.where, fault, "give a file that has it")
        with self._named(name), self._archive.open(self._members[name]) as file:
            file.read(self.facts[name].header_bytes)
            return _read_values(file, self.facts[name])

    def _check_directory(self, limits: Limits) -> None:
        packed = total = 0
        seen: set[str] = set()
        for member in self._archive.infolist():
            file_name, problem = read_name(member.filename, limits)
            name = file_name.removesuffix(".npy")
            if name in seen:  # numpy takes "a" and "a.npy" for the same
                raise self._refuse(f"array {printable(name)}: it occurs twice")
            seen.add(name)
            if name == file_name:
                continue
            if problem or member.flag_bits & 1:
                raise self._refuse(f"array {printable(name)}: {problem or 'it is encrypted'}")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self._refuse(f"array {name} is packed by a method that numpy does not use")
            if member.file_size > limits.zip_ratio * max(member.compress_size, 100):
                fault = f"array {name} claims {member.file_size:,} bytes"
                raise self._refuse(f"{fault}, packed into {member.compress_size:,}")
            packed, total = packed + member.compress_size, total + member.file_size
            self._members[name] = member
        if total > limits.array_bytes:
            raise self._refuse(f"its arrays have {total:,} bytes, more than {limits.array_bytes:,}")
        if packed > self._archive.fp.seek(0, 2):  # type: ignore[union-attr]
            raise self._refuse("its arrays overlap")

    def _compare(self, name: str, facts: ArrayFacts, size: int) -> None:
        found = size - facts.header_bytes
        if facts.n_bytes != found:
            fault = f"array {name} of shape {facts.shape} should have {facts.n_bytes:,} bytes"
            raise self._refuse(f"{fault}, and has {found:,}")

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Turn what zipfile and zlib raise over one member into a sentence."""
        try:
            yield
        except (ClippoError, MemoryError):
            raise
        except Exception as fault:  # of many kinds: BadZipFile, zlib.error, EOFError, struct.error
            raise self._refuse(f"array {printable(name)} is damaged ({reason(fault)})") from None

    def _refuse(self, fault: str) -> ClippoError:
        return refusal(self._error, self.where, fault, _REMEDY)


@contextlib.contextmanager
def open_npz(
    file: IO[bytes],
    where: str,
    *,
    error: type[ClippoError] = CheckpointError,
    limits: Limits = LIMITS,
) -> Iterator[Npz]:
    """The arrays of an .npz, all headers checked, none read. Members that are no .npy are ignored.

    Raises `error` for what is no .npz or is damaged, and for arrays that are encrypted, named twice
    or unusably, pickled, of another size than their shape says, or together too large.
    """
    _check_zip_end(file, where, error, limits)
    try:
        archive = zipfile.ZipFile(file)
    except MemoryError:
        raise
    except Exception as fault:  # a broken directory raises what it likes
        words = f"it is no .npz file, or damaged ({reason(fault)})"
        raise refusal(error, where, words, _REMEDY) from None
    with archive:
        yield Npz(archive, where, error, limits)


def read_npy(
    file: IO[bytes],
    where: str,
    *,
    error: type[ClippoError] = CheckpointError,
    limits: Limits = LIMITS,
) -> np.ndarray:
    """The array of an open .npy, which must end with it. Raises `error`."""
    size = file.seek(0, 2)
    file.seek(0)
    facts = _read_header(file, where, error, limits)
    if facts.header_bytes + facts.n_bytes != size or facts.n_bytes > limits.array_bytes:
        fault = f"its array of shape {facts.shape} should have {facts.n_bytes:,} bytes"
        found = size - facts.header_bytes
        raise refusal(error, where, f"{fault}, and has {found:,}", _REMEDY)
    return _read_values(file, facts)


def map_npy(
    path: str | Path,
    where: str,
    *,
    error: type[ClippoError] = CheckpointError,
    limits: Limits = LIMITS,
) -> np.ndarray:
    """The array of a .npy file, read-only and read from the file where it is looked at. Raises
    `error` as `read_npy` does.
    """
    import numpy as np

    with open(path, "rb") as file:
        facts = _read_header(file, where, error, limits)
        found = os.fstat(file.fileno()).st_size - facts.header_bytes
        if facts.n_bytes != found:
            fault = f"its array of shape {facts.shape} should have {facts.n_bytes:,} bytes"
            raise refusal(error, where, f"{fault}, and has {found:,}", _REMEDY)
        if not facts.n_bytes:
            return np.empty(facts.shape, facts.dtype)
        order: Literal["F", "C"] = "F" if facts.is_fortran else "C"
        return np.memmap(file, facts.dtype, "r", facts.header_bytes, facts.shape, order)


def _check_zip_end(file: IO[bytes], where: str, error: type[ClippoError], limits: Limits) -> None:
    """Raise where the directory at the end of a zip is missing, or too large to be read."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 65_557))  # the longest comment behind the 22 bytes
    tail = file.read()
    place = tail.rfind(b"PK\5\6")
    file.seek(0)
    if place < 0 or len(tail) < place + 22 or file.read(4) not in (b"PK\3\4", b"PK\5\6"):
        raise refusal(error, where, "it is no .npz file, or is cut short", _REMEDY)
    directory = int.from_bytes(tail[place + 12 : place + 16], "little")
    count = int.from_bytes(tail[place + 10 : place + 12], "little")
    wide = tail.rfind(b"PK\6\6", 0, place)
    if wide >= 0 and len(tail) >= wide + 48:
        count = max(count, int.from_bytes(tail[wide + 32 : wide + 40], "little"))
        directory = max(
            directory % 0xFFFFFFFF, int.from_bytes(tail[wide + 40 : wide + 48], "little")
        )
    if directory > limits.zip_directory_bytes or count > limits.array_count:
        fault = f"its directory claims {count:,} arrays in {directory:,} bytes"
        raise refusal(error, where, fault, _REMEDY)


def _read_header(
    file: IO[bytes], where: str, error: type[ClippoError], limits: Limits
) -> ArrayFacts:
    """What stands before an array's values."""
    start = file.read(12)
    n_length = 2 if start[6:8] == b"\1\0" else 4
    if (
        not start.startswith(_MAGIC)
        or start[6:8] not in (b"\1\0", b"\2\0", b"\3\0")
        or len(start) < 12
    ):
        raise refusal(error, where, "it is no array of numpy, or is cut short", _REMEDY)
    length = int.from_bytes(start[8 : 8 + n_length], "little")
    if length > limits.npy_header_bytes:
        raise refusal(error, where, f"its header claims {length:,} bytes", _REMEDY)
    text = start[8 + n_length :] + file.read(max(0, length - 4 + n_length))
    text = text[:length]
    found = _items(text) if len(text) == length else {}
    if set(found) != {b"descr", b"fortran_order", b"shape"}:
        fault = "its header is damaged, or that of a pickled or structured array"
        raise refusal(error, where, fault, "write it with plain numbers")
    descr, shape_text = found[b"descr"].decode(), found[b"shape"].decode()
    code = descr.lstrip("<>|=")
    digits = [part.strip() for part in shape_text[1:-1].split(",")]
    if digits[-1] == "":
        digits.pop()
    if code not in _DTYPES or not all(re.fullmatch("[0-9]{1,18}", d) for d in digits):
        fault = f"its type {descr} or shape {printable(shape_text, 60)} is not supported"
        raise refusal(error, where, fault, "write it as plain numbers")
    if len(digits) > limits.array_dimensions:
        raise refusal(error, where, f"it has {len(digits)} dimensions", _REMEDY)
    order = ">" if descr[0] == ">" else "<"
    order = "|" if code in ("i1", "u1", "V2") else order
    shape = tuple(int(d) for d in digits)
    return ArrayFacts(
        order + code, shape, found[b"fortran_order"] == b"True", 8 + n_length + length
    )


def _items(text: bytes) -> dict[bytes, bytes]:
    """The entries of the dict that a header is; empty for anything else."""
    body = text.strip()
    if not (body.startswith(b"{") and body.endswith(b"}")):
        return {}
    body, place, found = body[1:-1].rstrip(), 0, {}
    while place < len(body):
        item = _ITEM.match(body, place)
        if not item or item[2] in found:
            return {}
        wanted = {b"descr": item[4], b"fortran_order": item[5], b"shape": item[6]}[item[2]]
        if wanted is None:
            return {}
        found[item[2]] = wanted
        place = item.end()
    return found


def _read_values(file: IO[bytes], facts: ArrayFacts) -> np.ndarray:
    """The values after a header, to the file's end. Raises EOFError where there are too few."""
    import numpy as np

    values = np.empty(math.prod(facts.shape), facts.dtype)
    view = values.view(np.uint8).data
    done = 0
    while piece := file.read(_PIECE_BYTES):  # to the end, because there the checksum is compared
        if done + len(piece) > len(view):
            raise EOFError("it goes on after its last value")
        view[done : done + len(piece)] = piece
        done += len(piece)
    if done < len(view):
        raise EOFError("it is cut short")
    return values.reshape(facts.shape, order="F" if facts.is_fortran else "C")
