"""A file in a bucket as an open file, of which only what is asked for is read.

seek(1000), read(20)  ─▶  one request for bytes 1,000 to 1,020
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable

from clippo_core.data.blocks import Block

HEAD_BYTES = 2**11
"""What is read of an index at first: its header is shorter."""


class RemoteFile(io.RawIOBase):
    """A file in a bucket, of which is read what is asked for; its first bytes all at once."""

    def __init__(self, read: Callable[[Block], bytes], uri: str, size: int) -> None:
        self._read, self._uri, self._size, self._place, self._head = read, uri, size, 0, b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Within the file; from its end too."""
        self._place = offset + (self._size if whence == os.SEEK_END else 0)
        return self._place

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer at the file's end."""
        start, stop = self._place, min(self._place + size, self._size)
        if stop <= HEAD_BYTES and start == 0:
            self._head = self._read(Block(self._uri, 0, min(HEAD_BYTES, self._size)))
        self._place = max(start, stop)
        if stop <= len(self._head):
            return self._head[start:stop]
        return self._read(Block(self._uri, start, stop)) if stop > start else b""
