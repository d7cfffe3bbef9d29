"""One trial of a fine-tuning: AdamW on every parameter, a rate that rises and falls linearly, and a
state that survives a kill.

    rate(step) = lr * (step / warm-up, then (total - step) / (total - warm-up))
    the head's rate is head_lr_multiplier times that

A trial reports its last epoch, as BERT's protocol does, or its best one where `patience_epochs`
stops it early. The order of the examples is a function of (seed, epoch), so a trial that is killed
goes on from its last saved epoch to the same bytes. There is no dropout: the tower has none. It
runs on every rank of a process group; it does not choose between trials (`sweep.py`).
"""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import numpy as np
import torch

from clippo_core import storage
from clippo_core.config import FinetuneConfig, OptimConfig
from clippo_core.engine import make_engine
from clippo_core.errors import CheckpointError
from clippo_core.evaluate.finetune.problem import FineTuned, Inputs, Problem, freeze_unused
from clippo_core.evaluate.finetune.stored import REMEDY, outputs_of, read_tensors, write_tensors
from clippo_core.models import Tower
from clippo_core.progress import Progress, counted
from clippo_core.untrusted.json import field, optional
from clippo_core.untrusted.names import refusal

BETA2 = 0.999
"""AdamW's second-moment decay in BERT's and ViLT's fine-tuning."""


def linear_schedule(step: int, total_steps: int, warmup_steps: int) -> float:
    """Multiplier of the learning rate at `step` (from 0): linear from 0 to 1 over the warm-up, then
    linear to 0 at `total_steps`.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The examples of one epoch (from 0), a permutation int64 [n] that depends on seed and epoch
    alone.
    """
    return np.random.default_rng([seed, epoch]).permutation(n)


