"""The tasks `imagenet`, `retrieval`, `vqa`, `glue` and `xm3600`: one evaluation each, side by side.

One that fails returns a result that says why, so that the other four and the report go on; such a
result is never promoted, and never answered from a cache (`run/planning.py`).
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from flytekit import Deck, task
from flytekit.types.file import FlyteFile, HTMLPage

from clippo_core import storage
from clippo_core.config import EvaluateConfig
from clippo_core.errors import EvaluationError, NotFoundError
from clippo_core.evaluate.registry import check_complete, evaluation
from clippo_core.run.records import CheckpointInfo, EvalResult, EvaluatePlan
from tasks import settings


class Plans(NamedTuple):
    """One plan per evaluation, each a named output of its own."""

    imagenet: EvaluatePlan
    retrieval: EvaluatePlan
    vqa: EvaluatePlan
    glue: EvaluatePlan
    xm3600: EvaluatePlan


class Evaluated(NamedTuple):
    """What the evaluations of one model end with."""

    report: HTMLPage
    results: FlyteFile


check_complete(Plans._fields, "tasks.evaluate.Plans")
_logger = logging.getLogger(__name__)


def _box(name: str) -> dict[str, Any]:
    """Cache and deck of the task of one evaluation: its cache follows the code of that one
    alone.
    """
    cache = settings.cached(evaluation(name).module)
    return {"cache": cache, "enable_deck": True, "deck_fields": ()}


@task(**settings.evaluation(), **_box("imagenet"))
def imagenet(checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Zero-shot and few-shot classification."""
    return _evaluate("imagenet", checkpoint, plan)


@task(**settings.evaluation(), **_box("retrieval"))
def retrieval(checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Image-to-text and text-to-image retrieval."""
    return _evaluate("retrieval", checkpoint, plan)


@task(**settings.evaluation(), **_box("vqa"))
def vqa(checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Visual question answering, fine-tuned."""
    return _evaluate("vqa", checkpoint, plan)


@task(**settings.evaluation(), **_box("glue"))
def glue(checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Language understanding from drawn text, fine-tuned."""
    return _evaluate("glue", checkpoint, plan)


@task(**settings.evaluation(), **_box("xm3600"))
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
    from clippo_core.run.planning import plan_evaluations as plan

    settings.require_shared(root)
    return Plans(**plan(evaluate, checkpoint, root))


@task(**settings.processing(cpu="2", memory="4Gi"), enable_deck=True, deck_fields=())
def conclude(
    checkpoint: CheckpointInfo, plans: list[EvaluatePlan], results: list[EvalResult], root: str
) -> Evaluated:
    """Write the page of these evaluations, show it in the console, and print the table; fails where
    none of them gave a number.
    """
    from clippo_core.report import evaluated
    from clippo_core.run.folder import RunFolder

    names = {result.name: plan for result, plan in zip(results, plans, strict=True)}
    folders = {name: RunFolder(plan.stage.root).evaluation(name) for name, plan in names.items()}
    found = evaluated.conclude(checkpoint, results, folders, root)
    Deck("Report", found.html)
    print(f"\n{found.words}\n")
    return Evaluated(FlyteFile(found.report), FlyteFile(found.results))


@task(**settings.processing(cpu="1", memory="2Gi", disk="1Gi"))
def require_all(results: list[EvalResult], promoted: str) -> list[EvalResult]:
    """The results, unless an evaluation failed, or its main metric differs from the one with which
    the model was promoted: then EvaluationError names them and the reason.
    """
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
    return results


def _evaluate(name: str, checkpoint: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
    """Run one evaluation, turn any failure into a result, draw the deck."""
    from clippo_core.report.decks import evaluation_deck
    from clippo_core.run.folder import RunFolder

    result = evaluation(name).attempt(checkpoint, plan)
    if evaluation(name).configs(plan.evaluate):
        folder = RunFolder(plan.stage.root).evaluation(name)
        Deck(name, evaluation_deck(result, folder, checkpoint=checkpoint.uri))
    return result
