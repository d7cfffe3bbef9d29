"""What an evaluation found, from outside: its numbers, its reasons, the scores in its file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from clippo_core.evaluate.glue.scores import STATISTICS
from clippo_core.run.records import EvalResult


def values(result: EvalResult) -> dict[str, float]:
    """The metrics that have a value."""
    metrics = result.metrics.items()
    return {name: metric.value for name, metric in metrics if metric.value is not None}


def whys(result: EvalResult) -> dict[str, str]:
    """The metrics that have none, and why."""
    metrics = result.metrics.items()
    return {name: metric.why_not for name, metric in metrics if metric.value is None}


def flags(result: EvalResult) -> dict[str, str]:
    """What a reader must know of metrics."""
    return {name: metric.flag for name, metric in result.metrics.items() if metric.flag}


def score_rows(result: EvalResult, root: Path | str) -> dict[str, list[dict[str, Any]]]:
    """Metric -> rows of the file of scores, of which the result knows the sha256.

    No example stands twice.
    """
    path = Path(root) / "evaluations" / result.name / result.scores
    assert hashlib.sha256(path.read_bytes()).hexdigest() == result.scores_sha256
    found: dict[str, list[dict[str, Any]]] = {}
    for row in pyarrow.parquet.read_table(path).to_pylist():
        found.setdefault(row["metric"], []).append(row)
    for metric, rows in found.items():
        examples = [row["example"] for row in rows]
        assert len(set(examples)) == len(examples), metric
        assert all(row["group"] for row in rows), metric
    return found


def recomputed(result: EvalResult, root: Path | str) -> dict[str, float]:
    """Metric -> its value from the scores alone, as a comparison of two models computes it."""
    found = {}
    for metric, rows in score_rows(result, root).items():
        scores = np.array([row["score"] for row in rows], float)
        if rows[0]["target"] is None:
            found[metric] = float(scores.mean())
        else:
            pairs = np.stack([scores, [row["target"] for row in rows]], axis=1)
            statistic = STATISTICS[metric.rpartition("_")[2]]
            found[metric] = 100 * statistic(pairs, np.ones(len(pairs), int))
    return found
