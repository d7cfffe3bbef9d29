"""GLUE's metrics: accuracy, F1, Matthews, Spearman; and the mean of the nine numbers.

    rows float64 [k, 2] = (prediction, label), counts int64 [k]
        ->  the metric of the sample that repeats row i counts[i] times

With counts of 1 that is the metric itself; with the counts of a bootstrap it is a resample's, for a
few sums instead of a pass over the data. So each metric is defined once. The choice of metrics is
the GLUE benchmark's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clippo_core.errors import EvaluationError
from clippo_core.evaluate.bootstrap import Statistic
from clippo_core.evaluate.checks import finite, is_constant

GLUE_METRICS: dict[str, str] = {
    "mnli_m": "accuracy",
    "mnli_mm": "accuracy",
    "qqp": "f1",
    "qnli": "accuracy",
    "sst2": "accuracy",
    "cola": "matthews",
    "stsb": "spearman",
    "mrpc": "f1",
    "rte": "accuracy",
}
"""The nine numbers of CLIPPO's GLUE tables and their metrics, named `<task>_<metric>`."""


def accuracy(rows: np.ndarray, counts: np.ndarray) -> float:
    """Share of equal pairs, 0..1."""
    return float(counts[rows[:, 0] == rows[:, 1]].sum() / counts.sum())


def f1(rows: np.ndarray, counts: np.ndarray) -> float:
    """F1 of class 1, 0..1: 2 TP / (2 TP + FP + FN); 0 without a true positive."""
    tp, fp, fn, _ = _confusion(rows, counts)
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def matthews(rows: np.ndarray, counts: np.ndarray) -> float:
    """Matthews' correlation of two binary variables, -1..1; 0 where one of them is constant."""
    tp, fp, fn, tn = _confusion(rows, counts)
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0


def spearman(rows: np.ndarray, counts: np.ndarray) -> float:
    """Pearson's correlation of the ranks, equal values sharing their mean rank, -1..1.

    0 where one of them is constant, which a resample may be.
    """
    a, b = (_centred(_ranks(rows[:, column], counts), counts) for column in (0, 1))
    variance = float(((counts * a) @ a) * ((counts * b) @ b))
    return float((counts * a) @ b / math.sqrt(variance)) if variance > 0 else 0.0


STATISTICS: dict[str, Statistic] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "spearman": spearman,
}
"""Each metric by its name in GLUE_METRICS."""


def glue_score(
    task: str, predictions: np.ndarray | Sequence[Any], labels: np.ndarray | Sequence[Any]
) -> float:
    """The task's own metric: accuracy, F1 of class 1, Matthews or Spearman; 0..1 or -1..1.

    task: one of GLUE_METRICS, or `mnli`, in any spelling ("SST-2", "MNLI-mm"). A constant
    prediction has Matthews 0 and no Spearman at all: EvaluationError, since a correlation that does
    not exist must not become a number.
    """
    metric = "accuracy" if _squeezed(task) == "mnli" else GLUE_METRICS[_glue_task(task)]
    predicted, truth = np.asarray(predictions), np.asarray(labels)
    finite(f"{task} predictions", predicted, ndim=1)
    finite(f"{task} labels", truth, ndim=1)
    if len(predicted) != len(truth):
        raise EvaluationError(f"{task} has {len(predicted)} predictions for {len(truth)} labels.")
    if metric == "spearman" and (is_constant(predicted) or is_constant(truth)):
        raise EvaluationError(
            f"{task}: all predictions (or all labels) are equal, so there is no rank correlation: a"
            " degenerate model."
        )
    if metric in ("f1", "matthews"):
        outside = set(np.unique(predicted).tolist()) | set(np.unique(truth).tolist())
        if outside - {0, 1}:
            raise EvaluationError(f"{task} has the classes 0 and 1; found {sorted(outside)}.")
    rows = np.stack([predicted, truth], axis=1)
    return STATISTICS[metric](rows, np.ones(len(rows), dtype=np.int64))


def glue_average(scores: Mapping[str, float]) -> float:
    """The plain mean of the nine numbers, in the scores' own unit; both MNLI sets count.

    Keys as in GLUE_METRICS in any spelling, with or without the metric ("qqp", "glue/qqp_f1").
    Raises EvaluationError where one of the nine is missing, unknown or not finite: nothing is
    averaged away.
    """
    found: dict[str, float] = {}
    for name, value in scores.items():
        task = _glue_task(name.rpartition("/")[2])
        if task in found:
            raise EvaluationError(f"two scores of {task} were given; the mean takes one.")
        if not math.isfinite(value):
            raise EvaluationError(
                f"the score of {name} is {value}; the mean of GLUE doesn't exist without it."
            )
        found[task] = float(value)
    missing = [task for task in GLUE_METRICS if task not in found]
    if missing:
        raise EvaluationError(
            f"the mean of GLUE needs nine numbers; {', '.join(missing)} is missing."
        )
    return math.fsum(found.values()) / len(GLUE_METRICS)


def _confusion(rows: np.ndarray, counts: np.ndarray) -> tuple[float, float, float, float]:
    """True positives, false positives, false negatives, true negatives of class 1."""
    p, t = rows[:, 0] == 1, rows[:, 1] == 1
    cells = (p & t, p & ~t, ~p & t, ~p & ~t)
    tp, fp, fn, tn = (float(counts[cell].sum()) for cell in cells)
    return tp, fp, fn, tn


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    _, index = np.unique(values, return_inverse=True)
    at_value = np.bincount(index, weights=counts)
    return (np.cumsum(at_value) - (at_value - 1) / 2)[index]


def _centred(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return values - counts @ values / counts.sum()


def _squeezed(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _glue_task(name: str) -> str:
    """The key of GLUE_METRICS that `name` means."""
    spelled = _squeezed(name)
    for task, metric in GLUE_METRICS.items():
        plain = _squeezed(task)
        short = {"accuracy": "acc", "matthews": "mcc"}.get(metric, metric)
        aliases = {plain, plain + metric, plain + short}
        aliases |= {"mnlim": {"mnlimatched"}, "mnlimm": {"mnlimismatched"}}.get(plain, set())
        if spelled in aliases:
            return task
    raise EvaluationError(
        f"{name!r} is none of GLUE's nine numbers; use {', '.join(GLUE_METRICS)}."
    )
