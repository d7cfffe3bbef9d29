"""The weights of an .npz that somebody else made, by their key: float32, finite, of the shape that
the tower needs.

bfloat16, which numpy does not know, was saved as 2-byte void; its bits are the upper half of a
float32's. Keys are compared after `modern_key`, which maps the names of older ViT files to today's.
How the file is decoded, and that it is never unpickled, is `untrusted/arrays.py`'s.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clippo_core.errors import CheckpointError
from clippo_core.storage import local
from clippo_core.untrusted import arrays
from clippo_core.untrusted.names import printable, refusal

UNPACKED_RATIO, UNPACKED_SLACK_BYTES = 20, 2**28
"""Arrays may be so many times as large as their file, or have so many bytes if that is more:
weights do not pack to less than four fifths, and an optimizer's zeros stand beside weights."""


class NpzArrays:
    """float32 arrays of an open .npz by key, without the prefix `params/`. Use `open_npz`."""

    def __init__(self, path: str, file: arrays.Npz) -> None:
        self.path = path
        self._file = file
        params = [name for name in file.facts if name.startswith("params/")]
        self._names = {modern_key(name): name for name in params or file.facts}

    @property
    def known(self) -> set[str]:
        """Keys under `params/`, without it; all keys of a file that has no such."""
        return set(self._names)

    def name(self, key: str) -> str:
        """The key as the file spells it, or as a CLIPPO file would."""
        return printable(self._names.get(key, f"params/{key}"))

    def shape(self, key: str, n_dimensions: int) -> tuple[int, ...]:
        """The shape of an array, without reading it. Raises CheckpointError where it is missing or
        has another number of dimensions.
        """
        if key not in self._names:
            fault = f"array {self.name(key)} is missing"
            remedy = "give a whole CLIPPO or ViT checkpoint of big_vision"
            raise refusal(CheckpointError, self.path, fault, remedy)
        shape = self._file.facts[self._names[key]].shape
        if len(shape) != n_dimensions:
            raise CheckpointError(
                f"{self.path}: {self.name(key)} has shape {shape}; expected {n_dimensions}"
                " dimensions."
            )
        return shape

    def get(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """One array as float32. Raises CheckpointError where it is missing, damaged, of another
        shape, or not finite.
        """
        found = self.shape(key, len(shape))
        name = self.name(key)
        if found != shape:
            raise CheckpointError(f"{self.path}: {name} has shape {found}; expected {shape}.")
        dtype = np.dtype(self._file.facts[self._names[key]].dtype)
        if dtype.kind not in "fV":
            raise CheckpointError(
                f"{self.path}: {name} has type {dtype}; expected floats, or bfloat16 as 2-byte"
                " void."
            )
        array = self._file.read(self._names[key])
        if dtype.kind == "V":
            array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return finite(array.astype(np.float32, copy=False), name, self.path)


@contextlib.contextmanager
def open_npz(path: str | Path) -> Iterator[NpzArrays]:
    """Open an .npz for reading. Raises NotFoundError, or CheckpointError where it is no .npz or
    unpacks to much more than its size.
    """
    with local.explained(path, "read"), open(path, "rb") as file:
        size = file.seek(0, 2)
        with arrays.open_npz(file, str(path)) as found:
            n_bytes = sum(facts.n_bytes for facts in found.facts.values())
            if n_bytes > max(UNPACKED_RATIO * size, UNPACKED_SLACK_BYTES):
                fault = f"its arrays claim {n_bytes:,} bytes, packed into {size:,}"
                remedy = "write it unpacked (numpy.savez) if you trust it"
                raise refusal(CheckpointError, str(path), fault, remedy)
            yield NpzArrays(str(path), found)


def finite(array: np.ndarray, name: str, path: str) -> np.ndarray:
    """`array`, a weight; raises CheckpointError where a value of it is not finite."""
    n_bad = int((~np.isfinite(array)).sum())
    if n_bad:
        raise CheckpointError(f"{path}: {name} has {n_bad} values that are not finite.")
    return array


_OLD_NAMES = {
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "MlpBlock_3": "MlpBlock_0",
    "LayerNorm_2": "LayerNorm_1",
}
_OLD_BLOCK = re.compile("|".join(_OLD_NAMES))


def modern_key(key: str) -> str:
    """A key without `params/`; names of older ViTs (augreg, and positions inside `Transformer/`) as
    big_vision names them today.
    """
    key = key.removeprefix("params/")
    key = key.replace("Transformer/posembed_input/pos_embedding", "pos_embedding").replace(
        "Transformer/pos_embedding", "pos_embedding"
    )
    return _OLD_BLOCK.sub(lambda old: _OLD_NAMES[old[0]], key) if "encoderblock_" in key else key
