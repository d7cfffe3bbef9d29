"""Columns of a parquet file from outside, by name and kind, one row group at a time.

    table = open_parquet(file, uri, {"image": Kind.BYTES, "label": Kind.WHOLE})
    for number in range(len(table.group_rows)):
        group = table.read_group(number)
        group.columns["label"], group.problems          row -> why it cannot be used

A null or a number that is not finite is a problem of its row and comes as None; a column of another
type refuses the file. Repeated texts and bytes are kept once, so that a small file cannot become a
large one in memory. What the columns mean is for the reader to know.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from clippo_core.errors import ClippoError, DataError
from clippo_core.extras import optional_import
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import printable, reason, refusal
from clippo_core.untrusted.parquet_pages import claimed, read_footer

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_REMEDY = "fetch or write it again"


class Kind(enum.Enum):
    """What a column must hold."""

    TEXT = "texts"
    BYTES = "bytes, or structs with a field `bytes`"
    WHOLE = "whole numbers"
    REAL = "numbers"
    PLAIN = "texts, numbers, truth values or nothing"
    TEXTS = "texts, or lists of texts"
    PICTURE = "bytes, or structs with fields `bytes` and `path`"


@dataclass(frozen=True)
class Group:
    """The wanted columns of one row group."""

    columns: dict[str, list[Any]]
    """str, bytes, int, float or bool by row; of TEXTS a list of str. None where there is a problem.
    Of PICTURE always (bytes, path), empty ones for null."""
    problems: dict[int, str]
    """Row in the group -> why it cannot be used."""


class Table:
    """An open parquet file, its footer checked. Use `open_parquet`."""

    def __init__(
        self,
        file: IO[bytes],
        where: str,
        wanted: Mapping[str, Kind],
        others: Kind | None,
        error: type[ClippoError],
        limits: Limits,
    ) -> None:
        self.where = where
        self._source, self._error, self._limits = file, error, limits
        self._wanted = dict(wanted)
        self._asked = ", ".join(wanted)
        with self._words("its footer is damaged"):
            self._file = self._open(file, [])
            self._columns = read_footer(file, limits)
            if others:
                self._wanted |= {
                    name: others for name in self._file.schema_arrow.names if name not in wanted
                }
            self._leaves = {name: self._leaf(name) for name in self._wanted}
            shared = [
                path
                for name, leaves in self._leaves.items()
                if self._holds_strings(name)
                for path in self._paths(leaves)
            ]
            self._file = self._open(file, shared) if shared else self._file
            about = self._file.metadata
            rows = [about.row_group(number).num_rows for number in range(about.num_row_groups)]
        self.group_rows: tuple[int, ...] = tuple(rows)
        """Rows of each row group."""
        self.names: list[str] = list(self._file.schema_arrow.names)
        """All of its columns, also those that are not wanted."""
        if min(rows, default=0) < 0 or sum(rows) > limits.parquet_rows:
            raise self._refuse(f"its footer claims {sum(rows):,} rows")
        if not sum(rows):
            raise self._refuse("it holds no rows", "give a file with some")

    def read_group(self, number: int, names: Collection[str] | None = None) -> Group:
        """The wanted columns (of them only `names`) of a row group. Raises `error` where it is
        damaged or too large.
        """
        n_rows, problems = self.group_rows[number], dict[int, str]()
        if n_rows > self._limits.parquet_group_rows:
            fault = f"row group {number} has {n_rows:,} rows"
            raise self._refuse(fault, "write it with smaller row groups")
        columns, taken = {}, 0
        for name in self._wanted if names is None else names:
            kind = self._wanted[name]
            values: list[Any] = []
            with self._words(f"column {name} of row group {number} is damaged"):
                self._check_pages(number, name)
                for batch in self._file.iter_batches(
                    row_groups=[number], columns=self._leaves[name], use_threads=False
                ):
                    taken += batch.nbytes
                    if taken > self._limits.parquet_group_bytes or len(values) > n_rows:
                        fault = f"row group {number} is too large (at column {name})"
                        raise self._refuse(fault, "write it with smaller row groups")
                    values += _values(batch.column(0), kind)
            if len(values) != n_rows:
                fault = f"column {name} of row group {number} has {len(values):,} rows"
                raise self._refuse(f"{fault} of {n_rows:,}")
            for row, value in enumerate(values):
                if value is None or isinstance(value, float) and not math.isfinite(value):
                    word = "is missing (null)" if value is None else "is not finite"
                    problems.setdefault(row, f"its {name} {word}")
                    values[row] = None
            columns[name] = values
        return Group(columns, dict(sorted(problems.items())))

    def _check_pages(self, number: int, name: str) -> None:
        """Raise `error` where the pages of a column hold more than is read of a row group."""
        claim = claimed(self._source, self._columns[number], self._leaves[name], self._limits)
        limits = self._limits
        if claim.values > limits.parquet_group_rows or claim.bytes > limits.parquet_group_bytes:
            fault = f"row group {number} is too large (at column {name})"
            raise self._refuse(fault, "write it with smaller row groups")
        if claim.has_deltas:
            fault = f"column {name} is written as differences (DELTA_BYTE_ARRAY)"
            raise self._refuse(fault, "write it in another encoding")

    def _open(self, file: IO[bytes], shared: list[str]) -> pq.ParquetFile:
        with optional_import():
            import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(
            file,
            read_dictionary=shared,
            pre_buffer=False,
            thrift_string_size_limit=self._limits.parquet_footer_bytes,
            thrift_container_size_limit=self._limits.parquet_items,
            schema_depth_limit=self._limits.parquet_schema_depth,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        )

    def _paths(self, leaves: list[str]) -> list[str]:
        """Paths of the columns of plain values that `leaves` name; a list's is below its own."""
        schema = self._file.schema
        every = [schema.column(place).path for place in range(len(schema))]
        below = tuple(f"{leaf}." for leaf in leaves)
        return [path for path in every if path in leaves or path.startswith(below)]

    def _leaf(self, name: str) -> list[str]:
        """Paths that are read for a wanted column: its own, or those of a picture's struct."""
        names = self._file.schema_arrow.names
        if names.count(name) != 1:
            shown = ", ".join(printable(each, 40) for each in names[:12])
            word = "occurs twice" if name in names else "is missing"
            fault = f"column {name} {word}; its columns are {shown}"
            raise self._refuse(fault, f"give one with {self._asked}")
        with optional_import():
            import pyarrow as pa

        found = self._file.schema_arrow.field(name).type
        kind, leaves = self._wanted[name], [name]
        is_picture = kind in (Kind.BYTES, Kind.PICTURE)
        if is_picture and pa.types.is_struct(found) and found.get_field_index("bytes") >= 0:
            has_path = kind is Kind.PICTURE and found.get_field_index("path") >= 0
            if has_path and _is_of(found.field("path").type, Kind.TEXT):
                leaves = [f"{name}.bytes", f"{name}.path"]
            else:
                leaves = [f"{name}.bytes"]
            found = found.field("bytes").type
        if not _is_of(found, kind):
            fault = (
                f"its column {name} holds {printable(str(found), 60)}, and must hold {kind.value}"
            )
            raise self._refuse(fault, "give the published file")
        return leaves

    def _holds_strings(self, name: str) -> bool:
        if self._wanted[name] is Kind.PLAIN:
            return _is_of(self._file.schema_arrow.field(name).type, Kind.TEXT)
        return self._wanted[name] in (Kind.TEXT, Kind.TEXTS, Kind.BYTES, Kind.PICTURE)

    @contextlib.contextmanager
    def _words(self, fault: str) -> Iterator[None]:
        """Turn what pyarrow raises into a sentence."""
        try:
            yield
        except ClippoError:
            raise
        except Exception as caught:  # ArrowInvalid, OSError, KeyError, MemoryError for a false size
            raise self._refuse(f"{fault} ({reason(caught)})") from None

    def _refuse(self, fault: str, remedy: str = _REMEDY) -> ClippoError:
        return refusal(self._error, self.where, fault, remedy)


