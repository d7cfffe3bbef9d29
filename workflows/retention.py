"""What of old runs is kept, and the deletion of the rest."""

from __future__ import annotations

from flytekit import workflow

from tasks.retain import DAYS, RUNS, retain


@workflow
def retention(root: str, runs: int = RUNS, days: float = DAYS, delete: bool = False) -> str:
    """Say what of the runs below `root` is kept and why; with `delete`, delete the rest."""
    return retain(root=root, runs=runs, days=days, delete=delete)
