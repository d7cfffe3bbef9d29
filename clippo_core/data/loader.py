"""Shards -> batches: the record of every place of every batch (`order`), read, decoded, rendered,
and cut into ranks.

    batches(manifest, data, image_px=224, batch_pairs=10240, seed=0, text_encoder=Renderer(224),
            rank=r, world_size=n, steps=250_000)

The global batch of a step is a function of (seed, step): the same records, captions and pixels for
1, 2 or 4 ranks and any number of workers, so going on at a step needs no state. A rank gets a slice
of the photos and a slice of the text pairs. An epoch of the photos (of the text pairs) has every
record once; where its end falls inside a batch, the next epoch fills the batch up: nothing is
dropped, padded or repeated. It holds no random state, and knows neither model nor loss. Photos of a
set that is small as a whole are decoded once and kept.
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from clippo_core.config import DataConfig, digest
from clippo_core.data import shard_index
from clippo_core.data.batch_plan import BatchPlan, RankWindow
from clippo_core.data.blocks import PARALLEL
from clippo_core.data.images import decode_image, squash
from clippo_core.data.records import Opened, Rows
from clippo_core.errors import ShardError
from clippo_core.rendering import TextEncoder
from clippo_core.rendering.augment import LAYOUT_NUMBERS, AugmentedRenderer, numbers_of_step
from clippo_core.rendering.draw import used_rows
from clippo_core.run.records import Manifest
from clippo_core.untrusted import pictures

KEEP_BYTES = 128 * 2**20
"""A process keeps the decoded photos, and the texts, of a set whose photos fit into this."""

AT_ONCE = 16
"""In the first 1/16 of a window that a process reads, records come by themselves from a bucket."""

Encode = Callable[[list[str]], np.ndarray]
Read = Callable[[int], Opened]
"""A row -> its record."""
K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch: `p` photos with captions, and `m` text pairs."""

    photos: torch.Tensor
    """uint8 [p, 3, image_px, image_px]."""
    first_text: torch.Tensor
    """[m, ...]: the text pairs' first texts, as `text_encoder` gives them."""
    second_text: torch.Tensor
    """[p + m, ...]: the photos' captions, then the text pairs' second texts."""
    keys: list[str]
    """p + m ids, `<source>/<key>`, photos first."""
    places: np.ndarray
    """int64 [p + m]: where in the global batch each pair stands, whatever the number of ranks."""
    step: int
    text_rows: tuple[torch.Tensor, torch.Tensor] | None = None
    """Rows up to the last with ink of the first and second texts, int64 [m] and [p + m]: counted
    here, where the masks are, and left on the host; None unless they were asked for."""

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, for an asynchronous copy to a GPU."""
        photos, first, second = (
            x.pin_memory() for x in (self.photos, self.first_text, self.second_text)
        )
        return replace(self, photos=photos, first_text=first, second_text=second)


def batches(
    manifest: Manifest,
    data: DataConfig,
    *,
    image_px: int,
    batch_pairs: int,
    seed: int,
    text_encoder: TextEncoder,
    steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    varied: AugmentedRenderer | None = None,
    count_rows: bool = False,
) -> Iterator[Batch]:
    """The batches of steps start_step .. steps - 1 for one rank, in order.

    `batch_pairs` counts the pairs of all ranks. `workers` processes make batches ahead of time; 0
    makes them here; where there is a GPU, both in pinned memory. `varied` draws the texts instead
    of `text_encoder`, in a layout that follows from (seed, step, place). `count_rows` fills
    `Batch.text_rows`, for texts that are rendered. Raises ConfigError where batch, ranks and data
    cannot go together, ShardError where a shard is missing or damaged.
    """
    plan = BatchPlan(manifest, data, batch_pairs, seed)
    batch_of = _RankBatches(
        plan, image_px, text_encoder, rank, world_size, varied, steps, count_rows
    )
    pinned = torch.cuda.is_available()
    if workers == 0:
        made = (batch_of[step] for step in range(start_step, steps))
        return (batch.pin_memory() for batch in made) if pinned else made
    return iter(
        torch.utils.data.DataLoader(
            batch_of,
            batch_size=None,
            sampler=range(start_step, steps),  # type: ignore[arg-type]  # any iterable serves; torch's hint wants a Sampler
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=2,
            pin_memory=pinned,
        )
    )


class _RankBatches(torch.utils.data.Dataset[Batch]):
    """Step -> this rank's batch; the same object works in this process and in workers."""

    def __init__(
        self,
        plan: BatchPlan,
        image_px: int,
        text_encoder: TextEncoder,
        rank: int,
        world_size: int,
        varied: AugmentedRenderer | None,
        steps: int,
        count_rows: bool,
    ) -> None:
        self._plan, self._image_px, self._steps = plan, image_px, steps
        self._text_encoder, self._varied, self._count_rows = text_encoder, varied, count_rows
        self._slices = plan.order.rank_slices(rank, world_size)
        self._keeps = plan.records.sizes[0] * 3 * image_px**2 <= KEEP_BYTES
        self._photos: dict[int, np.ndarray] = {}
        self._said: dict[tuple[bool, int], Opened] = {}
        as_stored = text_encoder.digest == plan.manifest.render_digest
        self._drawn = plan.wants_drawings and not varied and as_stored
        self._window = functools.lru_cache(maxsize=2)(self._rank_window)
        self._fetching: set[int] = set()
        """Windows whose ranges this process has begun to fetch."""
        self._first_step: int | None = None
        plan.share(digest([plan.manifest.sha256, plan.order.identity, world_size]))

    def __getitem__(self, step: int) -> Batch:
        number, nth = divmod(step, self._plan.order.window_steps)
        window = self._window(number)
        (rows, chosen), places = window.batch(nth), np.r_[self._slices]
        n_photos = self._slices[0].stop - self._slices[0].start
        index, read = window.rows.index, self._read(window, rows, step)
        photo_rows, text_rows = rows[:n_photos], rows[n_photos:]
        photos = np.empty((n_photos, self._image_px, self._image_px, 3), np.uint8)
        for place, row in enumerate(photo_rows):
            make = partial(_photo, index, row, read, self._image_px)
            photos[place] = self._kept(self._photos, int(window.rows.records[row]), make)
        pairs = [self._what_it_says(window.rows, row, read) for row in text_rows]
        encode_first, encode_second = self._encoders(step, places, n_photos)
        first = torch.from_numpy(encode_first([pair.first.decode() for pair in pairs]))
        second = torch.from_numpy(self._second(window.rows, rows, chosen, read, encode_second))
        return Batch(
            photos=torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous(),
            first_text=first,
            second_text=second,
            keys=[index.key(row) for row in photo_rows] + [pair.key for pair in pairs],
            places=places,
            step=step,
            text_rows=(used_rows(first), used_rows(second)) if self._count_rows else None,
        )

    def _rank_window(self, number: int) -> RankWindow:
        return RankWindow(self._plan, self._slices, number, self._drawn)

    def _read(self, window: RankWindow, rows: list[int], step: int) -> Read:
        """What reads the rows of a batch. Ranges of tars in a bucket are read side
        by side; in the first batches that this process makes, a record by itself where the
        window's range is not there yet.
        """
        records, steps = self._plan.records, self._plan.order.window_steps
        if self._first_step is None:
            self._first_step = step
        at_once = step < self._first_step + max(1, steps // AT_ONCE)
        one = partial(records.read, window.rows, window=window.number, at_once=at_once)
        if records.ranges is None:
            return functools.cache(one)
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            read = dict(zip(rows, pool.map(one, rows), strict=True))
        self._fetch_ahead(window.number, step % steps)
        return read.__getitem__

    def _fetch_ahead(self, number: int, nth: int) -> None:
        """Fetch the window's ranges in the background, and those of the next one as soon as every
        rank and worker must have left the one before, which goes then.
        """
        records, steps = self._plan.records, self._plan.order.window_steps
        assert records.ranges
        wanted = [0] if records.fits_window else [number]
        is_last = (number + 1) * steps >= self._steps
        if nth >= steps // 4 and not is_last and not records.fits_window:
            records.ranges.forget(number)
            wanted.append(number + 1)
        for one in wanted:
            if one not in self._fetching:
                self._fetching.add(one)
                fetch = partial(self._fetch, number if records.fits_window else one)
                threading.Thread(target=fetch, daemon=True).start()

    def _fetch(self, number: int) -> None:
        self._plan.records.fetch(self._window(number).rows, number)

    def _encoders(self, step: int, places: np.ndarray, n_photos: int) -> tuple[Encode, Encode]:
        """What draws the first texts, and the second ones, of this rank's places of a step."""
        if self._varied is None:
            return self._text_encoder, self._text_encoder
        draw = self._varied.masks
        plan, share = self._plan, self._varied.augment.share
        numbers = numbers_of_step(plan.order.seed, step, plan.n_photos + plan.n_texts, share)[
            places, :, :LAYOUT_NUMBERS
        ]
        return partial(draw, numbers=numbers[n_photos:, 0]), partial(draw, numbers=numbers[:, 1])

    def _second(
        self, found: Rows, rows: list[int], chosen: list[int], read: Read, encode: Encode
    ) -> np.ndarray:
        """The encoded second texts: drawn now, or read where the shards hold them as this run draws
        them.
        """
        spans = found.index.drawings[found.text_starts[rows] + chosen]
        stored = spans[:, 1] > 0 if self._drawn else np.zeros(len(rows), bool)
        said = [
            self._what_it_says(found, row, read).texts[text]
            for row, text, is_stored in zip(rows, chosen, stored, strict=True)
            if not is_stored
        ]
        live = encode(said) if said or not rows else None
        if not stored.any():
            assert live is not None
            return live
        drawn = [_masks(read(rows[n]).member(spans[n])) for n in np.flatnonzero(stored)]
        second = np.empty((len(rows), *drawn[0].shape), drawn[0].dtype)
        second[stored] = drawn
        if live is not None:
            second[~stored] = live
        return second

    def _what_it_says(self, found: Rows, row: int, read: Read) -> Opened:
        """A record's texts; of a text pair, its id and first text too."""
        is_text = bool(found.index.kinds[row] == shard_index.TEXT)

        def opened() -> Opened:
            whole = read(row)
            return whole._replace(data=b"", first=whole.first if is_text else b"")

        return self._kept(self._said, (is_text, int(found.records[row])), opened)

    def _kept(self, kept: dict[K, T], name: K, make: Callable[[], T]) -> T:
        """What `make` gives, from memory if it is there."""
        if name in kept:
            return kept[name]
        made = make()
        if self._keeps:
            kept[name] = made
        return made


def _photo(index: shard_index.ShardIndex, row: int, read: Read, image_px: int) -> np.ndarray:
    return squash(decode_image(read(row).first, index.key(row)), image_px)


def _masks(drawing: bytes) -> np.ndarray:
    """Column masks uint16 [px / 16, px] of a stored drawing."""
    with pictures.decoded(drawing, "a stored drawing", error=ShardError) as picture:
        ink = ~np.asarray(picture)
    rows = ink.reshape(ink.shape[0] // 16, 16, ink.shape[1])
    weights = (1 << np.arange(16, dtype=np.uint32))[None, :, None]
    return (rows * weights).sum(axis=1).astype(np.uint16)


def _as_it_is(batch: Any) -> Any:
    return batch
