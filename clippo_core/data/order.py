"""Which records stand in the batch of a step: a function of (seed, step), for data of any size and
any number of ranks and workers, in the memory of one window.

    a pool              =  all photos, or all text pairs: records 0 .. n - 1, in the shards' order
    epoch e of a pool   =  its records in blocks of R neighbours, the blocks in an order of
                           (seed, e) that is computed, not stored; their borders move each epoch
    stream of a pool    =  epoch 0, epoch 1, ... without a seam
    window w            =  the stream's records for S steps: each place of a batch has a run of S
                           of them, one per batch, exchanged between batches (`separate`) until no
                           group, photo or text meets itself in one
    rank r of N         =  contiguous places, so contiguous stretches of the streams, of the shards

Each record is thus used exactly once per epoch, none is dropped at its end and none is repeated,
and which batch of its window it falls into never depends on anything outside the window: step
1,000,000 costs what step 0 costs. Photos and text pairs are two pools with a fixed number of places
each in every batch; a group may have records in both. A pool that fits into a window is shuffled
record by record (R = 1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clippo_core.data import separate
from clippo_core.data.pairs import ORDER_VERSION, choose_text, mix
from clippo_core.errors import ConfigError

MIN_WINDOW_STEPS, WINDOW_EPOCHS, ROUNDS = 16, 16, 4
GROUP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Marks:
    """What the order must know of some records."""

    key_hashes: np.ndarray
    """uint64 [n]."""
    group_hashes: np.ndarray
    """uint64 [n]: records with equal numbers never meet in a batch; 0 = alone."""
    first_hashes: np.ndarray
    """uint64 [n]: of a text pair's first text, or of a photo's bytes."""
    text_counts: np.ndarray
    """int64 [n]."""
    text_hashes: np.ndarray
    """uint64 [sum of text_counts]: of the texts, record after record."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The photos, or the text pairs."""

    size: int
    marks: Callable[[np.ndarray], Marks]
    """The marks of some records, int64 [n], in their order."""
    name: Callable[[int], str]
    """What an error calls a record."""


@dataclass(frozen=True)
class Draw:
    """The records of one batch: `[p]` photos, then `[m]` text pairs."""

    records: np.ndarray
    """int64 [p + m]: places in the photos' and in the texts' pool."""
    texts: np.ndarray
    """int64 [p + m]: which of the record's texts."""
    epochs: np.ndarray
    """int64 [p + m]: which of its pool's epochs."""


