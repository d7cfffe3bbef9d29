"""A sweep of learning rates over one fine-tuning problem: one trial each, the best on the scored
examples reported.

Everything random is a function of (seed, problem, trial, epoch), and a finished trial is a file, so
a killed sweep goes on from there to the same bytes. The number of trials belongs beside every score
that was chosen this way. `trial.py` trains.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from clippo_core import storage
from clippo_core.config import FinetuneConfig
from clippo_core.engine import init_distributed
from clippo_core.errors import EvaluationError
from clippo_core.evaluate.finetune.problem import Problem
from clippo_core.evaluate.finetune.stored import Trial, read_trial
from clippo_core.evaluate.finetune.trial import TrialRun, known_score
from clippo_core.evaluate.harness import Session
from clippo_core.models import Tower

RANK_TIMEOUT_SECONDS = 600.0
"""How long ranks wait for one another: the first writes and reads files between trials."""
SAVE_SECONDS = 60.0
"""A trial that has run for this long since its last save is saved at the end of the epoch."""


@dataclass(frozen=True)
class Sweep:
    """All trials, and the predictions of the best."""

    trials: list[Trial]
    best: int
    outputs: dict[str, np.ndarray]
    """`scored` and the names of `others` -> float32 [n, n_outputs] of the best trial's reported
    epoch."""

    @property
    def remarks(self) -> list[str]:
        """What a reader of a score of this sweep must know, in words."""
        collapsed = f"{self.n_collapsed} of {len(self.trials)} trials collapsed"
        return [collapsed] if self.n_collapsed else []

    @property
    def n_collapsed(self) -> int:
        """Trials that predict one and the same thing, or diverged."""
        return sum(trial.collapsed or trial.diverged for trial in self.trials)


def sweep(
    tower: Tower,
    problem: Problem,
    config: FinetuneConfig,
    *,
    seed: int,
    folder: str,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    progress: bool = True,
    save_seconds: float = SAVE_SECONDS,
) -> Sweep:
    """Fine-tune a copy of `tower` once for each learning rate, and predict with the best.

    folder: where finished trials and saved epochs lie until the caller deletes it; it must be named
    after everything the result depends on. Runs on every rank of a process group alike; each
    returns the same Sweep. Raises EvaluationError when nothing can be learnt (no examples) or every
    trial diverges.
    """
    if not problem.train.n or not problem.scored.n:
        raise EvaluationError(
            f"{problem.name}: {problem.train.n} examples to train on and {problem.scored.n} to"
            " score; both are needed."
        )
    trials, outputs = [], []
    for index, lr in enumerate(config.learning_rates):
        name = f"{problem.name.replace('/', '-')}.{index}"
        uri = storage.join(folder, f"{name}.trial.safetensors")
        if not storage.exists(uri):
            run = TrialRun(
                tower, problem, config, lr, _seed(seed, problem.name, index), device, batch_size
            )
            state_uri = storage.join(folder, f"{name}.epoch.safetensors")
            run.train(state_uri, save_seconds, progress)
            run.finish(uri, state_uri)
        trial, found = read_trial(uri)
        trials.append(trial)
        outputs.append(found)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()  # every rank has read before the caller deletes
    best = choose(trials)
    if trials[best].diverged:
        raise EvaluationError(
            f"{problem.name}: the loss became non-finite in all {len(trials)} trials; lower"
            " finetune.learning_rates."
        )
    return Sweep(trials, best, outputs[best])


def fine_tune(session: Session, problem: Problem, tower: Tower | None = None) -> Sweep:
    """The `sweep` of an evaluation; tower: None = that of its model."""
    return sweep(
        tower or session.model.tower,
        problem,
        session.config.finetune,
        seed=session.plan.stage.seed,
        folder=session.unfinished,
        batch_size=session.plan.evaluate.batch_size,
        device=session.model.device,
        progress=session.progress,
    )


def join_ranks() -> torch.device | None:
    """Join torchrun's process group where there is one; this rank's device, or None for the default
    one.
    """
    return init_distributed(RANK_TIMEOUT_SECONDS).device if "RANK" in os.environ else None


def choose(trials: list[Trial]) -> int:
    """Index of the best trial: highest score, the first among equals; an undefined score or a
    divergence loses to any other.
    """
    rank = [(not t.diverged, known_score(t.score)) for t in trials]
    return max(range(len(trials)), key=lambda i: (rank[i], -i))


def _seed(seed: int, name: str, trial: int) -> int:
    """A seed of its own for each trial of each problem."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name} {trial}".encode()).digest()[:4], "big")
