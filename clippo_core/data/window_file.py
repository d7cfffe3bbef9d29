"""A window of the order as a file, so that one process of a node deals it and the others read it.

    blocks/<run>/<window>/window     safetensors: table, records, epochs, texts

It lies in the node's cache for as long as the window's bytes do, and is no part of a run's results.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from clippo_core.data.order import Window
from clippo_core.errors import ShardError
from clippo_core.untrusted.tensors import open_safetensors


def content(window: Window) -> bytes:
    """The bytes of a window's file."""
    from safetensors.numpy import save

    fields = dataclasses.fields(Window)
    return save({field.name: np.ascontiguousarray(getattr(window, field.name)) for field in fields})


def read(path: Path) -> Window:
    """The window of a file that `content` gave. Raises ShardError."""
    with open(path, "rb") as file:
        stored = open_safetensors(file, str(path), error=ShardError)
        return Window(
            **{field.name: stored.read(field.name) for field in dataclasses.fields(Window)}
        )
