"""What a run's steps came to: losses, skipped steps, the journal's lines.

A step's numbers are read when the next one has been queued, so that a GPU has work while the host
reads and writes:

    host     queue k ─ read and note k-1 ─ queue k+1 ─ read and note k ─ …
    device   k-1 ──────┤ k ───────────────────┤ k+1 …

`settle` notes the newest step as well. It is called before a save, a stop and the end, so that what
a checkpoint holds does not depend on who waited for whom; and where a step was skipped. Every rank
reads the same numbers at the same places, so all end together when too many steps were skipped: at
most one step later, and before that step is saved.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from clippo_core.errors import TrainingError
from clippo_core.run.folder import RunFolder
from clippo_core.run.records import PretrainPlan
from clippo_core.train.agreement import Agreement
from clippo_core.train.record import RunRecord
from clippo_core.train.speed import Meter
from clippo_core.train.step import StepNumbers, StepResult

LOSSES_IN_MEAN = 100
"""CheckpointInfo.loss is the mean over this many last steps."""


@dataclass
class State:
    """Where the run is: what a checkpoint brings back beside weights and optimizer."""

    step: int = 0
    """Steps queued."""
    skipped: list[int] = field(default_factory=list)
    """Steps with a non-finite loss or gradient, of those that were read."""
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=LOSSES_IN_MEAN))
    memory: str = ""
    """The memory plan of the last step, in words."""
    attention: str = ""
    """Kernel of attention; empty = torch's choice."""


@dataclass(frozen=True)
class _Queued:
    step: int
    result: StepResult
    keys: list[str]
    """Of this rank's pairs."""
    multiplier: float
    times: dict[str, float]


class Ledger:
    """Keeps `state`, and on rank 0 its `record`. Every rank calls the same methods in the same
    order.
    """

    def __init__(
        self,
        plan: PretrainPlan,
        state: State,
        agreement: Agreement,
        record: RunRecord | None,
        meter: Meter,
    ):
        self._plan, self._state, self._agreement = plan, state, agreement
        self._record, self._meter = record, meter
        self._newest: _Queued | None = None
        self._has_begun = False

    def queued(self, result: StepResult, keys: list[str], multiplier: float) -> None:
        """The next step, of this rank's pairs `keys`, was queued; note the one before. Raises
        TrainingError, StorageError.
        """
        before, self._newest = self._newest, None
        self._state.step += 1
        was_skipped = before is not None and self._note(before)
        self._newest = _Queued(self._state.step, result, keys, multiplier, self._meter.step())
        if was_skipped:
            self.settle()

    def settle(self) -> None:
        """Note the newest step, too, when the device has done it. Raises TrainingError,
        StorageError.
        """
        newest, self._newest = self._newest, None
        if newest:
            self._note(newest)

    def close(self) -> None:
        """After a failure: note the newest step if that takes no waiting, neither for the device
        nor for other ranks.
        """
        newest, self._newest = self._newest, None
        with contextlib.suppress(RuntimeError):  # of a device that has failed
            if newest and newest.result.is_here():
                numbers = newest.result.read()
                if not numbers.skipped:
                    self._write(newest, numbers)

    def _note(self, queued: _Queued) -> bool:
        """Count the step and write its line; whether it was skipped."""
        numbers = queued.result.read()
        if not numbers.skipped:
            self._write(queued, numbers)
            return False
        self._state.skipped.append(queued.step)
        keys: list[str] = sum(self._agreement.everyone(queued.keys), [])
        self._write(queued, numbers, skipped_keys=keys)
        self._stop_if_spoilt(keys)
        return True

    def _write(self, queued: _Queued, numbers: StepNumbers, **more: Any) -> None:
        output, plan = numbers.output, self._plan
        if math.isfinite(output.loss):
            self._state.losses.append(output.loss)
        line = {
            "step": queued.step,
            "loss": output.loss,
            "lr": plan.optim.lr * queued.multiplier,
            "multiplier": queued.multiplier,
            "logit_scale": output.logit_scale,
            "positive_similarity": output.positive_similarity,
            "negative_similarity": output.negative_similarity,
            "accuracy": output.accuracy,
            "grad_norm": numbers.grad_norm,
            "pairs_seen": queued.step * plan.train.batch_pairs,
            "skipped": len(self._state.skipped),
        }
        if self._state.attention and not self._has_begun:
            more["attention"] = self._state.attention  # once an attempt
        self._has_begun = True
        if self._record:
            self._record.step(line | queued.times | more)

    def _stop_if_spoilt(self, keys: list[str]) -> None:
        """Raise TrainingError, naming steps and pairs, when more steps were skipped than
        train.max_skipped_steps.
        """
        skipped = self._state.skipped
        if len(skipped) <= self._plan.train.max_skipped_steps:
            return
        raise TrainingError(
            f"loss or gradient was not finite in {len(skipped)} steps"
            f" ({', '.join(map(str, skipped))}), more than train.max_skipped_steps allows. The"
            f" last of them had the pairs {', '.join(keys[:5])}{', …' if len(keys) > 5 else ''};"
            f" all stand in {RunFolder(self._plan.stage.root).journal} as skipped_keys. Look at"
            " these pairs, or lower optim.lr. No weight was changed by these steps."
        )
