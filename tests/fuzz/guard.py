"""Readers alone with their files: nothing may be written, and no file opened outside the folder."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from checks import outcome

_OPENED: list[str] | None = None
"""Paths that are opened while a reader runs; None = nobody listens."""
_LIBRARIES = (
    sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/proc/", "/sys/", "__editable__",
)  # fmt: skip


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _OPENED is not None and isinstance(arguments[0], (str, bytes)):
        mode, path = str(arguments[1] or ""), os.fsdecode(arguments[0])
        is_library = path.startswith(_LIBRARIES) and not set(mode) & set("wax+")
        if not is_library and path != os.devnull:
            _OPENED.append(path)
    elif event == "socket.connect" and _OPENED is not None:
        _OPENED.append(f"a connection to {arguments[1]}")


sys.addaudithook(_listen)


@lru_cache
def scratch() -> Path:
    """A folder of this process, the same for all examples."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def alone(files: dict[str, bytes], *, may_write: bool = False) -> Iterator[Path]:
    """A folder with these files; unless `may_write`, they must stay as they are."""
    global _OPENED
    for name, data in files.items():
        (scratch() / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch() / name).write_bytes(data)
    _OPENED = []
    try:
        yield scratch()
    finally:
        opened, _OPENED = _OPENED, None
        found = [path for path in scratch().rglob("*") if path.is_file()]
        left = {path.relative_to(scratch()).as_posix(): path.read_bytes() for path in found}
        for name in left:
            (scratch() / name).unlink()
    assert may_write or left == files, f"files were written: {sorted(left)}"
    outside = [path for path in opened if not path.startswith(str(scratch()))]
    assert not outside, f"files were opened outside: {outside}"


def read(name: str, data: bytes, reader: Callable[[str], Any], *, named: bool = True) -> Any:
    """What a reader makes of a file, twice the same. named: a refusal starts with its address."""
    with alone({name: data}) as folder:
        path = str(folder / name)
        return outcome(lambda: reader(path), path if named else "")
