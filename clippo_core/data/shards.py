"""Validated records -> WebDataset tars of photos and frames of text pairs, their indexes, and a
manifest that is written last.

    <root>/shards/numbers-00000.tar     00000000.png  00000000.json         a photo, its texts
                                        00000000.txt                        the first of them, for
                                                                            other programs
                  texts-00000.jsonl.zst   text pairs (`text_frames`)
                  numbers-00000.index   where everything lies (`shard_index`)
                  manifest.json         size and sha256 of every file; the shards count only with it

The json has key, source, texts, languages and group; `KEY.text.N.png`, by choice, is the Nth text
rendered (1 bit, ink black). Photos keep their bytes unless their short side is above the limit. The
same input gives the same bytes, so a shard that is already there with the right sha256 is kept: a
killed run goes on where it stopped. Foreign tars are indexed where they lie, not copied.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import itertools
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from clippo_core import storage
from clippo_core.config import digest
from clippo_core.data import index_file, shard_index, text_frames
from clippo_core.data.images import decode_image, image_size
from clippo_core.data.pairs import PhotoRecord, Record, TextRecord
from clippo_core.data.sources import annotation_files, tars
from clippo_core.data.sources import kinds as sources
from clippo_core.errors import DataError, NotFoundError, ShardError, StorageError
from clippo_core.run.folder import MANIFEST, RunFolder
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

if TYPE_CHECKING:
    from clippo_core.rendering import Renderer

FORMAT = 3
"""Raised when the bytes of a shard change for the same records."""
JPEG_QUALITY = 92
T = TypeVar("T")


def write_shards(plan: RenderPlan, report: ValidationReport, progress: bool = True) -> Manifest:
    """Write (or complete) the shards of a run under `<plan.stage.root>/shards`. Raises DataError,
    ShardError, StorageError.
    """
    from tqdm import tqdm

    from clippo_core.rendering import Renderer

    renderer = Renderer.from_config(plan.render)
    folder = RunFolder(plan.stage.root).shards
    shards: list[Shard] = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=report.n_records, desc="shards", unit="rec", disable=not progress) as bar,
    ):
        for job in _jobs(plan, report, renderer.digest):
            tar, index = job.finished(folder) or job.write(
                folder, Path(scratch), renderer if plan.data.store_drawings else None
            )
            photos = int((index.kinds != shard_index.TEXT).sum())
            shards.append(Shard(tar, job.index_entry(folder), photos))
            bar.update(len(index))
    if not sum(shard.n_records for shard in shards):
        raise DataError(
            f"no record is left to write under {folder}: validation left out all"
            f" {report.n_records}."
        )
    lists = [_write_list(folder, shards)]
    return _write_manifest(folder, folder, lists, shards, renderer.digest, plan, report)


def _write_list(store: str, shards: list[Shard]) -> Part:
    """The list of a partition's shards, named by its content."""
    text = dumps(ShardList(shards))
    name = f"list-{digest(text)[:32]}.json"
    storage.write_text(storage.join(store, name), text)
    count = sum(shard.n_records for shard in shards)
    return Part(name, hashlib.sha256(text.encode()).hexdigest(), count)


def _write_manifest(
    folder: str,
    store: str,
    lists: list[Part],
    shards: Iterable[Shard],
    render_digest: str,
    plan: RenderPlan,
    report: ValidationReport,
) -> Manifest:
    """manifest.json, from the lists; written last."""
    shards = list(shards)
    manifest = Manifest(
        uri="",
        sha256="",
        store=store,
        n_pairs=sum(shard.n_records for shard in shards),
        n_photo_pairs=sum(shard.n_photos for shard in shards),
        n_shards=len(shards),
        bytes=sum(shard.tar.bytes + shard.index.bytes for shard in shards),
        render_digest=render_digest,
        data_digest=plan.stage.data_digest,
        shares_by_source=report.shares_by_source,
    )
    text = dumps(ManifestFile(manifest, lists))
    storage.write_text(storage.join(folder, MANIFEST), text)
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
    shards = []
    for part in file.lists:
        address = storage.join(manifest.store, part.name)
        content, sha256 = _read(ShardList, address)
        _compare(address, sha256, part.sha256)
        shards += content.shards
    return shards


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


@dataclasses.dataclass(frozen=True)
class _Job:
    """One shard to be: either records to write, or a foreign tar to index."""

    name: str
    """Of the shard, without extension."""
    inputs: str
    """Digest of all that its bytes follow from."""
    records: tuple[tuple[str, str, Record], ...]
    """(id, source, record) where each record has only its sound texts."""
    max_short_side_px: int
    foreign: str = ""
    """URI of a foreign tar."""
    source: str = ""
    excluded: tuple[str, ...] = ()

    @property
    def index_name(self) -> str:
        return f"{self.name}.index"

    def finished(self, folder: str) -> tuple[FileEntry, shard_index.ShardIndex] | None:
        """The shard that an earlier run has already written, if it is whole and of the same
        inputs.
        """
        try:
            index, about = index_file.load(storage.fetch(storage.join(folder, self.index_name)))
            if about["inputs"] != self.inputs:
                return None
            entry = FileEntry(about["name"], int(about["bytes"]), about["sha256"], len(index))
            if (
                not self.foreign
                and storage.sha256_file(storage.fetch(storage.join(folder, entry.name)))
                != entry.sha256
            ):
                return None
            return entry, index
        except (ShardError, StorageError, OSError, KeyError):
            return None

    def write(
        self, folder: str, scratch: Path, renderer: Renderer | None
    ) -> tuple[FileEntry, shard_index.ShardIndex]:
        """Write the tar, then its index."""
        if self.foreign:
            path = storage.fetch(self.foreign)
            index, name = shard_index.index_foreign(path, self.source, self.excluded), self.foreign
        else:
            path, index = self._written(scratch, renderer)
            name = path.name
        entry = FileEntry(name, path.stat().st_size, storage.sha256_file(path), len(index))
        if not self.foreign:
            storage.upload(path, storage.join(folder, name))
            path.unlink()
        about = {
            "inputs": self.inputs,
            "name": name,
            "bytes": str(entry.bytes),
            "sha256": entry.sha256,
        }
        index_file.save(index, scratch / self.index_name, about)
        storage.upload(scratch / self.index_name, storage.join(folder, self.index_name))
        return entry, index

    def _written(
        self, scratch: Path, renderer: Renderer | None
    ) -> tuple[Path, shard_index.ShardIndex]:
        """A file of our own records, and its index: a tar of photos, or frames of text pairs."""
        pairs = [(key, one) for key, _, one in self.records if isinstance(one, TextRecord)]
        assert len(pairs) in (0, len(self.records)), "a source holds photos or text pairs"
        if pairs:
            path = scratch / f"{self.name}.{text_frames.EXTENSION}"
            return path, text_frames.write(path, pairs)
        path = scratch / f"{self.name}.tar"
        _write_tar(path, self.records, self.max_short_side_px, renderer)
        return path, shard_index.index_ours(path)

    def index_entry(self, folder: str) -> FileEntry:
        path = storage.fetch(storage.join(folder, self.index_name))
        return FileEntry(self.index_name, path.stat().st_size, storage.sha256_file(path))


