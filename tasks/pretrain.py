"""The box `pretrain`: DeepSpeed ZeRO on every node through Elastic; goes on from the last checkpoint after any interruption.

Rank 0 keeps `training.html` and `journal.jsonl` in the run's folder: `Deck.publish` does nothing inside Elastic's workers, so that
page is how a run is watched live; the same figures end in the deck.
"""

from __future__ import annotations

from flytekit import Deck, current_context, task
from flytekit.exceptions.user import FlyteRecoverableException

from clippo_core.records import CheckpointInfo, Manifest, PretrainPlan
from tasks import settings


@task(**settings.training(), cache=settings.cached("tasks.pretrain"), enable_deck=True, deck_fields=())
def pretrain(plan: PretrainPlan, manifest: Manifest) -> CheckpointInfo:
    """Train the tower over the full batch."""
    from clippo_core import journal
    from clippo_core.analysis.decks import training_deck
    from clippo_core.errors import Preempted
    from clippo_core.train.loop import pretrain as train

    try:
        checkpoint = train(plan, manifest, previous=_previous_attempt())
    except Preempted as error:
        raise FlyteRecoverableException(str(error)) from error
    Deck("Training", training_deck(journal.read(checkpoint.journal)))
    return checkpoint


def _previous_attempt() -> str:
    """Folder of the checkpoint that an earlier attempt of this very execution left with Flyte; empty where there is none."""
    checkpoint = current_context().checkpoint
    if checkpoint is None or not checkpoint.prev_exists():
        return ""
    content = checkpoint.read()
    return content.decode() if content else ""
