"""Reads a partition once, and notes the facts by which it is judged, merged and written (`facts`).

    partition ─▶ records ─▶ photos decoded, hashed ┬▶ records.parquet
                        └▶ texts hashed, laid out ─┴▶ texts.parquet       ─▶ Facts

It judges nothing: a record or a tar that cannot be used is a row with a problem. What fails here is
the machine, or a source that cannot be read at all. Every photo is read and decoded once, by as
many threads as there are cores; rows go to disk as they come. A tar from a bucket is deleted once
it was read.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clippo_core import storage
from clippo_core.config import digest, identity
from clippo_core.data import parts
from clippo_core.data.images import decoded_image
from clippo_core.data.pairs import PhotoRecord, Record, key_hash
from clippo_core.data.partitions import Partition
from clippo_core.data.perceptual import perceptual_hash
from clippo_core.data.shard_index import FOREIGN_JSON, FOREIGN_TXT, PHOTO, TEXT
from clippo_core.data.sources import annotation_files, tars
from clippo_core.data.sources import kinds as sources
from clippo_core.data.validate.facts import (
    FIRST,
    RECORDS,
    TEXTS,
    Facts,
    LanguageSums,
    TarFact,
    table_writer,
)
from clippo_core.data.validate.plain import plain_hash, stem_hash
from clippo_core.errors import ClippoError, StorageError
from clippo_core.progress import counted
from clippo_core.rendering import Renderer
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import Part, PartitionPlan
from clippo_core.untrusted.names import is_unicode

Row = dict[str, Any]
CHUNK = 512
"""Records that are measured at a time."""


def measure(plan: PartitionPlan, partition: Part, progress: bool = True) -> Part:
    """The facts of a partition: those that were noted before, or measured now. Raises DataError
    where its source cannot be read at all.
    """
    what = parts.read(plan.prepared, partition, Partition)
    made_of = [what.key, identity(plan.render), plan.fonts, code_digest(__name__)]
    name = PreparedFolder.part("facts", digest(made_of))
    facts = parts.finished(plan.prepared, name, Facts, ("records", "texts"))
    if facts is None:
        facts = _measured(plan, partition, what, name.removesuffix(".json"), progress)
        return parts.write(plan.prepared, name, facts, facts.n_records)
    return parts.noted(name, facts, facts.n_records)


def _measured(
    plan: PartitionPlan, partition: Part, what: Partition, name: str, progress: bool
) -> Facts:
    renderer = Renderer.from_config(plan.render)
    census: dict[str, Counter[str]] = {}
    reader = _Reader(what)
    rows, n_records, n_texts = reader.records(), 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        paths = Path(scratch, "records"), Path(scratch, "texts")
        with (
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
            table_writer(paths[0], RECORDS) as records,
            table_writer(paths[1], TEXTS) as texts,
            counted(f"measure {what.name}", unit="rec", shown=progress) as bar,
        ):
            while chunk := list(itertools.islice(rows, CHUNK)):
                found = list(pool.map(_record_row, chunk))
                for ordinal, row in enumerate(found, n_records):
                    row["ordinal"] = ordinal
                said = [
                    text
                    for row, (_, _, record) in zip(found, chunk, strict=True)
                    if not record.problem
                    for text in _text_rows(row["ordinal"], record)
                ]
                _lay_out(said, renderer, census)
                records.add(found)
                texts.add(said)
                n_records, n_texts = n_records + len(found), n_texts + len(said)
                reader.drop()
                bar.update(len(found))
        store = parts.store_table
        return Facts(
            partition,
            what.name,
            n_records,
            n_texts,
            store(plan.prepared, f"{name}-records.parquet", paths[0], n_records),
            store(plan.prepared, f"{name}-texts.parquet", paths[1], n_texts),
            reader.tars,
            [LanguageSums(code, **counts) for code, counts in sorted(census.items())],
        )


class _Reader:
    """The records of a partition in their order, and what is found of its tars on the way."""

    def __init__(self, what: Partition) -> None:
        self.what = what
        self.tars: list[TarFact] = []
        self._open: list[str] = []
        """Addresses of tars whose photos may still be asked for."""
        self._problem = ""

    def records(self) -> Iterator[tuple[int, str, Record]]:
        """(number of the tar, id, record)."""
        what = self.what
        uris: Iterable[str] | None = what.files or None
        if what.source.kind == "webdataset":
            uris = self._each(what.files or sources.source_files(what.source))
        for key, record in sources.read_records(what.name, what.source, uris):
            if record.problem and "/" not in record.key:  # the tar's own name
                self._problem = record.problem
            yield len(self.tars), key, record
        if self._open and (not self.tars or self.tars[-1].uri != self._open[-1]):
            self._note(self._open[-1])  # it was not read to its end, for `limit`

    def drop(self) -> None:
        """Delete the copies of the tars that were read to their end."""
        done = {tar.uri for tar in self.tars}
        for uri in [uri for uri in self._open if uri in done]:
            self._open.remove(uri)
            if not storage.is_local(uri):
                tars.local_copy(uri).unlink()

    def _each(self, uris: list[str]) -> Iterator[str]:
        for uri in uris:
            self._open.append(uri)
            yield uri
            self._note(uri)

    def _note(self, uri: str) -> None:
        path = tars.local_copy(uri)
        fact = TarFact(uri, path.stat().st_size, storage.sha256_file(path), self._problem)
        self.tars.append(fact)
        self._problem = ""


def _record_row(entry: tuple[int, str, Record]) -> Row:
    number, key, record = entry
    row: Row = {
        "id": key,
        "key_hash": key_hash(key),
        "group_hash": key_hash(record.group) if record.group else 0,
        "first_hash": 0,
        "kind": PHOTO if isinstance(record, PhotoRecord) else TEXT,
        "file": number,
        "problem": record.problem or None,
        "is_repeated": not key.endswith(f"/{record.key}"),
        "is_photo": isinstance(record, PhotoRecord) and not record.problem,
        "n_texts": len(record.texts),
        "first_offset": 0,
        "first_size": 0,
        "look_low": 0,
        "look_high": 0,
        "stem_hash": 0,
        "second_offset": 0,
        "second_size": 0,
    }
    if record.problem:
        return row
    if isinstance(record, PhotoRecord):
        return row | _photo(record)
    return row | {"first_hash": _text_hash(record.first)}


def _photo(record: PhotoRecord) -> Row:
    """What is known of a photo: its bytes, whether it can be decoded, and where it lies."""
    row: Row = {}
    extension, row["second_offset"], row["second_size"] = record.text_at
    in_tar = bool(extension)
    if in_tar:
        row["kind"] = FOREIGN_TXT if extension == "txt" else FOREIGN_JSON
        row["first_offset"], row["first_size"] = tars.span(record.image)
    name = record.key if in_tar else record.image.rpartition("/")[2]
    row["stem_hash"] = stem_hash(annotation_files.stem(name))
    try:
        data = record.content or tars.picture_bytes(record.image)
        row["first_hash"] = key_hash(data)
        with decoded_image(data, record.image) as pixels:
            row["short_side_px"] = min(pixels.shape[:2])
            row["look_low"], row["look_high"] = perceptual_hash(pixels)
    except StorageError:
        raise  # the network's fault, not the photo's
    except ClippoError as error:
        row["photo_problem"] = str(error)
    return row


def _text_rows(ordinal: int, record: Record) -> Iterator[Row]:
    """A row for the first text of a text pair, and one for each caption or partner."""
    languages = record.languages
    firsts: list[tuple[int, Any, str]] = []
    if not isinstance(record, PhotoRecord):
        firsts, languages = [(FIRST, record.first, languages[0])], languages[1:]
    partners = [
        (number, text, language)
        for number, (text, language) in enumerate(zip(record.texts, languages, strict=True))
    ]
    seen: set[Any] = set()
    for number, text, language in firsts + partners:
        is_text = isinstance(text, str) and is_unicode(text)
        yield {
            "ordinal": ordinal,
            "number": number,
            "text_hash": key_hash(text) if is_text else 0,
            "plain_hash": plain_hash(text) if is_text else 0,
            "text": text if is_text else None,
            "language": language,
            "is_text": is_text,
            "is_blank": is_text and not text.strip(),
            "characters": len(text) if is_text else 0,
            "is_repeated": is_text and text in seen,
            "shown": repr(text)[:80],
        }
        if is_text:
            seen.add(text)


def _text_hash(text: Any) -> int:
    return key_hash(text) if isinstance(text, str) and is_unicode(text) else 0


def _lay_out(rows: list[Row], renderer: Renderer, sums: dict[str, Counter[str]]) -> None:
    """What the page cuts off and the font lacks: as columns of the rows, and summed by language.
    Texts themselves are not kept.
    """
    drawn = [row for row in rows if row["is_text"]]
    census = renderer.census([row["text"] for row in drawn])
    for row in rows:
        row |= {"is_cut": False, "has_missing_glyph": False}
        del row["text"]
    columns = (census.cut.tolist(), census.missing.tolist(), census.drawn_rows.tolist())
    for row, cut, missing, n_rows in zip(drawn, *columns, strict=True):
        row |= {"is_cut": cut, "has_missing_glyph": missing}
        counts = sums.setdefault(row["language"], Counter(texts=0, rows=0, cut=0, missing=0))
        counts.update(texts=1, rows=n_rows, cut=int(cut), missing=int(missing))