def _jobs(plan: RenderPlan, report: ValidationReport, render_digest: str) -> Iterator[_Job]:
    """The shards of a run, one after the other."""
    common = digest(
        [
            FORMAT,
            plan.stage.data_digest,
            dataclasses.asdict(plan.data),
            plan.data.store_drawings and render_digest,
        ]
    )
    by_name = dict(zip(sources.source_names(plan.data), plan.data.sources, strict=True))
    foreign = {name for name, source in by_name.items() if source.kind == "webdataset"}
    for name, group in itertools.groupby(
        sources.read_records(plan.data, skip=foreign), key=lambda row: row[0]
    ):
        sound = _sound(group, report.excluded)
        for number in itertools.count():
            records = tuple(itertools.islice(sound, plan.data.records_per_shard))
            if not records:
                break
            inputs = digest(
                [common, name, number, [[key, record.texts] for key, _, record in records]]
            )
            yield _Job(f"{name}-{number:05d}", inputs, records, plan.data.max_short_side_px)
    for name in sorted(foreign):
        for number, uri in enumerate(sources.source_files(by_name[name])):
            if f"{name}/{annotation_files.stem(uri)}" in report.excluded:
                continue  # validation could not read it
            inputs = digest([common, name, uri, sorted(report.excluded)])
            yield _Job(f"{name}-{number:05d}", inputs, (), 0, uri, name, tuple(report.excluded))


def _sound(
    rows: Iterator[tuple[str, str, Record]], excluded: dict[str, str]
) -> Iterator[tuple[str, str, Record]]:
    """(id, source, record) without the records, and the texts, that validation left out."""
    for name, key, record in rows:
        if key in excluded or record.problem:
            continue
        kept = [place for place in range(len(record.texts)) if f"{key}#{place}" not in excluded]
        if kept:
            shift = 0 if isinstance(record, PhotoRecord) else 1
            languages = record.languages[:shift] + tuple(
                record.languages[place + shift] for place in kept
            )
            yield (
                key,
                name,
                dataclasses.replace(
                    record, texts=tuple(record.texts[place] for place in kept), languages=languages
                ),
            )


def _write_tar(
    path: Path,
    records: tuple[tuple[str, str, Record], ...],
    max_short_side_px: int,
    renderer: Renderer | None,
) -> None:
    """A tar of photos, the same bytes every time: no times, no owners, one order."""
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        photos = pool.map(lambda row: _stored_photo(row[2], row[0], max_short_side_px), records)
        for number, ((key, source, record), (extension, data)) in enumerate(
            zip(records, photos, strict=True)
        ):
            about = {
                "key": key,
                "source": source,
                "texts": record.texts,
                "languages": record.languages,
                "group": record.group,
            }
            members = {extension: data, "json": json.dumps(about, ensure_ascii=False).encode()}
            members["txt"] = record.texts[0].encode()  # where other programs look for the caption
            if renderer is not None:
                members |= {
                    f"text.{n}.png": one
                    for n, one in enumerate(_drawings(renderer, list(record.texts)))
                }
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))


def _stored_photo(record: Record, key: str, max_short_side_px: int) -> tuple[str, bytes]:
    """(extension, bytes) of a record's photo: its own bytes, or a smaller JPEG."""
    from PIL import Image

    assert isinstance(record, PhotoRecord)
    data = record.content or tars.picture_bytes(record.image)
    extension = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}.get(data[:2], "")
    short = min(image_size(data, key))
    if extension and (not max_short_side_px or short <= max_short_side_px):
        return extension, data
    picture = Image.fromarray(decode_image(data, key))
    if max_short_side_px and short > max_short_side_px:
        scale = max_short_side_px / min(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if extension in ("jpg", "webp"):
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return "jpg", buffer.getvalue()
    picture.save(buffer, "PNG")
    return "png", buffer.getvalue()


def _drawings(renderer: Renderer, texts: list[str]) -> list[bytes]:
    """1-bit PNGs of texts: black ink on white."""
    from PIL import Image

    found = []
    for page in renderer.render(texts):
        buffer = io.BytesIO()
        Image.fromarray(np.where(page == 0, 0, 255).astype(np.uint8)).convert("1").save(
            buffer, "PNG"
        )
        found.append(buffer.getvalue())
    return found
