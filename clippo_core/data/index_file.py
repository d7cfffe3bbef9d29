"""The index of a shard on disk: rows of one width, so that those of some records are read by range.

    numbers-00000.index, a safetensors file
      marks     uint8 [n, 20]      photo or first text u64, text u64, check u32
      extras    uint64 [x]         for records with a group or several texts: key, group, texts, sum
      places    uint8 [n, 53 + k]  photos: spans and length of the key 6 u64, kind u8, key, check
      frames    uint8 [f + 1, 20]  text pairs: first record u64, offset u64, check u32; then the end
      drawings  uint8 [t, 20]      where they are stored: offset u64, size u64, check u32

The marks are what the order needs of every record of a window; where a record's bytes lie, only the
rank that has it. A key stands here for photos only: a text pair's lies in its frame. No checksum of
the whole file can be compared by who reads parts of it, so each row has its own; it is the
complement where the row's `text` says where its extras lie (offset << 24 | words). The key decides
nothing for a record with one text, so only the others' is kept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from clippo_core.data.sealed_rows import as_bytes, as_numbers, sealed, sums, unsealed
from clippo_core.data.shard_index import (
    PHOTO,
    TEXT,
    ShardIndex,
    concatenate,
    fault,
    ragged,
    spread,
    take,
    without_places,
)
from clippo_core.errors import ShardError
from clippo_core.untrusted.json import at, field, load_json
from clippo_core.untrusted.names import reason, refusal
from clippo_core.untrusted.numbers import whole_number
from clippo_core.untrusted.tensors import Safetensors, open_safetensors

GAP = 256
"""Records between two that are wanted, up to which both are read at once."""
AGAIN = "delete it and run `render` again"
_WORDS_BITS = np.uint64(24)
_WIDTHS = {"marks": (20, 20), "frames": (20, 20), "drawings": (20, 20), "places": (53, 2**16)}
"""Least and largest width of the rows of each array."""


def save(index: ShardIndex, path: Path, about: dict[str, str]) -> None:
    """Write an index and what it is about, the same bytes for the same content."""
    from safetensors.numpy import save as written

    arrays = {name: np.ascontiguousarray(array) for name, array in packed(index).items()}
    path.write_bytes(written(arrays, metadata={"about": json.dumps(about, sort_keys=True)}))


def load(path: Path) -> tuple[ShardIndex, dict[str, str]]:
    """(index, about) of an index file. Raises ShardError for anything else."""
    try:
        file = IndexFile(lambda: path.open("rb"), str(path))
        return file.rows(np.arange(len(file))), file.about
    except OSError as error:
        words = f"it cannot be read ({reason(error)})"
        raise refusal(ShardError, str(path), words, AGAIN) from error


def packed(index: ShardIndex) -> dict[str, np.ndarray]:
    """The arrays of an index file."""
    is_text = index.kinds == TEXT
    marks, extras = _packed_marks(index)
    drawings = index.drawings if index.drawings.any() else index.drawings[:0]
    frames = np.zeros((0, 2), np.uint64)
    if is_text.any():
        starts = np.flatnonzero(index.second[:, 0] == 0)
        first = index.first[starts]
        ends = [len(index), first[-1].sum()]
        frames = np.r_[np.stack([starts, first[:, 0]], axis=1), [ends]]
    return {
        "marks": marks,
        "extras": extras,
        "places": _packed_places(index) if not is_text.any() else np.zeros((0, 53), np.uint8),
        "frames": sealed(as_bytes(frames)),
        "drawings": sealed(as_bytes(drawings)),
    }


def _packed_marks(index: ShardIndex) -> tuple[np.ndarray, np.ndarray]:
    """(marks, extras)."""
    counts = index.text_counts
    starts = np.cumsum(counts) - counts
    more = np.flatnonzero((counts != 1) | (index.group_hashes != 0))
    lengths = counts[more] + 3
    if len(lengths) and lengths.max() >> int(_WORDS_BITS):
        raise ShardError("a record has more than 16 million texts; split it.")
    begin = np.cumsum(lengths) - lengths
    extras = np.zeros(lengths.sum(), np.uint64)
    extras[begin], extras[begin + 1] = index.key_hashes[more], index.group_hashes[more]
    extras[spread(begin + 2, counts[more])] = ragged(index.text_hashes, counts, more)
    extras[begin + lengths - 1] = sums(extras, begin, lengths)
    texts = index.text_hashes[starts]
    texts[more] = begin.astype(np.uint64) << _WORDS_BITS | lengths.astype(np.uint64)
    marks = sealed(as_bytes(np.stack([index.first_hashes, texts], axis=1)))
    marks[more, -4:] ^= 0xFF
    return marks, extras


def _packed_places(index: ShardIndex) -> np.ndarray:
    lengths = np.diff(index.key_ends, prepend=0)
    keys = np.zeros((len(index), int(lengths.max(initial=0))), np.uint8)
    keys[np.arange(keys.shape[1]) < lengths[:, None]] = index.keys
    starts = np.cumsum(index.text_counts) - index.text_counts
    spans = np.concatenate([index.first, index.second], axis=1)
    numbers = np.concatenate([spans, starts[:, None], lengths[:, None]], axis=1)
    return sealed(np.concatenate([as_bytes(numbers), index.kinds[:, None], keys], axis=1))


class IndexFile:
    """An index on disk or in a bucket, of which only the header was read."""

    def __init__(self, opened: Callable[[], IO[bytes]], where: str) -> None:
        """`opened` gives the file. Raises ShardError for what is no index."""
        self._opened, self.where = opened, where
        with opened() as file:
            self._stored = open_safetensors(file, where, error=ShardError)
        note = field(self._stored.metadata, "about", str, where, error=ShardError)
        about = load_json(note, where, error=ShardError, remedy=AGAIN)
        self.about = at(about, dict[str, str], where, "about", error=ShardError)
        """What `save` was told: the shard's name, bytes and sha256, and what it follows from."""
        size = self.about.get("bytes", "")
        self._shard_bytes = whole_number(size, f"{where}, bytes", error=ShardError)
        self._check_header()
        self._kept_frames: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._stored.facts["marks"].shape[0]

    def rows(self, wanted: np.ndarray, *, places: bool = True) -> ShardIndex:
        """The index of some records (int64, ascending, each once), read by range; without `places`,
        only their hashes count, and the rest is zeros. Raises ShardError for damaged rows.
        """
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise self._refused(f"it has no record {wanted[-1]:,}")
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > GAP) + 1)
        with self._opened() as file:
            stored = dataclasses.replace(self._stored, file=file)
            found = [
                take(self._read(stored, int(run[0]), int(run[-1]) + 1, places), run - run[0])
                for run in runs
                if len(run)
            ]
            index = concatenate(found) if found else self._read(stored, 0, 0, places)
        if words := fault(index, self._shard_bytes):
            raise self._refused(words)
        return index

    def _read(self, stored: Safetensors, start: int, stop: int, places: bool) -> ShardIndex:
        is_text = bool(stored.facts["frames"].shape[0])
        kinds = np.full(stop - start, TEXT if is_text else PHOTO, np.uint8)
        index = without_places(kinds, *self._marks(stored, start, stop))
        if not places:
            return index
        return self._framed(stored, index, start) if is_text else self._placed(stored, index, start)

    def _marks(self, stored: Safetensors, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """(keys, groups, firsts, counts, texts) of neighbours."""
        content, seals = unsealed(stored.read_rows("marks", start, stop))
        more = seals == 0xFFFFFFFF
        if (seals[~more] != 0).any():
            raise self._refused("its marks are damaged")
        firsts, noted = as_numbers(content).T
        counts = np.ones(len(firsts), np.int64)
        keys, groups = np.zeros(len(firsts), np.uint64), np.zeros(len(firsts), np.uint64)
        if not more.any():
            return keys, groups, firsts, counts, noted
        lengths = (noted[more] & ((np.uint64(1) << _WORDS_BITS) - np.uint64(1))).astype(np.int64)
        starts = (noted[more] >> _WORDS_BITS).astype(np.int64)
        begin, total = np.cumsum(lengths) - lengths, int(lengths.sum())
        end, n_extras = int(starts[0]) + total, stored.facts["extras"].shape[0]
        if (starts != starts[0] + begin).any() or lengths.min() < 4 or end > n_extras:
            raise self._refused("its extras do not lie where its marks say")
        extras = stored.read_rows("extras", int(starts[0]), end)
        if (sums(extras, begin, lengths) != extras[begin + lengths - 1]).any():
            raise self._refused("its extras are damaged")
        keys[more], groups[more], counts[more] = extras[begin], extras[begin + 1], lengths - 3
        texts, where = np.empty(counts.sum(), np.uint64), np.cumsum(counts) - counts
        texts[where[~more]] = noted[~more]
        texts[spread(where[more], lengths - 3)] = extras[spread(begin + 2, lengths - 3)]
        return keys, groups, firsts, counts, texts

    def _framed(self, stored: Safetensors, index: ShardIndex, start: int) -> ShardIndex:
        """With the frames and lines of text pairs."""
        starts, offsets = self._frames(stored)
        records = np.arange(start, start + len(index))
        frame = np.searchsorted(starts, records, side="right") - 1
        first = np.stack([offsets[frame], offsets[frame + 1] - offsets[frame]], axis=1)
        second = np.stack([records - starts[frame], np.zeros(len(index), np.int64)], axis=1)
        return dataclasses.replace(index, first=first, second=second)

    def _frames(self, stored: Safetensors) -> tuple[np.ndarray, np.ndarray]:
        """(first record, offset) of each frame, and where the last one ends."""
        if self._kept_frames is None:
            n_frames = stored.facts["frames"].shape[0]
            content, seals = unsealed(stored.read_rows("frames", 0, n_frames))
            starts, offsets = as_numbers(content).astype(np.int64).T
            rising = (np.diff(starts) > 0).all() and (np.diff(offsets) > 0).all()
            if seals.any() or starts[0] or starts[-1] != len(self) or not rising:
                raise self._refused("its frames are damaged")
            self._kept_frames = starts, offsets
        return self._kept_frames

    def _placed(self, stored: Safetensors, index: ShardIndex, start: int) -> ShardIndex:
        """With the spans and keys of photos."""
        content, seals = unsealed(stored.read_rows("places", start, start + len(index)))
        numbers = as_numbers(content[:, :48]).astype(np.int64)
        kinds, keys = content[:, 48], content[:, 49:]
        starts, lengths = numbers[:, 4], numbers[:, 5]
        nth = np.cumsum(index.text_counts) - index.text_counts
        whole = (lengths >= 0).all() and (lengths <= keys.shape[1]).all() and (kinds != TEXT).all()
        if seals.any() or not whole or (starts - starts[:1] != nth).any():
            raise self._refused("its places are damaged")
        drawings, n_drawings = index.drawings, stored.facts["drawings"].shape[0]
        if n_drawings and len(index):
            end = int(starts[0]) + len(drawings)
            if not 0 <= starts[0] <= end <= n_drawings:
                raise self._refused("it counts other texts than it has")
            content, seals = unsealed(stored.read_rows("drawings", int(starts[0]), end))
            if seals.any():
                raise self._refused("its drawings are damaged")
            drawings = as_numbers(content).astype(np.int64)
        return dataclasses.replace(
            index,
            kinds=np.ascontiguousarray(kinds),
            first=numbers[:, :2],
            second=numbers[:, 2:4],
            drawings=drawings,
            keys=keys[np.arange(keys.shape[1]) < lengths[:, None]],
            key_ends=np.cumsum(lengths),
        )

    def _check_header(self) -> None:
        facts = self._stored.facts
        for name, (least, most) in _WIDTHS.items():
            shape = facts[name].shape if name in facts else ()
            if len(shape) != 2 or facts[name].dtype != "U8" or not least <= shape[1] <= most:
                raise self._refused(f"{name} is missing, or of another type or shape")
        if "extras" not in facts or facts["extras"].dtype != "U64" or "name" not in self.about:
            raise self._refused("extras is missing or of another type, or it names no shard")
        n, n_places = facts["marks"].shape[0], facts["places"].shape[0]
        n_frames = facts["frames"].shape[0]
        if len(facts["extras"].shape) != 1 or (n_places, n_frames > 1) not in (
            (n, False),
            (0, True),
        ):
            raise self._refused("its arrays are of different lengths")

    def _refused(self, words: str) -> ShardError:
        error = refusal(ShardError, self.where, f"it is no shard index ({words})", AGAIN)
        assert isinstance(error, ShardError)
        return error
