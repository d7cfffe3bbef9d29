"""Which records stand in the batch of a step: a function of (seed, step), for any number of ranks
and workers.

    epoch e of a pool   =  all its records, in an order of (seed, e),
                           with the records of a group spread evenly over it
    stream of a pool    =  epoch 0, epoch 1, ... without a seam: a batch at the seam
                           holds the last of one and the first of the next
    window w            =  the stream's records for S steps, dealt to S batches
                           so that no group, photo or text meets itself in a batch

Each record is thus used exactly once per epoch, none is dropped at its end and none is repeated,
and which batch of its window it falls into never depends on anything outside the window: step
1,000,000 costs what step 0 costs. Photos and text pairs are two pools with a fixed number of places
each in every batch; a group may have records in both.

Dealing is edge colouring: groups and places are the nodes of a bipartite graph, records its edges,
batches the colours. Each place holds one record per batch and no group has more than S records in a
window, so a proper colouring exists (Kőnig), and alternating paths find it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from clippo_core.data.pairs import choose_text, mix
from clippo_core.errors import ConfigError

MIN_WINDOW_STEPS, MAX_WINDOW_STEPS = 16, 4096


@dataclass(frozen=True, eq=False)
class Pool:
    """What the order needs to know about the photos, or about the text pairs."""

    groups: np.ndarray
    """int64 [n]: records with equal numbers never meet in a batch; the numbers are shared between
    the pools."""
    key_hashes: np.ndarray
    """uint64 [n]."""
    text_starts: np.ndarray
    """int64 [n + 1]: texts of record i are text_hashes[text_starts[i] : text_starts[i + 1]]."""
    text_hashes: np.ndarray
    """uint64 [sum of texts]."""
    first_hashes: np.ndarray
    """uint64 [n]: of a text pair's first text, of a photo's bytes; 0 = nothing to meet."""

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """int64 [largest group + 1]: records of each group."""
        return np.bincount(self.groups) if len(self.groups) else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Draw:
    """The records of one batch: `[p]` photos, then `[m]` text pairs."""

    records: np.ndarray
    """int64 [p + m]: places in the photos' and in the texts' pool."""
    texts: np.ndarray
    """int64 [p + m]: which of the record's texts."""
    epochs: np.ndarray
    """int64 [p + m]: which of its pool's epochs."""


