"""The tasks `write`, mapped over partitions: photos, texts and (by choice) rendered texts into
WebDataset shards; and `render`: the manifest of them all.
"""

from __future__ import annotations

from flytekit import task

from clippo_core.run.records import Manifest, Part, RenderPlan, ValidationReport, WritePlan
from tasks import settings
from tasks.decks import show


@task(**settings.processing(), cache=settings.cached("clippo_core.data.write"))
def write(facts: Part, excluded: Part, plan: WritePlan) -> Part:
    """Write the shards of a partition."""
    from clippo_core.data.write import write as write_partition

    return write_partition(plan, facts, excluded)


@task(
    **settings.processing(),
    cache=settings.cached("clippo_core.data.shards"),
    enable_deck=True,
    deck_fields=(),
)
def render(plan: RenderPlan, validation: ValidationReport, lists: list[Part]) -> Manifest:
    """Write the manifest of the shards that pretraining reads."""
    from clippo_core.data.shards import write_manifest
    from clippo_core.report.decks import render_deck

    manifest = write_manifest(plan, validation, lists)
    show("Shards", render_deck(manifest, plan.render), plan.stage.root)
    return manifest
