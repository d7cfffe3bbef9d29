"""The tasks before anything is spent on the pairs: `measure` and `judge` each partition of the
sources, `evaluated` for what must not be trained on, and `validate`, which joins them.

The first two are mapped over partitions. Each looks for its own finished result in storage first,
because flytekit's local cache holds a whole list, and a cluster's may be empty.
"""

from __future__ import annotations

from typing import NamedTuple

from flytekit import task

from clippo_core.run.records import (
    EvaluatedPlan,
    Part,
    PartitionPlan,
    ValidatePlan,
    ValidationReport,
)
from tasks import settings
from tasks.decks import show


class Validated(NamedTuple):
    report: ValidationReport
    exclusions: list[Part]


@task(**settings.processing(), cache=settings.cached("clippo_core.data.validate.measure"))
def measure(partition: Part, plan: PartitionPlan) -> Part:
    """Read a partition, and note its facts."""
    from clippo_core.data.validate.measure import measure as measure_partition

    return measure_partition(plan, partition)


@task(**settings.processing(), cache=settings.cached("clippo_core.data.validate.expectations"))
def judge(facts: Part, plan: PartitionPlan) -> Part:
    """Put the facts of a partition to Great Expectations."""
    from clippo_core.data.validate.expectations import judge as judge_partition

    return judge_partition(plan, facts)


@task(**settings.processing(), cache=settings.cached("clippo_core.data.validate.evaluated"))
def evaluated(plan: EvaluatedPlan) -> Part:
    """Note what the evaluations show."""
    from clippo_core.data.validate.evaluated import fingerprints

    return fingerprints(plan)


@task(
    **settings.processing(),
    cache=settings.cached("clippo_core.data.validate.merge"),
    enable_deck=True,
    deck_fields=(),
)
def validate(
    plan: ValidatePlan, facts: list[Part], verdicts: list[Part], evaluated: Part
) -> Validated:
    """Join what is known of all partitions; fails naming rows, or says what is left out."""
    from clippo_core.data.validate.merge import merge
    from clippo_core.report.decks import validation_deck

    report, exclusions = merge(plan, facts, verdicts, evaluated)
    show("Expectations", validation_deck(report), plan.stage.root)
    return Validated(report, exclusions)
