"""Elastic's own restarts: after what may be cured, and not after what a worker says comes again."""

from __future__ import annotations

from pathlib import Path

import pytest
from flytekit import task

from tasks import flytekit_shim


@pytest.mark.parametrize(("known", "starts"), [(True, 1), (False, 2)])
def test_workers_start_again_unless_they_say_that_it_helps_nothing(
    tmp_path: Path, known: bool, starts: int
) -> None:
    def failing(folder: str, known: bool) -> None:
        import os
        from pathlib import Path

        from tasks import flytekit_shim

        (Path(folder) / os.environ["TORCHELASTIC_RESTART_COUNT"]).touch()
        if known:
            flytekit_shim.no_restart()
        raise RuntimeError("the loss is not finite")

    elastic = flytekit_shim.ElasticOfOneSize(
        nnodes=1, nproc_per_node=1, start_method="spawn", max_restarts=1, increase_shared_mem=False
    )
    declared = task(task_config=elastic)(failing)
    with pytest.raises(Exception, match="the loss is not finite"):
        declared(folder=str(tmp_path), known=known)
    begun = {path.name for path in tmp_path.iterdir()}
    assert begun == {str(number) for number in range(starts)}
