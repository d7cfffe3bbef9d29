"""The sources of a run in partitions, each measured, judged and written by itself.

    source files   a.tar  b.tar │ c.tar │ d.tar  e.tar  f.tar │ ...
    cut after a file     where hash(its name) < its bytes / partition's bytes

So the cuts follow from names and sizes alone: a file that is added or taken away changes the
partition that it lies in, at most two, and no other. What one partition holds is in a file of its
own, named by its content; only its Part crosses a task. There are at most MAX_PARTITIONS, because
Flyte keeps the state of a map's items in one object: where the data would need more, partitions
become four times as large.

A source is one partition where its records cannot be told apart by files: a `limit`, a folder, a
dataset of the hub, aligned files.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clippo_core import storage
from clippo_core.config import DataConfig, SourceConfig, digest, identity
from clippo_core.data import parts
from clippo_core.data.pairs import key_hash
from clippo_core.data.sources import kinds as sources
from clippo_core.errors import DataError, NotFoundError
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.records import Part

MAX_PARTITIONS = 1000
PARALLEL = 16
"""Files that are written at a time."""
_USUAL = MAX_PARTITIONS // 4
"""Partitions are at least so large that this many would hold the data, if cuts fell evenly."""
_LARGEST = 4
"""No partition grows beyond so many times the wanted size, but by its last file."""

Listed = Callable[[str], list[list[Any]]]
"""How files are listed: `listed`, or the same with what was listed before remembered, because on a
local disk an etag is the sha256 of a file that is read whole."""


def listed(uri: str) -> list[list[Any]]:
    """[name, bytes, etag] of every file of a file, folder or `*` pattern; empty = there is none."""
    try:
        return [[file.name, file.bytes, file.etag] for file in storage.list_files(uri)]
    except NotFoundError:
        return []


@dataclass(frozen=True)
class Partition:
    """Some files of one source."""

    name: str
    """Of the source."""
    source: SourceConfig
    files: list[str]
    """Their addresses, in order; empty = all that the source reads."""
    content: str
    """Digest of all that is read for it."""

    @property
    def key(self) -> str:
        """Digest of the partition."""
        return digest([self.name, identity(self.source), self.files, self.content])


@dataclass(frozen=True)
class _File:
    uri: str
    name: str
    bytes: int
    etag: str


def make_partitions(data: DataConfig, prepared: str, listing: Listed = listed) -> list[Part]:
    """Cut the sources of a run, and store what each partition holds. Own shards come first, then
    those of foreign tars by the names of their sources: the order of a run's records. Raises
    DataError where a file is missing, or there are too many sources.
    """

    def store(one: Partition) -> Part:
        name = PreparedFolder.part("partitions", one.key)
        return parts.write(prepared, name, one, len(one.files))

    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(store, cut(data, listing)))


def cut(data: DataConfig, listing: Listed = listed) -> list[Partition]:
    """The partitions of a run's sources."""
    named = list(zip(sources.source_names(data), data.sources, strict=True))
    own = [pair for pair in named if pair[1].kind != "webdataset"]
    foreign = sorted((pair for pair in named if pair[1].kind == "webdataset"), key=lambda p: p[0])
    files = {name: _files(source, listing) for name, source in named}
    total = sum(file.bytes for found in files.values() for file in found)
    size = data.partition_bytes
    while True:
        if total <= _USUAL * size:
            found = [
                one
                for name, source in own + foreign
                for one in _of_source(name, source, files[name], size, listing)
            ]
            if len(found) <= MAX_PARTITIONS:
                return found
            if size > total:
                raise DataError(
                    f"data.sources: there are {len(found):,} sources, more than {MAX_PARTITIONS:,};"
                    " put some together with `*` in their paths."
                )
        size *= 4


def _files(source: SourceConfig, listing: Listed) -> list[_File]:
    """The files of a source by which it can be cut; empty = it cannot."""
    if source.kind in ("hf", "folder", "moses") or source.limit:
        return []
    about = {name: (size, etag) for name, size, etag in listing(source.path)}
    found = []
    for uri in sources.source_files(source):
        name = uri.rpartition("/")[2]
        if name not in about:
            raise DataError(f"{uri}: not found; check the path in the run's config.")
        found.append(_File(uri, name, *about[name]))
    return found


def _of_source(
    name: str, source: SourceConfig, files: list[_File], size: int, listing: Listed
) -> list[Partition]:
    others = [source.second_path, source.images]
    if source.kind == "csv" and not source.images:
        others.append(source.path.rpartition("/")[0] or ".")
    if not files and not source.on_hub:
        others.append(source.path)
    beside = [[uri, listing(uri)] for uri in others if uri]
    if not files:
        return [Partition(name, source, [], digest(beside))]
    return [
        Partition(
            name,
            dataclasses.replace(source, path=group[0].uri),  # a pattern may come to name more
            [file.uri for file in group],
            digest([beside, [[file.name, file.bytes, file.etag] for file in group]]),
        )
        for group in grouped(files, size)
    ]


def grouped(files: list[_File], size: int) -> list[list[_File]]:
    """Neighbours of about `size` bytes together; the cuts follow from names and sizes."""
    groups: list[list[_File]] = [[]]
    n_bytes = 0
    for file in files:
        groups[-1].append(file)
        n_bytes += file.bytes
        if key_hash(file.name) / 2**64 < file.bytes / size or n_bytes > _LARGEST * size:
            groups.append([])
            n_bytes = 0
    return [group for group in groups if group]
