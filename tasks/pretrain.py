"""The task `pretrain`: DeepSpeed ZeRO on every node through Elastic; goes on from the last
checkpoint after any interruption.

Rank 0 keeps `training.html` and `journal.jsonl` in the run's folder, and a copy of the page where
the console looks for the deck of the running task: `Deck.publish` does nothing inside Elastic's
workers. The same figures end in the task's own deck, which takes the copy's place.
"""

from __future__ import annotations

import functools
import os
import sys

from flytekit import current_context, task
from flytekit.exceptions.user import FlyteDataNotFoundException, FlyteRecoverableException

from clippo_core.run.records import CheckpointInfo, Manifest, PretrainPlan
from tasks import settings
from tasks.decks import show
from tasks.flytekit_shim import no_restart


@task(
    **settings.training(),
    cache=settings.cached("clippo_core.train.loop"),
    enable_deck=True,
    deck_fields=(),
)
def pretrain(plan: PretrainPlan, manifest: Manifest) -> CheckpointInfo:
    """Train the tower over the full batch."""
    from clippo_core.errors import (
        ClippoError,
        ConflictError,
        LostRankError,
        NotFoundError,
        Preempted,
        StorageError,
    )
    from clippo_core.report.decks import training_deck
    from clippo_core.report.tracker import watcher
    from clippo_core.run import journal
    from clippo_core.run.folder import RunFolder
    from clippo_core.train.loop import pretrain as train

    try:
        previous = _previous_attempt(RunFolder(plan.stage.root).checkpoints)
        watch = functools.partial(watcher, also=_live_deck())
        checkpoint = train(plan, manifest, previous=previous, watch=watch)
    except ClippoError as error:
        # Trying again helps: the run goes on from its last checkpoint. It does not help against a
        # loss that is not finite, which is a function of seed and step.
        is_lost = isinstance(error, Preempted | LostRankError | StorageError)
        if is_lost and not isinstance(error, ConflictError | NotFoundError):
            raise FlyteRecoverableException(str(error)) from error
        no_restart()
        raise
    show("Training", training_deck(journal.read(checkpoint.journal)), plan.stage.root)
    return checkpoint


def _live_deck() -> str:
    """Address of the deck that the console shows while the task runs (Flyte 1.15 and later): beside
    its outputs. Empty where there is none, as in a local run.

    Flyte says where on the command line, which Elastic's workers inherit from the pod's process.
    """
    option = "--output-prefix"
    place = sys.argv.index(option) + 1 if option in sys.argv else len(sys.argv)
    return f"{sys.argv[place].rstrip('/')}/deck.html" if place < len(sys.argv) else ""


def _previous_attempt(folder: str) -> str:
    """Checkpoints of an earlier attempt of this execution, as it noted them with Flyte; empty where
    there is none. Notes ours.

    Flyte's own checkpoint folder is copied whole at every save, from one node only: it holds an
    address, not the weights.
    """
    try:
        checkpoint = current_context().checkpoint
    except NotImplementedError:  # flytekit's word for: none was set up
        return ""
    if checkpoint is None:
        return ""
    try:
        noted = checkpoint.read() if checkpoint.prev_exists() else None
    except FlyteDataNotFoundException:  # that attempt was killed before it noted anything
        noted = None
    if os.environ.get("RANK", "0") == "0":
        checkpoint.write(folder.encode())
    return noted.decode() if noted else ""
