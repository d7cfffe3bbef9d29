"""One .safetensors file that is a whole model: tensors, and in the header everything else that
decides what it computes, with a digest over both that is compared whenever the file is read.

    __metadata__ = {"clippo": {"format": 2, "model": …, "render": …, …, "digest": sha256 (hex)}}
    digest       = sha256(the other facts as json with sorted keys; then for each tensor, by name,
                          its name, type, shape and bytes)

So a flipped bit is found, unless it decides nothing (another escape of the same letter in json).
The digest is no signature: whoever writes a file can give it the right one. Format 1 had no digest;
such a file is read, and its `weights_sha256` is dropped, because nothing holds it to the weights.
What the facts mean is `embedder.py`'s.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clippo_core import storage
from clippo_core.errors import CheckpointError
from clippo_core.untrusted.json import at, field, load_json
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import refusal
from clippo_core.untrusted.tensors import Safetensors, open_safetensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
_KEY = "clippo"


class Exported:
    """An open exported model. Use `open_exported`."""

    def __init__(self, file: Safetensors) -> None:
        self.source, self._file = file.where, file
        if _KEY not in file.metadata:
            raise CheckpointError(
                f"{self.source} was not written by Clippo.save (no `{_KEY}` in its header). A timm"
                " ViT becomes usable with `clippo convert --image-only`."
            )
        header = f"{self.source}, header"
        content = load_json(
            file.metadata[_KEY], header, error=CheckpointError, unique_keys=True,
            remedy="export it again", max_bytes=LIMITS.json_header_bytes,
        )  # fmt: skip
        self.facts: dict[str, Any] = at(content, dict, header, error=CheckpointError)
        """What `write_exported` was given; `weights_sha256` is empty where nothing proves it."""
        form = field(self.facts, "format", int, header, error=CheckpointError)
        self._digest = ""
        if form == FORMAT:
            self._digest = field(self.facts, "digest", str, header, error=CheckpointError)
        elif form != 1 or "digest" in self.facts:
            fault = f"its format is {form}, and this version reads 1 and {FORMAT}"
            raise refusal(CheckpointError, self.source, fault, "export it again")
        else:
            self.facts["weights_sha256"] = ""
            warnings.warn(
                f"{self.source} is of an earlier version, without a digest: its weights are taken"
                " as they are, under a digest of their own. Export it again to have them checked.",
                stacklevel=2,
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, before any is read."""
        return {name: facts.shape for name, facts in self._file.facts.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, on the CPU, compared with the digest. Raises CheckpointError."""
        found = self._file.tensors()
        if self._digest and _digest(self.facts, found) != self._digest:
            fault = "it is damaged or was changed: its digest is not that of its content"
            raise refusal(CheckpointError, self.source, fault, "copy or export it again")
        return found


def write_exported(uri: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write JSON-able facts and contiguous CPU tensors as one file: the same bytes for the same
    values. Raises StorageError.
    """
    from safetensors.torch import save

    signed: dict[str, Any] = {"format": FORMAT, **facts}
    signed["digest"] = _digest(signed, tensors)
    storage.write_bytes(uri, save(dict(tensors), {_KEY: json.dumps(signed)}))


@contextlib.contextmanager
def open_exported(path: Path, source: str) -> Iterator[Exported]:
    """The model in the file `path`, which errors call `source`; no tensor is read yet.

    Raises CheckpointError for what is no exported model.
    """
    with open(path, "rb") as file:
        yield Exported(open_safetensors(file, source))


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over all that decides a model, the digest itself aside."""
    import torch

    kept = {name: value for name, value in facts.items() if name != "digest"}
    total = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
