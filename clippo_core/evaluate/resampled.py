"""GLUE's metrics of a bootstrap sample, from its distinct (prediction, label) rows and how often each was drawn.

    rows float64 [k, 2], counts int64 [k]  ->  the metric of the sample that repeats row i counts[i] times

So a thousand resamples cost a thousand sums over a confusion matrix, not a thousand passes over the data. The definitions are in
`metrics.py`; a test holds the two together. Where a resample has no value (Matthews or Spearman of a constant), it counts as 0.
"""

from __future__ import annotations

import math

import numpy as np

from clippo_core.evaluate.results import Statistic


def accuracy(rows: np.ndarray, counts: np.ndarray) -> float:
    """Share of equal pairs."""
    return float(counts[rows[:, 0] == rows[:, 1]].sum() / counts.sum())


def f1(rows: np.ndarray, counts: np.ndarray) -> float:
    """F1 of class 1."""
    hits = counts[(rows[:, 0] == 1) & (rows[:, 1] == 1)].sum()
    return float(2 * hits / max(1, counts[rows[:, 0] == 1].sum() + counts[rows[:, 1] == 1].sum()))


def matthews(rows: np.ndarray, counts: np.ndarray) -> float:
    """Matthews' correlation of two binary variables: Pearson's."""
    return _pearson(rows[:, 0], rows[:, 1], counts)


def spearman(rows: np.ndarray, counts: np.ndarray) -> float:
    """Pearson's correlation of the ranks, equal values sharing their mean rank."""
    return _pearson(_ranks(rows[:, 0], counts), _ranks(rows[:, 1], counts), counts)


BY_NAME: dict[str, Statistic] = {"accuracy": accuracy, "f1": f1, "matthews": matthews, "spearman": spearman}


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    _, index = np.unique(values, return_inverse=True)
    at_value = np.bincount(index, weights=counts)
    return (np.cumsum(at_value) - (at_value - 1) / 2)[index]


def _pearson(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> float:
    n = counts.sum()
    a, b = a - counts @ a / n, b - counts @ b / n
    variance = (counts @ (a * a)) * (counts @ (b * b))
    return float(counts @ (a * b) / math.sqrt(variance)) if variance > 0 else 0.0
