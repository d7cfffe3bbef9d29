"""A partition's records -> WebDataset tars of photos and frames of text pairs, their indexes, and a
list of them that is written last.

    numbers-1f0c…-00000.tar     00000000.png  00000000.json         a photo, its texts
                                00000000.txt                        the first of them, for other
                                                                    programs
    texts-5a21…-00000.jsonl.zst text pairs (`text_frames`)
    numbers-1f0c…-00000.index   where everything lies (`shard_index`)
    list-1f0c….json             the shards of this partition, for the manifest (`shards`)

The json has key, source, texts, languages and group; `KEY.text.N.png`, by choice, is the Nth text
rendered (1 bit, ink black). Photos keep their bytes unless their short side is above the limit.
Names are digests of the partition's own records, of what was left out of them, and of the settings
that decide bytes: what is there already is kept, also by another run, and a killed one goes on
where it stopped. Foreign tars are indexed where they lie, from what was noted when they were
measured: they are neither copied nor read again.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clippo_core import storage
from clippo_core.config import digest
from clippo_core.data import index_file, parts, shard_index, text_frames
from clippo_core.data.images import decode_image, image_size
from clippo_core.data.pairs import PhotoRecord, Record, TextRecord, mix
from clippo_core.data.partitions import Partition
from clippo_core.data.shards import foreign_name, is_foreign
from clippo_core.data.sources import kinds as sources
from clippo_core.data.sources import tars
from clippo_core.data.validate.facts import FIRST, Facts, read_table
from clippo_core.errors import ShardError, StorageError
from clippo_core.progress import counted
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.records import FileEntry, Part, Shard, ShardList, WritePlan

if TYPE_CHECKING:
    import pyarrow

    from clippo_core.rendering import Renderer

FORMAT = 3
"""Raised when the bytes of a shard change for the same records."""
JPEG_QUALITY = 92
_HASHES = ("kind", "key_hash", "group_hash", "first_hash")
_SPANS = ("first_offset", "first_size", "second_offset", "second_size")


def write(plan: WritePlan, facts: Part, excluded: Part, progress: bool = True) -> Part:
    """Write (or complete) the shards of a partition, less what was left out of it. Raises
    DataError, ShardError, StorageError.
    """
    from clippo_core.rendering import Renderer

    renderer = Renderer.from_config(plan.render) if plan.store_drawings else None
    job = _Job.of(plan, parts.read(plan.prepared, facts, Facts), excluded, renderer)
    store, name = PreparedFolder(plan.prepared).shards, f"list-{job.key[:32]}.json"
    done = parts.finished(store, name, ShardList)
    if done is not None and all(_is_there(store, shard) for shard in done.shards):
        return parts.noted(name, done, sum(shard.n_records for shard in done.shards))
    with tempfile.TemporaryDirectory() as scratch:
        if job.facts.tars:
            shards = list(job.indexed(store, Path(scratch)))
        else:
            shards = list(job.written(store, Path(scratch), plan, renderer, progress))
    known = ShardList(shards, job.fingerprint())
    return parts.write(store, name, known, sum(shard.n_records for shard in shards))


def _is_there(store: str, shard: Shard) -> bool:
    """Whether the files of a shard that are ours are there, by size."""
    try:
        return all(
            storage.list_files(storage.join(store, file.name))[0].bytes == file.bytes
            for file in (shard.tar, shard.index)
            if not is_foreign(file)
        )
    except StorageError:
        return False


@dataclass(frozen=True, eq=False)
class _Job:
    """The shards of one partition to be."""

    key: str
    """Digest of all that their bytes follow from."""
    facts: Facts
    what: Partition
    left_out: dict[int, set[int]]
    """Ordinal of a record -> numbers of its texts that are left out; FIRST = the record itself."""
    records: pyarrow.Table
    texts: pyarrow.Table

    @classmethod
    def of(cls, plan: WritePlan, facts: Facts, excluded: Part, renderer: Renderer | None) -> _Job:
        """Read what is known of a partition."""
        what = parts.read(plan.prepared, facts.partition, Partition)
        records = read_table(
            parts.table(plan.prepared, facts.records), ["id", "file", *_HASHES, *_SPANS]
        )
        texts = read_table(
            parts.table(plan.prepared, facts.texts), ["ordinal", "number", "language", "text_hash"]
        )
        left_out: dict[int, set[int]] = {}
        if excluded.count:
            table = read_table(parts.part_table(plan.prepared, excluded), ["ordinal", "number"])
            pairs = zip(*(column.to_pylist() for column in table.columns), strict=True)
            for ordinal, number in pairs:
                left_out.setdefault(ordinal, set()).add(number)
        about = [
            FORMAT, what.name, plan.records_per_shard, plan.max_short_side_px,
            renderer.digest if renderer else "", [[tar.uri, tar.sha256] for tar in facts.tars],
            [_content(records, (*_HASHES, *_SPANS)), _content(texts, ("ordinal", "text_hash"))],
            digest(texts["language"].to_pylist()),
            sorted([one, sorted(numbers)] for one, numbers in left_out.items()),
        ]  # fmt: skip
        return cls(digest(about), facts, what, left_out, records, texts)

    def fingerprint(self) -> str:
        """Fingerprint of what is left out: a sum, so that the partitions' add up to the whole's."""
        out = [(one, n) for one, numbers in self.left_out.items() for n in numbers]
        ordinals, numbers = np.array(out, np.int64).reshape(-1, 2).T
        keys = self.records["key_hash"].to_numpy()[ordinals]
        return f"{int(mix(keys, 0, numbers - FIRST).sum(dtype=np.uint64)):016x}"

    def indexed(self, store: str, scratch: Path) -> Iterator[Shard]:
        """Foreign tars, each with the index of what is left of it."""
        kept = np.ones(len(self.records), bool)
        kept[[one for one, numbers in self.left_out.items() if numbers & {FIRST, 0}]] = False
        kept &= np.isin(np.arange(len(kept)), self.texts["ordinal"].to_numpy())
        file = self.records["file"].to_numpy()
        for number, tar in enumerate(self.facts.tars):
            rows = np.flatnonzero(kept & (file == number))
            if len(rows):
                entry = FileEntry(foreign_name(tar.uri), tar.bytes, tar.sha256, len(rows))
                yield self._stored(store, scratch, number, entry, self._index(rows))

    def written(
        self,
        store: str,
        scratch: Path,
        plan: WritePlan,
        renderer: Renderer | None,
        progress: bool,
    ) -> Iterator[Shard]:
        """Our own tars, each of `records_per_shard` records; those that are there are kept."""
        rows = self._sound()
        with counted(f"write {self.what.name}", unit="rec", shown=progress) as bar:
            for number in itertools.count():
                records = tuple(itertools.islice(rows, plan.records_per_shard))
                if not records:
                    return
                bar.update(len(records))
                done = self._finished(store, number)
                if done:
                    yield done
                    continue
                path, index = self._made(scratch, number, records, plan, renderer)
                entry = parts.store_table(store, path.name, path, len(index))
                path.unlink()
                yield self._stored(store, scratch, number, entry, index)

    def _made(
        self,
        scratch: Path,
        number: int,
        records: tuple[tuple[str, str, Record], ...],
        plan: WritePlan,
        renderer: Renderer | None,
    ) -> tuple[Path, shard_index.ShardIndex]:
        """A file of our own records, and its index: a tar of photos, or frames of text pairs."""
        pairs = [(key, one) for key, _, one in records if isinstance(one, TextRecord)]
        assert len(pairs) in (0, len(records)), "a source holds photos or text pairs"
        if pairs:
            path = scratch / f"{self._name(number)}.{text_frames.EXTENSION}"
            return path, text_frames.write(path, pairs)
        path = scratch / f"{self._name(number)}.tar"
        _write_tar(path, records, plan.max_short_side_px, renderer)
        return path, shard_index.index_ours(path)

    def _name(self, number: int) -> str:
        return f"{self.what.name}-{self.key[:16]}-{number:05d}"

    def _sound(self) -> Iterator[tuple[str, str, Record]]:
        """(id, source, record) without the records, and the texts, that validation left out."""
        rows = sources.read_records(self.what.name, self.what.source, self.what.files or None)
        for ordinal, (key, record) in enumerate(rows):
            left_out = self.left_out.get(ordinal, set())
            if FIRST in left_out or record.problem:
                continue
            if not left_out and record.texts:
                yield key, self.what.name, record
                continue
            kept = [place for place in range(len(record.texts)) if place not in left_out]
            if kept:
                shift = 0 if isinstance(record, PhotoRecord) else 1
                languages = record.languages[:shift] + tuple(
                    record.languages[place + shift] for place in kept
                )
                texts = tuple(record.texts[place] for place in kept)
                sound = dataclasses.replace(record, texts=texts, languages=languages)
                yield key, self.what.name, sound

    def _index(self, rows: np.ndarray) -> shard_index.ShardIndex:
        """Index of some records of a foreign tar, each with its one text."""
        columns = {name: self.records[name].to_numpy()[rows] for name in (*_HASHES, *_SPANS)}
        keys = [key.encode() for key in self.records["id"].take(rows).to_pylist()]
        ordinals = self.texts["ordinal"].to_numpy()
        hashes = self.texts["text_hash"].to_numpy()[np.searchsorted(ordinals, rows)]
        return shard_index.ShardIndex(
            kinds=columns["kind"],
            first=np.stack([columns["first_offset"], columns["first_size"]], 1),
            second=np.stack([columns["second_offset"], columns["second_size"]], 1),
            drawings=np.zeros((len(rows), 2), np.int64),
            keys=np.frombuffer(b"".join(keys), np.uint8),
            key_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
            key_hashes=columns["key_hash"],
            group_hashes=columns["group_hash"],
            first_hashes=columns["first_hash"],
            text_counts=np.ones(len(rows), np.int64),
            text_hashes=hashes,
        )

    def _stored(
        self, store: str, scratch: Path, number: int, tar: FileEntry, index: shard_index.ShardIndex
    ) -> Shard:
        """The shard, once its index is stored."""
        path = scratch / f"{self._name(number)}.index"
        about = {"name": tar.name, "bytes": str(tar.bytes), "sha256": tar.sha256}
        index_file.save(index, path, about)
        entry = parts.store_table(store, path.name, path, 0)
        path.unlink()
        return Shard(tar, entry, int((index.kinds != shard_index.TEXT).sum()))

    def _finished(self, store: str, number: int) -> Shard | None:
        """The shard that a killed run has already written, if it is whole."""
        name = self._name(number)
        try:
            path = storage.fetch(storage.join(store, f"{name}.index"))
            index, about = index_file.load(path)
            tar = storage.fetch(storage.join(store, about["name"]), sha256=about["sha256"])
        except (ShardError, StorageError, OSError, KeyError):
            return None
        return Shard(
            FileEntry(tar.name, tar.stat().st_size, about["sha256"], len(index)),
            FileEntry(path.name, path.stat().st_size, storage.sha256_file(path)),
            int((index.kinds != shard_index.TEXT).sum()),
        )


def _content(table: pyarrow.Table, columns: tuple[str, ...]) -> str:
    """sha256 of columns of whole numbers."""
    total = hashlib.sha256()
    for name in columns:
        total.update(table[name].to_numpy().tobytes())
    return total.hexdigest()


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
