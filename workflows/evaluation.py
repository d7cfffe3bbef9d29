"""Evaluations of a checkpoint that is there already: each alone, all five side by side, or those of
the promoted model.

    pyflyte run workflows evaluate_glue --checkpoint runs/demo-.../checkpoints \\
        --evaluate '{"glue": {"root": "data/glue"}}'
"""

from __future__ import annotations

import datetime

from flytekit import WorkflowFailurePolicy, workflow

from clippo_core.config import EvaluateConfig
from clippo_core.run.records import EvalResult
from tasks.alert import alert_promoted
from tasks.evaluate import (
    gather,
    glue,
    imagenet,
    mapped,
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
def evaluate_imagenet(
    checkpoint: str, evaluate: EvaluateConfig, root: str = "runs"
) -> list[EvalResult]:
    """Zero-shot and few-shot classification."""
    info = open_checkpoint(checkpoint=checkpoint)
    plans = plan_evaluations(checkpoint=info, evaluate=evaluate, root=root)
    return gather(
        names=["imagenet"],
        checkpoint=info,
        plans=[plans.imagenet],
        found=[mapped(imagenet, info, plans.imagenet)],
    )


@workflow
def evaluate_retrieval(
    checkpoint: str, evaluate: EvaluateConfig, root: str = "runs"
) -> list[EvalResult]:
    """Image-to-text and text-to-image retrieval."""
    info = open_checkpoint(checkpoint=checkpoint)
    plans = plan_evaluations(checkpoint=info, evaluate=evaluate, root=root)
    return gather(
        names=["retrieval"],
        checkpoint=info,
        plans=[plans.retrieval],
        found=[mapped(retrieval, info, plans.retrieval)],
    )


@workflow
def evaluate_vqa(checkpoint: str, evaluate: EvaluateConfig, root: str = "runs") -> list[EvalResult]:
    """Visual question answering."""
    info = open_checkpoint(checkpoint=checkpoint)
    plans = plan_evaluations(checkpoint=info, evaluate=evaluate, root=root)
    return gather(
        names=["vqa"],
        checkpoint=info,
        plans=[plans.vqa],
        found=[mapped(vqa, info, plans.vqa)],
    )


@workflow
def evaluate_glue(
    checkpoint: str, evaluate: EvaluateConfig, root: str = "runs"
) -> list[EvalResult]:
    """Language understanding from drawn text."""
    info = open_checkpoint(checkpoint=checkpoint)
    plans = plan_evaluations(checkpoint=info, evaluate=evaluate, root=root)
    return gather(
        names=["glue"],
        checkpoint=info,
        plans=[plans.glue],
        found=[mapped(glue, info, plans.glue)],
    )


@workflow
def evaluate_xm3600(
    checkpoint: str, evaluate: EvaluateConfig, root: str = "runs"
) -> list[EvalResult]:
    """Retrieval in every language."""
    info = open_checkpoint(checkpoint=checkpoint)
    plans = plan_evaluations(checkpoint=info, evaluate=evaluate, root=root)
    return gather(
        names=["xm3600"],
        checkpoint=info,
        plans=[plans.xm3600],
        found=[mapped(xm3600, info, plans.xm3600)],
    )


@workflow(failure_policy=WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE)
def evaluate_checkpoint(
    checkpoint: str, evaluate: EvaluateConfig, root: str = "runs"
) -> list[EvalResult]:
    """All five evaluations, side by side; those that `evaluate` leaves out say so."""
    info = open_checkpoint(checkpoint=checkpoint)
    plans = plan_evaluations(checkpoint=info, evaluate=evaluate, root=root)
    return evaluate_all(
        checkpoint=info,
        imagenet_plan=plans.imagenet,
        retrieval_plan=plans.retrieval,
        vqa_plan=plans.vqa,
        glue_plan=plans.glue,
        xm3600_plan=plans.xm3600,
    )


@workflow(
    failure_policy=WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE,
    on_failure=alert_promoted,
)
def evaluate_promoted(
    promoted: str,
    evaluate: EvaluateConfig,
    root: str = "runs",
    kickoff_time: datetime.datetime = UNSCHEDULED,
) -> list[EvalResult]:
    """The promoted model again, on whatever the benchmarks hold now; fails, and tells somebody,
    where one of them could not be evaluated or a main metric differs from the promotion's. Before
    the first promotion nothing is evaluated. `promoted`: the pointer `<root>/promoted-<name>.json`.
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
