"""The task `render`: photos, texts and (by choice) rendered texts into WebDataset shards with a
manifest.
"""

from __future__ import annotations

from flytekit import Deck, task

from clippo_core.run.records import Manifest, RenderPlan, ValidationReport
from tasks import settings


@task(
    **settings.processing(cpu="16", memory="32Gi", disk="500Gi"),
    cache=settings.cached("clippo_core.data.shards"),
    enable_deck=True,
    deck_fields=(),
)
def render(plan: RenderPlan, validation: ValidationReport) -> Manifest:
    """Write the shards that pretraining reads."""
    from clippo_core.data.shards import write_shards
    from clippo_core.report.decks import render_deck

    manifest = write_shards(plan, validation)
    Deck("Shards", render_deck(manifest, plan.render))
    return manifest
