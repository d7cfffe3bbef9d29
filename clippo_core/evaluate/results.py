"""One evaluation on disk: written, read back, skipped when it exists; and the interval beside each number.

    <folder>/result.json           EvalResult, a pure function of weights, data, protocol and code; written last: it is the commit
             predictions.parquet   one row an example, for digging
             examples.json         six hits and six misses, as pictures
             timings.json          seconds; the only file that differs between two runs

A result is skipped when its folder already holds one with the same `inputs_digest`; a failed one is tried again. Intervals are
percentile bootstraps, a function of the multiset of values and a seed alone. It is not a place for metrics; many results in one table
stand in `tables.py`, the paper's numbers beside ours in `analysis/compare.py`.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clippo_core import records, storage
from clippo_core.config import digest, identity
from clippo_core.errors import ClippoError, EvaluationError, Preempted
from clippo_core.records import EvalResult, EvaluatePlan

Statistic = Callable[[np.ndarray, np.ndarray], float]
"""(rows float64 [k, m], counts int64 [k]) -> the statistic of the sample that holds row i counts[i] times."""

RESULT, PREDICTIONS, EXAMPLES, TIMINGS = "result.json", "predictions.parquet", "examples.json", "timings.json"


def evaluation_folder(plan: EvaluatePlan, name: str) -> str:
    """Where the evaluation `name` of a run stands: <root>/evaluations/<name>."""
    return storage.join(plan.stage.root, "evaluations", name)


def inputs_digest(plan: EvaluatePlan, name: str, *, weights_sha256: str, render_digest: str, code_digest: str, **extra: Any) -> str:
    """sha256 of everything that the result of evaluation `name` depends on: its config, seed, data, weights, rendering, code.

    The batch size of embedding and the run's folder are left out: no digit depends on them. `extra` takes what the evaluation
    knows besides, as the sha256 of its annotation files.
    """
    return digest(
        {
            "name": name,
            "config": identity(getattr(plan.evaluate, name)),
            "bootstrap_samples": plan.evaluate.bootstrap_samples,
            "seed": plan.stage.seed,
            "data_digest": plan.stage.data_digest,
            "is_demo": plan.is_demo,
            "weights": weights_sha256,
            "render": render_digest,
            "code": code_digest,
            **extra,
        }
    )


def write_result(
    folder: str,
    result: EvalResult,
    predictions: Mapping[str, Sequence[Any]] | None = None,
    examples: Sequence[dict[str, Any]] = (),
    timings: Mapping[str, float] | None = None,
) -> None:
    """Write one evaluation into `folder` (local or s3://), every file atomically, result.json last.

    predictions: column name -> one value an example, all of one length. timings: name -> seconds.
    Raises EvaluationError for a non-finite metric (a number that does not exist belongs in `not_run` or `flags`) and for columns
    of unequal length.
    """
    for kind, values in (("metric", result.metrics), ("chance", result.chance)):
        for name, value in values.items():
            if not math.isfinite(value):
                raise EvaluationError(f"{result.name}: {kind} {name} is {value}; put the reason into not_run instead of a number.")
    for name, interval in result.confidence.items():
        if len(interval) != 2 or not all(map(math.isfinite, interval)):
            raise EvaluationError(f"{result.name}: the interval of {name} is {interval}; it must be two finite numbers.")
    if predictions is not None:
        storage.write_bytes(storage.join(folder, PREDICTIONS), _parquet(predictions))
    storage.write_text(storage.join(folder, EXAMPLES), _json(list(examples)))
    storage.write_text(storage.join(folder, TIMINGS), _json(dict(timings or {})))
    storage.write_text(storage.join(folder, RESULT), records.dumps(result))


def read_result(folder: str) -> EvalResult | None:
    """The result in `folder`, or None where there is none. Raises EvaluationError for one that cannot be read."""
    uri = storage.join(folder, RESULT)
    if not storage.exists(uri):
        return None
    try:
        return records.loads(EvalResult, storage.read_text(uri))
    except (ValueError, TypeError, KeyError) as error:
        raise EvaluationError(f"{uri} is no evaluation result ({error}); delete it and run the evaluation again.") from error


def finished_result(folder: str, wanted: str) -> EvalResult | None:
    """The result in `folder` if it was made from the inputs with digest `wanted` and did not fail; otherwise None: run it."""
    try:
        result = read_result(folder)
    except EvaluationError:
        return None
    return result if result is not None and result.inputs_digest == wanted and not result.failure else None


def read_results(root: str) -> list[EvalResult]:
    """All results anywhere under `root`, sorted by weights, evaluation and dataset. Raises NotFoundError where `root` is not there."""
    names = sorted(stat.name for stat in storage.list_files(root) if stat.name == RESULT or stat.name.endswith("/" + RESULT))
    found = [read_result(storage.join(root, name)[: -len(RESULT) - 1]) for name in names]
    return sorted((result for result in found if result is not None), key=lambda r: (r.weights_sha256, r.name, r.dataset))


def guarded(name: str, dataset: str, folder: str, evaluate: Callable[[], EvalResult], known: Mapping[str, Any] | None = None) -> EvalResult:
    """`evaluate()`, or, where the data or the protocol fails, a written result that says why, so that the others go on.

    known: further fields of a failed result; `evaluate` may fill it as it goes (weights_sha256, once the checkpoint is read). Only
    expected failures (ClippoError) become results; a programming error stays an exception, and so does a request to stop.
    """
    try:
        return evaluate()
    except Preempted:
        raise
    except ClippoError as error:
        result = EvalResult.failed(name, dataset, f"{type(error).__name__}: {error}", **(known or {}))
        if is_first_rank():
            write_result(folder, result)
        return result


def is_first_rank() -> bool:
    """Whether this process writes: rank 0 of a group, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    samples: int = 1000,
    seed: int | Sequence[int] = 0,
    *,
    groups: Sequence[Any] | None = None,
    statistic: Statistic | None = None,
) -> list[float]:
    """The 95 % percentile bootstrap interval [low, high] of a statistic of `values` [n] or [n, m]; the mean of [n] by default."""
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

    Resampling n of n rows is the same as drawing how often each distinct row occurs (a multinomial), so it costs
    samples x distinct rows and does not depend on the order of the examples. With `groups` (one label an example), whole groups
    are drawn: questions about one photo stand or fall together. Raises EvaluationError for no or non-finite values.
    """
    rows = np.asarray(values, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if not rows.size or not np.isfinite(rows).all():
        raise EvaluationError(f"an interval needs finite values; {len(rows)} rows hold {int((~np.isfinite(rows)).sum())} others.")
    if groups is not None:
        if statistic is not None:
            raise EvaluationError("an interval over groups is of a mean; leave out `statistic` or `groups`.")
        rows, statistic = _sums_by_group(rows[:, 0], groups), _ratio
    statistic = statistic or _mean
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), size=samples)
    return np.array([statistic(distinct, row) for row in drawn])


def picture(image: np.ndarray) -> str:
    """A uint8 image [h, w, 3] or [h, w] as a data: URI of a PNG, for examples.json."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def hits_and_misses(correct: Sequence[bool] | np.ndarray, seed: int = 0, each: int = 6) -> list[int]:
    """Indices of up to `each` hits and then up to `each` misses, drawn by `seed`."""
    right = np.asarray(correct, dtype=bool)
    random = np.random.default_rng(seed)
    chosen = [random.permutation(np.flatnonzero(group))[:each] for group in (right, ~right)]
    return [int(i) for i in np.concatenate(chosen)]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise EvaluationError(f"columns of predictions differ in length: {lengths}.")
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), buffer)
    return buffer.getvalue()


def _mean(rows: np.ndarray, counts: np.ndarray) -> float:
    return float(counts @ rows[:, 0] / counts.sum())


def _ratio(rows: np.ndarray, counts: np.ndarray) -> float:
    return float(counts @ rows[:, 0] / (counts @ rows[:, 1]))


def _sums_by_group(values: np.ndarray, groups: Sequence[Any]) -> np.ndarray:
    """[sum, count] of each group's values, float64 [groups, 2]."""
    if len(groups) != len(values):
        raise EvaluationError(f"{len(values)} values, but {len(groups)} group labels.")
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    return np.stack([np.bincount(index, weights=values), np.bincount(index)], axis=1).astype(np.float64)
