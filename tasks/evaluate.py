"""The tasks `imagenet`, `retrieval`, `vqa`, `glue` and `xm3600`: one evaluation each, side by side;
and `gather`, which makes one list of what they leave.

    plans.glue, a list of one or none ─▶ map of `glue` ─▶ its result, None, or nothing ─▶ gather

One that fails returns a result that says why. One whose pod dies leaves None, for a map of which no
item has to succeed goes on; one that the run does not ask for is a map over nothing, so no GPU is
asked for. `gather` gives each a result, so that gate and report always have five. A failed one is
never promoted, and never answered from a cache (`run/places.py`).
"""

from __future__ import annotations

import functools
import logging
from typing import Any, NamedTuple

from flytekit import Cache, Deck, map_task, task
from flytekit.types.file import FlyteFile, HTMLPage

from clippo_core import storage
from clippo_core.config import EvaluateConfig
from clippo_core.errors import EvaluationError, NotFoundError
from clippo_core.evaluate.registry import asked_for, check_complete, evaluation
from clippo_core.run.records import CheckpointInfo, EvalResult, EvaluatePlan
from tasks import settings
from tasks.decks import show


class Plans(NamedTuple):
    """At most one plan per evaluation, each list a named output of its own."""

    imagenet: list[EvaluatePlan]
    retrieval: list[EvaluatePlan]
    vqa: list[EvaluatePlan]
    glue: list[EvaluatePlan]
    xm3600: list[EvaluatePlan]


class Evaluated(NamedTuple):
    """What the evaluations of one model end with."""

    report: HTMLPage
    results: FlyteFile


check_complete(Plans._fields, "tasks.evaluate.Plans")
_logger = logging.getLogger(__name__)
POD_DIED = (
    "its pod ended without a result (out of memory, out of time, or its node was lost); the console"
    " shows its attempts"
)


def _cache(name: str) -> Cache:
    """The cache of one evaluation's task follows the code of that one alone."""
    return settings.cached(evaluation(name).module)


