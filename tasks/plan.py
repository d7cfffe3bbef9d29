"""The task `plan`: one sub-plan per stage. Each is a separate output, because Flyte v1 resolves
attribute access on promises unreliably. Never cached.
"""

from __future__ import annotations

import datetime
import logging
from typing import NamedTuple

from flytekit import task

from clippo_core.config import RunConfig
from clippo_core.config.small import NUMBERS_FOLDER
from clippo_core.evaluate.registry import asked_for
from clippo_core.run.records import (
    EvaluatedPlan,
    EvaluatePlan,
    GatePlan,
    Part,
    PartitionPlan,
    PretrainPlan,
    RenderPlan,
    ValidatePlan,
    WritePlan,
)
from tasks import settings
from tasks.decks import show

_logger = logging.getLogger(__name__)


class Plans(NamedTuple):
    validate: ValidatePlan
    render: RenderPlan
    pretrain: PretrainPlan
    imagenet: list[EvaluatePlan]
    retrieval: list[EvaluatePlan]
    vqa: list[EvaluatePlan]
    glue: list[EvaluatePlan]
    xm3600: list[EvaluatePlan]
    gate: GatePlan
    partitions: list[Part]
    measure: PartitionPlan
    evaluated: EvaluatedPlan
    write: WritePlan


@task(**settings.processing(cpu="2", memory="4Gi"), enable_deck=True, deck_fields=())
def plan(config: RunConfig, kickoff_time: datetime.datetime) -> Plans:
    """Split the run into stages and digest the data that each one reads."""
    from clippo_core.report.decks import inspection_deck, plan_deck
    from clippo_core.run.inspection import inspect_benchmarks
    from clippo_core.run.planning import make_plan
    from clippo_core.run.resolving import fill_kickoff

    settings.require_shared(config.root)
    run = make_plan(config, kickoff_time)
    deck = plan_deck(config, run.root, settings.place(), settings.devices())
    show("Plan", deck, run.root)
    found = inspect_benchmarks(fill_kickoff(config.evaluate, kickoff_time))
    show("Benchmarks", inspection_deck(found.facts, found.faults), run.root)
    for fault in found.faults:
        _logger.warning("%s That evaluation will have no result; training goes on.", fault)
    return Plans(
        run.validate,
        run.render,
        run.pretrain,
        **asked_for(run.evaluations),
        gate=run.gate,
        partitions=run.partitions,
        measure=run.measure,
        evaluated=run.evaluated,
        write=run.write,
    )


@task(**settings.processing(cpu="2", memory="4Gi"))
def numbers(config: RunConfig) -> RunConfig:
    """Write the demo's handwritten numbers in the benchmarks' file formats, unless they are there
    already.
    """
    from clippo_core.data.numbers.world import write_numbers
    from clippo_core.storage import join

    settings.require_shared(config.root)
    write_numbers(join(config.root, NUMBERS_FOLDER))
    return config
