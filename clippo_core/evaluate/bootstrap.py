"""The interval beside each number: percentile bootstraps.

    draws float64 [samples] of a statistic  ─▶  its middle 95 %

An interval is a function of the multiset of values and a seed alone: the order of the examples does
not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clippo_core.errors import EvaluationError

Statistic = Callable[[np.ndarray, np.ndarray], float]
"""(rows float64 [k, m], counts int64 [k]) -> its value for the sample with row i counts[i]
times."""


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    samples: int = 1000,
    seed: int | Sequence[int] = 0,
    *,
    groups: Sequence[Any] | None = None,
    statistic: Statistic | None = None,
) -> list[float]:
    """The 95 % percentile bootstrap interval [low, high] of a statistic of `values` [n] or [n, m].

    The statistic is by default the mean of [n].
    """
    return interval(bootstrap_draws(values, samples, seed, groups=groups, statistic=statistic))


def interval(draws: np.ndarray) -> list[float]:
    """[low, high] that hold the middle 95 % of bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return [float(low), float(high)]


def bootstrap_draws(
    values: Sequence[float] | np.ndarray,
    samples: int = 1000,
    seed: int | Sequence[int] = 0,
    *,
    groups: Sequence[Any] | None = None,
    statistic: Statistic | None = None,
) -> np.ndarray:
    """The statistic of each of `samples` resamples, float64 [samples].

    Resampling n of n rows is the same as drawing how often each distinct row occurs (a
    multinomial), so it costs samples x distinct rows and does not depend on the order of the
    examples. With `groups` (one label per example), whole groups are drawn: questions about one
    photo stand or fall together. Raises EvaluationError for no or non-finite values.
    """
    rows = np.asarray(values, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if not rows.size or not np.isfinite(rows).all():
        raise EvaluationError(
            f"an interval needs finite values; {len(rows)} rows hold"
            f" {int((~np.isfinite(rows)).sum())} others."
        )
    if groups is not None:
        if statistic is not None:
            raise EvaluationError(
                "an interval over groups is of a mean; leave out `statistic` or `groups`."
            )
        rows, statistic = _sums_by_group(rows[:, 0], groups), _ratio
    statistic = statistic or _mean
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), size=samples)
    return np.array([statistic(distinct, row) for row in drawn])


def _mean(rows: np.ndarray, counts: np.ndarray) -> float:
    return float(counts @ rows[:, 0] / counts.sum())


def _ratio(rows: np.ndarray, counts: np.ndarray) -> float:
    return float(counts @ rows[:, 0] / (counts @ rows[:, 1]))


def _sums_by_group(values: np.ndarray, groups: Sequence[Any]) -> np.ndarray:
    """[sum, count] of each group's values, float64 [groups, 2]."""
    if len(groups) != len(values):
        raise EvaluationError(f"{len(values)} values, but {len(groups)} group labels.")
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    return np.stack([np.bincount(index, weights=values), np.bincount(index)], axis=1).astype(
        np.float64
    )
