"""The task `retain`: what of old runs is kept and why; deletes the rest where it is told to."""

from __future__ import annotations

import datetime

from flytekit import task

from clippo_core.run.retention import DAYS as DAYS
from clippo_core.run.retention import RUNS as RUNS
from tasks import settings


@task(**settings.processing(cpu="2", memory="4Gi", disk="1Gi"))
def retain(root: str, runs: int, days: float, delete: bool) -> str:
    """The table of what is kept and what is not; see clippo_core/run/retention.py."""
    from clippo_core.run.retention import survey

    settings.require_shared(root)
    found = survey(root, runs, days, datetime.datetime.now(datetime.UTC))
    table = found.table()
    print(table)
    if delete:
        print(f"Deleted {len(found.delete()):,} files.")
    return table
