"""The records of a manifest's shards: what the order must know of them, and their bytes.

    number of a photo (or text pair)  ─▶  shard, row of its index  ─▶  bytes, hash compared

At the start only the shards' sizes are known. A window's rows are read by range from the indexes of
the shards that it touches (`index_file`); the indexes of a set that fits into a window are kept.
Local shards are read in place; of shards in a bucket a window's ranges are fetched (`blocks`).
Photos and texts are compared with their hash when they are used.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
from dataclasses import dataclass
from typing import IO, NamedTuple, cast

import numpy as np

from clippo_core import storage
from clippo_core.data import index_file, shard_index, shards, text_frames
from clippo_core.data.blocks import PARALLEL, Block, Blocks
from clippo_core.data.index_file import IndexFile
from clippo_core.data.order import Marks
from clippo_core.data.pairs import key_hash
from clippo_core.data.remote_file import RemoteFile
from clippo_core.data.shard_index import TEXT, ShardIndex
from clippo_core.errors import ShardError
from clippo_core.run.records import Manifest

GAP_BYTES = 8 * 2**10
"""Ranges of a tar that lie closer than this are read as one."""
ATTEMPTS = 3
"""How often what is damaged is read: a record with other hashes, rows of an index."""
OPEN_INDEXES = 4096
"""Indexes whose header a process keeps: some kilobytes each."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Some records of one kind or of both, with their places in the shards."""

    index: ShardIndex
    shards: np.ndarray
    """int64 [n]: which shard each lies in."""
    records: np.ndarray
    """int64 [n]: its number in its pool."""
    spans: np.ndarray
    """int64 [n, 2]: the bytes of its shard, from and to, between which its members lie."""

    @functools.cached_property
    def text_starts(self) -> np.ndarray:
        """int64 [n]: where the texts of each begin."""
        return np.cumsum(self.index.text_counts) - self.index.text_counts

    @functools.cached_property
    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """(blocks int64 [b, 3]: shard, start, stop; the block of each record int64 [n])."""
        order = np.lexsort((self.spans[:, 0], self.shards))
        shard, (start, stop) = self.shards[order], self.spans[order].T
        reach = np.maximum.accumulate(stop + (shard << 48)) - (shard << 48)
        new = (shard[1:] != shard[:-1]) | (start[1:] > reach[:-1] + GAP_BYTES)
        number = np.cumsum(np.r_[False, new])[: len(order)]
        first = np.flatnonzero(np.r_[True, new][: len(order)])
        ends = reach[np.r_[first[1:], len(order)] - 1] if len(order) else reach
        of_record = np.empty(len(order), np.int64)
        of_record[order] = number
        return np.stack([shard[first], start[first], ends], axis=1), of_record


class Opened(NamedTuple):
    """A record that has the hashes of its index."""

    key: str
    """Its id."""
    first: bytes
    """The photo, or the first text."""
    texts: list[str]
    """All sound texts."""
    data: bytes
    origin: int
    """Where in its shard these bytes begin."""

    def member(self, span: np.ndarray) -> bytes:
        """The member at a span (offset in the shard, size)."""
        start = int(span[0]) - self.origin
        return self.data[start : start + int(span[1])]


