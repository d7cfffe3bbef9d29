"""A window's records, dealt to its batches so that no mark stands twice in one.

    mark    =  a group, a photo, a text: 64 bits that some records share
    place   =  a column of the window: one record per batch, S records in S batches
    dealt   =  each place's records in a random order within each run of the window (an epoch of a
               small set); then records that meet a mark of theirs are exchanged with others of
               their place, or, where none fits, of another place

A window in which many records meet (few groups for many places) is dealt anew, as an edge
colouring: marks and places are the nodes of a bipartite graph, records its edges, batches the
colours, and each batch is a matching of the places that takes every mark that no later batch could
take. It exists as long as no record has two marks and no mark more than S records (Kőnig); a record
with several counts by its most frequent one, and what else meets is exchanged as above.
"""

from __future__ import annotations

import contextlib
import itertools

import numpy as np

from clippo_core.data.pairs import mix
from clippo_core.extras import optional_import

DENSE = 1 / 8
"""From this share of records that meet one of their marks a window is dealt by matchings."""


ATTEMPTS = 8
"""Other random orders that a window gets whose records cannot be exchanged until none meet."""


class InseparableError(Exception):
    """A mark that cannot stand at most once in each batch of the window."""

    def __init__(self, item: int, mark: int, times: int) -> None:
        """`item` is one of the window's `times` records that have the mark."""
        super().__init__(item, mark, times)
        self.item, self.mark, self.times = item, mark, times


def dealt(marks: np.ndarray, steps: int, run: int, n_photos: int, seed: int) -> np.ndarray:
    """int32 [places, steps]: which of the window's items each place of each batch holds.

    marks: uint64 [m, places * steps], 0 = none; item i belongs to place i // steps, and stays
    within its `run` of i % steps as far as it can. The first `n_photos` places hold photos: a photo
    is exchanged for a photo, a text pair for a text pair. Raises InseparableError.
    """
    for attempt in range(ATTEMPTS):
        window = _Window(marks, steps, run, n_photos, seed + attempt * 2**40)
        if window.meeting() < DENSE * marks.shape[1]:
            with contextlib.suppress(InseparableError):
                return window.exchanged()
        window.match()
        try:
            return window.exchanged()
        except InseparableError as error:
            given_up = error
    raise given_up