class TrialRun:
    """One trial while it runs."""

    def __init__(
        self,
        tower: Tower,
        problem: Problem,
        config: FinetuneConfig,
        lr: float,
        seed: int,
        device: torch.device | str | None,
        batch_size: int,
    ) -> None:
        self.problem, self.config, self.lr, self.seed, self.batch_size = (
            problem,
            config,
            lr,
            seed,
            batch_size,
        )
        module = FineTuned(copy.deepcopy(tower), problem, seed)
        freeze_unused(module, problem)
        optim = OptimConfig(
            name="adamw",
            lr=lr,
            weight_decay=lr * config.weight_decay,
            clip_norm=1.0,
            adam_beta2=BETA2,
        )
        on_gpu = (
            torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
        )
        self.engine = make_engine(
            module,
            optim,
            zero_stage=0,
            precision="bfloat16" if on_gpu else "float32",
            device=device,
            decayed=module.decayed,
            views={},
            lr_groups={"head.": config.head_lr_multiplier},
        )
        self.steps_per_epoch = -(-problem.train.n // config.batch_size)
        full = self.steps_per_epoch * config.epochs
        self.total_steps = min(full, config.max_steps) if config.max_steps else full
        self.epoch = self.step = 0
        self.losses: list[float] = []
        self.best: dict[str, Any] = {"epoch": 0, "score": math.nan}
        self.best_outputs: dict[str, np.ndarray] = {}
        self.diverged = False

    def train(self, state_uri: str, save_seconds: float, progress: bool) -> None:
        """Train to the end, from a saved epoch if there is one, and keep the reported epoch's
        predictions.
        """
        self._resume(state_uri)
        saved = time.monotonic()
        title = f"{self.problem.name} lr {self.lr:g}"
        shown = progress and self._is_first
        with counted(title, self.total_steps, unit="steps", start=self.step, shown=shown) as bar:
            while not self._is_done():
                self._train_epoch(bar)
                if self.config.patience_epochs and not self.diverged:
                    self._score_epoch()
                is_due = time.monotonic() - saved > save_seconds and not self._is_done()
                if self._sum_over_ranks(
                    float(is_due)
                ):  # clocks differ, and every rank takes part in a save
                    self._save(state_uri)
                    saved = time.monotonic()
        if not self.config.patience_epochs and not self.diverged:
            self._score_epoch()

    def finish(self, uri: str, state_uri: str) -> None:
        """Write the finished trial, from the first rank, and drop its saved epoch; the others wait
        for it.
        """
        outputs = self.best_outputs or {
            name: np.zeros((0, self.problem.n_outputs), np.float32) for name in self._sets()
        }
        trial = {
            "learning_rate": self.lr,
            "score": None if math.isnan(self.best["score"]) else self.best["score"],
            "epoch": self.best["epoch"],
            "steps": self.step,
            "collapsed": bool(self.best_outputs) and self.problem.constant(outputs["scored"]),
            "diverged": not self.best_outputs,
            "losses": [loss if math.isfinite(loss) else None for loss in self.losses],
        }
        if self._is_first:
            write_tensors(
                uri, {name: torch.from_numpy(array) for name, array in outputs.items()}, trial
            )
            storage.delete(state_uri)
        self._barrier()

    @property
    def _is_first(self) -> bool:
        return self.engine.rank == 0

    def _is_done(self) -> bool:
        patience = self.config.patience_epochs
        stale = bool(patience) and self.epoch - self.best["epoch"] >= patience
        return self.diverged or self.step >= self.total_steps or stale

    def _train_epoch(self, bar: Progress) -> None:
        self.engine.module.train()
        n, size, world = self.problem.train.n, self.config.batch_size, self.engine.world_size
        order = epoch_order(self.seed, self.epoch, n)
        warmup_steps = round(self.config.warmup_share * self.total_steps)
        total = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        seen = 0
        for start in range(0, n, size):
            if self.step >= self.total_steps:
                break
            batch = order[start : start + size]
            mine = batch[self.engine.rank :: world]
            # A rank without an example of a short last batch still takes part, with weight 0.
            indices = mine if len(mine) else batch[:1]
            outputs = self.engine(self.problem.train.batch(indices).to(self.engine.device))
            loss = self.problem.loss(outputs.float(), indices).sum() * (len(mine) > 0)
            self.engine.backward(loss * (world / len(batch)))  # the engine averages over ranks
            self.engine.queue_update(linear_schedule(self.step, self.total_steps, warmup_steps))
            total += loss.detach().double()
            seen += len(batch)
            self.step += 1
            bar.update()
        self.losses.append(self._sum_over_ranks(float(total)) / max(seen, 1))
        self.diverged = not math.isfinite(self.losses[-1])
        self.epoch += 1

    def _score_epoch(self) -> None:
        scored = self._predict(self.problem.scored)
        if not np.isfinite(scored).all():
            self.diverged = True
            return
        score = float(self.problem.score(scored))
        if self.best_outputs and known_score(score) <= known_score(self.best["score"]):
            return
        self.best = {"epoch": self.epoch, "score": score}
        self.best_outputs = {
            "scored": scored,
            **{name: self._predict(inputs) for name, inputs in self.problem.others.items()},
        }

    def _predict(self, inputs: Inputs) -> np.ndarray:
        """Outputs float32 [n, n_outputs], each rank computing its share."""
        self.engine.module.eval()
        rank, world = self.engine.rank, self.engine.world_size
        shares = np.array_split(np.arange(inputs.n), world)
        found = []
        with torch.no_grad():
            for start in range(0, len(shares[rank]), self.batch_size):
                batch = inputs.batch(shares[rank][start : start + self.batch_size])
                found.append(self.engine(batch.to(self.engine.device)).float().cpu())
        mine = torch.cat(found) if found else torch.zeros(0, self.problem.n_outputs)
        if world == 1:
            return mine.numpy()
        gathered: list[Any] = [None] * world
        torch.distributed.all_gather_object(gathered, mine.numpy())
        return np.concatenate(gathered)

    def _sets(self) -> list[str]:
        return ["scored", *self.problem.others]

    def _sum_over_ranks(self, value: float) -> float:
        if self.engine.world_size == 1:
            return value
        gathered: list[Any] = [None] * self.engine.world_size
        torch.distributed.all_gather_object(gathered, value)
        return float(sum(gathered))

    def _barrier(self) -> None:
        if self.engine.world_size > 1:
            torch.distributed.barrier()

    def _save(self, uri: str) -> None:
        weights, optimizer = self.engine.weights(), self.engine.optimizer_state()
        tensors = {f"weights/{name}": value for name, value in weights.items()}
        tensors |= {f"optimizer/{name}": value for name, value in optimizer.items()}
        tensors |= {
            f"best/{name}": torch.from_numpy(value) for name, value in self.best_outputs.items()
        }
        score = None if math.isnan(self.best["score"]) else self.best["score"]
        facts = {
            "epoch": self.epoch,
            "step": self.step,
            "losses": self.losses,
            "best": {**self.best, "score": score},
        }
        if self._is_first:
            write_tensors(uri, tensors, facts)
        self._barrier()

    def _resume(self, uri: str) -> None:
        if not storage.exists(uri):
            return
        tensors, facts = read_tensors(uri)
        parts: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "optimizer": {}, "best": {}}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = value
        try:
            self.engine.load_weights(parts["weights"])
            self.engine.load_optimizer_state(parts["optimizer"])
        except CheckpointError as error:
            raise refusal(CheckpointError, uri, str(error), REMEDY) from error
        self.epoch = field(facts, "epoch", int, uri, error=CheckpointError)
        self.step = field(facts, "step", int, uri, error=CheckpointError)
        self.losses = field(facts, "losses", list[float], uri, error=CheckpointError)
        best = field(facts, "best", dict, uri, error=CheckpointError)
        self.best = {
            "epoch": field(best, "epoch", int, uri, "best", error=CheckpointError),
            "score": optional(best, "score", float, math.nan, uri, "best", error=CheckpointError),
        }
        self.best_outputs = outputs_of(parts["best"], uri)


def known_score(score: float) -> float:
    """The score for ranking: an undefined one is below all others."""
    return -math.inf if math.isnan(score) else score
