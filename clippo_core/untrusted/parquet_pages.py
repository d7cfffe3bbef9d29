"""What the pages of a parquet file claim, read before pyarrow reads them.

    footer ─▶ where a column's pages begin, how many values they hold
    pages  ─▶ header, data, header, data …: values and bytes of each, added up

A page of twenty bytes can hold a hundred million equal values, and pyarrow takes memory for all of
them before it gives the first; what its own view of the footer says of pages ends the process where
the footer is damaged. Footer and headers are Thrift structs in the compact protocol
(https://github.com/apache/parquet-format, parquet.thrift); only what is asked here is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any

from clippo_core.untrusted.limits import Limits

_DEPTH = 32
_FIRST_READ, _LONGEST_HEADER = 1 << 10, 1 << 24
_DATA_HEADERS = {0: 5, 3: 8}
"""Type of a page -> its field with the header of data (version 1, version 2)."""
_DELTA_BYTE_ARRAY = 7
_PADDING = 100
"""So many bytes behind a column may still be its own: an old writer counted too few."""


@dataclass(frozen=True)
class Claim:
    """What some columns of one row group hold, as their pages say."""

    values: int
    """With nulls and the items of lists."""
    bytes: int
    """Of all pages, unpacked."""
    has_deltas: bool
    """Whether texts or bytes are written as differences: one byte can then repeat all of the value
    before it, so that values together are longer than their pages."""


def read_footer(file: IO[bytes], limits: Limits) -> list[list[dict[int, Any]]]:
    """Row groups of columns, each as the fields of its ColumnMetaData. Raises ValueError."""
    size = file.seek(0, 2)
    file.seek(size - 8)
    length = int.from_bytes(file.read(4), "little")
    file.seek(size - 8 - length)
    fields, _ = _struct(file.read(length), 0, limits.parquet_items)
    groups: list[dict[int, Any]] = fields[4]
    return [[column[3] for column in group[1]] for group in groups]


def claimed(
    file: IO[bytes], columns: list[dict[int, Any]], paths: list[str], limits: Limits
) -> Claim:
    """What the pages of the columns at `paths`, or below them, hold. Raises ValueError, KeyError,
    TypeError or IndexError for damaged ones.
    """
    below = tuple(f"{path}." for path in paths)
    values, n_bytes, has_deltas = 0, 0, False
    for column in columns:
        path = b".".join(column[3]).decode()
        if path not in paths and not path.startswith(below):
            continue
        for page in _pages(file, column, limits):
            header = _data_header(page)
            values += header.get(1, 0)
            n_bytes += page[2]
            has_deltas |= _DELTA_BYTE_ARRAY in (header.get(2), header.get(4))
    return Claim(values, n_bytes, has_deltas)


def _pages(file: IO[bytes], column: dict[int, Any], limits: Limits) -> list[dict[int, Any]]:
    """Headers of a column's pages, as far as a reader goes that wants all of its values."""
    at = min(column[9], column.get(11) or column[9])
    end, seen = at + column[7] + _PADDING, 0
    pages: list[dict[int, Any]] = []
    while seen < column[5] and at < end:
        page, length = _header(file, at, limits)
        n_values = _data_header(page).get(1, 0)
        if min(page[2], page[3], n_values) < 0 or len(pages) > limits.parquet_items:
            raise ValueError("a page's header is damaged")
        pages.append(page)
        seen += n_values
        at += length + page[3]
    return pages


def _data_header(page: dict[int, Any]) -> dict[int, Any]:
    """What a page's header says of its data; empty for a page without any."""
    found: dict[int, Any] = page.get(_DATA_HEADERS.get(page[1], 0), {})
    return found


def _header(file: IO[bytes], at: int, limits: Limits) -> tuple[dict[int, Any], int]:
    """A page's header and its length in bytes."""
    n_bytes = _FIRST_READ
    while True:
        file.seek(at)
        data = file.read(n_bytes)
        try:
            return _struct(data, 0, limits.parquet_items)
        except IndexError:
            if len(data) < n_bytes or n_bytes >= _LONGEST_HEADER:
                raise
            n_bytes *= 16


def _struct(data: bytes, at: int, most: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of a struct by number, and where it ends. Lists may have `most` items.

    A field that comes twice is refused: readers differ in which one they take.
    """
    if depth > _DEPTH:
        raise ValueError("it is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, at = _whole(data, at)
        if number in fields:
            raise ValueError(f"field {number} comes twice")
        if 1 <= kind <= 2:  # a truth value lies in the kind itself
            fields[number] = kind == 1
        else:
            fields[number], at = _value(data, at, kind, most, depth)


def _value(data: bytes, at: int, kind: int, most: int, depth: int) -> tuple[Any, int]:
    """A value of a kind of the compact protocol, and where it ends."""
    if 4 <= kind <= 6:
        return _whole(data, at)
    if 1 <= kind <= 3:
        return data[at], at + 1
    if kind == 7:
        return data[at : at + 8], at + 8
    if kind == 8:
        length, at = _unsigned(data, at)
        if at + length > len(data):
            raise IndexError("it is cut short")
        return data[at : at + length], at + length
    if kind in (9, 10):
        head, at = data[at], at + 1
        length, at = _unsigned(data, at) if head >> 4 == 15 else (head >> 4, at)
        if length > most:
            raise ValueError(f"a list of {length:,} items")
        items = []
        for _ in range(length):
            item, at = _value(data, at, head & 15, most, depth + 1)
            items.append(item)
        return items, at
    if kind == 12:
        return _struct(data, at, most, depth + 1)
    raise ValueError(f"a value of kind {kind}")


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    if value < 128:  # as most are
        return value, at + 1
    value &= 127
    for shift in range(7, 70, 7):
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + 1
    raise ValueError("a number of more than 64 bits")


def _whole(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at
