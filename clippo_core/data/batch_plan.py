"""What stands in every batch of a run, and which of it is a rank's.

    BatchPlan     (manifest, data, seed)  ─▶  the order of its records
    RankWindow    places of a rank in a window's batches  ─▶  rows of its records

It reads indexes, but no photo and no text; `loader` makes batches from it.
"""

from __future__ import annotations

import functools
from functools import partial

import numpy as np

from clippo_core.config import DataConfig
from clippo_core.data import window_file
from clippo_core.data.order import Order, Pool, Window
from clippo_core.data.pairs import text_pairs_per_batch
from clippo_core.data.records import Records
from clippo_core.run.records import Manifest


class BatchPlan:
    """What stands in every batch of a run, by step; reads indexes, but no photo and no text."""

    def __init__(self, manifest: Manifest, data: DataConfig, batch_pairs: int, seed: int) -> None:
        """Raises ShardError where the manifest is not whole, ConfigError where no batch of this
        size can be filled.
        """
        self.manifest = manifest
        self.records = Records(manifest, data.window_records)
        self.n_texts = text_pairs_per_batch(batch_pairs, data.text_pair_share)
        self.n_photos = batch_pairs - self.n_texts
        self.wants_drawings = data.store_drawings
        photos, texts = (
            Pool(size, partial(self.records.marks, kind), partial(self.records.key, kind))
            for kind, size in enumerate(self.records.sizes)
        )
        self.order = Order(
            photos,
            texts,
            self.n_photos,
            self.n_texts,
            seed,
            window_records=data.window_records,
            block_records=data.block_records,
        )

    def share(self, run: str) -> None:
        """With the other processes of the node, under the name of the run: ranges of shards in a
        bucket, and the order of the windows, whose marks one of them reads.
        """
        self.records.share_ranges(run)
        ranges, deal = self.records.ranges, self.order.window.__wrapped__
        if ranges and not self.records.fits_window:

            def shared(number: int) -> Window:
                made = ranges.window_file(number, lambda: window_file.content(deal(number)))
                return window_file.read(made)

            self.order.window = functools.lru_cache(maxsize=2)(shared)


class RankWindow:
    """The records of a rank's places in the batches of a window."""

    def __init__(
        self, plan: BatchPlan, places: tuple[slice, slice], number: int, drawings: bool
    ) -> None:
        window = plan.order.window(number)
        photos, texts = (window.table[part] for part in places)
        items = np.concatenate([photos, texts])
        self.number, self._texts = number, window.texts[items]
        records = (window.records[photos].reshape(-1), window.records[texts].reshape(-1))
        self.rows = plan.records.rows(records, drawings)
        """One per place and batch."""

    def batch(self, number: int) -> tuple[list[int], list[int]]:
        """(rows, which of their texts) of one of the window's batches, place by place."""
        places, steps = self._texts.shape
        return (np.arange(places) * steps + number).tolist(), self._texts[:, number].tolist()