def open_parquet(
    file: IO[bytes],
    where: str,
    wanted: Mapping[str, Kind],
    *,
    others: Kind | None = None,
    error: type[ClippoError] = DataError,
    limits: Limits = LIMITS,
) -> Table:
    """The wanted columns of an open parquet file; no row is read yet. `file` must stay open.

    others: kind of all columns that `wanted` does not name; None = they are not read.
    Raises `error` for what is no parquet file or damaged, has no rows, lacks a column, or has one
    of another kind.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    file.seek(0)
    if size < 12 or file.read(4) != b"PAR1" or tail[4:] != b"PAR1":
        raise refusal(error, where, "it is no parquet file, or is cut short", _REMEDY)
    footer = int.from_bytes(tail[:4], "little")
    if footer > min(size - 12, limits.parquet_footer_bytes):
        raise refusal(error, where, f"its footer claims {footer:,} bytes", _REMEDY)
    return Table(file, where, wanted, others, error, limits)


def _is_of(found: pa.DataType, kind: Kind) -> bool:
    with optional_import():
        import pyarrow as pa

    types = pa.types
    if types.is_dictionary(found):
        found = found.value_type
    if kind is Kind.TEXT:
        return types.is_string(found) or types.is_large_string(found)
    if kind is Kind.TEXTS:
        is_list = types.is_list(found) or types.is_large_list(found)
        return _is_of(found.value_type if is_list else found, Kind.TEXT)
    if kind in (Kind.BYTES, Kind.PICTURE):
        return types.is_binary(found) or types.is_large_binary(found)
    if kind is Kind.WHOLE:
        return types.is_integer(found)
    if kind is Kind.PLAIN and not types.is_floating(found):
        is_other = types.is_boolean(found) or types.is_null(found)
        return is_other or types.is_integer(found) or _is_of(found, Kind.TEXT)
    return types.is_integer(found) or types.is_floating(found)


def _values(column: pa.Array, kind: Kind) -> list[Any]:
    """Values by row as str, bytes, int or float, None for null; equal ones are one object."""
    with optional_import():
        import pyarrow as pa

    if kind is Kind.PICTURE:
        is_struct = pa.types.is_struct(column.type)
        names = [field.name for field in column.type] if is_struct else ["bytes"]
        fields = zip(names, column.flatten() if is_struct else [column], strict=True)
        found = {name: _values(field, Kind.BYTES) for name, field in fields}
        paths = found.get("path", [""] * len(column))
        return [(b or b"", path or "") for b, path in zip(found["bytes"], paths, strict=True)]
    if kind is Kind.TEXTS and not (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    ):
        return [None if text is None else [text] for text in _values(column, Kind.TEXT)]
    if kind is Kind.TEXTS:
        texts = iter(_values(column.flatten(), Kind.TEXT))
        sizes = column.value_lengths().to_pylist()
        lists = [None if size is None else list(itertools.islice(texts, size)) for size in sizes]
        return [None if each is None or None in each else each for each in lists]
    if pa.types.is_struct(column.type):
        column = column.flatten()[0]  # a null struct is a null
    if pa.types.is_dictionary(column.type):
        found = column.dictionary.to_pylist()
        return [None if place is None else found[place] for place in column.indices.to_pylist()]
    values = column.to_pylist()
    if kind is Kind.REAL or pa.types.is_floating(column.type):
        return [None if value is None else float(value) for value in values]
    return values
