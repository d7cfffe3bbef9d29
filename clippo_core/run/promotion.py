"""The gate: is the new model at least as good as the promoted one, within the noise of the
evaluations?

    promote  <=>  no evaluation failed, some main metric is above chance, and on every main metric
                  now >= before - half the 95 % interval

The promoted model is one small JSON file, replaced by compare-and-swap: of two runs that finish
together, one wins and the other is told. The gate keeps a weekly model from getting worse
unnoticed; it does not test for superiority.
"""

from __future__ import annotations

import json
from typing import Any

from clippo_core import storage
from clippo_core.errors import ConflictError, DataError, NotFoundError
from clippo_core.run.records import CheckpointInfo, EvalResult, GatePlan, Metric, Verdict
from clippo_core.untrusted.json import field, load_json
from clippo_core.untrusted.limits import LIMITS


def decide(plan: GatePlan, checkpoint: CheckpointInfo, results: list[EvalResult]) -> Verdict:
    """Compare with the promoted model, and move the pointer if the new one may replace it. Raises
    StorageError only.
    """
    fault = ""
    try:
        before, etag = _read_pointer(plan.promoted)
    except DataError as error:
        before, etag, fault = {}, "", str(error)
    previous = before.get("uri", "")
    now = main_metrics(results)
    compared = {
        name: [float(old), _value(now[name])]
        for name, old in before.get("metrics", {}).items()
        if name in now
    }

    def verdict(promoted: bool, reason: str) -> Verdict:
        return Verdict(
            promoted=promoted,
            reason=reason,
            model_uri=checkpoint.uri,
            previous_uri=previous,
            compared=compared,
        )

    if fault:
        return verdict(False, f"Not promoted: there is nothing to compare with: {fault}")
    failed = [f"{result.name} ({result.failure})" for result in results if result.failure]
    if failed:
        return verdict(False, f"Not promoted: {'; '.join(failed)}.")
    if not now:
        return verdict(False, "Not promoted: no evaluation gave a main metric to judge by.")
    if not any(map(_above_chance, now.values())):
        return verdict(
            False, "Not promoted: no main metric is above chance, by the lower end of its interval."
        )
    if plan.promote_metric and plan.promote_metric not in now:
        return verdict(
            False,
            f"Not promoted: the metric to judge by, {plan.promote_metric}, is not among"
            f" {', '.join(sorted(now))}.",
        )
    if before.get("weights_sha256") == checkpoint.weights_sha256:
        return verdict(True, "This model is the promoted one already.")
    worse = _worse(compared, now, plan.promote_metric)
    missing = sorted(set(before.get("metrics", {})) - set(now))
    if missing and not plan.promote_metric:
        return verdict(
            False, f"Not promoted: the promoted model has {', '.join(missing)}, this one does not."
        )
    if worse:
        return verdict(False, f"Not promoted: {'; '.join(worse)}.")
    try:
        _write_pointer(plan.promoted, checkpoint, now, etag)
    except ConflictError:
        return verdict(
            False,
            f"Not promoted: another run moved {plan.promoted} meanwhile; run the gate again to"
            " compare with it.",
        )
    return verdict(
        True,
        "Promoted: "
        + (
            "no main metric is worse than the promoted model's."
            if previous
            else "the first of its name."
        ),
    )


def main_metrics(results: list[EvalResult]) -> dict[str, Metric]:
    """Main metrics that have a value, over all results that did not fail."""
    return {
        name: result.metrics[name]
        for result in results
        if not result.failure
        for name in result.main_metrics
        if name in result.metrics and result.metrics[name].value is not None
    }


def promoted_uri(pointer: str) -> str:
    """URI of the promoted model's checkpoint. Raises NotFoundError where nothing was promoted yet,
    DataError where the pointer is damaged.
    """
    uri: str = _checked_pointer(storage.read_bytes(pointer), pointer)["uri"]
    return uri


def _value(metric: Metric) -> float:
    assert metric.value is not None  # `main_metrics` took only those with a value
    return metric.value


def _above_chance(metric: Metric) -> bool:
    """Whether the lower end of a metric's interval is above chance; a metric without a known chance
    counts as above.
    """
    low, _ = metric.bounds or (_value(metric), None)
    return metric.chance is None or low > metric.chance


def _worse(compared: dict[str, list[float]], now: dict[str, Metric], only: str) -> list[str]:
    """A sentence for each main metric (or for `only`) that fell by more than half its interval."""
    found = []
    for name, (old, new) in sorted(compared.items()):
        low, high = now[name].bounds or (new, new)
        noise = (high - low) / 2
        if new < old - noise and only in ("", name):
            found.append(
                f"{name} fell from {old:.2f} to {new:.2f}, by more than its noise of {noise:.2f}"
            )
    return found


def _read_pointer(uri: str) -> tuple[dict[str, Any], str]:
    """The pointer's content and etag; empty where there is none."""
    try:
        data, etag = storage.read_with_etag(uri)
    except NotFoundError:
        return {}, ""
    return _checked_pointer(data, uri), etag


def _checked_pointer(data: bytes, uri: str) -> dict[str, Any]:
    """What `_write_pointer` wrote. Raises DataError for anything else."""
    remedy = "delete it to promote the next model as the first"
    content = load_json(
        data, uri, unique_keys=True, remedy=remedy, max_bytes=LIMITS.json_header_bytes
    )
    return {
        "uri": field(content, "uri", str, uri),
        "weights_sha256": field(content, "weights_sha256", str, uri),
        "metrics": field(content, "metrics", dict[str, float], uri),
    }


def _write_pointer(uri: str, checkpoint: CheckpointInfo, now: dict[str, Metric], etag: str) -> None:
    metrics = {name: metric.value for name, metric in now.items()}
    pointer = {
        "uri": checkpoint.uri,
        "weights_sha256": checkpoint.weights_sha256,
        "step": checkpoint.step,
        "metrics": metrics,
    }
    text = json.dumps(pointer, indent=1, sort_keys=True) + "\n"
    if etag:
        storage.write_text(uri, text, if_match=etag)
    else:
        storage.write_text(uri, text, if_absent=True)
