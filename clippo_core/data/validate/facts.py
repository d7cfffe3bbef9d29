"""What is known of a partition once it was read: two tables, and a small file that names them.

    facts/<key>.json              Facts: counts, tars, census           the Part that crosses tasks
    facts/<key>-records.parquet   a row per record: RECORDS
    facts/<key>-texts.parquet     a row per text of the records without a problem: TEXTS
    verdicts/<key>.json           Verdict: what was checked and failed, by rule
    verdicts/<key>.parquet        a row per thing that breaks a rule which leaves it out: VERDICT
    exclusions/<key>.parquet      a row per record or text that is left out: EXCLUSION

Records are numbered through their partition (`ordinal`), texts within their record; -1 is the first
text of a text pair. `measure` writes the facts, `expectations` the verdicts, `merge` the
exclusions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clippo_core.extras import optional_import
from clippo_core.run.records import FileEntry, Part

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 2**16
"""Rows of a table that are held at a time."""
FIRST = -1
"""Number of a text pair's first text."""

RECORDS = {
    "ordinal": "int64",
    "id": "string",
    "key_hash": "uint64",
    "group_hash": "uint64",
    "first_hash": "uint64",
    "kind": "uint8",
    "file": "int32",
    "problem": "string",
    "is_repeated": "bool",
    "is_photo": "bool",
    "n_texts": "int32",
    "photo_problem": "string",
    "short_side_px": "int32",
    "look_low": "uint64",
    "look_high": "uint64",
    "stem_hash": "uint64",
    "first_offset": "int64",
    "first_size": "int64",
    "second_offset": "int64",
    "second_size": "int64",
}
"""key_hash, group_hash, first_hash: as in a shard's index (`shard_index`), first_hash 0 where the
bytes could not be read. kind: one of shard_index's. file: number of the tar in Facts.tars.
look_low, look_high: how a photo looks (`perceptual`), stem_hash: its file's name, as they are
compared with evaluated photos; 0 where they say nothing. Offsets and sizes: of the members in a
foreign tar."""
TEXTS = {
    "ordinal": "int64",
    "number": "int32",
    "text_hash": "uint64",
    "plain_hash": "uint64",
    "language": "string",
    "is_text": "bool",
    "is_blank": "bool",
    "characters": "int32",
    "is_repeated": "bool",
    "is_cut": "bool",
    "has_missing_glyph": "bool",
    "shown": "string",
}
"""text_hash: pairs.key_hash of the text, 0 of what is none. plain_hash: of what stays of it when it
is compared with evaluated captions (`plain`). is_repeated: within its record. shown: what stands
there, for a person."""
VERDICT = {
    "table": "string",
    "ordinal": "int64",
    "number": "int32",
    "rule": "string",
    "shown": "string",
}
"""table: records, texts or tars; of a tar, ordinal is its number."""
EXCLUSION = {"ordinal": "int64", "number": "int32", "rule": "string"}
"""number -1: the whole record is left out; else only its text of this number."""


@dataclass(frozen=True)
class TarFact:
    """A foreign tar of a partition."""

    uri: str
    bytes: int
    sha256: str
    problem: str = ""
    """Why it cannot be read; it then has no record but one with the same problem."""


@dataclass(frozen=True)
class LanguageSums:
    """Sums over the texts of one language."""

    language: str
    texts: int
    rows: int
    """That they fill on the page."""
    cut: int
    """Texts of which the page cuts a part off."""
    missing: int
    """Texts with a glyph that the font lacks."""


@dataclass(frozen=True)
class Facts:
    """What was measured of a partition."""

    partition: Part
    source: str
    """Name of its source."""
    n_records: int
    n_texts: int
    records: FileEntry
    texts: FileEntry
    tars: list[TarFact] = field(default_factory=list)
    """Of a source of foreign tars."""
    census: list[LanguageSums] = field(default_factory=list)


@dataclass(frozen=True)
class RuleCount:
    """One rule over one partition."""

    rule: str
    checked: int
    failed: int
    worst: list[str]
    """Up to three rows that break it: id and value."""


@dataclass(frozen=True)
class Verdict:
    """What Great Expectations found in a partition."""

    rules: list[RuleCount]
    rows: FileEntry


def schema(columns: dict[str, str]) -> pyarrow.Schema:
    """The types of a table's columns."""
    with optional_import():
        import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])


class TableWriter:
    """A parquet file that is written row by row; the rows of one group are held."""

    def __init__(self, path: Path, columns: dict[str, str]) -> None:
        with optional_import():
            import pyarrow.parquet

        self._schema = schema(columns)
        self._file = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self.n_rows = 0

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Rows by column; a missing column is null, others than the table's are left out."""
        self._rows += rows
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        with optional_import():
            import pyarrow as pa

        self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self.n_rows += len(self._rows)
        self._rows = []


@contextlib.contextmanager
def table_writer(path: Path, columns: dict[str, str]) -> Iterator[TableWriter]:
    """A TableWriter that is closed at the end."""
    writer = TableWriter(path, columns)
    try:
        yield writer
    finally:
        writer.close()


def chunks(path: Path, rows: int, columns: list[str] | None = None) -> Iterator[pyarrow.Table]:
    """A table's rows in their order, at most `rows` and one row group at a time."""
    with optional_import():
        import pyarrow as pa
        import pyarrow.parquet

    held: list[pa.RecordBatch] = []
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP, columns=columns):
            held.append(batch)
            if sum(one.num_rows for one in held) >= rows:
                yield pa.Table.from_batches(held)
                held = []
    if held:
        yield pa.Table.from_batches(held)


def read_table(path: Path, columns: list[str]) -> pyarrow.Table:
    """Some columns of a whole table."""
    with optional_import():
        import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read(columns=columns)