def window_steps(sizes: tuple[int, int], places: tuple[int, int], window_records: int) -> int:
    """Steps of a window: as many as `window_records` allow, fewer for small pools.

    Where whole epochs of both pools fit, a window is a whole number of them: then each group is
    drawn exactly its share of times, and may fill its place in every batch.
    """
    pools = [(size, n) for size, n in zip(sizes, places, strict=True) if n]
    most = max(MIN_WINDOW_STEPS, window_records // sum(places))
    cycle = math.lcm(*(size // math.gcd(size, n) for size, n in pools))
    epochs = WINDOW_EPOCHS * max(size // n for size, n in pools)
    if cycle <= min(most // 8, 2 * epochs):
        return cycle * -(-MIN_WINDOW_STEPS // cycle)
    return min(most, max(MIN_WINDOW_STEPS, epochs))


def permuted(numbers: np.ndarray, n: int, seed: int, salt: int) -> np.ndarray:
    """int64: the images of `numbers` under a permutation of 0 .. n - 1 that (seed, salt) names.

    A Feistel network over the next power of four, applied again to what falls outside.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    images = np.array(numbers, np.uint64)
    todo = np.arange(len(images))
    while len(todo):
        left, right = images[todo] >> half, images[todo] & low
        for turn in range(ROUNDS):
            left, right = right, left ^ (mix(right, seed, ROUNDS * salt + turn) & low)
        images[todo] = left << half | right
        todo = todo[images[todo] >= n]
    return images.astype(np.int64)


def epoch_records(places: np.ndarray, n: int, block: int, seed: int, epoch: int) -> np.ndarray:
    """int64: the records at `places` (ascending, 0 .. n - 1) of an epoch of n records."""
    blocks = n // block
    whole = int(np.searchsorted(places, blocks * block))
    numbers, inside = np.divmod(places[:whole], block)
    new = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]][:whole])
    images = permuted(numbers[new], blocks, seed, 2 * epoch)
    starts = np.repeat(images, np.diff(np.r_[new, whole])) * block
    turned = int(mix(np.array([epoch], np.uint64), seed, 2**40)[0]) % n
    return (np.r_[starts + inside, places[whole:]] + turned) % n


class Order:
    """The batches of a run: `draw(step)`."""

    def __init__(
        self,
        photos: Pool,
        texts: Pool,
        n_photos: int,
        n_texts: int,
        seed: int,
        *,
        window_records: int,
        block_records: int,
    ) -> None:
        """`n_photos` and `n_texts` are the places of each kind in a batch. Raises ConfigError where
        a pool has fewer records than places.
        """
        self.pools, self.places, self.seed = (photos, texts), (n_photos, n_texts), seed
        kinds = ("photos", "text pairs")
        for pool, places, kind in zip(self.pools, self.places, kinds, strict=True):
            if pool.size < places:
                raise ConfigError(
                    f"a batch takes {places} {kind}, but there are only {pool.size}; lower"
                    " train.batch_pairs or add data."
                )
        self.window_steps = window_steps((photos.size, texts.size), self.places, window_records)
        epochs = [pool.size // n for pool, n in zip(self.pools, self.places, strict=True) if n]
        self.run_steps = min(self.window_steps, max(MIN_WINDOW_STEPS, min(epochs)))
        self.block_records = block_records
        self.identity = [ORDER_VERSION, seed, self.places, window_records, block_records]
        """What the batches of a set follow from."""
        self.window = functools.lru_cache(maxsize=2)(self._window)

    def draw(self, step: int) -> Draw:
        """The batch of `step`, counted from 0. Raises ConfigError where a mark is too frequent."""
        number, batch = divmod(step, self.window_steps)
        return self.window(number).batch(batch)

    def rank_slices(self, rank: int, world_size: int) -> tuple[slice, slice]:
        """Places of a rank's photos and text pairs in the global batch; every rank has as many
        pairs. Raises ConfigError.
        """
        n_photos, total = self.places[0], sum(self.places)
        if total % world_size:
            raise ConfigError(
                f"a batch of {total} pairs does not divide by {world_size} ranks; change"
                " train.batch_pairs."
            )
        pairs = total // world_size
        first, last = n_photos * rank // world_size, n_photos * (rank + 1) // world_size
        start = n_photos + pairs * rank - first
        return slice(first, last), slice(start, start + pairs - (last - first))

    def stream(self, kind: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(records, epochs), int64 [count], of a stretch of a pool's stream."""
        n = self.pools[kind].size
        seed, places = 2 * self.seed + kind, np.arange(start, start + count)
        block = self.block_records if n > self.window_steps * self.places[kind] else 1
        epochs = places // max(n, 1)
        parts = [
            epoch_records(places[epochs == epoch] - epoch * n, n, block, seed, epoch)
            for epoch in range(start // max(n, 1), -(-(start + count) // max(n, 1)))
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts]), epochs

    def _window(self, number: int) -> Window:
        drawn = [self._stretch(kind, number) for kind in (0, 1)]
        records, epochs, texts, marks = (
            np.concatenate(parts, axis=-1) for parts in zip(*drawn, strict=True)
        )
        try:
            table = separate.dealt(
                marks, self.window_steps, self.run_steps, self.places[0], self.seed + number
            )
        except separate.InseparableError as error:
            raise ConfigError(self._too_frequent(error, records, texts, marks)) from error
        return Window(table, records, epochs, texts)

    def _stretch(
        self, kind: int, window: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(records, epochs, texts, marks uint64 [3, k]) of a pool in a window, place after place;
        a place has a stretch of the stream in each run of the window.
        """
        steps, places = self.window_steps, self.places[kind]
        streamed = self.stream(kind, window * steps * places, steps * places)
        bounds = [places * step for step in range(self.run_steps, steps, self.run_steps)]
        records, epochs = (
            np.concatenate([part.reshape(places, -1) for part in np.split(one, bounds)], 1).ravel()
            if places
            else one
            for one in streamed
        )
        if not places:
            return records, epochs, records, np.zeros((3, 0), np.uint64)
        found = self.pools[kind].marks(records)
        texts = choose_text(found.text_counts, found.key_hashes, self.seed, epochs)
        starts = np.cumsum(found.text_counts) - found.text_counts
        second = found.text_hashes[starts + texts]
        # A group's name is no text: where both are "seven", they may meet.
        group = np.where(found.group_hashes, found.group_hashes ^ GROUP, np.uint64(0))
        return records, epochs, texts, np.stack([group, found.first_hashes, second])

    def _too_frequent(
        self,
        error: separate.InseparableError,
        records: np.ndarray,
        texts: np.ndarray,
        marks: np.ndarray,
    ) -> str:
        is_photo = error.item < self.places[0] * self.window_steps
        row = marks[:, error.item].tolist().index(error.mark)
        what = ("group", "photo" if is_photo else "first text", f"text {texts[error.item]}")[row]
        name = self.pools[0 if is_photo else 1].name(int(records[error.item]))
        return (
            f"the {what} of {name} is drawn {error.times} times within {self.window_steps} batches,"
            " which is too often to stand at most once in each, beside what else its records share;"
            " lower train.batch_pairs, or take records with it out."
        )


@dataclass(frozen=True, eq=False)
class Window:
    """S batches."""

    table: np.ndarray
    """int32 [places, S]: which of the records below each place of each batch holds."""
    records: np.ndarray
    """int64 [places * S], photos first, in the order of their pool's stream."""
    epochs: np.ndarray
    texts: np.ndarray

    def batch(self, number: int) -> Draw:
        """One of the batches, counted from 0."""
        items = self.table[:, number]
        return Draw(self.records[items], self.texts[items], self.epochs[items])
