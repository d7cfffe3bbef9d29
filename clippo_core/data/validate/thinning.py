"""Which records are left out because a mark of theirs is too frequent for its one place a batch.

    mark     =  a text, a photo or a group: in no batch twice (`data.order`)
    drawn    =  how often a mark comes a batch, in the mean: over its records, places / records of
                their pool; of a text, divided by the texts of its record, which takes one an epoch
    thinned  =  from a mark drawn more than 1/2 times a batch only the records stay whose key has a
                hash below a bound: 2^(-j/4), with the least j that suffices

With every mark in at most half of a window's batches, and two marks a record, what a record meets
fills fewer batches than there are, so an order exists. Where windows are whole epochs, a mark comes
exactly its share of times and may fill its place: then nothing is thinned up to 1. The bound moves
only when a mark's share grows by a fifth: a little more data leaves other records as they were.
Where a window takes stretches of neighbours, of those too only some stay.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from clippo_core.data.order import window_steps
from clippo_core.data.pairs import mix

LIMIT, LIMIT_OF_WHOLE_EPOCHS = 0.5, 1.0
"""How often a mark may be drawn a batch, in the mean."""
STRETCH_SHARE = 1 / 64
"""Where a window takes stretches of neighbours, one keeps at most so many records of a mark, as a
share of the window's batches: a mark that comes in clumps would fill some windows."""
MOST_LEFT_OUT = 0.5
"""Where more of a pool would be left out, the batch is too large for the data."""
PART_BITS = 40
SALT = 2**41
"""Apart from the numbers that choose captions."""


@dataclass(frozen=True, eq=False)
class Batches:
    """How batches take records from the two pools, photos and text pairs."""

    sizes: tuple[int, int]
    """Usable records."""
    places: tuple[int, int]
    """Of each batch."""
    window_records: int
    block_records: int

    @property
    def window_steps(self) -> int:
        return window_steps(self.sizes, self.places, self.window_records)

    @property
    def limit(self) -> float:
        """How often a mark may be drawn a batch without being thinned."""
        pairs = zip(self.sizes, self.places, strict=True)
        whole = all(not n or self.window_steps * n % size == 0 for size, n in pairs)
        return LIMIT_OF_WHOLE_EPOCHS if whole else LIMIT

    @property
    def most_of_a_stretch(self) -> int:
        """Records of a mark that a stretch of neighbours may have."""
        return max(1, math.floor(self.window_steps * STRETCH_SHARE))

    def takes_stretches(self, kind: int) -> bool:
        """Whether a window is smaller than a pool, and takes stretches of neighbours of it."""
        return 0 < self.places[kind] * self.window_steps < self.sizes[kind]


@dataclass(frozen=True, eq=False)
class Frequent:
    """The records that have one of some marks, and where they have it."""

    kinds: np.ndarray
    """[r]: 0 = photo, 1 = text pair."""
    key_hashes: np.ndarray
    """uint64 [r]."""
    n_texts: np.ndarray
    """int64 [r]: usable texts that can be drawn (of a text pair: its second ones)."""
    numbers: np.ndarray
    """int64 [r], ascending: partition << PART_BITS, and which of its records it is."""
    marks: np.ndarray
    """int64 [k]: which mark; one row for each time that a record has one."""
    rows: np.ndarray
    """int64 [k]: the record."""
    is_text: np.ndarray
    """bool [k]: whether it is one of the texts that are drawn; else it comes with the record."""

    @functools.cached_property
    def chance(self) -> np.ndarray:
        """float [k] in 0..1, of the records' keys alone: rows below a bound stay."""
        numbers = (mix(self.key_hashes, 0, SALT) >> np.uint64(11)) * 2.0**-53
        return np.asarray(numbers[self.rows])

    @functools.cached_property
    def by_mark(self) -> np.ndarray:
        """int64 [k]: the rows by mark, then by record, so that neighbours lie side by side."""
        return np.lexsort((self.rows, self.marks))

    @functools.cached_property
    def part_starts(self) -> np.ndarray:
        """int64 [r]: the first record of each record's partition."""
        parts = self.numbers >> PART_BITS
        return np.searchsorted(parts, parts)


class TooFrequentError(Exception):
    """Too many records would have to be left out."""

    def __init__(self, kind: int, share: float) -> None:
        """`share` of the photos (kind 0) or text pairs (1)."""
        super().__init__(kind, share)
        self.kind, self.share = kind, share


