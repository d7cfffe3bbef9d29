"""Two models on the same examples: by how much a metric differs, and how sure that is.

    mean of scores          mean(now - before); the error sums each group's differences first
    F1, Matthews, Spearman  metric(now) - metric(before); the error is a bootstrap over examples
    mean of such metrics    the mean of their differences

Two models that read the same pictures agree on most of them, so the error of their difference is
smaller than their two intervals say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clippo_core.evaluate.bootstrap import bootstrap_draws
from clippo_core.evaluate.glue.scores import STATISTICS
from clippo_core.evaluate.scores import read_groups

RESAMPLES = 200
"""Bootstrap samples behind the standard error of a statistic; it is then known to 5 %."""


@dataclass(frozen=True)
class Column:
    """One model's rows of one metric (`scores.py`)."""

    examples: np.ndarray
    """objects (str) [n]."""
    groups: np.ndarray
    """objects (str) [n]; examples of one group are not independent."""
    scores: np.ndarray
    """float64 [n]."""
    targets: np.ndarray | None
    """float64 [n], where the metric is a statistic of (score, target); None = a mean of scores."""


class Difference(NamedTuple):
    """A metric of one model minus that of another, in the metric's unit."""

    value: float
    error: float
    """Its standard error, for the choice of examples alone."""


def read_columns(table: bytes, where: str) -> dict[str, Column]:
    """Metric -> its rows, of a file that `Scores.to_parquet` wrote. Raises EvaluationError, naming
    `where`, for one that is damaged.
    """
    groups = list(read_groups(table, where))
    # As objects: an array of `str` gives every row the memory of the longest.
    kinds = dict.fromkeys(("metric", "example", "group"), object) | dict.fromkeys(
        ("score", "target"), float
    )
    arrays = [
        np.array([value for group in groups for value in group[name]], kind)
        for name, kind in kinds.items()
    ]
    metrics, *rest = arrays
    columns = {}
    for metric in np.unique(metrics).tolist():
        example, group, score, target = (values[metrics == metric] for values in rest)
        columns[metric] = Column(example, group, score, None if np.isnan(target).all() else target)
    return columns


def difference(
    metric: str, now: Mapping[str, Column], before: Mapping[str, Column]
) -> Difference | None:
    """How much higher `metric` (its full name) is `now`; None where the examples are not the same.

    A metric without rows of its own is the plain mean of others: `xm3600/i2t_recall@1` of
    `xm3600/<language>/i2t_recall@1`, which share their photos; `glue/average` of all of its set.
    """
    of_set = [name for name in now if name.startswith(metric.rpartition("/")[0] + "/")]
    alike = [name for name in of_set if name.endswith("/" + metric.rpartition("/")[2])]
    parts = [metric] if metric in now else alike or of_set * metric.endswith("/average")
    if not parts or not all(_same(now[name], before.get(name)) for name in parts):
        return None
    values, variance = [], 0.0
    shared: list[tuple[np.ndarray, np.ndarray]] = []  # groups, and what they add to the mean
    for name in parts:
        new, old = now[name], before[name]
        if new.targets is None or old.targets is None:
            gains = new.scores - old.scores
        elif name.endswith("accuracy"):
            right = (new.scores == new.targets).astype(float) - (old.scores == old.targets)
            gains = 100.0 * right
        else:
            value, error = _of_statistic(name, new, old)
            values.append(value)
            variance += error**2
            continue
        values.append(float(gains.mean()))
        residuals = (gains - gains.mean()) / len(gains)
        if not alike:
            variance += _variance(new.groups, residuals)
        elif shared and _equal(shared[-1][0], new.groups):
            shared[-1] = new.groups, shared[-1][1] + residuals
        else:
            shared.append((new.groups, residuals))
    if shared:
        groups, residuals = (np.concatenate(column) for column in zip(*shared, strict=True))
        variance += _variance(groups, residuals)
    return Difference(math.fsum(values) / len(parts), math.sqrt(variance) / len(parts))


def _same(new: Column, old: Column | None) -> bool:
    """Whether two columns are about the same examples, and every score is known."""
    if old is None or (new.targets is None) != (old.targets is None):
        return False
    if not (_equal(new.examples, old.examples) and _equal(new.groups, old.groups)):
        return False
    return _equal(new.targets, old.targets) and bool(
        np.isfinite(new.scores).all() and np.isfinite(old.scores).all()
    )


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or np.array_equal(a, b)  # type: ignore[arg-type]


def _variance(groups: np.ndarray, residuals: np.ndarray) -> float:
    """Variance of the sum of `residuals` (mean 0), which are independent between groups."""
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=residuals)
    return float(sums @ sums) * len(sums) / max(1, len(sums) - 1)


def _of_statistic(name: str, new: Column, old: Column) -> Difference:
    """The difference of a statistic of (score, target), by a bootstrap over examples."""
    statistic = STATISTICS[name.rpartition("_")[2]]

    def change(rows: np.ndarray, counts: np.ndarray) -> float:
        return 100.0 * (statistic(rows[:, [0, 2]], counts) - statistic(rows[:, [1, 2]], counts))

    rows = np.stack([new.scores, old.scores, np.asarray(new.targets)], axis=1)
    draws = bootstrap_draws(rows, RESAMPLES, statistic=change)
    return Difference(change(rows, np.ones(len(rows), dtype=np.int64)), float(draws.std(ddof=1)))
