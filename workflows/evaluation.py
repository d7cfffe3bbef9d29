"""Evaluations of a model that is there already: each alone, all five side by side, or those of the
promoted model.

    pyflyte run workflows evaluate_glue --checkpoint clippo_b16_yfcc100m \\
        --evaluate '{"glue": {"root": "data/glue"}}'

`checkpoint` is whatever Clippo.load takes. The end is a table, and the path of a report.
"""

from __future__ import annotations

import datetime

from flytekit import WorkflowFailurePolicy, workflow

from clippo_core.config import EvaluateConfig
from tasks.alert import alert_promoted
from tasks.evaluate import (
    Evaluated,
    alone,
    conclude,
    glue,
    imagenet,
    open_checkpoint,
    open_promoted,
    plan_evaluations,
    require_all,
    retrieval,
    vqa,
    xm3600,
)
from workflows.pipeline import UNSCHEDULED, evaluate_all


@workflow
def evaluate_imagenet(checkpoint: str, evaluate: EvaluateConfig, root: str = "runs") -> Evaluated:
    """Zero-shot and few-shot classification."""
    return alone(imagenet, checkpoint, evaluate, root)


@workflow
def evaluate_retrieval(checkpoint: str, evaluate: EvaluateConfig, root: str = "runs") -> Evaluated:
    """Image-to-text and text-to-image retrieval."""
    return alone(retrieval, checkpoint, evaluate, root)


@workflow
def evaluate_vqa(checkpoint: str, evaluate: EvaluateConfig, root: str = "runs") -> Evaluated:
    """Visual question answering."""
    return alone(vqa, checkpoint, evaluate, root)


@workflow
def evaluate_glue(checkpoint: str, evaluate: EvaluateConfig, root: str = "runs") -> Evaluated:
    """Language understanding from drawn text."""
    return alone(glue, checkpoint, evaluate, root)


@workflow
def evaluate_xm3600(checkpoint: str, evaluate: EvaluateConfig, root: str = "runs") -> Evaluated:
    """Retrieval in every language."""
    return alone(xm3600, checkpoint, evaluate, root)


@workflow(failure_policy=WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE)
def evaluate_checkpoint(checkpoint: str, evaluate: EvaluateConfig, root: str = "runs") -> Evaluated:
    """All five evaluations, side by side, then their table and report; those that `evaluate` leaves
    out say so.
    """
    info = open_checkpoint(checkpoint=checkpoint)
    plans = plan_evaluations(checkpoint=info, evaluate=evaluate, root=root)
    results = evaluate_all(
        checkpoint=info,
        imagenet_plan=plans.imagenet,
        retrieval_plan=plans.retrieval,
        vqa_plan=plans.vqa,
        glue_plan=plans.glue,
        xm3600_plan=plans.xm3600,
    )
    all_plans = [plans.imagenet, plans.retrieval, plans.vqa, plans.glue, plans.xm3600]
    return conclude(checkpoint=info, plans=all_plans, results=results, root=root)


@workflow(
    failure_policy=WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE,
    on_failure=alert_promoted,
)
def evaluate_promoted(
    promoted: str,
    evaluate: EvaluateConfig,
    root: str = "runs",
    kickoff_time: datetime.datetime = UNSCHEDULED,
) -> str:
    """The promoted model again, on whatever the benchmarks hold now; fails, and tells somebody,
    where one of them could not be evaluated or a main metric differs from the promotion's. Before
    the first promotion nothing is evaluated. It ends with the table. `promoted`: the pointer
    `<root>/promoted-<name>.json`.
    """
    info = open_promoted(promoted=promoted)
    plans = plan_evaluations(checkpoint=info, evaluate=evaluate, root=root)
    results = evaluate_all(
        checkpoint=info,
        imagenet_plan=plans.imagenet,
        retrieval_plan=plans.retrieval,
        vqa_plan=plans.vqa,
        glue_plan=plans.glue,
        xm3600_plan=plans.xm3600,
    )
    return require_all(results=results, promoted=promoted)