class _Window:
    """The items of a window, where they stand, and the marks that several of them have."""

    def __init__(self, marks: np.ndarray, steps: int, run: int, n_photos: int, seed: int) -> None:
        self.steps, self.places, self.seed = steps, marks.shape[1] // steps, seed
        self.run_of = np.arange(steps) // run
        self.n_photos = n_photos
        items, numbers, self._values = _shared(marks)
        self.n_marks = len(self._values)
        counts = np.bincount(numbers, minlength=self.n_marks)
        self._sharers = items[np.argsort(numbers, kind="stable")]
        self._sharers_end = np.cumsum(counts)
        if self.n_marks and counts.max() > steps:
            self._give_up(int(np.argmax(counts)))
        self._items = items
        self._numbers = numbers[np.lexsort((-counts[numbers], items))]
        self._numbers_end = np.cumsum(np.bincount(items, minlength=marks.shape[1]))
        runs = self.run_of.astype(np.uint64) << np.uint64(48)
        chance = self._random(0).reshape(self.places, steps) >> np.uint64(16)
        order = (runs + chance).argsort(axis=1)
        self._stand(order + np.arange(self.places)[:, None] * steps)

    def _random(self, salt: int) -> np.ndarray:
        """uint64: a number per item."""
        numbers = np.arange(self.places * self.steps, dtype=np.uint64)
        return mix(numbers, self.seed, salt)

    def _stand(self, table: np.ndarray) -> None:
        self.table = table.astype(np.int32)
        self.batch = np.empty(table.size, np.int32)
        self.batch[self.table] = np.arange(self.steps, dtype=np.int32)
        self.place = np.repeat(np.arange(self.places, dtype=np.int32), self.steps)

    def _keys(self) -> np.ndarray:
        """int64, sorted: batch * n_marks + mark, for all items and their marks."""
        keys = self.batch[self._items].astype(np.int64) * self.n_marks + self._numbers
        keys.sort()
        return keys

    def meeting(self) -> int:
        """How often a mark stands in a batch where it already stood."""
        keys = self._keys()
        return int((keys[1:] == keys[:-1]).sum())

    def exchanged(self) -> np.ndarray:
        """The table, once no mark stands twice in a batch. Raises InseparableError."""
        keys = self._keys()
        again = keys[1:][keys[1:] == keys[:-1]]
        for key in again[_starts(again)].tolist():
            while len(alike := self._with(key)) > 1:
                if not any(self._exchange(item) for item in alike):
                    self._give_up(key % self.n_marks)
        return self.table

    def match(self) -> None:
        """Deal the window anew: no item meets another with its most frequent mark."""
        with optional_import():
            from scipy.sparse import csr_array
            from scipy.sparse.csgraph import min_weight_full_bipartite_matching

        size = self.places * self.steps
        first = self.n_marks + np.arange(size)  # an item that shares nothing has a mark of its own
        busy = np.flatnonzero(np.diff(self._numbers_end, prepend=0))
        first[busy] = self._numbers[np.r_[0, self._numbers_end][busy]]
        marks, first = np.unique(first, return_inverse=True)
        by_edge = np.lexsort((first, np.arange(size) // self.steps))
        edge = by_edge // self.steps * len(marks) + first[by_edge]  # ascending: place, then mark
        starts = _starts(edge)
        place, mark = np.divmod(edge[starts], len(marks))
        taken, ends = starts.copy(), np.r_[starts[1:], size]
        table = np.empty((self.places, self.steps), np.int64)
        for batch in range(self.steps):
            open_ = np.flatnonzero(taken < ends)
            left = np.bincount(mark[open_], (ends - taken)[open_], len(marks))
            urgent = left[mark[open_]] == self.steps - batch
            chance = 1 + (mix(open_.astype(np.uint64), self.seed, 2 + batch) >> np.uint64(52))
            early = self.run_of[by_edge[taken[open_]] % self.steps] > self.run_of[batch]
            # Whole numbers below 2^53: the matching's arithmetic is exact, and so ends.
            cost = chance + 4097.0 * self.places * (early + self.places * ~urgent)
            graph = csr_array((cost, (place[open_], mark[open_])), (self.places, len(marks)))
            chosen = min_weight_full_bipartite_matching(graph)[1]
            used = np.searchsorted(edge[starts], np.arange(self.places) * len(marks) + chosen)
            table[:, batch] = by_edge[taken[used]]
            taken[used] += 1
        self._stand(table)

    def _sharing(self, mark: int) -> np.ndarray:
        """The items that have a mark."""
        return self._sharers[self._sharers_end[mark - 1] if mark else 0 : self._sharers_end[mark]]

    def _with(self, key: int) -> list[int]:
        """The items of a batch that have a mark."""
        batch, mark = divmod(key, self.n_marks)
        sharers = self._sharing(mark)
        found: list[int] = sharers[self.batch[sharers] == batch].tolist()
        return found

    def _marks(self, item: int) -> list[int]:
        """An item's marks that others have too, the most frequent one first."""
        start = self._numbers_end[item - 1] if item else 0
        found: list[int] = self._numbers[start : self._numbers_end[item]].tolist()
        return found

    def _exchange(self, item: int) -> bool:
        """Exchange an item with one of another batch such that both fit, if there is one: of the
        same place, or else of any place that holds the same kind.
        """
        here, place = int(self.batch[item]), int(self.place[item])
        others = [*range(here + 1, self.steps), *range(here)]
        same_place = ((there, int(self.table[place, there])) for there in others)
        elsewhere = ((there, one) for there in others for one in self._candidates(item, there))
        for there, other in itertools.chain(same_place, elsewhere):
            if self._fits(item, there, other) and self._fits(other, here, item):
                for kept in (self.place, self.batch):
                    kept[item], kept[other] = kept[other], kept[item]
                for moved in (item, other):
                    self.table[self.place[moved], self.batch[moved]] = moved
                return True
        return False

    def _fits(self, item: int, batch: int, leaving: int) -> bool:
        """Whether a batch that `leaving` leaves has none of the item's marks."""
        base = batch * self.n_marks
        return all(self._with(base + mark) in ([], [leaving]) for mark in self._marks(item))

    def _candidates(self, item: int, batch: int) -> list[int]:
        """The items of a batch, of the same kind, that could make way for `item`: all, or those
        that share a mark with it.
        """
        is_photo = self.place[item] < self.n_photos
        for mark in self._marks(item):
            if in_the_way := self._with(batch * self.n_marks + mark):
                return [one for one in in_the_way if (self.place[one] < self.n_photos) == is_photo]
        kind = slice(self.n_photos) if is_photo else slice(self.n_photos, None)
        found: list[int] = self.table[kind, batch].tolist()
        turn = int(self.place[item]) % len(found)
        return found[turn:] + found[:turn]

    def _give_up(self, mark: int) -> None:
        sharing = self._sharing(mark)
        raise InseparableError(int(sharing[0]), int(self._values[mark]), len(sharing))


def _shared(marks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(items, numbers, values): the marks that occur more than once, uint64 [m], and all pairs of
    an item and the number of such a mark, int64 [k] each, by item.
    """
    flat = marks.reshape(-1)
    ordered = np.sort(flat)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    again = again[_starts(again)]
    values = again[1:] if len(again) and again[0] == 0 else again
    if not len(values):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), values
    low = np.uint64((1 << 20) - 1)
    seen = np.zeros(1 << 20, bool)  # most marks stand alone: a glance sorts them out
    seen[values & low] = True
    where = np.flatnonzero(seen[flat & low])
    number = np.minimum(np.searchsorted(values, flat[where]), len(values) - 1)
    hit = values[number] == flat[where]
    pairs = np.sort(where[hit] % marks.shape[1] * len(values) + number[hit])
    pairs = pairs[_starts(pairs)]
    return pairs // len(values), pairs % len(values), values


def _starts(ordered: np.ndarray) -> np.ndarray:
    """int64: where each value begins."""
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
