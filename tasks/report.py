"""The task `report`: one self-contained page and one small table about the run. Never cached: the
verdict changes outside the run.
"""

from __future__ import annotations

from typing import NamedTuple

from flytekit import Deck, task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile, HTMLPage

from clippo_core.config import RunConfig
from clippo_core.run.records import (
    CheckpointInfo,
    EvalResult,
    GatePlan,
    Manifest,
    ValidationReport,
    Verdict,
)
from tasks import settings


class Reported(NamedTuple):
    report: HTMLPage
    model: FlyteDirectory


@task(**settings.processing(cpu="2", memory="8Gi"), enable_deck=True, deck_fields=())
def report(
    config: RunConfig,
    plan: GatePlan,
    validation: ValidationReport,
    manifest: Manifest,
    checkpoint: CheckpointInfo,
    results: list[EvalResult],
    verdict: Verdict,
) -> Reported:
    """Write the report beside the run, show it in the console, and print the table."""
    from clippo_core.report.page import write_report
    from clippo_core.run.folder import RunFolder

    page = write_report(
        plan.stage.root,
        config,
        validation,
        manifest,
        checkpoint,
        results,
        verdict,
        evaluation_folders=plan.evaluations,
    )
    Deck("Report", page.html)
    words = page.words
    if not settings.in_pod():
        words += f"\nDecks of this run's stages: {RunFolder(plan.stage.root).decks}"
    print(f"\n{words}\n")
    return Reported(FlyteFile(page.path), FlyteDirectory(checkpoint.uri, remote_directory=False))
