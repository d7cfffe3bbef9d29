"""An evaluation on several benchmarks: each one runs and resumes by itself, and one result has all.

    <evaluation>/benchmark-coco/part.json        ─┐
    <evaluation>/benchmark-flickr30k/part.json   ─┴▶ <evaluation>/result.json

A part is an EvalResult of its own, with its own digest: a new benchmark beside it, or a kill during
the next one, does not run it again. The result of a single benchmark is that benchmark's part.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from clippo_core import storage
from clippo_core.config import digest
from clippo_core.embedder import Clippo
from clippo_core.errors import EvaluationError
from clippo_core.evaluate import results
from clippo_core.evaluate.harness import Session, evaluate_one, not_set
from clippo_core.evaluate.scores import MAX_BYTES, Scores
from clippo_core.run.folder import EXAMPLES, PART, TIMINGS, RunFolder
from clippo_core.run.records import EvalResult, EvaluatePlan
from clippo_core.untrusted.json import at, field, load_json
from clippo_core.untrusted.limits import LIMITS

T = TypeVar("T")


def evaluate_each(
    name: str,
    checkpoint: str,
    plan: EvaluatePlan,
    progress: bool,
    work: Callable[[Session], None],
) -> EvalResult:
    """Run `work` once per benchmark, and write the result of all below plan.stage.root.

    Finished parts, and a finished whole, are taken as they are. Runs in one process. A benchmark
    with a data or protocol error leaves its reason in the result's `failure`, beside the numbers of
    the others. Other errors and Preempted are raised, and ConfigError where none is configured.
    """
    configs = getattr(plan.evaluate, name)
    if not configs:
        raise not_set(name)
    load = functools.cache(lambda: Clippo.load(checkpoint))
    parts = {}
    for config in configs:
        only: dict[str, Any] = {name: (config,)}
        stage = plan.benchmarks.get(config.dataset, plan.stage)
        evaluate = dataclasses.replace(plan.evaluate, **only)
        alone = dataclasses.replace(plan, stage=stage, evaluate=evaluate)
        folder = RunFolder(stage.root).benchmark(name, config.dataset)
        parts[folder] = evaluate_one(name, load, alone, progress, work, folder, PART)
    return _write_whole(RunFolder(plan.stage.root).evaluation(name), parts)


def _write_whole(folder: str, parts: dict[str, EvalResult]) -> EvalResult:
    """Write the result of all parts (folder -> record), unless it is there already."""
    whole = _merged(list(parts.values()))
    finished = results.finished_result(folder, whole.inputs_digest)
    if finished is not None:
        return finished
    scores, examples = Scores(), []
    timings: dict[str, float] = {}
    for place, part in parts.items():
        prefix = f"{part.dataset}_" if len(parts) > 1 else ""
        if part.scores:
            uri = storage.join(place, part.scores)
            scores.add_parquet(storage.read_bytes(uri, MAX_BYTES), uri)
        for example in _read(place, EXAMPLES, list[dict]):
            asked = field(example, "asked", str, place, EXAMPLES, error=EvaluationError)
            hit = field(example, "hit", bool, place, EXAMPLES, error=EvaluationError)
            asked = f"({part.dataset}) {asked}" if prefix else asked
            examples.append({**example, "asked": asked, "hit": hit})
        seconds = _read(place, TIMINGS, dict[str, float])
        timings |= {f"{prefix}{name}": value for name, value in seconds.items()}
    examples.sort(key=lambda example: not example["hit"])
    return results.write_result(folder, whole, scores, examples, timings)


def _merged(parts: list[EvalResult]) -> EvalResult:
    """One result of all; of a single part, that part."""
    if len(parts) == 1:
        return parts[0]
    failures = [f"{part.dataset}: {part.failure}" for part in parts if part.failure]
    return dataclasses.replace(
        parts[0],
        dataset=", ".join(part.dataset for part in parts),
        split=", ".join(dict.fromkeys(part.split for part in parts if part.split)),
        protocol=" ".join(dict.fromkeys(part.protocol for part in parts if part.protocol)),
        n_examples=sum(part.n_examples for part in parts),
        metrics={name: metric for part in parts for name, metric in part.metrics.items()},
        counts={f"{part.dataset}_{name}": n for part in parts for name, n in part.counts.items()},
        main_metrics=[name for part in parts for name in part.main_metrics],
        inputs_digest=digest([part.inputs_digest for part in parts]),
        scores="",
        scores_sha256="",
        is_partial=any(part.is_partial for part in parts),
        failure="; ".join(failures),
    )


def _read(folder: str, file: str, kind: type[T]) -> T:
    """The content of a part's json file. Raises EvaluationError, NotFoundError."""
    uri = storage.join(folder, file)
    data = storage.read_bytes(uri, LIMITS.json_bytes)
    content = load_json(data, uri, error=EvaluationError, remedy=results.REMEDY)
    return at(content, kind, uri, error=EvaluationError)
