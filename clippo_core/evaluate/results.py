"""One evaluation on disk: written, read back, skipped when it exists.

    <folder>/result.json           EvalResult, a pure function of weights, data, protocol and code;
                                   written last: it is the commit
             predictions.parquet   one row per example and metric, with its score (`scores.py`)
             examples.json         six hits and six misses per benchmark, as pictures
             timings.json          seconds; the only file that differs between two runs
             benchmark-<dataset>/  the same files of one benchmark, part.json for result.json

A result is skipped when its folder already holds one with the same `inputs_digest`; a failed one is
tried again. Many results side by side, and the paper's numbers beside ours, stand in
`report/compare.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clippo_core import storage
from clippo_core.config import digest, identity
from clippo_core.errors import EvaluationError, StorageError
from clippo_core.evaluate.scores import MAX_BYTES, Scores
from clippo_core.run import records
from clippo_core.run.folder import EXAMPLES, RESULT, SCORES, TIMINGS
from clippo_core.run.records import RESULT_SCHEMA, EvalResult, EvaluatePlan
from clippo_core.untrusted.json import field, load_json
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import reason, refusal

REMEDY = "delete it and run the evaluation again"
"""What to do about a file of a result that is damaged."""


def inputs_digest(
    plan: EvaluatePlan, name: str, *, weights_sha256: str, render_digest: str, code_digest: str
) -> str:
    """sha256 of everything that the result of evaluation `name` depends on: its config, seed, data,
    weights, rendering, code.

    The batch size of embedding and the run's folder are left out: no digit depends on them.
    """
    # Left out where it is float32, so that results of before there was a choice stay theirs.
    precision = plan.evaluate.precision
    return digest(
        ({} if precision == "float32" else {"precision": precision})
        | {
            "name": name,
            "config": identity(getattr(plan.evaluate, name)),
            "bootstrap_samples": plan.evaluate.bootstrap_samples,
            "seed": plan.stage.seed,
            "data_digest": plan.stage.data_digest,
            "is_demo": plan.is_demo,
            "weights": weights_sha256,
            "render": render_digest,
            "code": code_digest,
        }
    )


def write_result(
    folder: str,
    result: EvalResult,
    scores: Scores | None = None,
    examples: Sequence[dict[str, Any]] = (),
    timings: Mapping[str, float] | None = None,
    *,
    record: str = RESULT,
) -> EvalResult:
    """Write one evaluation into `folder` (local or s3://), every file atomically, `record` last.

    The result is returned with the address and sha256 of its `scores`. Every rank of a process
    group may call this; the first one writes. timings: name -> seconds. Raises EvaluationError for
    a metric that is neither a finite number nor says why it is none.
    """
    for name, metric in result.metrics.items():
        _check(f"{result.name}: {name}", metric)
    table = scores.to_parquet() if scores else None
    if table is not None:
        sha256 = hashlib.sha256(table).hexdigest()
        result = dataclasses.replace(result, scores=SCORES, scores_sha256=sha256)
    if is_first_rank():
        if table is not None:
            storage.write_bytes(storage.join(folder, result.scores), table)
        storage.write_text(storage.join(folder, EXAMPLES), _json(list(examples)))
        storage.write_text(storage.join(folder, TIMINGS), _json(dict(timings or {})))
        storage.write_text(storage.join(folder, record), records.dumps(result))
    return result


def read_result(folder: str, record: str = RESULT) -> EvalResult | None:
    """The result in `folder`, or None where there is none.

    Results of schema 1 are read, too; they have no per-example scores. Raises EvaluationError for a
    file that cannot be read, or that says what `write_result` would not have written.
    """
    uri = storage.join(folder, record)
    if not storage.exists(uri):
        return None
    data = storage.read_bytes(uri, LIMITS.json_bytes)
    content = load_json(data, uri, error=EvaluationError, remedy=REMEDY)
    schema = field(content, "schema_version", int, uri, error=EvaluationError)
    if not 1 <= schema <= RESULT_SCHEMA:
        fault = f"it has schema {schema}, and this version reads up to {RESULT_SCHEMA}"
        raise refusal(EvaluationError, uri, fault, f"read it with a newer version, or {REMEDY}")
    try:
        found = records.from_dict(EvalResult, _from_schema_1(content) if schema == 1 else content)
        for name, metric in found.metrics.items():
            _check(name, metric)
    except (EvaluationError, ValueError, TypeError, KeyError, AttributeError) as caught:
        words = f"it is no evaluation result ({reason(caught)})"
        raise refusal(EvaluationError, uri, words, REMEDY) from None
    if found.scores not in ("", SCORES):
        fault = f"its scores are said to be in {found.scores!r}, and not in {SCORES}"
        raise refusal(EvaluationError, uri, fault, REMEDY)
    return found


def whole_result(folder: str, record: str = RESULT) -> EvalResult | None:
    """The result in `folder` if it can be read, did not fail, and its scores are still the same."""
    try:
        result = read_result(folder, record)
    except EvaluationError:
        return None
    if result is None or result.failure:
        return None
    if not result.scores:
        return result
    try:
        scores = storage.read_bytes(storage.join(folder, result.scores), MAX_BYTES)
    except StorageError:
        return None
    return result if hashlib.sha256(scores).hexdigest() == result.scores_sha256 else None


def finished_result(folder: str, wanted: str, record: str = RESULT) -> EvalResult | None:
    """The result in `folder`, if it can stand for a new one; otherwise None: run the evaluation.

    It is whole, and was made from the inputs with digest `wanted`.
    """
    result = whole_result(folder, record)
    return result if result is not None and result.inputs_digest == wanted else None


def read_results(root: str) -> list[EvalResult]:
    """All results anywhere under `root`, sorted by weights, evaluation and dataset. Raises
    NotFoundError where `root` is not there.
    """
    names = sorted(
        stat.name
        for stat in storage.list_files(root)
        if stat.name == RESULT or stat.name.endswith("/" + RESULT)
    )
    found = [read_result(storage.join(root, name)[: -len(RESULT) - 1]) for name in names]
    return sorted(
        (result for result in found if result is not None),
        key=lambda r: (r.weights_sha256, r.name, r.dataset),
    )


def is_first_rank() -> bool:
    """Whether this process writes: rank 0 of a group, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def hits_and_misses(
    correct: Sequence[bool] | np.ndarray, seed: int = 0, each: int = 6
) -> list[int]:
    """Indices of up to `each` hits and then up to `each` misses, drawn by `seed`."""
    right = np.asarray(correct, dtype=bool)
    random = np.random.default_rng(seed)
    chosen = [random.permutation(np.flatnonzero(group))[:each] for group in (right, ~right)]
    return [int(i) for i in np.concatenate(chosen)]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _check(name: str, metric: records.Metric) -> None:
    """Raise EvaluationError unless the metric is a finite number, or says why it is none."""
    for what in ("value", "low", "high", "chance"):
        number = getattr(metric, what)
        if number is not None and not math.isfinite(number):
            raise EvaluationError(
                f"{name} has the {what} {number}; put the reason into why_not instead of a number."
            )
    if (metric.low is None) != (metric.high is None):
        raise EvaluationError(f"{name} has one end of an interval; give both, or neither.")
    if (metric.value is None) != bool(metric.why_not):
        raise EvaluationError(f"{name} needs either a value or the reason why it has none.")


def _from_schema_1(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a result that was written with one dict per property of a metric."""
    old = {
        name: values.pop(name, {})
        for name in ("metrics", "confidence", "chance", "n_by_metric", "flags", "not_run")
    }
    metrics: dict[str, dict[str, Any]] = {}
    for name, value in old["metrics"].items():
        low, high = old["confidence"].get(name, (None, None))
        metrics[name] = {
            "value": value,
            "low": low,
            "high": high,
            "chance": old["chance"].get(name),
            "n": old["n_by_metric"].get(name, values["n_examples"]),
            "flag": old["flags"].get(name, ""),
        }
    metrics |= {name: {"why_not": reason} for name, reason in old["not_run"].items()}
    return {**values, "metrics": metrics, "schema_version": RESULT_SCHEMA}
