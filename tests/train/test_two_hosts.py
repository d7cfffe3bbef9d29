"""Pretraining through Flyte's Elastic on two hosts: one is lost in the middle, comes back, and the
run goes on from its checkpoint; and an error that would come again ends both.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from ranks import steps_of
from tiny import tiny_plan, write_tiny_shards
from two_hosts import two_hosts

from clippo_core import storage
from clippo_core.engine.checkpoint import open_checkpoint
from clippo_core.run import journal
from clippo_core.run.records import PretrainPlan, dumps

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from tasks import settings
settings.SHAPE = settings.ClusterShape(nodes=2, processes_per_node=1)
settings.SHAPE_NAME = "two-hosts"
from flytekit.core.base_task import IgnoreOutputs
from clippo_core import storage
from clippo_core.run import records
from clippo_core.data.shards import open_manifest
from tasks.pretrain import pretrain

if __name__ == "__main__":  # Elastic spawns its workers from this file
    try:
        plan = records.loads(records.PretrainPlan, storage.read_text(sys.argv[2]))
        pretrain(plan=plan, manifest=open_manifest(sys.argv[3]))
        print("the output is this node's")
    except IgnoreOutputs:
        print("the output is the other node's")
"""


def prepared(
    folder: Path, **changes: Any
) -> tuple[PretrainPlan, list[str], dict[str, str], list[Path]]:
    """A run over two hosts: its plan, a host's command and environment, and both logs."""
    shards = write_tiny_shards(folder / "shards")
    changes = {
        "train__steps": 60,
        "train__save_every_steps": 5,
        "train__zero_stage": 1,
        "train__timeout_seconds": 20.0,
        "optim__cooldown_steps": 10,
    } | changes
    plan = tiny_plan(str(folder / "run"), **changes)
    (folder / "plan.json").write_text(dumps(plan))
    (folder / "node.py").write_text(PROGRAM)
    program = [sys.executable, str(folder / "node.py"), str(PROJECT)]
    environment = {
        "PET_NNODES": "2",
        "PET_RDZV_ENDPOINT": "node-0:29400",
        "OMP_NUM_THREADS": "1",
        "FLYTE_LOCAL_CACHE_ENABLED": "false",
        "HOME": str(folder / "home"),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    logs = [folder / "node-0.log", folder / "node-1.log"]
    return plan, [*program, str(folder / "plan.json"), shards.uri], environment, logs


@pytest.mark.slow
def test_a_lost_host_comes_back(tmp_path: Path) -> None:
    plan, command, environment, logs = prepared(tmp_path)
    with two_hosts() as hosts:
        nodes = [hosts.start(number, command, logs[number], **environment) for number in (0, 1)]
        limit = time.monotonic() + 200
        while (
            (steps_of(plan) or [0])[-1] < 12
            and time.monotonic() < limit
            and all(node.poll() is None for node in nodes)
        ):
            time.sleep(0.01)
        done = (steps_of(plan) or [0])[-1]
        assert done >= 12, [log.read_text()[-3000:] for log in logs]
        hosts.kill(1)
        nodes[1].wait()
        nodes[1] = hosts.start(1, command, logs[1], **environment)
        for number, node in enumerate(nodes):
            assert node.wait(300) == 0, (number, [log.read_text()[-3000:] for log in logs])
    assert "the output is" in logs[0].read_text() and "the output is" in logs[1].read_text()
    lines = journal.read(storage.join(plan.stage.root, "journal.jsonl"))
    assert [line["step"] for line in lines] == list(range(1, 61)) and done < 60
    assert open_checkpoint(storage.join(plan.stage.root, "checkpoints")).info.world_size == 2


@pytest.mark.slow
def test_what_no_repetition_cures_ends_on_both_hosts_at_once(tmp_path: Path) -> None:
    """Elastic would start the ranks three times again, here as there."""
    _, command, environment, logs = prepared(tmp_path, optim__lr=1e30, train__max_skipped_steps=0)
    with two_hosts() as hosts:
        nodes = [hosts.start(number, command, logs[number], **environment) for number in (0, 1)]
        assert all(node.wait(300) != 0 for node in nodes)
    for log in logs:
        told = log.read_text()
        assert "was not finite in 1 steps" in told, told[-3000:]
        assert len(re.findall(r"failed \(exitcode: 1\) local_rank", told)) == 1, told[-3000:]
