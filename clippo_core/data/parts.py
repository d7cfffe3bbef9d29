"""What one step leaves of one partition for the next: a small JSON file, and tables beside it.

    write(prepared, name, record, count) ─▶ Part(name, sha256, count) ─▶ read(prepared, part, Kind)

Names say what a file follows from (`run/folder.py`), so `finished` finds again what was made
before, by whichever run; what was found gets a new date, by which `retain` tells what no run has
used for long. A Part that crossed a task is compared with its sha256. Where a file is gone, the
folder's generation is dropped: the next plan gets another one, for which no cache answers, and only
what is missing is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from clippo_core import storage
from clippo_core.errors import ClippoError, DataError, NotFoundError, StorageError
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.records import FileEntry, Part, dumps, loads

T = TypeVar("T")
USED_SECONDS = 86_400.0
"""A record that is older is written again when it is found, which gives it a new date."""


def write(prepared: str, name: str, record: Any, count: int) -> Part:
    """Store a record; written last, after the tables that it names."""
    text = dumps(record)
    storage.write_text(storage.join(prepared, name), text)
    return Part(name, hashlib.sha256(text.encode()).hexdigest(), count)


def read(prepared: str, part: Part, cls: type[T]) -> T:
    """The record of a Part. Raises DataError where it is gone, or not what was noted."""
    address = storage.join(prepared, part.name)
    try:
        data = storage.read_bytes(address)
    except NotFoundError as error:  # a bucket that cannot be reached has lost nothing
        raise lost(prepared, address, "it is missing") from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise lost(prepared, address, "it is not what was noted of it")
    return loads(cls, data.decode())


def finished(prepared: str, name: str, cls: type[T], tables: Iterable[str] = ()) -> T | None:
    """The record that was stored under this name before; None where it, or one of the tables that
    its fields `tables` name, is not there whole.
    """
    address = storage.join(prepared, name)
    try:
        text = storage.read_text(address)
        record = loads(cls, text)
        for entry in (getattr(record, field) for field in tables):
            [found] = storage.list_files(storage.join(prepared, entry.name))
            if found.bytes != entry.bytes:
                return None
    except (ClippoError, ValueError):
        return None
    with contextlib.suppress(StorageError):
        [found] = storage.list_files(address)
        if found.modified < time.time() - USED_SECONDS:
            storage.write_text(address, text)
    return record


def noted(name: str, record: Any, count: int) -> Part:
    """The Part of a record that `finished` found."""
    return Part(name, hashlib.sha256(dumps(record).encode()).hexdigest(), count)


def store_table(prepared: str, name: str, path: Path, n_records: int) -> FileEntry:
    """Copy a local file to the folder, and say what it is."""
    storage.upload(path, storage.join(prepared, name))
    return FileEntry(name, path.stat().st_size, storage.sha256_file(path), n_records)


def table(prepared: str, entry: FileEntry) -> Path:
    """A local copy of a table. Raises DataError where it is gone, or not what was noted."""
    address = storage.join(prepared, entry.name)
    try:
        is_remote = not storage.is_local(address)
        path = storage.fetch(address, sha256=entry.sha256 if is_remote else None)
    except (NotFoundError, storage.DamagedError) as error:
        raise lost(prepared, address, "it is missing or damaged") from error
    if path.stat().st_size != entry.bytes:
        raise lost(prepared, address, "it is not what was noted of it")
    return path


def part_table(prepared: str, part: Part) -> Path:
    """A local copy of a Part that is a table itself. Raises DataError as `read`."""
    address = storage.join(prepared, part.name)
    try:
        return storage.fetch(address, sha256=part.sha256)
    except (NotFoundError, storage.DamagedError) as error:
        raise lost(prepared, address, "it is missing, or not what was noted of it") from error


def lost(prepared: str, address: str, fault: str) -> DataError:
    """The error for a file that is gone; from now on no cache answers for the folder."""
    storage.delete(PreparedFolder(prepared).generation)
    return DataError(f"{address}: {fault}; start the run again, and it is made anew.")
