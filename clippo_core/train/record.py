"""The record of a run on rank 0: its journal, and whoever watches.

The watcher is handed in by the caller, so that training imports no page. The journal is part of the
run's safety: no checkpoint is committed before its lines are safe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from clippo_core.run.folder import RunFolder
from clippo_core.run.journal import Journal
from clippo_core.run.records import PretrainPlan


class Watcher(Protocol):
    """Looks on. It may show what it is told, and decides nothing."""

    def step(self, line: dict[str, Any], shown: list[dict[str, Any]]) -> None:
        """A step was done. line: its line in the journal; shown: the journal's lines so far,
        evenly thinned where they are many, and not to be changed."""

    def close(self, shown: list[dict[str, Any]]) -> None:
        """The run has ended, well or not."""


MakeWatcher = Callable[[PretrainPlan, int], Watcher]
"""(plan, the step after which the run goes on) -> its watcher."""


class RunRecord:
    """Journal and watcher of the run of `plan`, which goes on after step `start`."""

    def __init__(self, plan: PretrainPlan, start: int, watch: MakeWatcher | None):
        self._journal = Journal(RunFolder(plan.stage.root).journal, keep_through=start)
        self._watcher = watch(plan, start) if watch else None

    def step(self, line: dict[str, Any]) -> None:
        """Note a step. Raises StorageError where the journal cannot be written."""
        self._journal.append(**line)
        if self._watcher:
            self._watcher.step(line, self._journal.shown)

    def flush(self) -> None:
        """Return when every line is safe. Raises StorageError."""
        self._journal.flush()

    def close(self) -> None:
        """The watcher's end, then the journal's last lines. Raises StorageError."""
        if self._watcher:
            self._watcher.close(self._journal.shown)
        self._journal.close()
