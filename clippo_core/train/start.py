"""Where a run goes on from, and whether that is this run's.

    its own newest checkpoint, or an earlier attempt's -> train.resume_from -> nothing: it begins

`engine/checkpoint.py` says which checkpoints are whole; here is what they must have in common with
the run, and what is taken from them.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import asdict

from clippo_core.config import ModelConfig
from clippo_core.engine import Engine
from clippo_core.engine.attention import KERNELS
from clippo_core.engine.checkpoint import (
    Checkpoint,
    finished_checkpoint,
    latest_checkpoint,
    open_checkpoint,
)
from clippo_core.engine.recipe import check_same_recipe, check_same_rows
from clippo_core.errors import CheckpointError, ConfigError, NotFoundError
from clippo_core.run.folder import RunFolder
from clippo_core.run.records import CheckpointInfo, Manifest, PretrainPlan
from clippo_core.train.ledger import LOSSES_IN_MEAN, State
from clippo_core.untrusted.json import optional

ONLY_AT_THE_START = ("initial_weights", "initial_logit_scale", "tokenizer")
"""Fields of the model that a checkpoint's weights replace, or that are addresses: they may differ
when a run goes on."""
_log = logging.getLogger(__name__)


def find_finished(plan: PretrainPlan, manifest: Manifest) -> CheckpointInfo | None:
    """The last checkpoint of this run, if it is over. Raises CheckpointError where it is another's
    folder.
    """
    found = finished_checkpoint(RunFolder(plan.stage.root).checkpoints)
    if found is None:
        return None
    _check_same_run(found, plan, manifest)
    return found.info


def _check_same_run(checkpoint: Checkpoint, plan: PretrainPlan, manifest: Manifest) -> None:
    """Raise CheckpointError where a checkpoint is another run's, or was trained on other pairs. An
    evaluation may have been added since that shows pictures which this model was trained on.
    """
    check_same_recipe(checkpoint.uri, checkpoint.manifest["recipe"], plan)
    left_out = checkpoint.progress.left_out
    if left_out and left_out != manifest.left_out:
        raise CheckpointError(
            f"{checkpoint.uri} was trained on pairs that are left out now, or without pairs that no"
            " longer are: the evaluations show other pictures or captions than they did. Change"
            " `seed` to train anew, or leave the evaluations as they were; `clippo evaluate`"
            " evaluates this model on anything."
        )


def find_start(plan: PretrainPlan, manifest: Manifest, previous: str) -> str:
    """Address of the checkpoint to go on from: the newest of this run, wherever it is, else
    train.resume_from; empty = begin.
    """
    found = []
    for root in dict.fromkeys(
        [RunFolder(plan.stage.root).checkpoints, *([previous] if previous else [])]
    ):
        checkpoint = latest_checkpoint(root)
        if checkpoint:
            _check_same_run(checkpoint, plan, manifest)
            found.append(checkpoint)
    if found:
        return max(found, key=lambda checkpoint: checkpoint.progress.step).uri
    if not plan.train.resume_from:
        return ""
    try:
        chosen = open_checkpoint(plan.train.resume_from)
    except NotFoundError as error:
        raise ConfigError(f"train.resume_from: {error}") from error
    if chosen.progress.step >= plan.train.steps:
        raise ConfigError(
            f"train.resume_from {chosen.uri} is at step {chosen.progress.step}, and the run has"
            f" only {plan.train.steps} steps."
        )
    return chosen.uri


def restore(engine: Engine, start: str, model: ModelConfig) -> State:
    """Load the checkpoint `start` into the engine; the state to go on from. Weights that fit may
    still belong to another function.
    """
    if not start:
        return State()
    checkpoint = open_checkpoint(start)
    try:
        engine.load_weights(checkpoint.weights())
        engine.load_optimizer_state(checkpoint.optimizer())
    except CheckpointError as error:
        raise CheckpointError(f"{start} cannot be loaded: {error}") from error
    check_function(checkpoint, model, "train.resume_from")
    kept = checkpoint.progress.state or {}
    skipped = optional(kept, "skipped", list[int], [], start, "state", error=CheckpointError)
    losses = optional(kept, "losses", list[float], [], start, "state", error=CheckpointError)
    memory = optional(kept, "memory", str, "", start, "state", error=CheckpointError)
    attention = optional(kept, "attention", str, "", start, "state", error=CheckpointError)
    if attention not in ("", *KERNELS):
        attention = ""  # of another version
    losses_kept = deque(losses, maxlen=LOSSES_IN_MEAN)
    return State(checkpoint.progress.step, skipped, losses_kept, memory, attention)


def note_memory(state: State, words: str, start: str) -> None:
    """Remember the memory plan; say so where a run goes on with another: its sums have another
    order.
    """
    if state.memory not in ("", words):
        _log.warning(
            "activations fit by another plan (%s) than in %s (%s): the run goes on with the same"
            " gradients to rounding, not bit for bit.",
            words,
            start,
            state.memory,
        )
    state.memory = words


def check_function(checkpoint: Checkpoint, model: ModelConfig, setting: str) -> None:
    """Raise ConfigError where the weights, which may fit, are of another function than `model`."""
    there, here = asdict(checkpoint.model), asdict(model)
    other = [
        f"model.{name} {value}"
        for name, value in there.items()
        if value != here[name] and name not in ONLY_AT_THE_START
    ]
    if other:
        raise ConfigError(
            f"{setting} {checkpoint.uri} was trained with {', '.join(other)}: another function."
            " Set it alike, or begin from scratch."
        )
    check_same_rows(checkpoint.uri, checkpoint.manifest["recipe"], model)
