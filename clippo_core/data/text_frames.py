"""Text pairs on disk: json lines in zstd frames, each of which is read and unpacked by itself.

    sentences-00000.jsonl.zst  =  frame │ frame │ …
    frame                      =  zstd of up to 256 lines, or 1 MiB
    line                       =  {"key": …, "first": …, "texts": […], "languages": […], "group": …}

`zstd -dc sentences-00000.jsonl.zst` prints the lines.

In a tar of its own members a pair takes 2 kB; here, some 40 % of its text's bytes. Frames are small
because training takes pairs in runs of some hundred neighbours (`order`). Which frame and line a
record is, its index says (`shard_index`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clippo_core.data.pairs import TextRecord
from clippo_core.data.shard_index import TEXT, Row, ShardIndex, indexed
from clippo_core.errors import ShardError
from clippo_core.extras import optional_import
from clippo_core.untrusted.json import field, load_json
from clippo_core.untrusted.names import refusal
from clippo_core.untrusted.zstd import unpacked

EXTENSION = "jsonl.zst"
FRAME_RECORDS, FRAME_BYTES = 256, 2**20
LEVEL = 9
"""Of zstd: 4 microseconds a pair; 12 takes twice as long for one byte a pair less."""
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_AGAIN = "delete it and run `render` again"


@dataclass(frozen=True)
class TextPair:
    """A line of a frame."""

    key: str
    """Its id, `<source>/<key>`."""
    first: str
    texts: list[str]
    languages: list[str]
    """Of `first`, then of each of `texts`."""


def write(path: Path, records: Iterable[tuple[str, TextRecord]]) -> ShardIndex:
    """Write (id, record)s to a file, the same bytes every time, and give their index."""
    with optional_import():
        import pyarrow

    codec = pyarrow.Codec("zstd", compression_level=LEVEL)
    rows: list[Row] = []
    offset = 0
    with open(path, "wb") as file:
        for pairs, lines in _frames(records):
            frame = codec.compress(b"".join(lines), asbytes=True)
            file.write(frame)
            for number, (key, one) in enumerate(pairs):
                where, texts = ((offset, len(frame)), (number, 0)), one.texts
                none = ((0, 0),) * len(texts)
                rows.append(Row(TEXT, *where, key, one.group, one.first.encode(), texts, none))
            offset += len(frame)
    return indexed(rows)


def _frames(
    records: Iterable[tuple[str, TextRecord]],
) -> Iterator[tuple[list[tuple[str, TextRecord]], list[bytes]]]:
    """The records of each frame, and their lines."""
    pairs: list[tuple[str, TextRecord]] = []
    lines: list[bytes] = []
    size = 0
    for key, record in records:
        about = {
            "key": key,
            "first": record.first,
            "texts": record.texts,
            "languages": record.languages,
            "group": record.group,
        }
        line = _JSON.encode(about)
        pairs.append((key, record))
        lines.append(line.encode() + b"\n")
        size += len(lines[-1])
        if len(lines) == FRAME_RECORDS or size >= FRAME_BYTES:
            yield pairs, lines
            pairs, lines, size = [], [], 0
    if lines:
        yield pairs, lines


def read_pair(frame: bytes, line: int, where: str) -> TextPair:
    """One of a frame's pairs. Raises ShardError."""
    lines = unpacked(frame, where, error=ShardError, remedy=_AGAIN).split(b"\n")
    if line >= len(lines) - 1:
        raise refusal(ShardError, where, f"its frame has no line {line:,}", _AGAIN)
    about = load_json(lines[line], where, error=ShardError, remedy=_AGAIN)
    return TextPair(
        field(about, "key", str, where, error=ShardError),
        field(about, "first", str, where, error=ShardError),
        field(about, "texts", list[str], where, error=ShardError),
        field(about, "languages", list[str], where, error=ShardError),
    )
