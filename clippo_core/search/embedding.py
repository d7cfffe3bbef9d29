"""A collection through the tower, shard by shard, into its folder.

    items ─▶ shards of 100,000 ─▶ finished already? skip it
                               ─▶ batches ─▶ tower ─▶ img_emb, metadata, bad.tsv, embedding.json

Pictures are decoded by threads, texts drawn by one, a batch ahead of the tower. Shards begin at
multiples of their size and batches at multiples of theirs among a shard's good items, so that what
a run leaves does not depend on where one before it was killed.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from clippo_core.data.sources import tars
from clippo_core.errors import ConfigError, DataError, ImageError, NotFoundError
from clippo_core.search import collection
from clippo_core.search.collection import Facts, Shard, ShardRows, Side
from clippo_core.search.inputs import Item

if TYPE_CHECKING:
    from clippo_core.embedder import Clippo, Preprocess

SHARD_SIZE = 100_000
"""Items of a shard: 307 MB of float32 rows of 768 numbers."""
_SIDES: dict[Side, str] = {"images": "pictures", "texts": "texts"}


def embed_collection(
    model: Clippo,
    folder: str,
    facts: Facts,
    side: Side,
    items: Iterable[Item],
    *,
    batch_size: int = 256,
    skip_bad: bool = True,
    say: Callable[[str], None] = print,
) -> Facts:
    """Embed the items of one side that `folder` lacks; returns what it then holds.

    facts: from `collection.resumed`. skip_bad: list what cannot be embedded in bad.tsv; else the
    first such item raises. say: takes a line a shard. Raises ConfigError where the items are not
    those of the shards that are there, DataError, StorageError.
    """
    items = iter(items)
    if side == "images" and facts.texts and not facts.images:
        raise ConfigError(f"{folder}: it holds texts alone; give pictures a folder of their own.")
    apart = bool(facts.images)
    finished = facts.shards(side)
    for number in itertools.count():
        shard = list(itertools.islice(items, facts.shard_size))
        if not shard:
            break
        if number < len(finished):
            _check_same(folder, side, number, finished[number], shard)
            continue
        begin = time.perf_counter()
        rows, good, bad = ShardRows(len(shard), facts.dim, facts.dtype), list[Item](), list[Item]()
        for some, found in batches(
            model, side, shard, bad, batch_size, facts.preprocess, skip_bad=skip_bad
        ):
            rows.add(found)
            good += some
        done = Shard(len(shard), len(good), collection.names_digest(shard))
        facts = collection.write_shard(folder, facts, side, rows, good, done, bad, apart)
        rate = len(good) / max(time.perf_counter() - begin, 1e-9)
        shard.clear()  # its names are written, and need not be held beside the next ones
        words = f", {len(bad):,} could not be read" if bad else ""
        say(f"shard {number}: {len(good):,} {_SIDES[side]}, {rate:,.0f} a second{words}")
        good.clear()
    if number < len(finished):
        raise ConfigError(
            f"{folder}: it holds {len(finished)} shards of {_SIDES[side]}, and there are only items"
            f" for {number}; name another folder, or remove this one."
        )
    return facts


def batches(
    model: Clippo,
    side: Side,
    items: Sequence[Item],
    bad: list[Item],
    batch_size: int,
    preprocess: Preprocess = "squash",
    *,
    skip_bad: bool = True,
) -> Iterator[tuple[list[Item], np.ndarray]]:
    """(items, their embeddings float32 [n, dim]) batch by batch; those that cannot be embedded are
    appended to `bad` instead, or the first of them raises DataError unless `skip_bad`.
    """
    if batch_size < 1:
        raise ConfigError(f"batch size is {batch_size}; it must be at least 1.")

    def note(item: Item) -> None:
        if not skip_bad:
            raise DataError(f"{item.problem} (--bad skip goes on without it.)")
        bad.append(item)

    prepared = (
        _drawn(model, items, note, batch_size)
        if side == "texts"
        else _decoded(model, items, note, batch_size, preprocess)
    )
    for good, batch in prepared:
        yield good, model.embed_prepared(batch, side)


def _drawn(
    model: Clippo, items: Sequence[Item], note: Callable[[Item], None], batch_size: int
) -> Iterator[tuple[list[Item], np.ndarray]]:
    for item in items:
        if item.problem:
            note(item)
    good = [item for item in items if not item.problem]
    parts = [good[start : start + batch_size] for start in range(0, len(good), batch_size)]
    with ThreadPoolExecutor(1) as pool:
        ahead: deque[Future[np.ndarray]] = deque()
        waiting = iter(parts)
        for part in parts:
            while len(ahead) < 2 and (later := next(waiting, None)) is not None:
                ahead.append(pool.submit(model.text_encoder, [item.name for item in later]))
            yield part, ahead.popleft().result()


def _decoded(
    model: Clippo,
    items: Sequence[Item],
    note: Callable[[Item], None],
    batch_size: int,
    preprocess: Preprocess,
) -> Iterator[tuple[list[Item], np.ndarray]]:
    from PIL import Image

    def prepare(item: Item) -> np.ndarray | str:
        """The picture's pixels, or why there are none."""
        if item.problem:
            return item.problem
        try:
            return model.prepared(tars.picture_bytes(item.address), item.name, preprocess)
        except (ImageError, NotFoundError) as error:  # a bucket that is down is no bad picture
            return str(error)

    Image.init()  # Pillow's plugins are not safe to load from several threads
    good: list[Item] = []
    pixels: list[np.ndarray] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        waiting = iter(items)
        ahead = deque(
            (item, pool.submit(prepare, item)) for item in itertools.islice(waiting, 2 * batch_size)
        )
        while ahead:
            item, future = ahead.popleft()
            if (later := next(waiting, None)) is not None:
                ahead.append((later, pool.submit(prepare, later)))
            found = future.result()
            if isinstance(found, str):
                note(replace(item, problem=found))
            else:
                good.append(item)
                pixels.append(found)
            if len(good) == batch_size or (good and not ahead):
                yield good, np.stack(pixels)
                good, pixels = [], []


def _check_same(folder: str, side: Side, number: int, there: Shard, items: list[Item]) -> None:
    if there.inputs != len(items) or there.sha256 != collection.names_digest(items):
        raise ConfigError(
            f"{folder}: shard {number} of its {_SIDES[side]} was made of other ones than those"
            " named now; name another folder, or remove this one."
        )


def facts_of(
    model: Clippo,
    name: str,
    preprocess: Preprocess = "squash",
    dtype: Literal["float32", "float16"] = "float32",
    shard_size: int = SHARD_SIZE,
) -> Facts:
    """What a folder embedded by this model begins with. name: what loads the model again."""
    if shard_size < 1:
        raise ConfigError(f"shard size is {shard_size}; it must be at least 1.")
    return Facts(
        name,
        model.weights_sha256,
        model.render_digest,
        model.precision,
        preprocess,
        dtype,
        model.model.embed_dim,
        shard_size,
    )
