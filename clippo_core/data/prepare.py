"""All steps from sources to shards in one process, as the workflow's tasks take them one by one.

partitions ─▶ measure ─▶ judge ─▶ merge ─▶ write ─▶ manifest
"""

from __future__ import annotations

import dataclasses

from clippo_core.config import DataConfig, EvaluateConfig, RenderConfig
from clippo_core.data import partitions, shards
from clippo_core.data.validate.evaluated import fingerprints
from clippo_core.data.validate.expectations import judge
from clippo_core.data.validate.measure import measure
from clippo_core.data.validate.merge import merge
from clippo_core.data.write import write
from clippo_core.run.folder import BaseFolder
from clippo_core.run.records import (
    EvaluatedPlan,
    Manifest,
    Part,
    PartitionPlan,
    RenderPlan,
    StagePlan,
    ValidatePlan,
    ValidationReport,
    WritePlan,
)


@dataclasses.dataclass(frozen=True)
class Judged:
    """What is known of the pairs before anything is written."""

    report: ValidationReport
    facts: list[Part]
    exclusions: list[Part]


def validate(
    stage: StagePlan,
    data: DataConfig,
    render: RenderConfig,
    evaluate: EvaluateConfig | None = None,
    progress: bool = False,
    batch_pairs: int = 0,
) -> Judged:
    """Measure and judge every pair under `<stage.root>/prepared`. Raises DataError where a source
    is unreadable or empty, or too many records are unusable.
    """
    evaluate = evaluate or EvaluateConfig()
    prepared = BaseFolder(stage.root).prepared
    plan = PartitionPlan(prepared, render)
    cut = partitions.make_partitions(data, prepared)
    facts = [measure(plan, part, progress) for part in cut]
    verdicts = [judge(plan, part) for part in facts]
    shown = fingerprints(EvaluatedPlan(prepared, evaluate, stage.data_digest))
    whole = ValidatePlan(stage, data, prepared, batch_pairs=batch_pairs)
    report, exclusions = merge(whole, facts, verdicts, shown)
    return Judged(report, facts, exclusions)


def write_shards(
    stage: StagePlan, data: DataConfig, render: RenderConfig, judged: Judged, progress: bool = False
) -> Manifest:
    """Write what is left under `<stage.root>/prepared`, and the manifest under
    `<stage.root>/shards`.
    """
    prepared = BaseFolder(stage.root).prepared
    plan = write_plan(data, render, prepared)
    lists = [
        write(plan, facts, excluded, progress)
        for facts, excluded in zip(judged.facts, judged.exclusions, strict=True)
    ]
    return shards.write_manifest(RenderPlan(stage, data, render, prepared), judged.report, lists)


def write_plan(
    data: DataConfig, render: RenderConfig, prepared: str, generation: str = ""
) -> WritePlan:
    """What of the config decides a partition's shards."""
    return WritePlan(
        prepared,
        render,
        data.records_per_shard,
        data.store_drawings,
        data.max_short_side_px,
        generation,
    )
