"""Rows of bytes that carry a check each, for tables of which parts are read by themselves.

    row  =  whole numbers, bytes …  │  check u32

A checksum of a whole file says nothing of a part. These find bytes that were damaged on their way;
they are no protection from someone who writes a table on purpose.
"""

from __future__ import annotations

import numpy as np

from clippo_core.data.pairs import mix


def as_bytes(numbers: np.ndarray) -> np.ndarray:
    """uint8 [n, 8 k] of whole numbers [n, k]."""
    n, k = numbers.shape
    return np.ascontiguousarray(numbers).astype("<u8").view(np.uint8).reshape(n, 8 * k)


def as_numbers(content: np.ndarray) -> np.ndarray:
    """uint64 [n, k] of uint8 [n, 8 k]."""
    return np.ascontiguousarray(content).view("<u8").astype(np.uint64)


def _checks(content: np.ndarray) -> np.ndarray:
    """uint32 [n]: a number that follows from each row."""
    n, width = content.shape
    padded = np.zeros((n, -(-width // 8) * 8), np.uint8)
    padded[:, :width] = content
    check = np.zeros(n, np.uint64)
    for column in as_numbers(padded).T:
        check = mix(check ^ column, 1, 0)
    return check.astype(np.uint32)


def sealed(content: np.ndarray) -> np.ndarray:
    """Rows with their checks behind them."""
    checks = _checks(content).astype("<u4").view(np.uint8).reshape(-1, 4)
    return np.concatenate([content, checks], axis=1)


def unsealed(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows without their checks, uint32: 0 for a whole one, all bits for one that has extras)."""
    content = rows[:, :-4]
    noted = np.ascontiguousarray(rows[:, -4:]).view("<u4").reshape(-1)
    return content, noted ^ _checks(content)


def sums(extras: np.ndarray, begin: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """uint64: a number that follows from the words of each entry but its last."""
    words = extras.copy()
    words[begin + lengths - 1] = 0
    place = np.arange(len(words)) - np.repeat(begin, lengths)
    mixed = mix(words, 1, place.astype(np.uint64))
    return np.add.reduceat(mixed, begin) if len(begin) else mixed
