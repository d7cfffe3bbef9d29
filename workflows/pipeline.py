"""From pairs to a promoted model and its report.

plan ─▶ validate ─▶ render ─▶ pretrain ─┬▶ imagenet ──┐
                                        ├▶ retrieval ─┤
                                        ├▶ vqa ───────┼▶ gather ─▶ gate ─┬▶ report
                                        ├▶ glue ──────┤                  └▶ refused
                                        └▶ xm3600 ────┘

Measuring, judging and writing are mapped over partitions of the sources:

partitions ─▶ measure ─▶ judge ─▶ validate ─▶ write ─▶ render
"""

from __future__ import annotations

import datetime
import functools

from flytekit import WorkflowFailurePolicy, map_task, workflow

from clippo_core.config import RunConfig, presets
from clippo_core.run.records import CheckpointInfo, EvalResult, EvaluatePlan
from tasks.alert import alert, refused
from tasks.evaluate import gather, glue, imagenet, mapped, retrieval, vqa, xm3600
from tasks.gate import gate
from tasks.plan import numbers, plan
from tasks.pretrain import pretrain
from tasks.render import render, write
from tasks.report import Reported, report
from tasks.validate import evaluated, judge, measure, validate

UNSCHEDULED = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
"""Kickoff time of a run that nobody scheduled."""


@workflow
def evaluate_all(
    checkpoint: CheckpointInfo,
    imagenet_plan: list[EvaluatePlan],
    retrieval_plan: list[EvaluatePlan],
    vqa_plan: list[EvaluatePlan],
    glue_plan: list[EvaluatePlan],
    xm3600_plan: list[EvaluatePlan],
) -> list[EvalResult]:
    """The five evaluations, side by side: a result of each, whatever became of its pod."""
    return gather(
        names=["imagenet", "retrieval", "vqa", "glue", "xm3600"],
        checkpoint=checkpoint,
        plans=[imagenet_plan, retrieval_plan, vqa_plan, glue_plan, xm3600_plan],
        found=[
            mapped(imagenet, checkpoint, imagenet_plan),
            mapped(retrieval, checkpoint, retrieval_plan),
            mapped(vqa, checkpoint, vqa_plan),
            mapped(glue, checkpoint, glue_plan),
            mapped(xm3600, checkpoint, xm3600_plan),
        ],
    )


@workflow(
    failure_policy=WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE, on_failure=alert
)
def pretrain_and_evaluate(
    config: RunConfig, kickoff_time: datetime.datetime = UNSCHEDULED
) -> Reported:
    """Validate, draw, pretrain, evaluate, gate, report: one run, from its config."""
    plans = plan(config=config, kickoff_time=kickoff_time)
    facts = map_task(functools.partial(measure, plan=plans.measure))(partition=plans.partitions)
    verdicts = map_task(functools.partial(judge, plan=plans.measure))(facts=facts)
    shown = evaluated(plan=plans.evaluated)
    validation = validate(plan=plans.validate, facts=facts, verdicts=verdicts, evaluated=shown)
    lists = map_task(functools.partial(write, plan=plans.write))(
        facts=facts, excluded=validation.exclusions
    )
    manifest = render(plan=plans.render, validation=validation.report, lists=lists)
    checkpoint = pretrain(plan=plans.pretrain, manifest=manifest)
    results = evaluate_all(
        checkpoint=checkpoint,
        imagenet_plan=plans.imagenet,
        retrieval_plan=plans.retrieval,
        vqa_plan=plans.vqa,
        glue_plan=plans.glue,
        xm3600_plan=plans.xm3600,
    )
    verdict = gate(plan=plans.gate, checkpoint=checkpoint, results=results)
    refused(config=config, kickoff_time=kickoff_time, verdict=verdict)
    return report(
        config=config,
        plan=plans.gate,
        validation=validation.report,
        manifest=manifest,
        checkpoint=checkpoint,
        results=results,
        verdict=verdict,
    )


# No handler of its own: that of the workflow inside would tell the same failure first.
@workflow(failure_policy=WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE)
def demo(
    config: RunConfig = presets.demo(), kickoff_time: datetime.datetime = UNSCHEDULED
) -> Reported:
    """The whole pipeline on handwritten numbers, a few minutes on two cores, no download."""
    return pretrain_and_evaluate(config=numbers(config=config), kickoff_time=kickoff_time)