class Records:
    """All records of a manifest: two pools, photos and text pairs."""

    def __init__(self, manifest: Manifest, window_records: int) -> None:
        """Raises ShardError where the manifest is not whole."""
        self._manifest = manifest
        self._shards = shards.shard_list(manifest)
        if not self._shards:
            raise ShardError(f"{manifest.uri}: its manifest names no shard; run `render` again.")
        for shard in self._shards:
            if shard.n_photos not in (0, shard.n_records):
                raise ShardError(
                    f"{shard.tar.name} holds both photos and text pairs; run `render` again."
                )
        counts = np.array([(s.n_photos, s.n_records - s.n_photos) for s in self._shards], np.int64)
        self._starts = np.concatenate([[[0, 0]], counts.cumsum(axis=0)])
        self.sizes = (int(self._starts[-1, 0]), int(self._starts[-1, 1]))
        """Photos, and text pairs."""
        self.fits_window = sum(self.sizes) <= window_records
        self._indexes: dict[int, ShardIndex] = {}
        self._index_file = functools.lru_cache(OPEN_INDEXES)(self._opened_index)
        self._descriptors: dict[tuple[int, int], int] = {}
        self.ranges: Blocks | None = None

    def share_ranges(self, run: str) -> None:
        """Keep ranges of tars in a bucket on disk, under the name of the run."""
        if not all(storage.is_local(self._uri(n)) for n in range(len(self._shards))):
            self.ranges = Blocks(run)

    def marks(self, kind: int, records: np.ndarray) -> Marks:
        """What the order must know of the records (`order.Marks`). Raises ShardError."""
        numbers, where = np.unique(records, return_inverse=True)
        parts = [
            (
                index.key_hashes,
                index.group_hashes,
                index.first_hashes,
                index.text_counts,
                index.text_hashes,
            )
            for _, index in self._by_shard(kind, numbers, places=False)
        ]
        *fixed, texts = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        keys, groups, firsts, counts = (column[where] for column in fixed)
        return Marks(keys, groups, firsts, counts, shard_index.ragged(texts, fixed[3], where))

    def key(self, kind: int, record: int) -> str:
        """The id of a record."""
        one, none = np.array([record]), np.arange(0)
        rows = self.rows((none, one) if kind else (one, none))
        return self.read(rows, 0, 0, at_once=True).key if kind else rows.index.key(0)

    def rows(self, records: tuple[np.ndarray, np.ndarray], drawings: bool = False) -> Rows:
        """The rows of photos and of text pairs, in their order; with `drawings`, the spans take
        these in. Raises ShardError.
        """
        parts, places, numbers = [], [], []
        for kind, wanted in enumerate(records):
            unique, where = np.unique(wanted, return_inverse=True)
            found = [
                (np.full(len(index), shard), index) for shard, index in self._by_shard(kind, unique)
            ]
            if found:
                parts.append(
                    shard_index.take(shard_index.concatenate([one for _, one in found]), where)
                )
                places.append(np.concatenate([shard for shard, _ in found])[where])
                numbers.append(wanted)
        index = shard_index.concatenate(parts)
        second = np.where((index.kinds == TEXT)[:, None], index.first, index.second)
        members = np.stack([index.first, second], axis=1)
        spans = np.stack([members[..., 0].min(1), members.sum(-1).max(1)], axis=1)
        if drawings:
            owner = np.repeat(np.arange(len(index)), index.text_counts)
            np.maximum.at(spans[:, 1], owner, index.drawings.sum(-1))
        return Rows(index, np.concatenate(places), np.concatenate(numbers), spans)

    def block(self, rows: Rows, row: int) -> Block:
        """The range of its tar that the window fetches for a record, or the whole tar where the set
        fits into a window.
        """
        shard = int(rows.shards[row])
        if self.fits_window:
            return Block(self._uri(shard), 0, self._shards[shard].tar.bytes)
        blocks, of_record = rows.blocks
        return Block(self._uri(shard), *blocks[of_record[row], 1:].tolist())

    def fetch(self, rows: Rows, window: int) -> None:
        """Begin to fetch all ranges in a bucket that the rows need."""
        assert self.ranges
        _, first = np.unique(rows.blocks[1], return_index=True)
        found = dict.fromkeys(self.block(rows, row) for row in first.tolist())
        remote = [block for block in found if not storage.is_local(block.uri)]
        self.ranges.fetch_ahead(0 if self.fits_window else window, remote)

    def read(self, rows: Rows, row: int, window: int, at_once: bool) -> Opened:
        """The record with the bytes of `rows.spans[row]`; its photo (or first text) and texts have
        the hashes of the index. `at_once`: where the window's range is not there yet, the record's
        own bytes are read. Raises ShardError.
        """
        start, stop = (int(x) for x in rows.spans[row])
        uri = self._uri(int(rows.shards[row]))
        window = 0 if self.fits_window else window
        for attempt in range(ATTEMPTS):
            if self.ranges is None or storage.is_local(uri):
                data = self._local(int(rows.shards[row]), start, stop)
            elif attempt or (
                at_once and not self.ranges.path(window, self.block(rows, row)).exists()
            ):
                data = self.ranges.read(Block(uri, start, stop))
            else:
                block = self.block(rows, row)
                with open(self.ranges.fetch(window, block), "rb") as file:
                    data = os.pread(file.fileno(), stop - start, start - block.start)
            if opened := self._opened(rows, row, data):
                return opened
        raise ShardError(
            f"{uri}: record {_name(rows, row)} is not what it was when the shard was indexed"
            " (cut short, damaged or replaced); delete the shard and run `render` again, or run the"
            " whole pipeline on the new data."
        )

    def _opened(self, rows: Rows, row: int, data: bytes) -> Opened | None:
        """The record with these bytes; None where they have not its hashes."""
        index, name, origin = rows.index, _name(rows, row), int(rows.spans[row, 0])
        opened = Opened(name, b"", [], data, origin)
        try:
            if index.kinds[row] == TEXT:
                pair = text_frames.read_pair(data, int(index.second[row, 0]), name)
                opened = Opened(pair.key, pair.first.encode(), pair.texts, b"", origin)
            else:
                second = opened.member(index.second[row])
                texts, _ = shard_index.parse_texts(int(index.kinds[row]), second, name)
                opened = opened._replace(first=opened.member(index.first[row]), texts=texts)
        except ShardError:
            return None
        start, count = int(rows.text_starts[row]), int(index.text_counts[row])
        noted = [int(index.first_hashes[row]), *index.text_hashes[start : start + count].tolist()]
        found = [key_hash(opened.first), *map(key_hash, opened.texts)]
        return opened if found == noted else None

    def _uri(self, shard: int) -> str:
        return shards.file_uri(self._manifest, self._shards[shard].tar)

    def _local(self, shard: int, start: int, stop: int) -> bytes:
        place = (os.getpid(), shard)
        if place not in self._descriptors:
            path = shards.local_file(self._manifest, self._shards[shard].tar)
            self._descriptors[place] = os.open(path, os.O_RDONLY)
        return os.pread(self._descriptors[place], stop - start, start)

    def _by_shard(
        self, kind: int, numbers: np.ndarray, places: bool = True
    ) -> list[tuple[int, ShardIndex]]:
        """(shard, the index of its records among them) of ascending records of a pool."""
        if not len(numbers):
            return []
        starts = self._starts[:, kind]
        shard = np.searchsorted(starts, numbers, side="right") - 1
        cut = np.diff(shard) > 0
        if self.ranges and not self.fits_window:  # ranges of one index are read side by side
            cut |= np.diff(numbers) > index_file.GAP
        cuts = np.flatnonzero(cut) + 1
        touched = shard[np.r_[0, cuts]].tolist()

        def one(shard: int, group: np.ndarray) -> ShardIndex:
            return self._index(shard, group - starts[shard], places)

        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            if not self.fits_window:  # or threads would fetch one header several times at once
                for _ in pool.map(self._header, dict.fromkeys(touched)):
                    pass
            return list(zip(touched, pool.map(one, touched, np.split(numbers, cuts)), strict=True))

    def _index(self, shard: int, rows: np.ndarray, places: bool) -> ShardIndex:
        """The index of some records of a shard. Raises ShardError."""
        if self.fits_window:
            if shard not in self._indexes:
                path = shards.local_file(self._manifest, self._shards[shard].index, True)
                index, about = index_file.load(path)
                self._check_index(shard, about)
                self._indexes[shard] = index
            return shard_index.take(self._indexes[shard], rows, places)
        for _ in range(ATTEMPTS - 1 if self.ranges else 0):
            with contextlib.suppress(ShardError):
                return self._index_file(shard).rows(rows, places=places)
        return self._index_file(shard).rows(rows, places=places)

    def _header(self, shard: int) -> None:
        """Keep the header of a shard's index; one that cannot be read is for `_index` to tell."""
        with contextlib.suppress(ShardError):
            self._index_file(shard)

    def _opened_index(self, shard: int) -> IndexFile:
        """The index of a shard, of which rows are read as they are needed. Raises ShardError."""
        entry = self._shards[shard].index
        uri = shards.file_uri(self._manifest, entry)
        if self.ranges and not storage.is_local(uri):
            read = self.ranges.read
            file = IndexFile(lambda: cast(IO[bytes], RemoteFile(read, uri, entry.bytes)), uri)
        else:
            path = shards.local_file(self._manifest, entry)
            file = IndexFile(lambda: path.open("rb"), uri)
        self._check_index(shard, file.about)
        if len(file) != self._shards[shard].n_records:
            raise ShardError(f"{uri} is the index of another shard; run `render` again.")
        return file

    def _check_index(self, shard: int, about: dict[str, str]) -> None:
        if about.get("sha256") != self._shards[shard].tar.sha256:
            raise ShardError(
                f"{shards.file_uri(self._manifest, self._shards[shard].index)} is the index of"
                " another shard; delete it and run `render` again."
            )


def _name(rows: Rows, row: int) -> str:
    """What an error calls a record: a text pair's id lies in its frame."""
    if rows.index.kinds[row] != TEXT:
        return rows.index.key(row)
    return f"in line {rows.index.second[row, 0] + 1} of the frame at byte {rows.spans[row, 0]:,}"
