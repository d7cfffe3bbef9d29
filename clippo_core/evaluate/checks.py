"""Checks of what an evaluation computes from: finite numbers, and predictions that differ.

finite("scores", values)      raises EvaluationError for NaN, infinity, or nothing at all
is_constant(predictions)      whether a classifier gives every example the same answer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clippo_core.errors import EvaluationError


def finite(name: str, values: np.ndarray, ndim: int | None = None) -> None:
    """Raise EvaluationError unless `values` is a non-empty array of finite numbers (of `ndim`
    dimensions).
    """
    values = np.asarray(values)
    if values.size == 0:
        raise EvaluationError(f"{name} are empty; there is nothing to score.")
    if ndim is not None and values.ndim != ndim:
        raise EvaluationError(f"{name} have shape {values.shape}; they need {ndim} dimensions.")
    if values.dtype.kind not in "fiub":
        raise EvaluationError(f"{name} are of type {values.dtype}; they must be numbers.")
    bad = 0 if values.dtype.kind != "f" else int(values.size - np.isfinite(values).sum())
    if bad:
        where = np.argwhere(~np.isfinite(values))[0].tolist()
        raise EvaluationError(
            f"{name} hold {bad} non-finite values (the first at {where}); a score from them would"
            " read as chance."
        )


def is_constant(predictions: np.ndarray | Sequence[Any]) -> bool:
    """Whether every prediction is the same: a degenerate classifier, to be flagged."""
    values = np.asarray(predictions)
    return bool(len(values)) and bool((values == values[0]).all())
