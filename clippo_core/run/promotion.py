"""The gate: a new model replaces the promoted one if it is at least as good (`judgement.py`).

    results ─▶ compared with the references, example by example ─▶ judged ─▶ recorded ─▶ pointer

The reference of a metric is the promotion that was last shown to be better in it, so a series of
models that each lose a little is not held against its own last member. A person may overrule:
`promote` and `rollback` make a record, too, and its model is the new reference. Every verdict is
kept (`history.py`), and the promoted model stands beside its pointer as a folder that others can
load (`publishing.py`).
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import math
from collections.abc import Callable, Mapping

from clippo_core import storage
from clippo_core.config import GateConfig
from clippo_core.errors import ClippoError, ConfigError, ConflictError, DataError, StorageError
from clippo_core.evaluate import paired
from clippo_core.run import history, judgement
from clippo_core.run.history import Promotion, ScoreFile
from clippo_core.run.publishing import publish_promoted
from clippo_core.run.records import (
    CheckpointInfo,
    Comparison,
    EvalResult,
    GatePlan,
    Metric,
    Verdict,
)

_Reader = Callable[[ScoreFile], Mapping[str, paired.Column]]


def decide(plan: GatePlan, checkpoint: CheckpointInfo, results: list[EvalResult]) -> Verdict:
    """Compare with the references, record the verdict, and move the pointer if the model may
    replace the promoted one.

    A model that is promoted already stays so, without another record; where a record or a pointer
    is damaged, none is made. Raises StorageError only.
    """
    while True:
        try:
            past = history.read(plan.promoted)
        except DataError as error:
            words = f"Not promoted: there is nothing to compare with: {error}"
            return Verdict(False, words, checkpoint.uri, "")
        current = history.promoted(past)
        record = _judged(plan, checkpoint, results, past)
        if (
            current
            and record.verdict.promoted
            and current.weights_sha256 == checkpoint.weights_sha256
        ):
            history.point(plan.promoted, current)
            publish_promoted(plan.promoted, results)
            return record.verdict
        try:
            history.append(plan.promoted, record)
        except ConflictError:  # another run's verdict came first, perhaps a promotion
            continue
        if record.verdict.promoted:
            history.point(plan.promoted, record)
            publish_promoted(plan.promoted, results)
        return record.verdict


def promote(pointer: str, model: str, by: str, why: str) -> Promotion:
    """Promote by hand: the model of a record, by its number, or a checkpoint, by its address.

    The next models are held against it in all its metrics; a bare checkpoint has none, so that the
    next model is judged like a first one. Raises ConfigError for a number that is not there, and
    what `open_checkpoint` raises where the checkpoint is gone or damaged.
    """
    from clippo_core.engine.checkpoint import open_checkpoint

    while True:
        past = history.read(pointer)
        current = history.promoted(past)
        number = past[-1].number + 1 if past else 1
        chosen = next((one for one in past if str(one.number) == model), None)
        if chosen is None and model.isdigit():
            raise ConfigError(f"{pointer} has no record {model}; `promotions` lists those it has.")
        info = open_checkpoint(chosen.verdict.model_uri if chosen else model).info
        record = chosen or Promotion(0, "", "", Verdict(True, "", "", ""), "", info.step)
        if chosen and info.weights_sha256 != chosen.weights_sha256:
            raise ConfigError(
                f"{info.uri} no longer holds the weights of record {model}; give its address"
                " instead of the number if these are meant."
            )
        record = dataclasses.replace(
            record,
            number=number,
            by=by,
            at=_now(),
            verdict=Verdict(True, why, info.uri, current.verdict.model_uri if current else ""),
            weights_sha256=info.weights_sha256,
            references=dict.fromkeys(record.metrics, number),
        )
        try:
            history.append(pointer, record)
        except ConflictError:
            continue
        history.point(pointer, record)
        publish_promoted(pointer)
        return record


def rollback(pointer: str, by: str, why: str) -> Promotion:
    """Promote by hand the model that was promoted before the present one. Raises ConfigError where
    there is none.
    """
    earlier = history.promoted_before(history.read(pointer))
    if earlier is None:
        raise ConfigError(f"{pointer} has no earlier promotion to go back to.")
    return promote(pointer, str(earlier.number), by, why)


def drift(pointer: str, results: list[EvalResult], error: float = GateConfig().error) -> list[str]:
    """What is different about the promoted model since it was promoted, a sentence per main metric;
    nothing where none is promoted, or another one is by now. Raises DataError, StorageError.
    """
    current = history.promoted(history.read(pointer))
    if not current:
        return []
    now = main_metrics([one for one in results if one.weights_sha256 == current.weights_sha256])
    if not now:
        return []
    compared = {
        name: Comparison(old.value, new.value, math.hypot(_error(old), _error(new)))
        for name, old in current.metrics.items()
        if (new := now.get(name)) and old.value is not None and new.value is not None
    }
    lost = [f"{name} is no longer given" for name in sorted(set(current.metrics) - set(now))]
    return lost + judgement.drifted(error, compared)


def main_metrics(results: list[EvalResult]) -> dict[str, Metric]:
    """Main metrics that have a value, over all results that did not fail."""
    return {
        name: result.metrics[name]
        for result in results
        if not result.failure
        for name in result.main_metrics
        if name in result.metrics and result.metrics[name].value is not None
    }


def _judged(
    plan: GatePlan, checkpoint: CheckpointInfo, results: list[EvalResult], past: list[Promotion]
) -> Promotion:
    """The next record: the verdict, and what later models will be held against."""
    current, record = history.promoted(past), _candidate(plan, checkpoint, results, past)
    is_current = current is not None and current.weights_sha256 == checkpoint.weights_sha256
    references = current.references if current else {}
    now, only = record.metrics, plan.promote_metric
    by_number = {one.number: one for one in past}
    evaluation = {name: result.name for result in results for name in result.main_metrics}
    read = functools.cache(_columns)
    compared = {
        name: _compare(name, evaluation[name], record, by_number[references[name]], read)
        for name in sorted(now)
        if references.get(name) in by_number
    }
    reasons = _missing(plan, results, now, references)
    if not reasons and not is_current:
        chosen = plan.gate.floors or ([only] if only else now)
        reasons = judgement.below_floor(chosen, now, set(now) - set(references))
        judged = {name: one for name, one in compared.items() if only in ("", name)}
        reasons += judgement.faults(plan.gate, judged)
    if reasons:
        words = f"Not promoted: {'; '.join(reasons)}."
    elif is_current:
        words = "This model is the promoted one already."
    elif not compared:
        words = "Promoted: the first of its name, above chance."
    else:
        words = f"Promoted: no more than the margin of {plan.gate.margin:g} is lost."
    kept = {
        name: references[name]
        for name, one in compared.items()
        if not judgement.is_better(plan.gate, one, len(compared))
    }
    others = {
        name: one
        for name, one in compared.items()
        if by_number[one.promotion].weights_sha256 != checkpoint.weights_sha256
    }
    verdict = dataclasses.replace(
        record.verdict, promoted=not reasons, reason=words, compared=others
    )
    return dataclasses.replace(
        record, verdict=verdict, references={**dict.fromkeys(now, record.number), **kept}
    )


def _candidate(
    plan: GatePlan, checkpoint: CheckpointInfo, results: list[EvalResult], past: list[Promotion]
) -> Promotion:
    """What the next record says of the model itself, before anybody judged it."""
    current = history.promoted(past)
    scores = {
        result.name: ScoreFile(
            storage.join(plan.evaluations[result.name], result.scores), result.scores_sha256
        )
        for result in results
        if result.scores and result.name in plan.evaluations
    }
    return Promotion(
        number=past[-1].number + 1 if past else 1,
        by=f"the gate of {plan.stage.root}",
        at=_now(),
        verdict=Verdict(False, "", checkpoint.uri, current.verdict.model_uri if current else ""),
        weights_sha256=checkpoint.weights_sha256,
        step=checkpoint.step,
        data_digest=plan.stage.data_digest,
        recipe=plan.recipe,
        start=plan.start,
        order_seed=plan.order_seed,
        metrics=main_metrics(results),
        scores=scores,
        benchmarks=plan.benchmarks,
    )


def _missing(
    plan: GatePlan,
    results: list[EvalResult],
    now: Mapping[str, Metric],
    references: Mapping[str, int],
) -> list[str]:
    """Why there is nothing to judge by; empty where there is."""
    failed = [f"{result.name} ({result.failure})" for result in results if result.failure]
    if failed:
        return failed
    if not now:
        return ["no evaluation gave a main metric to judge by"]
    if plan.promote_metric:
        if plan.promote_metric in now:
            return []
        return [
            f"the metric to judge by, {plan.promote_metric}, is not among {', '.join(sorted(now))}"
        ]
    lost = ", ".join(sorted(set(references) - set(now)))
    return [f"the promoted model has {lost}, this one does not"] if lost else []


def _compare(
    metric: str, evaluation: str, new: Promotion, reference: Promotion, read: _Reader
) -> Comparison:
    """One main metric beside the reference's: example by example where both read the same."""
    now, before = new.metrics[metric], reference.metrics[metric]
    assert now.value is not None and before.value is not None  # main metrics have values
    found = Comparison(before.value, now.value, 0.0, reference.number)
    dataset = next((d for d in new.benchmarks if metric.startswith(f"{d}/")), "")
    if evaluation not in new.scores or evaluation not in reference.scores:
        why = "one of the two has no scores of single examples"
    elif not dataset or new.benchmarks[dataset] != reference.benchmarks.get(dataset):
        why = "the benchmark's files or settings differ"
    else:
        try:
            columns = [read(one.scores[evaluation]) for one in (new, reference)]
            paired_now = paired.difference(metric, *columns)
            change = now.value - before.value
            if paired_now and math.isclose(paired_now.value, change, abs_tol=1e-6):
                return dataclasses.replace(found, error=paired_now.error)
            why = "the two scored other examples"
        except (ClippoError, OSError) as fault:
            why = str(fault)
    error = math.hypot(_error(now), _error(before if before.bounds else now))
    return dataclasses.replace(found, error=error, unpaired=why)


def _columns(file: ScoreFile) -> Mapping[str, paired.Column]:
    """The scores of an evaluation. Raises StorageError where they are gone or others."""
    table = storage.read_bytes(file.uri)
    if hashlib.sha256(table).hexdigest() != file.sha256:
        raise StorageError(f"{file.uri}: its sha256 differs from the one on record.")
    return paired.read_columns(table, file.uri)


def _error(metric: Metric) -> float:
    """Standard error of a metric, from its 95 % interval."""
    low, high = metric.bounds or (0.0, 0.0)
    return (high - low) / 2 / 1.96


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
