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
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from clippo_core.config import DataConfig
from clippo_core.data import shard_index, shards
from clippo_core.data.images import decode_image, squash
from clippo_core.data.order import Draw, Marks, Order, Pool
from clippo_core.data.pairs import text_pairs_per_batch
from clippo_core.errors import ShardError
from clippo_core.rendering import TextEncoder
from clippo_core.rendering.augment import LAYOUT_NUMBERS, AugmentedRenderer, numbers_of_step
from clippo_core.run.records import Manifest
from clippo_core.untrusted import pictures

KEEP_BYTES = 128 * 2**20
"""A process keeps the decoded photos, and the texts, of a set whose photos fit into this."""

Encode = Callable[[list[str]], np.ndarray]
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
) -> Iterator[Batch]:
    """The batches of steps start_step .. steps - 1 for one rank, in order.

    `batch_pairs` counts the pairs of all ranks. `workers` processes make batches ahead of time; 0
    makes them here. `varied` draws the texts instead of `text_encoder`, in a layout that follows
    from (seed, step, place). Raises ConfigError where batch, ranks and data cannot go together,
    ShardError where a shard is missing or damaged.
    """
    plan = BatchPlan(manifest, data, batch_pairs, seed)
    batch_of = _RankBatches(plan, image_px, text_encoder, rank, world_size, varied)
    if workers == 0:
        return (batch_of[step] for step in range(start_step, steps))
    return iter(
        torch.utils.data.DataLoader(
            batch_of,
            batch_size=None,
            sampler=range(start_step, steps),  # type: ignore[arg-type]  # any iterable serves; torch's hint wants a Sampler
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=2,
            pin_memory=torch.cuda.is_available(),
        )
    )


class BatchPlan:
    """What stands in every batch of a run, by step; reads indexes, but no photo and no text."""

    def __init__(self, manifest: Manifest, data: DataConfig, batch_pairs: int, seed: int) -> None:
        """Raises ShardError for missing or damaged shards, ConfigError where no batch of this size
        can be filled.
        """
        self.manifest = manifest
        self.shards = _Shards(manifest)
        self.n_texts = text_pairs_per_batch(batch_pairs, data.text_pair_share)
        self.n_photos = batch_pairs - self.n_texts
        self.wants_drawings = data.store_drawings
        index = self.shards.index
        is_text = index.kinds == shard_index.TEXT
        self.members = (np.flatnonzero(~is_text), np.flatnonzero(is_text))
        """Records of the photos' pool, and of the text pairs'."""
        pools = [_pool(index, members) for members in self.members]
        self.order = Order(
            pools[0],
            pools[1],
            self.n_photos,
            self.n_texts,
            seed,
            window_records=data.window_records,
            block_records=data.block_records,
        )

    def draw(self, step: int) -> Draw:
        """The global batch of a step; `records` count through all shards."""
        draw = self.order.draw(step)
        photos, texts = draw.records[: self.n_photos], draw.records[self.n_photos :]
        return Draw(np.r_[self.members[0][photos], self.members[1][texts]], draw.texts, draw.epochs)


