"""Arrays of an .npz that somebody else made: read one by one, never unpickled, each checked before
it is used.

bfloat16, which numpy does not know, was saved as 2-byte void; its bits are the upper half of a
float32's. Keys are compared after `modern_key`, which maps the names of older ViT files to today's.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clippo_core.errors import CheckpointError, NotFoundError


class NpzArrays:
    """float32 arrays of an open .npz by key, without the prefix `params/`. Use `open_npz`."""

    def __init__(self, path: str, file: np.lib.npyio.NpzFile) -> None:
        self.path = path
        self._file = file
        params = [key for key in file.files if key.startswith("params/")]
        self._names = {modern_key(key): key for key in params or file.files}

    @property
    def known(self) -> set[str]:
        """Keys under `params/`, without it; all keys of a file that has no such."""
        return set(self._names)

    def name(self, key: str) -> str:
        """The key as the file spells it, or as a CLIPPO file would."""
        return self._names.get(key, f"params/{key}")

    def get(self, key: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """One array as float32. Raises CheckpointError where it is missing, damaged, pickled, of
        another shape, or not finite.
        """
        name = self.name(key)
        if key not in self._names:
            raise CheckpointError(
                f"{self.path}: array {name} is missing; this is no CLIPPO or ViT checkpoint of"
                " big_vision, or it is cut."
            )
        try:
            array = self._file[name]
        except ValueError as error:  # numpy's words for an object array
            raise CheckpointError(
                f"{self.path}: {name} is pickled or malformed ({error}); it is not opened."
            ) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise CheckpointError(
                f"{self.path}: {name} is damaged ({error}); fetch the file again."
            ) from error
        if shape is not None and array.shape != shape:
            raise CheckpointError(f"{self.path}: {name} has shape {array.shape}; expected {shape}.")
        return self._as_float32(name, array)

    def _as_float32(self, name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "V" and array.dtype.itemsize == 2:
            array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif array.dtype.kind != "f":
            raise CheckpointError(
                f"{self.path}: {name} has type {array.dtype}; expected floats, or bfloat16 as"
                " 2-byte void."
            )
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise CheckpointError(
                f"{self.path}: {name} has {int((~np.isfinite(array)).sum())} values that are not"
                " finite."
            )
        return array


@contextlib.contextmanager
def open_npz(path: str | Path) -> Iterator[NpzArrays]:
    """Open an .npz for reading. Raises NotFoundError, or CheckpointError where it is no .npz."""
    if not Path(path).is_file():
        raise NotFoundError(f"{path}: no such file.")
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path} is not an .npz file, or is cut ({error}); fetch it again."
        ) from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise CheckpointError(f"{path} is one array (.npy), not an .npz with named arrays.")
    with file:
        yield NpzArrays(str(path), file)


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
