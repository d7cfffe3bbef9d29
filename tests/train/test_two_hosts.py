"""Pretraining through Flyte's Elastic on two hosts: one is lost in the middle, comes back, and the
run goes on from its checkpoint.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT
from ranks import steps_of
from tiny import tiny_plan, write_tiny_shards
from two_hosts import two_hosts

from clippo_core import storage
from clippo_core.engine.checkpoint import open_checkpoint
from clippo_core.run import journal
from clippo_core.run.records import dumps

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


@pytest.mark.slow
def test_a_lost_host_comes_back(tmp_path: Path) -> None:
    shards = write_tiny_shards(tmp_path / "shards")
    plan = tiny_plan(
        str(tmp_path / "run"),
        train__steps=60,
        train__save_every_steps=5,
        train__zero_stage=1,
        train__timeout_seconds=20.0,
        optim__cooldown_steps=10,
    )
    (tmp_path / "plan.json").write_text(dumps(plan))
    (tmp_path / "node.py").write_text(PROGRAM)
    command = [
        sys.executable,
        str(tmp_path / "node.py"),
        str(PROJECT),
        str(tmp_path / "plan.json"),
        shards.uri,
    ]
    environment = {
        "PET_NNODES": "2",
        "PET_RDZV_ENDPOINT": "node-0:29400",
        "OMP_NUM_THREADS": "1",
        "FLYTE_LOCAL_CACHE_ENABLED": "false",
        "HOME": str(tmp_path / "home"),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    logs = [tmp_path / "node-0.log", tmp_path / "node-1.log"]
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
