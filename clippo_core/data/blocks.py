"""What a rank has on disk of tars in a bucket: the byte ranges of this window and of the next.

    <cache>/blocks/<run>/<window>/<tar>-<start>-<stop>     one range of one tar, whole or not there
                                 /window           the window's records in order (`window_file`)

The processes of a node share the folder; a range is fetched by one of them. `forget` drops earlier
windows, never anything outside this folder. A folder of a run that no process holds any more is
dropped by the next run that starts on the node. Every read is of the object whose ETag the first
read of it had.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from clippo_core import storage
from clippo_core.errors import ConflictError, ShardError, StorageError

PARALLEL = 16
"""Requests at a time, of a process: an answer takes some ten milliseconds."""


class Block(NamedTuple):
    """Bytes `start` to `stop` of the file at `uri`."""

    uri: str
    start: int
    stop: int


class Blocks:
    """The ranges of one run, on this machine."""

    def __init__(self, run: str) -> None:
        """`run` names who reads the same ranges in the same windows."""
        runs = storage.cache_folder() / "blocks"
        self._root = runs / run
        self._root.mkdir(parents=True, exist_ok=True)
        self._held = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._held, fcntl.LOCK_SH)  # until the last process of the run ends
        for other in runs.iterdir():
            with _lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_free:
                if is_free and other != self._root:
                    shutil.rmtree(other, ignore_errors=True)
        self._etags: dict[str, str] = {}

    def read(self, block: Block) -> bytes:
        """The bytes of a block, from the bucket. Raises ShardError."""
        uri, start, stop = block
        try:
            data, etag = storage.read_range(uri, start, stop - start, self._etags.get(uri, ""))
        except ConflictError as error:
            raise ShardError(
                f"{uri} was replaced while it was read; put the old one back, or run the whole"
                " pipeline on the new data."
            ) from error
        except StorageError as error:
            raise ShardError(
                f"{uri} is missing or damaged ({error}); run `render` again."
            ) from error
        self._etags.setdefault(uri, etag)
        return data

    def path(self, window: int, block: Block) -> Path:
        """Where the block lies, once it was fetched for this window."""
        name = hashlib.sha256(block.uri.encode()).hexdigest()[:16]
        return self._root / str(window) / f"{name}-{block.start}-{block.stop}"

    def fetch(self, window: int, block: Block, wait: bool = True) -> Path:
        """The block on disk; unless `wait`, one that another process is just fetching may not be
        there yet. Raises ShardError.
        """
        return self.kept(self.path(window, block), lambda: self.read(block), wait)

    def window_file(self, window: int, content: Callable[[], bytes]) -> Path:
        """The file with the window's records, which one of the node's processes makes."""
        return self.kept(self._root / str(window) / "window", content)

    def kept(self, path: Path, content: Callable[[], bytes], wait: bool = True) -> Path:
        """The file with its content, whole, made by one process; see `fetch`."""
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        claim = path.with_name(f".{path.name}.claim")
        claim.touch()
        with _lock(claim, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB) as is_ours:
            if is_ours and not path.exists():
                temporary = path.with_name(f".{path.name}.tmp")
                temporary.write_bytes(content())
                os.replace(temporary, path)
        return path

    def fetch_ahead(self, window: int, blocks: Iterable[Block]) -> None:
        """Fetch the blocks in the background. What fails there is fetched again when it is
        needed.
        """
        todo, lock = iter(list(blocks)), threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    block = next(todo, None)
                if block is None:
                    return
                try:
                    self.fetch(window, block, wait=False)
                except (ShardError, OSError):
                    continue

        for _ in range(PARALLEL):
            threading.Thread(target=work, daemon=True).start()

    def forget(self, window: int) -> None:
        """Drop what belongs to windows before this one."""
        for folder in self._root.iterdir():
            if int(folder.name) < window:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _lock(path: Path, how: int) -> Iterator[bool]:
    """Whether the lock on a file or folder could be had; it is held within, and ends with the
    process."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, how)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
