"""Local files that are there whole or not at all: temporary file, fsync, rename, fsync of the
folder.

    .NAME.tmp-<random>  ── write, fsync ──▶  rename to NAME  ── fsync of the folder ──▶  done

A reader, a `kill -9` or a power cut sees the old file or the new one, never a mixture. Conditional
writes follow S3's If-None-Match and If-Match, with the content's sha256 as the etag. This is the
local half of `storage`; everybody else calls the verbs of `clippo_core/storage/__init__.py`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from clippo_core.errors import ConflictError, NotFoundError, StorageError

_TEMPORARY = ".tmp-"


def write(
    path: Path, data: bytes | memoryview, *, if_absent: bool = False, if_match: str | None = None
) -> str:
    """Put `data` at `path` and return its sha256. Raises ConflictError where a condition does not
    hold, StorageError.
    """
    with explained(path, "written"):
        make_folder(path.parent)
        temporary = path.with_name(f".{path.name}{_TEMPORARY}{secrets.token_hex(4)}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view[: 1 << 26]) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _place(temporary, path, if_absent, if_match)
        except Exception:  # raised again: no half-written file stays, whatever it was
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(path.parent)
    return hashlib.sha256(data).hexdigest()


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of an unfinished write."""
    return name.startswith(".") and _TEMPORARY in name


def make_folder(path: Path) -> None:
    """Create `path` and its missing parents, so that they outlive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        _sync_folder(folder.parent)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: conditional writes of one folder happen one after another. Ends with
    the process, leaves no file.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _place(temporary: Path, path: Path, if_absent: bool, if_match: str | None) -> None:
    """Move the finished temporary file to its name, under the condition."""
    if if_match is not None:
        with locked(path.parent):
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "nothing"
            if found != if_match:
                raise ConflictError(
                    f"{path}: somebody else changed it (expected {if_match[:12]}, found"
                    f" {found[:12]}); read it again."
                )
            os.replace(temporary, path)
    elif if_absent:
        with locked(path.parent):
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise ConflictError(
                    f"{path}: somebody else wrote it first; read it again."
                ) from None
            os.unlink(temporary)
    else:
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path | str, verb: str) -> Iterator[None]:
    """Turn an OSError into a StorageError that says what to do."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path}: it does not exist; check the path.") from None
    except PermissionError:
        raise NotFoundError(
            f"{path}: it may not be {verb} by this user; check its permissions."
        ) from None
    except IsADirectoryError:
        raise StorageError(f"{path}: it is a folder, where a file is needed.") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise StorageError(
                f"{path}: no room left to write it ({error.strerror}); free some space. Nothing"
                " older was touched."
            ) from error
        raise StorageError(f"{path}: it could not be {verb} ({error}).") from error
