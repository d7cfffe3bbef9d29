"""Shards and their manifest, for who reads them.

    <root>/<run>/shards/manifest.json            sha256 of one list per partition, and totals
    <root>/prepared/list-….json                  the shards of a partition
                    numbers-….tar .index         photos and texts, and where they lie (`write`)

The shards count only with a manifest, which is written last and names a sha256 of everything.
Foreign tars stay where they are.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
from pathlib import Path
from typing import TypeVar

from clippo_core import storage
from clippo_core.errors import DataError, NotFoundError, ShardError, StorageError
from clippo_core.run.folder import MANIFEST, PreparedFolder, RunFolder
from clippo_core.run.records import (
    FileEntry,
    Manifest,
    ManifestFile,
    Part,
    RenderPlan,
    Shard,
    ShardList,
    ValidationReport,
    dumps,
    loads,
)

T = TypeVar("T")
PARALLEL = 16
"""Lists that are read at a time."""


def write_manifest(plan: RenderPlan, report: ValidationReport, lists: list[Part]) -> Manifest:
    """manifest.json of a run, from the lists of its partitions. Raises DataError where no record is
    left, ShardError where a list is gone.
    """
    from clippo_core.rendering import Renderer

    folder, store = RunFolder(plan.stage.root).shards, PreparedFolder(plan.prepared).shards
    found = _lists(store, lists)
    shards = [shard for one in found for shard in one.shards]
    if not sum(shard.n_records for shard in shards):
        raise DataError(
            f"no record is left to write under {folder}: validation left out all"
            f" {report.n_records}."
        )
    manifest = Manifest(
        uri="",
        sha256="",
        store=store,
        n_pairs=sum(shard.n_records for shard in shards),
        n_photo_pairs=sum(shard.n_photos for shard in shards),
        n_shards=len(shards),
        bytes=sum(shard.tar.bytes + shard.index.bytes for shard in shards),
        render_digest=Renderer.from_config(plan.render).digest,
        data_digest=plan.stage.data_digest,
        shares_by_source=report.shares_by_source,
        left_out=f"{sum(int(one.left_out or '0', 16) for one in found) % 2**64:016x}",
    )
    storage.write_text(storage.join(folder, MANIFEST), dumps(ManifestFile(manifest, lists)))
    return open_manifest(folder)


def open_manifest(uri: str) -> Manifest:
    """The manifest in a folder of shards (or at the manifest's own address). Raises ShardError."""
    address = uri if uri.endswith(".json") else storage.join(uri, MANIFEST)
    file, sha256 = _read(ManifestFile, address)
    return dataclasses.replace(file.manifest, uri=address.rpartition("/")[0], sha256=sha256)


def shard_list(manifest: Manifest) -> list[Shard]:
    """Every shard of a manifest, in the order of the sources. Raises ShardError where manifest.json
    or a list is missing, or has another sha256 than was noted of it.
    """
    file, sha256 = _read(ManifestFile, storage.join(manifest.uri, MANIFEST))
    _compare(storage.join(manifest.uri, MANIFEST), sha256, manifest.sha256)
    return [shard for one in _lists(manifest.store, file.lists) for shard in one.shards]


def is_whole(uri: str) -> bool:
    """Whether the manifest in the folder `uri`, its lists and our own shards are all there, by name
    and size. Foreign tars are not looked for: they are the data, which planning digests.
    """
    try:
        manifest = open_manifest(uri)
        listed = shard_list(manifest)
        sizes = {file.name: file.bytes for file in storage.list_files(manifest.store)}
    except (ShardError, NotFoundError):
        return False
    files = [file for shard in listed for file in (shard.tar, shard.index)]
    return all(sizes.get(file.name) == file.bytes for file in files if "/" not in file.name)


def _lists(store: str, lists: list[Part]) -> list[ShardList]:
    def read(part: Part) -> ShardList:
        address = storage.join(store, part.name)
        content, sha256 = _read(ShardList, address)
        _compare(address, sha256, part.sha256)
        return content

    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(read, lists))


def _read(cls: type[T], address: str) -> tuple[T, str]:
    """A manifest or list, and the sha256 of its file. Raises ShardError."""
    try:
        text = storage.read_text(address)
        return loads(cls, text), hashlib.sha256(text.encode()).hexdigest()
    except StorageError as error:
        raise ShardError(
            f"{address}: there is no manifest, so the shards are not whole; run `render` again."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ShardError(
            f"{address} is no manifest ({error}); delete it and run `render` again."
        ) from error


def _compare(address: str, sha256: str, noted: str) -> None:
    if sha256 != noted:
        raise ShardError(
            f"{address} is not the one that this run wrote (its sha256 is {sha256[:12]}, noted was"
            f" {noted[:12]}); run `render` again."
        )


def file_uri(manifest: Manifest, entry: FileEntry) -> str:
    """Address of a file of a manifest: in its store, or wherever a foreign tar lies."""
    is_foreign = "/" in entry.name
    return entry.name if is_foreign else storage.join(manifest.store, entry.name)


def local_file(manifest: Manifest, entry: FileEntry, whole: bool = False) -> Path:
    """A local path of a file of a manifest, fetched and compared with its sha256 where it is remote
    (or `whole`), else with its size.

    Raises ShardError.
    """
    uri = file_uri(manifest, entry)
    advice = (
        "delete it and run `render` again"
        if "/" not in entry.name
        else "fetch it again, or run the whole pipeline on the new data"
    )
    try:
        path = storage.fetch(
            uri, sha256=entry.sha256 if whole or not storage.is_local(uri) else None
        )
        size = path.stat().st_size
    except (StorageError, OSError) as error:
        raise ShardError(f"{uri} is missing or damaged ({error}); {advice}.") from error
    if size != entry.bytes:
        raise ShardError(
            f"{uri} has {size:,} bytes where its manifest says {entry.bytes:,}; {advice}."
        )
    return path
