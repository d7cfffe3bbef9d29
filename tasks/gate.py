"""The task `gate`: compare with the promoted model, promote or say why not. Never cached: what is
promoted changes outside this run.
"""

from __future__ import annotations

from flytekit import task

from clippo_core.run.records import CheckpointInfo, EvalResult, GatePlan, Verdict
from tasks import settings
from tasks.decks import show


@task(**settings.processing(cpu="2", memory="8Gi"), enable_deck=True, deck_fields=())
def gate(plan: GatePlan, checkpoint: CheckpointInfo, results: list[EvalResult]) -> Verdict:
    """Decide, move the promoted pointer by compare-and-swap, and write the promoted model's folder
    beside it.
    """
    from clippo_core.report.decks import gate_deck
    from clippo_core.run.promotion import decide

    verdict = decide(plan, checkpoint, results)
    show("Verdict", gate_deck(verdict), plan.stage.root)
    return verdict