def epoch_order(groups: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """int64 [n]: the records in the order of this epoch. A group of k records has one in each k-th
    of it, at a random place.

    Without groups (each record its own) that is a plain random permutation.
    """
    n = len(groups)
    numbers = np.arange(n, dtype=np.uint64)
    place = (mix(numbers, seed, 2 * epoch) >> np.uint64(11)) * 2.0**-53
    by_group = np.lexsort((mix(numbers, seed, 2 * epoch + 1), groups))
    sorted_groups = groups[by_group]
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
    counts = np.diff(np.r_[starts, n])
    rank = np.arange(n) - np.repeat(starts, counts)
    time = np.empty(n)
    time[by_group] = (rank + place[by_group]) / np.repeat(counts, counts)
    return np.argsort(time, kind="stable")


class Order:
    """The batches of a run: `draw(step)`."""

    def __init__(self, photos: Pool, texts: Pool, n_photos: int, n_texts: int, seed: int) -> None:
        """`n_photos` and `n_texts` are the places of each kind in a batch. Raises ConfigError if no
        such order exists.
        """
        self.pools = (photos, texts)
        self.places = (n_photos, n_texts)
        self.seed = seed
        self.window_steps = _window_steps(self.pools, self.places)
        self._epoch = functools.lru_cache(maxsize=8)(self._epoch_order)
        self._window = functools.lru_cache(maxsize=2)(self._dealt)

    def draw(self, step: int) -> Draw:
        """The batch of `step`, counted from 0."""
        window, place = divmod(step, self.window_steps)
        dealt = self._window(window)
        return Draw(dealt.records[place], dealt.texts[place], dealt.epochs[place])

    def _epoch_order(self, kind: int, epoch: int) -> np.ndarray:
        return epoch_order(self.pools[kind].groups, 2 * self.seed + kind, epoch)

    def _stream(self, kind: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(records, epochs) of a stretch of a pool's stream."""
        if not count:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        n = len(self.pools[kind])
        epochs = np.arange(start, start + count) // n
        parts = [
            self._epoch(kind, int(epoch)) for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
        head = start - int(epochs[0]) * n
        return np.concatenate(parts)[head : head + count], epochs

    def _dealt(self, window: int) -> Draw:
        """All batches of a window: arrays [S, p + m]."""
        steps, columns = self.window_steps, []
        for kind, (pool, places) in enumerate(zip(self.pools, self.places, strict=True)):
            records, epochs = self._stream(kind, window * steps * places, steps * places)
            counts = (
                (pool.text_starts[records + 1] - pool.text_starts[records])
                if len(records)
                else records
            )
            texts = (
                choose_text(counts, pool.key_hashes[records], self.seed, epochs)
                if len(records)
                else records
            )
            starts = pool.text_starts[records] if len(records) else records
            second = pool.text_hashes[starts + texts] if len(records) else np.zeros(0, np.uint64)
            first = pool.first_hashes[records] if len(records) else second
            group = pool.groups[records] if len(records) else records
            columns.append(
                [a.reshape(steps, places) for a in (records, texts, epochs, group, second, first)]
            )
        records, texts, epochs, groups, second, first = (
            np.concatenate(pair, axis=1) for pair in zip(*columns, strict=True)
        )
        table = Dealer(groups, second, first, self.places[0], self.seed + window).deal()
        return Draw(*(a.reshape(-1)[table] for a in (records, texts, epochs)))


def _window_steps(pools: tuple[Pool, Pool], places: tuple[int, int]) -> int:
    """Steps of a window: enough of them that no group can be drawn more often than there are
    batches. Raises ConfigError.
    """
    load = np.zeros(max(len(pool.sizes) for pool in pools))
    cycles = []
    for pool, count, name in zip(pools, places, ("photos", "text pairs"), strict=True):
        if not count:
            continue
        if len(pool) < count:
            raise ConfigError(
                f"a batch takes {count} {name}, but there are only {len(pool)}; lower"
                " train.batch_pairs or add data."
            )
        load[: len(pool.sizes)] += pool.sizes * (count / len(pool))
        sizes = pool.sizes[pool.sizes > 0]
        cycles.append(len(sizes) // math.gcd(count, len(sizes)) if (sizes == sizes[0]).all() else 0)
    heaviest = float(load.max())
    if heaviest > 1 + 1e-9:
        raise ConfigError(
            f"the largest group of records (or of records with one caption) fills {heaviest:.2f}"
            " places of every batch, but may fill one; lower train.batch_pairs, or take some of"
            " its records out."
        )
    cycle = math.lcm(
        *cycles
    )  # after so many steps every group was drawn equally often, to the record
    steps = MIN_WINDOW_STEPS
    while steps % max(cycle, 1) or not cycle:
        chance = 1 + 4 / math.sqrt(steps * sum(places))
        if steps * heaviest * chance + 4 <= steps:
            break
        steps += 1 if steps < 256 else 16
        if steps > MAX_WINDOW_STEPS:
            raise ConfigError(
                f"a group of records fills {heaviest:.3f} places of every batch on average, too"
                " close to its one place for an exact order; lower train.batch_pairs a little."
            )
    return steps


class Dealer:
    """Exchanges records between the S batches of a window, photo for photo and text for text, until
    none holds a group or a text twice.
    """

    def __init__(
        self, groups: np.ndarray, second: np.ndarray, first: np.ndarray, n_photos: int, seed: int
    ) -> None:
        """`groups`, `second`, `first`: [S, places] of what must not meet itself in a batch; 0 =
        nothing.
        """
        self.steps, self.width = groups.shape
        self.groups, self.second = groups.reshape(-1), second.reshape(-1)
        self.first = np.where(first == second, 0, first).reshape(-1)
        self.n_photos, self.seed = n_photos, seed
        self.table = np.arange(self.steps * self.width).reshape(self.steps, self.width)
        """Which record of the window each place holds."""

    def deal(self) -> np.ndarray:
        """int64 [S, places]: which of the window's records, counted through, each batch holds."""
        while len(
            crowded := self._crowded(self.groups[self.table])
        ):  # each path leaves one surplus record less in the window
            self._separate_groups(crowded)
        for batch in self._crowded(
            np.concatenate([self.second[self.table], self.first[self.table]], axis=1)
        ):
            self._separate_texts(int(batch))
        return self.table

    @staticmethod
    def _crowded(values: np.ndarray) -> np.ndarray:
        """Rows in which a value stands twice (0 counts as none)."""
        ordered = np.sort(values, axis=1)
        return np.flatnonzero(
            ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)).any(axis=1)
        )

    def _separate_groups(self, crowded: np.ndarray) -> None:
        """A surplus record moves to a batch without its group; the record of that place comes back,
        and so on along a path.
        """
        where: list[dict[int, list[int]]] = [{} for _ in range(self.steps)]
        for row, places in zip(self.groups[self.table].tolist(), where, strict=True):
            for slot, group in enumerate(row):
                places.setdefault(group, []).append(slot)
        for a in crowded.tolist():
            for group in [group for group, slots in where[a].items() if len(slots) > 1]:
                while len(where[a].get(group, ())) > 1:
                    b = next((b for b in self._others(a, group) if group not in where[b]), None)
                    if b is None:
                        raise ConfigError(
                            "a group of records is too large to stand at most once in each of"
                            f" {self.steps} batches in a row; lower train.batch_pairs, or take"
                            " records of that group (or with that one caption) out."
                        )
                    self._flip(a, b, where[a][group][-1], where)

    def _flip(self, a: int, b: int, slot: int, where: list[dict[int, list[int]]]) -> None:
        """Exchange batches a and b along the path that starts at `slot` of a, until what comes to a
        is alone of its group there.
        """
        visited = set()
        while slot >= 0:
            visited.add(slot)
            leaving, coming = (int(self.groups[self.table[row, slot]]) for row in (a, b))
            self.table[[a, b], slot] = self.table[[b, a], slot]
            for row, old, new in ((a, leaving, coming), (b, coming, leaving)):
                where[row][old].remove(slot)
                if not where[row][old]:
                    del where[row][old]
                where[row].setdefault(new, []).append(slot)
            slot = next((other for other in where[a][coming] if other not in visited), -1)

    def _separate_texts(self, a: int) -> None:
        """Exchange each record whose text or photo has already stood in batch a with one of another
        batch, such that both then fit.
        """
        for slot in self._repeated(a):
            for b in self._others(a, slot):
                partners = np.flatnonzero(self._fits(a, slot, b))
                if len(partners):
                    other = int(partners[self._random(slot, b) % len(partners)])
                    self.table[a, slot], self.table[b, other] = (
                        self.table[b, other],
                        self.table[a, slot],
                    )
                    break
            else:
                raise ConfigError(
                    "a text or photo occurs so often that it cannot stand at most once in each of"
                    f" {self.steps} batches in a row; lower train.batch_pairs, or take records with"
                    " it out."
                )

    def _repeated(self, batch: int) -> list[int]:
        """Places of a batch whose text or photo has already stood in it."""
        seen: set[int] = set()
        repeated = []
        for slot, item in enumerate(self.table[batch].tolist()):
            texts = {int(self.second[item]), int(self.first[item])} - {0}
            if texts & seen:
                repeated.append(slot)
            seen |= texts
        return repeated

    def _fits(self, a: int, slot: int, b: int) -> np.ndarray:
        """bool [places]: whether the record at each place of b can change places with the one at
        (a, slot).
        """
        item, theirs = self.table[a, slot], self.table[b]
        ours = np.delete(self.table[a], slot)
        our_texts = np.concatenate([self.second[ours], self.first[ours]])
        our_texts = our_texts[our_texts != 0]
        welcome = ~np.isin(self.groups[theirs], self.groups[ours])
        welcome &= ~np.isin(self.second[theirs], our_texts) & ~np.isin(
            self.first[theirs], our_texts
        )
        texts = [text for text in (self.second[item], self.first[item]) if text != 0]
        like_ours = (
            (self.groups[theirs] == self.groups[item])
            | np.isin(self.second[theirs], texts)
            | np.isin(self.first[theirs], texts)
        )
        welcome &= like_ours.sum() - like_ours == 0
        welcome &= (np.arange(self.width) < self.n_photos) == (slot < self.n_photos)
        return welcome

    def _others(self, a: int, salt: int) -> list[int]:
        """The other batches, from a pseudo-random one on."""
        start = self._random(salt, a) % self.steps
        return [b for b in [*range(start, self.steps), *range(start)] if b != a]

    def _random(self, one: int, two: int) -> int:
        return int(mix(np.array([one], np.int64).astype(np.uint64), self.seed, two)[0])
