"""Records out of a run's shards, undecoded: the same few hundred for the same seed, from at most
four tars.

    shard indexes ─▶ which shards hold photos (or sentence pairs)
                  ─▶ up to n records, read at their offsets

It is for looking at data (gap, lengths, contact sheet); `data/loader.py` makes training's batches.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clippo_core.run.records import Manifest

if TYPE_CHECKING:
    from clippo_core.data.shard_index import ShardIndex

MOST_SHARDS = 4
"""Shards that are opened: from a bucket each is fetched whole."""

MOST_INDEXES = 64
"""Shards whose index is read in search of those."""


@dataclass(frozen=True)
class ShardPair:
    """One record out of a shard, undecoded."""

    key: str
    photo: bytes | None
    """The picture's file; None for a text/text pair."""
    first_text: str
    texts: list[str]
    languages: list[str]
    """Language of each of `texts`."""
    first_language: str = ""
    """Language of `first_text`."""


def read_pairs(
    manifest: Manifest, n: int, *, seed: int = 0, photos: bool = True
) -> list[ShardPair]:
    """Up to `n` records out of at most MOST_SHARDS shards, with a photo or without, the same ones
    for the same seed.

    Raises ShardError for a missing or damaged shard.
    """
    from clippo_core.data import index_file, shard_index, shards

    random = np.random.default_rng(seed)
    listed = shards.shard_list(manifest)
    found: list[ShardPair] = []
    opened = 0
    for position in random.permutation(len(listed))[:MOST_INDEXES]:
        index, _ = index_file.load(shards.local_file(manifest, listed[position].index))
        places = np.flatnonzero((index.kinds != shard_index.TEXT) == photos)
        if len(places) and opened < MOST_SHARDS and len(found) < n:
            opened += 1
            share = n if len(listed) == 1 else -(-n // min(MOST_SHARDS, len(listed)))
            with open(shards.local_file(manifest, listed[position].tar), "rb") as tar:
                found += [
                    _read_pair(tar.fileno(), index, place)
                    for place in random.permutation(places)[:share]
                ]
    return found[:n]


def _read_pair(descriptor: int, index: ShardIndex, place: int) -> ShardPair:
    from clippo_core.data import shard_index, text_frames

    first = os.pread(descriptor, int(index.first[place, 1]), int(index.first[place, 0]))
    if index.kinds[place] == shard_index.TEXT:
        pair = text_frames.read_pair(first, int(index.second[place, 0]), f"record {place}")
        own, *others = pair.languages
        return ShardPair(pair.key, None, pair.first, pair.texts, others, own)
    kind, key = int(index.kinds[place]), index.key(place)
    second = os.pread(descriptor, int(index.second[place, 1]), int(index.second[place, 0]))
    texts, languages = shard_index.parse_texts(kind, second, key)
    return ShardPair(key, first, "", texts, languages or [""] * len(texts))
