"""Tensors from outside: .safetensors, whose header is checked whole before memory is taken.

    tensors = open_safetensors(file, path)
    tensors.facts["pos_embed"].shape        tensors.metadata["clippo"]
    tensors.read("pos_embed")               a numpy array; bfloat16 comes as its bits, uint16
    tensors.tensor("pos_embed")             a torch tensor, bfloat16 too

Tensors lie one after the other without gaps, each of as many bytes as its shape and type say, to
the file's end. Whether the tensors are those of a tower is for the reader to see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from clippo_core.errors import CheckpointError, ClippoError
from clippo_core.untrusted.json import at, field, load_json
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import printable, refusal

if TYPE_CHECKING:
    import numpy as np
    import torch

_REMEDY = "fetch or write it again"
DTYPES = {
    "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
"""Types of safetensors -> numpy's. Booleans and floats of 8 bits occur in no tower."""


@dataclass(frozen=True)
class TensorFacts:
    """What the header says about a tensor."""

    dtype: str
    """As safetensors names it: F32, BF16, ..."""
    shape: tuple[int, ...]
    offset: int
    """Of its first byte in the file."""
    n_bytes: int


@dataclass(frozen=True)
class Safetensors:
    """An open .safetensors, checked. Use `open_safetensors`."""

    file: IO[bytes]
    where: str
    facts: dict[str, TensorFacts]
    """By name, in the header's order."""
    metadata: dict[str, str]
    error: type[ClippoError]

    def read(self, name: str) -> np.ndarray:
        """One tensor, of its own type and shape. Raises `error` where it is missing or cut."""
        facts = self._facts(name)
        return self.read_rows(name, 0, facts.shape[0]) if facts.shape else self._read(name, facts)

    def read_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Some rows of a tensor of at least one dimension, by a read of their bytes alone; `start`
        and `stop` lie within it. Raises `error` where it is missing or cut.
        """
        facts = self._facts(name)
        n_rows, *rest = facts.shape
        row_bytes = math.prod(rest) * int(DTYPES[facts.dtype][2:])
        shape, offset = (stop - start, *rest), facts.offset + start * row_bytes
        assert 0 <= start <= stop <= n_rows
        return self._read(name, TensorFacts(facts.dtype, shape, offset, (stop - start) * row_bytes))

    def _facts(self, name: str) -> TensorFacts:
        if name not in self.facts:
            fault = f"tensor {printable(name)} is missing"
            raise refusal(self.error, self.where, fault, "give a file that has it")
        return self.facts[name]

    def _read(self, name: str, facts: TensorFacts) -> np.ndarray:
        import numpy as np

        values = np.empty(math.prod(facts.shape), DTYPES[facts.dtype])
        self.file.seek(facts.offset)
        view = values.view(np.uint8).data
        done = 0
        while done < len(view):
            piece = self.file.read(min(2**20, len(view) - done))
            if not piece:
                raise refusal(self.error, self.where, f"tensor {name} is cut short", _REMEDY)
            view[done : done + len(piece)] = piece
            done += len(piece)
        return values.reshape(facts.shape)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor for torch, on the CPU; otherwise as `read`."""
        import torch

        found = torch.from_numpy(self.read(name))
        return found.view(torch.bfloat16) if self.facts[name].dtype == "BF16" else found

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of them, by name."""
        return {name: self.tensor(name) for name in self.facts}


def open_safetensors(
    file: IO[bytes],
    where: str,
    *,
    error: type[ClippoError] = CheckpointError,
    limits: Limits = LIMITS,
) -> Safetensors:
    """The tensors of an open file, none read yet; `file` stays open and is not closed.

    Raises `error` for a header that is too long, no json, names a tensor twice, of an unknown type,
    with sizes that differ from its shape, with gaps or overlaps, or not up to the file's end.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, limits.json_header_bytes):
        fault = f"it is no safetensors file, or is cut short (its header claims {length:,} bytes)"
        raise refusal(error, where, fault, _REMEDY)
    header = load_json(
        file.read(length), f"{where}, header", error=error, remedy=_REMEDY, unique_keys=True,
        max_bytes=limits.json_header_bytes, limits=limits,
    )  # fmt: skip
    entries = at(header, dict[str, dict], f"{where}, header", error=error)
    metadata = at(
        entries.pop("__metadata__", {}), dict[str, str], where, "__metadata__", error=error
    )
    if len(entries) > limits.array_count:
        raise refusal(error, where, f"its header names {len(entries):,} tensors", _REMEDY)
    facts = {
        name: _facts(entry, name, 8 + length, where, error, limits)
        for name, entry in entries.items()
    }
    _check_places(facts, 8 + length, size, where, error, limits)
    return Safetensors(file, where, facts, metadata, error)


def _facts(
    entry: dict, name: str, start: int, where: str, error: type[ClippoError], limits: Limits
) -> TensorFacts:
    """One entry of the header, whose size is that of its shape and type."""
    path = printable(name, 80)
    dtype = field(entry, "dtype", str, where, path, error=error)
    shape = field(entry, "shape", list[int], where, path, error=error)
    offsets = field(entry, "data_offsets", list[int], where, path, error=error)
    odd = len(entry) != 3 or len(offsets) != 2 or len(shape) > limits.array_dimensions
    if odd or dtype not in DTYPES or min([*shape, *offsets], default=0) < 0:
        words = f"type {printable(dtype, 20)}, shape {printable(str(shape), 60)}"
        fault = f"its header describes tensor {path} in a way that is not supported ({words})"
        raise refusal(error, where, fault, _REMEDY)
    n_bytes = math.prod(shape) * int(DTYPES[dtype][2:])
    if offsets[1] - offsets[0] != n_bytes:
        fault = f"tensor {path} of type {dtype} and shape {printable(str(shape), 60)}"
        fault += f" should have {n_bytes:,} bytes"
        raise refusal(error, where, f"{fault}, and has {offsets[1] - offsets[0]:,}", _REMEDY)
    return TensorFacts(dtype, tuple(shape), start + offsets[0], n_bytes)


def _check_places(
    facts: dict[str, TensorFacts],
    start: int,
    size: int,
    where: str,
    error: type[ClippoError],
    limits: Limits,
) -> None:
    """Raise unless the tensors fill the file from its header to its end, each byte once."""
    place = start
    for one in sorted(facts.values(), key=lambda one: (one.offset, one.n_bytes)):
        if one.offset != place:
            raise refusal(error, where, f"its tensors leave a gap or overlap at {place:,}", _REMEDY)
        place += one.n_bytes
    if place != size:
        fault = f"its tensors end at byte {place:,}, and the file at {size:,}"
        raise refusal(error, where, fault, _REMEDY)
    if size - start > limits.array_bytes:
        raise refusal(error, where, f"its tensors have {size - start:,} bytes", _REMEDY)
