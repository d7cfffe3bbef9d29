"""What the order of batches must know about every record of a shard, and where its bytes lie.

    numbers-00000.tar  ─▶  arrays  ─▶  numbers-00000.index      (`index_file`)

    per record: kind, bytes of photo or first text, bytes of texts, hashes, group

Training never lists a tar again. A foreign tar is indexed as it is, less what validation left out.
An index holds no caption and no pixel.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clippo_core.data.pairs import key_hash
from clippo_core.data.sources import tars
from clippo_core.errors import DataError, ShardError
from clippo_core.untrusted.json import field, load_json, optional
from clippo_core.untrusted.names import refusal

PHOTO, TEXT, FOREIGN_TXT, FOREIGN_JSON = range(4)
"""Kinds of records: ours with a photo; ours with a first text; a foreign photo with txt; with
json."""
PIECE = 2**16
"""Rows whose values are gathered at a time: the places of each byte of a key take eight."""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Arrays over the n records of one shard, and over its t texts."""

    kinds: np.ndarray
    """uint8 [n]: PHOTO, TEXT, FOREIGN_TXT or FOREIGN_JSON."""
    first: np.ndarray
    """int64 [n, 2]: offset and size, in bytes, of the photo, or of a text pair's frame."""
    second: np.ndarray
    """int64 [n, 2]: offset and size of the json or txt with the text(s); of a text pair, its line
    in the frame, and 0."""
    drawings: np.ndarray
    """int64 [t, 2]: offset and size of each text's drawing; size 0 = there is none."""
    keys: np.ndarray
    """uint8 [all keys]: the photos' ids, UTF-8, one after the other; a text pair's is empty, for it
    lies in the frame."""
    key_ends: np.ndarray
    """int64 [n]: where each id ends."""
    key_hashes: np.ndarray
    """uint64 [n]; an index file keeps those of records that have a group or several texts."""
    group_hashes: np.ndarray
    """uint64 [n]: 0 = alone."""
    first_hashes: np.ndarray
    """uint64 [n]: of the photo's bytes or of the first text."""
    text_counts: np.ndarray
    """int64 [n]: texts of each record, at least 1."""
    text_hashes: np.ndarray
    """uint64 [t]."""

    def __len__(self) -> int:
        return len(self.kinds)

    def key(self, record: int) -> str:
        """Id of a photo: `<source>/<key>`."""
        start = int(self.key_ends[record - 1]) if record else 0
        return self.keys[start : int(self.key_ends[record])].tobytes().decode()


def fault(index: ShardIndex, n_bytes: int) -> str:
    """What contradicts itself in an index over a shard of `n_bytes`; empty = nothing."""
    is_text = index.kinds == TEXT
    if (index.kinds > FOREIGN_JSON).any():
        return "a record is of no known kind"
    for spans in (index.first, index.second[~is_text], index.drawings):
        if (spans < 0).any() or (spans > n_bytes - spans[:, ::-1]).any():
            return "a record lies outside its shard"
    lengths = np.diff(index.key_ends, prepend=0)
    try:
        index.keys.tobytes().decode()
    except UnicodeDecodeError:
        return "a key is not UTF-8"
    starts = (index.key_ends - lengths)[lengths > 0]
    if ((index.keys[starts] & 0xC0) == 0x80).any():
        return "a key ends within a letter"
    return ""


def parse_texts(kind: int, data: bytes, where: str) -> tuple[list[str], list[str]]:
    """(texts, languages) of a photo of a `kind`, from the member that holds them; languages are
    known of our own shards only. Raises ShardError.
    """
    try:
        if kind in (FOREIGN_TXT, FOREIGN_JSON):
            return [tars.parse_text(data, "txt" if kind == FOREIGN_TXT else "json", where)], []
        content = load_json(data, where)
        texts = field(content, "texts", list[str], where)
        return texts, optional(content, "languages", list[str], [], where)
    except DataError as error:
        raise ShardError(str(error)) from error