def thinned(found: Frequent, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """(left out bool [k], drawn float [marks]): the rows whose text or record is left out, and how
    often each mark is drawn a batch without that. Raises TooFrequentError.
    """
    n_marks = int(found.marks.max(initial=-1)) + 1
    first = _lowest(found)
    out = crowded = np.zeros(len(found.marks), bool)
    exponents = np.zeros(n_marks, np.int64)
    drawn, gone = _drawn(found, batches, out)
    before, limit = drawn, batches.limit * (1 + 1e-9)
    while True:
        more = _crowded(found, gone, batches) & ~(out | gone[found.rows])
        several = np.bincount(found.marks[~(out | gone[found.rows])], minlength=n_marks) > 1
        over = several & (drawn > limit)
        if not more.any() and not over.any():
            return out, before
        limit = LIMIT  # what is left of an epoch no longer fits a window exactly
        crowded = crowded | more
        exponents[over] += np.ceil(4 * np.log2(drawn[over] / LIMIT)).astype(np.int64).clip(1)
        late = found.chance >= 2.0 ** (-exponents[found.marks] / 4)
        out = (crowded | late) & ~first
        drawn, gone = _drawn(found, batches, out)
        for kind, (size, places) in enumerate(zip(batches.sizes, batches.places, strict=True)):
            share = int(gone[found.kinds == kind].sum()) / max(size, 1)
            if places and share > MOST_LEFT_OUT:
                raise TooFrequentError(kind, share)


def _drawn(found: Frequent, batches: Batches, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(how often each mark is drawn a batch, bool [r]: the records that are gone), without the
    texts, and the records, of the rows `out`. A record goes with its last text.
    """
    n_records = len(found.kinds)
    lost = np.bincount(found.rows[out & found.is_text], minlength=n_records)
    gone = np.bincount(found.rows[out & ~found.is_text], minlength=n_records) > 0
    gone |= lost >= found.n_texts
    rates = np.zeros(2)
    for kind, (size, places) in enumerate(zip(batches.sizes, batches.places, strict=True)):
        rates[kind] = places / max(size - int(gone[found.kinds == kind].sum()), places, 1)
    weights = rates[found.kinds[found.rows]]
    texts = np.maximum(found.n_texts - lost, 1)[found.rows]
    weights = np.where(found.is_text, weights / texts, weights)
    kept = ~(out | gone[found.rows])
    n_marks = int(found.marks.max(initial=-1)) + 1
    return np.bincount(found.marks[kept], weights[kept], n_marks), gone


def _lowest(found: Frequent) -> np.ndarray:
    """bool [k]: of each mark, the row whose record stays whatever the bound."""
    lowest = np.zeros(len(found.marks), bool)
    starts, sizes = _runs(found.marks[found.by_mark])
    if len(starts):
        chance = found.chance[found.by_mark]
        least = np.repeat(np.minimum.reduceat(chance, starts), sizes)
        equal = found.by_mark[chance == least]
        lowest[equal[_runs(found.marks[equal])[0]]] = True
    return lowest


def _crowded(found: Frequent, gone: np.ndarray, batches: Batches) -> np.ndarray:
    """bool [k]: rows beyond those that a stretch of neighbours may have of one mark. Neighbours are
    those that are left, in their partition. Only stretches with too many of a mark are sorted.
    """
    asked = np.array([batches.takes_stretches(kind) for kind in (0, 1)])
    is_asked = ~gone & asked[found.kinds]
    kept = found.by_mark[is_asked[found.rows[found.by_mark]]]
    before = np.cumsum(gone) - gone
    before -= before[found.part_starts]
    stretches = ((found.numbers - before) // batches.block_records)[found.rows[kept]]
    sizes = _runs(found.marks[kept], stretches)[1]
    is_large = np.repeat(sizes > batches.most_of_a_stretch, sizes)
    kept, cells = kept[is_large], np.repeat(np.arange(len(sizes)), sizes)[is_large]
    order = np.lexsort((found.chance[kept], cells))
    starts, sizes = _runs(cells)
    nth = np.arange(len(order)) - np.repeat(starts, sizes)
    crowded = np.zeros(len(found.marks), bool)
    crowded[kept[order[nth >= batches.most_of_a_stretch]]] = True
    return crowded


def _runs(*columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts, sizes) of the stretches in which no column changes."""
    n = len(columns[0])
    changes = np.zeros(n, bool)
    changes[:1] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(changes)
    return starts, np.diff(np.append(starts, n))
