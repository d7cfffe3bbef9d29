"""The part of `make preflight` that only a pod on the cluster can tell."""

from __future__ import annotations

from flytekit import workflow

from tasks.preflight import probe


@workflow
def preflight(root: str) -> list[str]:
    """What is missing for runs under `root`, one sentence each; empty = nothing."""
    return probe(root=root)