class _Shards:
    """All records of a manifest: one index over them, and their bytes by `read`."""

    def __init__(self, manifest: Manifest) -> None:
        listed = shards.shard_list(manifest)
        self._paths: list[Path] = []
        self._descriptors: dict[tuple[int, int], int] = {}
        parts = []
        with concurrent.futures.ThreadPoolExecutor(8) as pool:  # fetching takes longest
            indexes = pool.map(lambda s: shards.local_file(manifest, s.index, True), listed)
            tars = pool.map(lambda s: shards.local_file(manifest, s.tar), listed)
            for shard, path, tar in zip(listed, indexes, tars, strict=True):
                index, about = shard_index.load(path)
                if about.get("sha256") != shard.tar.sha256:
                    raise ShardError(
                        f"{path} is the index of another shard; delete it and run `render` again."
                    )
                self._paths.append(tar)
                parts.append(index)
        if not parts:
            raise ShardError(f"{manifest.uri}: its manifest names no shard; run `render` again.")
        self.shard_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        self.index = shard_index.concatenate(parts)
        self.text_starts = np.r_[0, np.cumsum(self.index.text_counts)]

    def read(self, record: int, span: np.ndarray) -> bytes:
        """Bytes of a member of a record's tar. Raises ShardError."""
        path = self._paths[self.shard_of[record]]
        place = (os.getpid(), int(self.shard_of[record]))
        if place not in self._descriptors:
            self._descriptors[place] = os.open(path, os.O_RDONLY)
        offset, size = int(span[0]), int(span[1])
        data = os.pread(self._descriptors[place], size, offset)
        if len(data) != size:
            raise ShardError(
                f"{path} is cut short at record {self.index.key(record)}; delete it and run"
                " `render` again."
            )
        return data

    def texts(self, record: int) -> list[str]:
        """All sound texts of a record."""
        data = self.read(record, self.index.second[record])
        kind, key = int(self.index.kinds[record]), self.index.key(record)
        return shard_index.parse_texts(kind, data, key)[0]


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
    ) -> None:
        self._plan, self._image_px = plan, image_px
        self._text_encoder, self._varied = text_encoder, varied
        self._photo_slice, self._text_slice = plan.order.rank_slices(rank, world_size)
        self._keeps = len(plan.members[0]) * 3 * image_px**2 <= KEEP_BYTES
        self._photos: dict[int, np.ndarray] = {}
        self._texts: dict[int, list[str]] = {}
        as_stored = text_encoder.digest == plan.manifest.render_digest
        self._drawn = plan.wants_drawings and not varied and as_stored

    def __getitem__(self, step: int) -> Batch:
        draw = self._plan.draw(step)
        source, index = self._plan.shards, self._plan.shards.index
        places = np.r_[self._photo_slice, self._text_slice]
        records, chosen = draw.records[places].tolist(), draw.texts[places].tolist()
        n_photos = self._photo_slice.stop - self._photo_slice.start
        photos = np.empty((n_photos, self._image_px, self._image_px, 3), np.uint8)
        for place, record in enumerate(records[:n_photos]):
            photos[place] = self._kept(self._photos, record, self._photo)
        firsts = [
            source.read(record, index.first[record]).decode() for record in records[n_photos:]
        ]
        encode_first, encode_second = self._encoders(step, places, n_photos)
        return Batch(
            photos=torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous(),
            first_text=torch.from_numpy(encode_first(firsts)),
            second_text=torch.from_numpy(self._second(records, chosen, encode_second)),
            keys=[index.key(record) for record in records],
            places=places,
            step=step,
        )

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

    def _second(self, records: list[int], chosen: list[int], encode: Encode) -> np.ndarray:
        """The encoded second texts: drawn now, or read where the shards hold them as this run draws
        them.
        """
        source = self._plan.shards
        spans = source.index.drawings[source.text_starts[records] + chosen]
        if self._drawn and spans[:, 1].all():
            return np.stack(
                [
                    _masks(source.read(record, span))
                    for record, span in zip(records, spans, strict=True)
                ]
            )
        return encode(
            [
                self._kept(self._texts, record, source.texts)[text]
                for record, text in zip(records, chosen, strict=True)
            ]
        )

    def _photo(self, record: int) -> np.ndarray:
        source = self._plan.shards
        return squash(
            decode_image(source.read(record, source.index.first[record]), source.index.key(record)),
            self._image_px,
        )

    def _kept(self, kept: dict[int, T], record: int, make: Callable[[int], T]) -> T:
        """What `make` gives for a record, from memory if it is there."""
        if record in kept:
            return kept[record]
        made = make(record)
        if self._keeps:
            kept[record] = made
        return made


def _masks(drawing: bytes) -> np.ndarray:
    """Column masks uint16 [px / 16, px] of a stored drawing."""
    with pictures.decoded(drawing, "a stored drawing", error=ShardError) as picture:
        ink = ~np.asarray(picture)
    rows = ink.reshape(ink.shape[0] // 16, 16, ink.shape[1])
    weights = (1 << np.arange(16, dtype=np.uint32))[None, :, None]
    return (rows * weights).sum(axis=1).astype(np.uint16)


def _as_it_is(batch: Any) -> Any:
    return batch


def _pool(index: shard_index.ShardIndex, members: np.ndarray) -> Pool:
    """The records `members` as the order sees them."""
    starts = np.cumsum(index.text_counts) - index.text_counts

    def marks(records: np.ndarray) -> Marks:
        rows = members[records]
        counts = index.text_counts[rows]
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return Marks(
            index.key_hashes[rows],
            index.group_hashes[rows],
            index.first_hashes[rows],
            counts,
            index.text_hashes[np.repeat(starts[rows], counts) + nth],
        )

    return Pool(len(members), marks, lambda record: index.key(int(members[record])))