@task(**settings.evaluation(), cache=_cache("imagenet"))
def imagenet(checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Zero-shot and few-shot classification."""
    return _evaluate("imagenet", checkpoint, plan)


@task(**settings.evaluation(), cache=_cache("retrieval"))
def retrieval(checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Image-to-text and text-to-image retrieval."""
    return _evaluate("retrieval", checkpoint, plan)


@task(**settings.evaluation(), cache=_cache("vqa"))
def vqa(checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Visual question answering, fine-tuned."""
    return _evaluate("vqa", checkpoint, plan)


@task(**settings.evaluation(), cache=_cache("glue"))
def glue(checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Language understanding from drawn text, fine-tuned."""
    return _evaluate("glue", checkpoint, plan)


@task(**settings.evaluation(), cache=_cache("xm3600"))
def xm3600(checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Retrieval in every language."""
    return _evaluate("xm3600", checkpoint, plan)


@task(**settings.processing(cpu="2", memory="8Gi"))
def open_checkpoint(checkpoint: str) -> CheckpointInfo:
    """The model that `checkpoint` names, in any form that Clippo.load takes, verified."""
    from clippo_core.opening import model_info

    return model_info(checkpoint)


@task(**settings.processing(cpu="2", memory="8Gi"))
def open_promoted(promoted: str) -> CheckpointInfo:
    """The promoted model's checkpoint, verified; one without an address where nothing was promoted
    yet, of which nothing is evaluated.
    """
    from clippo_core.engine.checkpoint import open_checkpoint as read
    from clippo_core.run.history import promoted_uri

    try:
        return read(promoted_uri(promoted)).info
    except NotFoundError:
        if storage.exists(promoted):
            raise
        _logger.warning("%s: nothing is promoted yet", promoted)
        return CheckpointInfo("", 0, 0, 0.0, "", "", "", 0)


@task(**settings.processing(cpu="2", memory="4Gi"))
def plan_evaluations(checkpoint: CheckpointInfo, evaluate: EvaluateConfig, root: str) -> Plans:
    """A plan for each evaluation of a checkpoint that is there already."""
    from clippo_core.run.evaluation_plans import plan_evaluations as plan

    settings.require_shared(root)
    return Plans(**asked_for(plan(evaluate, checkpoint, root)))


def mapped(evaluation: Any, checkpoint: CheckpointInfo, plan: list[EvaluatePlan]) -> Any:
    """The map of one evaluation's task over its plan, of which no item has to succeed."""
    one = functools.partial(evaluation, checkpoint=checkpoint)
    return map_task(one, min_success_ratio=0.0)(plan=plan)


@task(**settings.processing(cpu="2", memory="8Gi"), enable_deck=True, deck_fields=())
def gather(
    names: list[str],
    checkpoint: CheckpointInfo,
    plans: list[list[EvaluatePlan]],
    found: list[list[EvalResult | None]],
) -> list[EvalResult]:
    """One result per evaluation, whatever became of its pod; their decks, since flytekit writes
    none in the pods of a map. `plans`, `found`: by evaluation, in the order of `names`.
    """
    from clippo_core.report.decks import evaluation_deck
    from clippo_core.run.folder import RunFolder

    results = []
    for name, plan, one in zip(names, plans, found, strict=True):
        if not plan:
            results.append(EvalResult.skipped(name, "not configured for this run"))
            continue
        result = one[0] or evaluation(name).failed(checkpoint, plan[0], POD_DIED)
        results.append(result)
        folder = RunFolder(plan[0].stage.root).evaluation(name)
        show(name, evaluation_deck(result, folder, checkpoint=checkpoint.uri), plan[0].stage.root)
    return results


@task(**settings.processing(cpu="2", memory="4Gi"), enable_deck=True, deck_fields=())
def conclude(
    checkpoint: CheckpointInfo,
    plans: list[list[EvaluatePlan]],
    results: list[EvalResult],
    root: str,
) -> Evaluated:
    """Write the page of these evaluations, show it in the console, and print the table; fails where
    none of them gave a number.
    """
    from clippo_core.report import evaluated
    from clippo_core.run.folder import RunFolder

    folders = {
        result.name: RunFolder(plan[0].stage.root).evaluation(result.name)
        for result, plan in zip(results, plans, strict=True)
        if plan
    }
    found = evaluated.conclude(checkpoint, results, folders, root)
    Deck("Report", found.html)
    print(f"\n{found.words}\n")
    return Evaluated(FlyteFile(found.report), FlyteFile(found.results))


def alone(evaluation: Any, checkpoint: str, evaluate: EvaluateConfig, root: str) -> Any:
    """The nodes of a workflow of one evaluation, given by its task."""
    name = evaluation.task_function.__name__
    info = open_checkpoint(checkpoint=checkpoint)
    plan = getattr(plan_evaluations(checkpoint=info, evaluate=evaluate, root=root), name)
    found = [mapped(evaluation, info, plan)]
    results = gather(names=[name], checkpoint=info, plans=[plan], found=found)
    return conclude(checkpoint=info, plans=[plan], results=results, root=root)


@task(**settings.processing(cpu="1", memory="2Gi", disk="1Gi"))
def require_all(results: list[EvalResult], promoted: str) -> str:
    """The table of the results, unless an evaluation failed, or its main metric differs from the
    one with which the model was promoted: then EvaluationError names them and the reason.
    """
    from clippo_core.report.rows import summary_table
    from clippo_core.run.promotion import drift

    failed = [f"{result.name} ({result.failure})" for result in results if result.failure]
    if failed:
        raise EvaluationError(f"These evaluations have no numbers: {'; '.join(failed)}.")
    found = drift(promoted, results)
    if found:
        raise EvaluationError(
            f"The promoted model is no longer what it was: {'; '.join(found)}. The weights are the"
            " same, so a benchmark's files or the code changed."
        )
    return summary_table(results)


def _evaluate(name: str, checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Run one evaluation, and turn any failure into a result."""
    return evaluation(name).attempt(checkpoint, plan)
