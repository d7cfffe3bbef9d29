"""When a run is saved, and what happens when it is told to stop: asked once after every step,
answered alike on every rank.

    every train.save_every_steps   a snapshot is taken and written by a thread; if the last one is
                                   still being written, a step later
    SIGTERM                        the save under way is awaited, this step is saved, Preempted is
                                   raised
    a save failed                  its error on rank 0, LostRankError elsewhere; what was saved
                                   before is intact

How a checkpoint is written, and how it is found again, is `engine/checkpoint.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable

from clippo_core.engine import Engine
from clippo_core.engine.checkpoint import AsyncSaver, Progress, save_checkpoint
from clippo_core.errors import LostRankError, Preempted
from clippo_core.run.folder import RunFolder
from clippo_core.run.records import CheckpointInfo, PretrainPlan
from clippo_core.train.agreement import Agreement, Signal


class Saving:
    """Saves `engine` under the plan's run. `settle()` counts the newest step (on every rank);
    `describe(finished)` says how far the run is; `before_commit` may refuse (both on rank 0).
    """

    def __init__(
        self,
        plan: PretrainPlan,
        agreement: Agreement,
        engine: Engine,
        stop_asked: Callable[[], bool],
        settle: Callable[[], None],
        describe: Callable[[bool], Progress],
        before_commit: Callable[[], None],
    ):
        self._plan, self._agreement, self._engine = plan, agreement, engine
        self._stop_asked, self._settle = stop_asked, settle
        self._describe, self._before_commit = describe, before_commit
        self._root = RunFolder(plan.stage.root).checkpoints
        self._saver = AsyncSaver()
        self._due = False

    def after_step(self, step: int) -> None:
        """Save if it is time. Raises Preempted, StorageError, ConflictError, LostRankError."""
        self._due = self._due or step % self._plan.train.save_every_steps == 0
        try:
            self._saver.check()
        except Exception:  # raised again: the other ranks must hear of it, whatever it was
            self._agreement.urgent(Signal.FAILED)
            raise
        wish = (
            Signal.STOP
            if self._stop_asked()
            else Signal.SAVE
            if self._due and not self._saver.busy
            else Signal.GO_ON
        )
        if self._agreement.ranks.rank > 0 and wish == Signal.SAVE:
            wish = Signal.GO_ON  # only rank 0 knows whether the save before is over
        agreed = self._agreement.urgent(wish)
        if agreed == Signal.FAILED:
            raise LostRankError(
                "rank 0 could not save the run; its message says why. What was saved before is"
                " intact."
            )
        if agreed == Signal.SAVE:
            self._submit(finished=False)
            self._due = False
        if agreed == Signal.STOP:
            info = self.save_now(finished=False)
            raise Preempted(
                f"stopped by SIGTERM after step {info.step}, which is saved in {info.uri}; the same"
                " command goes on from it."
            )

    def save_now(self, finished: bool) -> CheckpointInfo:
        """Save this step, and return on every rank when that is committed."""
        self._agreement.rank0(self._saver.wait)
        self._submit(finished)
        info = self._agreement.rank0(self._saver.wait)
        assert info is not None
        return info

    def close(self) -> None:
        """Wait for a save under way, whatever comes of it."""
        self._saver.close()

    def _submit(self, finished: bool) -> None:
        self._settle()
        weights, optimizer = (
            self._engine.weights(),
            self._engine.optimizer_state(),
        )  # CPU copies, on rank 0
        if self._agreement.ranks.rank == 0:
            progress = self._describe(finished)
            self._saver.submit(
                lambda: save_checkpoint(
                    self._root, weights, optimizer, self._plan, progress, self._before_commit
                )
            )
