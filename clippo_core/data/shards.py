"""Validated records -> WebDataset tars, their indexes, and a manifest that is written last.

    <root>/shards/numbers-00000.tar     00000000.png  00000000.json         a photo, its texts
                                        00000001.first.txt  00000001.json   a sentence, its partners
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
import io
import itertools
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clippo_core import storage
from clippo_core.config import digest
from clippo_core.data import shard_index
from clippo_core.data.images import decode_image, image_size
from clippo_core.data.pairs import PhotoRecord, Record
from clippo_core.data.sources import annotation_files, tars
from clippo_core.data.sources import kinds as sources
from clippo_core.errors import DataError, ShardError, StorageError
from clippo_core.run.folder import MANIFEST, RunFolder
from clippo_core.run.records import FileEntry, Manifest, RenderPlan, ValidationReport, dumps, loads

if TYPE_CHECKING:
    from clippo_core.rendering import Renderer

FORMAT = 1
"""Raised when the bytes of a shard change for the same records."""
JPEG_QUALITY = 92


def write_shards(plan: RenderPlan, report: ValidationReport, progress: bool = True) -> Manifest:
    """Write (or complete) the shards of a run under `<plan.stage.root>/shards`. Raises DataError,
    ShardError, StorageError.
    """
    from tqdm import tqdm

    from clippo_core.rendering import Renderer

    renderer = Renderer.from_config(plan.render)
    folder = RunFolder(plan.stage.root).shards
    files: list[FileEntry] = []
    counts = {"photos": 0, "texts": 0}
    with (
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=report.n_records, desc="shards", unit="rec", disable=not progress) as bar,
    ):
        for job in _jobs(plan, report, renderer.digest):
            tar, index = job.finished(folder) or job.write(
                folder, Path(scratch), renderer if plan.data.store_drawings else None
            )
            photos = int((index.kinds != shard_index.TEXT).sum())
            counts["photos"] += photos
            counts["texts"] += len(index) - photos
            files += [tar, job.index_entry(folder)]
            bar.update(len(index))
    if not counts["photos"] + counts["texts"]:
        raise DataError(
            f"no record is left to write under {folder}: validation left out all"
            f" {report.n_records}."
        )
    manifest = Manifest(
        uri=folder,
        n_pairs=counts["photos"] + counts["texts"],
        n_photo_pairs=counts["photos"],
        files=files,
        render_digest=renderer.digest,
        data_digest=plan.stage.data_digest,
        shares_by_source=report.shares_by_source,
        cut_share_by_language=report.cut_share_by_language,
        missing_glyph_share_by_language=report.missing_glyph_share_by_language,
        mean_rows_by_language=report.mean_rows_by_language,
    )
    storage.write_text(storage.join(folder, MANIFEST), dumps(manifest))
    return manifest


def open_manifest(uri: str) -> Manifest:
    """The manifest in a folder of shards (or at the manifest's own address). Raises ShardError."""
    address = uri if uri.endswith(".json") else storage.join(uri, MANIFEST)
    try:
        manifest = loads(Manifest, storage.read_text(address))
    except StorageError as error:
        raise ShardError(
            f"{address}: there is no manifest, so the shards are not whole; run `render` again."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ShardError(
            f"{address} is no manifest ({error}); delete it and run `render` again."
        ) from error
    return dataclasses.replace(manifest, uri=address.rpartition("/")[0])


def file_uri(manifest: Manifest, entry: FileEntry) -> str:
    """Address of a file of a manifest: beside it, or wherever a foreign tar lies."""
    is_foreign = "/" in entry.name
    return entry.name if is_foreign else storage.join(manifest.uri, entry.name)


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
            index, about = shard_index.load(storage.fetch(storage.join(folder, self.index_name)))
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
            path = scratch / f"{self.name}.tar"
            _write_tar(path, self.records, self.max_short_side_px, renderer)
            index, name = shard_index.index_ours(path), path.name
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
        index.save(scratch / self.index_name, about)
        storage.upload(scratch / self.index_name, storage.join(folder, self.index_name))
        return entry, index

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
        for number, uri in enumerate(annotation_files.files(by_name[name].path)):
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
    """A tar of records, the same bytes every time: no times, no owners, one order."""
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
    """(extension, bytes) of a record's first side: the photo's own bytes, or a smaller JPEG; or the
    first text.
    """
    from PIL import Image

    if not isinstance(record, PhotoRecord):
        return "first.txt", record.first.encode()
    data = tars.picture_bytes(record.image)
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
