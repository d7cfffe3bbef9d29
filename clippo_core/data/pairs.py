"""What a pair is, which of a photo's captions an epoch takes, and how many text pairs a batch
holds.

    PhotoRecord   one photo, its captions                -> one pair (photo, a caption) per epoch
    TextRecord    one sentence, its partners             -> one pair (sentence, a partner) per epoch

Every choice is a function of (seed, epoch, key): no state, so any process can make it. It does not
read files (`sources`), nor decide the order (`order`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

MAX_KEY_CHARACTERS = 200
"""Records with longer keys are left out and counted: every shard and index carries the keys."""

ORDER_VERSION = 2
"""Raised when `order` gives other batches for the same seed; checkpoints carry it, and 1 stood in
none."""


@dataclass(frozen=True)
class PhotoRecord:
    """A photo with its captions."""

    key: str
    """Name, unique within its source: the file's stem, or the dataset's own id."""
    image: str
    """Path or URI of the picture; for a record in a tar, `<tar>#<offset>+<size>`."""
    texts: tuple[str, ...]
    """Captions, as they stand in the file (validation, not the reader, refuses what is no text)."""
    languages: tuple[str, ...]
    """Language code of each caption."""
    group: str = ""
    """Records of one group never meet in one batch; empty = the record is alone in its group."""
    split: str = ""
    problem: str = ""
    """Why the record cannot be used, where already the reader knows."""
    content: bytes = b""
    """The picture's file, where it comes with the row of a table; `image` then only names it."""
    text_at: tuple[str, int, int] = ("", 0, 0)
    """Of a record in a tar: extension, offset and size of the member with its text."""


@dataclass(frozen=True)
class TextRecord:
    """A sentence with its partner(s): the next sentence, or a translation."""

    key: str
    first: str
    texts: tuple[str, ...]
    languages: tuple[str, ...]
    """Language of `first`, then of each of `texts`."""
    group: str = ""
    problem: str = ""


Record: TypeAlias = PhotoRecord | TextRecord


def key_hash(key: str | bytes) -> int:
    """64 bits, never 0, that stand for a key, a text or a photo's bytes, the same in every process
    and version.
    """
    data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


def choose_text(
    n_texts: np.ndarray, key_hashes: np.ndarray, seed: int, epoch: np.ndarray | int
) -> np.ndarray:
    """Index of the caption that each record takes in `epoch`: arrays [n] in, int64 [n] out.

    A record with k captions starts at a random one and takes the next each epoch, so that k epochs
    in a row use each once; every k epochs it starts anew.
    """
    n_texts = np.asarray(n_texts, np.int64)
    epochs = np.broadcast_to(np.asarray(epoch, np.int64), n_texts.shape)
    start = mix(np.asarray(key_hashes, np.uint64), seed, (epochs // n_texts).astype(np.uint64))
    return ((start % n_texts.astype(np.uint64)).astype(np.int64) + epochs) % n_texts


def mix(hashes: np.ndarray, seed: int, salt: np.ndarray | int) -> np.ndarray:
    """uint64 [n] of well mixed bits of (hash, seed, salt): splitmix64's finalizer over their sum
    with odd weights.
    """
    with np.errstate(over="ignore"):
        x = (
            hashes
            + np.uint64(seed % 2**63) * np.uint64(0x9E3779B97F4A7C15)
            + np.asarray(salt, np.uint64) * np.uint64(0xD1B54A32D192ED03)
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def apportion(total: int, shares: list[float]) -> list[int]:
    """`total` split into whole numbers in proportion to `shares`: floors, then one each to the
    largest remainders (first wins ties).
    """
    whole = sum(shares)
    exact = [total * share / whole for share in shares]
    counts = [int(value + 1e-9) for value in exact]
    for place in sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))[
        : total - sum(counts)
    ]:
        counts[place] += 1
    return counts


def text_pairs_per_batch(batch_pairs: int, text_pair_share: float) -> int:
    """How many of a batch's pairs are text/text: the same in every batch."""
    return apportion(batch_pairs, [1 - text_pair_share, text_pair_share])[1]