def index_ours(path: Path) -> ShardIndex:
    """Index of a tar of photos that `shards` wrote. Raises ShardError."""
    rows = []
    with open(path, "rb") as tar:
        for entry in tars.entries(path):
            where = f"{path}, record {entry.key}"
            members = entry.members
            first = members.get(entry.picture)
            if first is None or "json" not in members:
                fault = "it is not as `render` writes it"
                raise refusal(ShardError, where, fault, "delete the tar")
            offset, size = members["json"]
            data = os.pread(tar.fileno(), size, offset)
            about = load_json(data, where, error=ShardError)
            texts = field(about, "texts", list[str], where, error=ShardError)
            drawings = tuple(members.get(f"text.{n}.png", (0, 0)) for n in range(len(texts)))
            rows.append(
                Row(
                    PHOTO,
                    first,
                    members["json"],
                    field(about, "key", str, where, error=ShardError),
                    field(about, "group", str, where, error=ShardError),
                    os.pread(tar.fileno(), first[1], first[0]),
                    tuple(texts),
                    drawings,
                )
            )
    return indexed(rows)


@dataclass(frozen=True)
class Row:
    """What an index must know of a record."""

    kind: int
    first: tuple[int, int]
    second: tuple[int, int]
    key: str
    group: str
    content: bytes
    texts: tuple[str, ...]
    drawings: tuple[tuple[int, int], ...]


def indexed(rows: list[Row]) -> ShardIndex:
    """The index of a shard's records, in their order."""

    def column(values: Iterable[Any], kind: Any, width: int = 0) -> np.ndarray:
        return np.array(list(values), kind).reshape((-1, width) if width else -1)

    keys = [b"" if row.kind == TEXT else row.key.encode("utf-8", "replace") for row in rows]
    return ShardIndex(
        kinds=column((row.kind for row in rows), np.uint8),
        first=column((row.first for row in rows), np.int64, 2),
        second=column((row.second for row in rows), np.int64, 2),
        drawings=column((span for row in rows for span in row.drawings), np.int64, 2),
        keys=np.frombuffer(b"".join(keys), np.uint8),
        key_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
        key_hashes=column((key_hash(row.key) for row in rows), np.uint64),
        group_hashes=column((key_hash(row.group) if row.group else 0 for row in rows), np.uint64),
        first_hashes=column((key_hash(row.content) for row in rows), np.uint64),
        text_counts=column((len(row.texts) for row in rows), np.int64),
        text_hashes=column((key_hash(text) for row in rows for text in row.texts), np.uint64),
    )


def spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64: lengths[0] numbers from starts[0] on, then those from starts[1] on, ..."""
    nth = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + nth


def ragged(values: np.ndarray, counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The values of some rows, where row i has the next counts[i] of `values`."""
    starts = np.cumsum(counts) - counts
    parts = [rows[n : n + PIECE] for n in range(0, len(rows), PIECE)] or [rows]
    return np.concatenate([values[spread(starts[part], counts[part])] for part in parts])


def without_places(
    kinds: np.ndarray,
    key_hashes: np.ndarray,
    group_hashes: np.ndarray,
    first_hashes: np.ndarray,
    text_counts: np.ndarray,
    text_hashes: np.ndarray,
) -> ShardIndex:
    """An index that knows no keys, and zeros for spans."""
    n, t = len(kinds), len(text_hashes)
    spans = np.zeros((n, 2), np.int64)
    return ShardIndex(
        kinds=kinds,
        first=spans,
        second=spans,
        drawings=np.zeros((t, 2), np.int64),
        keys=np.zeros(0, np.uint8),
        key_ends=np.zeros(n, np.int64),
        key_hashes=key_hashes,
        group_hashes=group_hashes,
        first_hashes=first_hashes,
        text_counts=text_counts,
        text_hashes=text_hashes,
    )


def take(index: ShardIndex, rows: np.ndarray, places: bool = True) -> ShardIndex:
    """The index of some of its records, in the order of `rows`; see `without_places`."""
    plain = ("kinds", "key_hashes", "group_hashes", "first_hashes", "text_counts")
    taken = without_places(
        **{name: getattr(index, name)[rows] for name in plain},
        text_hashes=ragged(index.text_hashes, index.text_counts, rows),
    )
    if not places:
        return taken
    lengths = np.diff(index.key_ends, prepend=0)
    return dataclasses.replace(
        taken,
        first=index.first[rows],
        second=index.second[rows],
        drawings=ragged(index.drawings, index.text_counts, rows),
        keys=ragged(index.keys, lengths, rows),
        key_ends=np.cumsum(lengths[rows]),
    )


def concatenate(parts: list[ShardIndex]) -> ShardIndex:
    """One index over the records of several, in their order."""
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(ShardIndex)
    }
    ends = np.cumsum([0] + [len(part.keys) for part in parts[:-1]])
    arrays["key_ends"] = np.concatenate(
        [part.key_ends + start for part, start in zip(parts, ends, strict=True)]
    )
    return ShardIndex(**arrays)
