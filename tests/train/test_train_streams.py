"""Training from tars and text pairs in a bucket that fails at random, killed and begun again."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from faults import FaultProxy
from prepared import shards_of
from ranks import steps_of
from test_train import assert_same_run
from tiny import tiny_plan
from web_tars import captioned_tar

from clippo_core import storage
from clippo_core.config import DataConfig, SourceConfig
from clippo_core.engine.checkpoint import open_checkpoint
from clippo_core.run.records import (
    CheckpointInfo,
    Manifest,
    PretrainPlan,
    dumps,
)

STEPS, TARS, PHOTOS, PAIRS = 40, 6, 50, 200


def streamed(bucket: str, tmp_path: Path) -> tuple[PretrainPlan, Manifest]:
    """A plan, and shards in a bucket of which no window holds all."""
    for number in range(TARS):
        records = (
            (
                f"{i:05d}",
                np.random.default_rng([number, i]).integers(0, 256, (32, 32, 3), np.uint8),
                f"photo {number} {i}",
            )
            for i in range(PHOTOS)
        )
        storage.write_bytes(f"{bucket}/set/{number:05d}.tar", captioned_tar(records))
    (tmp_path / "pairs.tsv").write_text("".join(f"left {n}\tright {n}\n" for n in range(PAIRS)))
    data = DataConfig(
        (
            SourceConfig("webdataset", f"{bucket}/set/*.tar", name="web"),
            SourceConfig("tsv", str(tmp_path / "pairs.tsv"), name="pairs"),
        ),
        text_pair_share=0.25,
        records_per_shard=50,
        window_records=128,
        block_records=8,
    )
    changes = {"train__steps": STEPS, "train__save_every_steps": 5, "optim__cooldown_steps": 10}
    plan = dataclasses.replace(tiny_plan(f"{bucket}/run", **changes), data=data)
    return plan, shards_of(plan.stage.root, data, plan.render, data_digest=plan.stage.data_digest)


def started(plan: PretrainPlan, shards: Manifest, folder: Path, **env: str) -> subprocess.Popen:
    """The training of a plan, as a process on a node whose cache is in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(dumps(plan))
    command = [sys.executable, "-m", "clippo_core.train", str(folder / "plan.json"), shards.uri]
    env = os.environ | {"XDG_CACHE_HOME": str(folder)} | env
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def info_of(plan: PretrainPlan) -> CheckpointInfo:
    return open_checkpoint(storage.join(plan.stage.root, "checkpoints")).info


@pytest.mark.slow
def test_kills_and_faults_of_the_bucket_change_nothing(s3: str, tmp_path: Path) -> None:
    """10 % of all requests fail, of tars, indexes, checkpoints and journal alike: also bits that
    flip on the way. After three kills -9 losses, weights and optimizer state are bit for bit those
    of an undisturbed run.
    """
    plan, shards = streamed(s3, tmp_path)
    calm = dataclasses.replace(plan, stage=dataclasses.replace(plan.stage, root=f"{s3}/calm"))
    undisturbed = started(calm, shards, tmp_path / "calm")
    proxy = FaultProxy(os.environ["AWS_ENDPOINT_URL_S3"], share=0.1, seed=1, slow_seconds=0.2)
    chance = random.Random(0)
    node = tmp_path / "node"
    for stop in (7, 18, 29):
        process = started(plan, shards, node, AWS_ENDPOINT_URL_S3=proxy.url)
        limit = time.monotonic() + 200
        while (steps_of(plan) or [0])[-1] < stop and time.monotonic() < limit:
            assert process.poll() is None, (node / "log").read_text()
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert stop <= steps_of(plan)[-1] < STEPS
    last = started(plan, shards, node, AWS_ENDPOINT_URL_S3=proxy.url)
    assert last.wait(timeout=300) == 0, (node / "log").read_text()
    assert undisturbed.wait(timeout=300) == 0, (tmp_path / "calm" / "log").read_text()
    assert_same_run(plan, info_of(plan), (calm, info_of(calm)))
    proxy.close()
    assert min(proxy.counts[kind] for kind in FaultProxy.KINDS) > 0, proxy.counts
