"""Real processes, real signals: killed, frozen, stopped and doubled training runs, and ranks that
come back in another number.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from ranks import Training, steps_of
from test_train import assert_same_run, curve, moved
from tiny import tiny_plan, write_tiny_shards

from clippo_core import storage
from clippo_core.engine.checkpoint import latest_checkpoint, open_checkpoint
from clippo_core.run import journal
from clippo_core.run.records import CheckpointInfo, Manifest, PretrainPlan, dumps


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of the tiny data."""
    return write_tiny_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def reference(
    shards: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PretrainPlan, CheckpointInfo]:
    """Forty uninterrupted steps in one process."""
    plan = tiny_plan(
        str(tmp_path_factory.mktemp("reference") / "run"),
        train__steps=40,
        train__save_every_steps=3,
        optim__cooldown_steps=10,
    )
    finish(plan, shards)
    return plan, open_checkpoint(storage.join(plan.stage.root, "checkpoints")).info


def finish(plan: PretrainPlan, shards: Manifest, ranks: int = 1) -> None:
    """Train to the end."""
    training = Training(plan, shards, ranks)
    assert training.exit_codes() == [0] * ranks, training.log.read_text()


def info_of(plan: PretrainPlan) -> CheckpointInfo:
    return open_checkpoint(storage.join(plan.stage.root, "checkpoints")).info


def kill_and_go_on(plan: PretrainPlan, shards: Manifest, kills: int, seed: int) -> None:
    """`kill -9` at random moments, and the same command again, until the run is finished."""
    source = random.Random(seed)
    for attempt in range(kills):
        training = Training(plan, shards, name=f"attempt-{attempt}")
        done = (steps_of(plan) or [0])[-1]
        training.wait_for_step(min(done, 3 * attempt) + source.randrange(1, 8))
        time.sleep(source.uniform(0, 0.05))
        training.send(signal.SIGKILL)
        assert training.exit_codes() == [-signal.SIGKILL], training.log.read_text()
    finish(plan, shards)


def test_three_kills_leave_the_run_as_it_would_have_been(
    tmp_path: Path, shards: Manifest, reference: Any
) -> None:
    plan = moved(reference[0], tmp_path / "run")
    kill_and_go_on(plan, shards, kills=3, seed=0)
    assert_same_run(plan, info_of(plan), reference)


@pytest.mark.nightly
def test_many_kills(tmp_path: Path, shards: Manifest, reference: Any) -> None:
    for seed in range(1, 8):
        plan = moved(reference[0], tmp_path / str(seed) / "run")
        (tmp_path / str(seed)).mkdir()
        kill_and_go_on(plan, shards, kills=5, seed=seed)
        assert_same_run(plan, info_of(plan), reference)


def test_sigterm_ends_every_rank_with_143(tmp_path: Path, shards: Manifest, reference: Any) -> None:
    plan = moved(reference[0], tmp_path / "run")
    training = Training(plan, shards, ranks=2)
    training.wait_for_step(4)
    training.send(signal.SIGTERM, rank=1)  # one machine is taken away: all save and stop
    started = time.monotonic()
    assert training.exit_codes() == [143, 143], training.log.read_text()
    assert time.monotonic() - started < 5
    saved = latest_checkpoint(storage.join(plan.stage.root, "checkpoints"))
    assert saved is not None and saved.progress.step == steps_of(plan)[-1] >= 4
    assert "the same command goes on from it" in training.log.read_text()


def test_second_process_on_the_same_run_is_refused(
    tmp_path: Path, shards: Manifest, reference: Any
) -> None:
    plan = moved(reference[0], tmp_path / "run")
    both = [Training(plan, shards, name=name) for name in ("one", "other")]
    codes = [training.exit_codes() for training in both]
    assert sorted(codes) == [[0], [1]], [training.log.read_text() for training in both]
    assert "is being trained by process" in both[codes.index([1])].log.read_text()
    assert_same_run(plan, info_of(plan), reference)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit_s"), [("SIGKILL", 5.0), ("SIGSTOP", 4.0 + 5.0)])
def test_dead_or_frozen_rank_is_noticed_in_time(
    tmp_path: Path, shards: Manifest, reference: Any, name: str, limit_s: float
) -> None:
    plan = moved(reference[0], tmp_path / "run", train__timeout_seconds=4.0)
    training = Training(plan, shards, ranks=2)
    training.wait_for_step(4)
    training.send(getattr(signal, name), rank=1)
    started = time.monotonic()
    training.processes[0].join(60)
    noticed = time.monotonic() - started
    assert training.processes[0].exitcode == 1 and noticed < limit_s, (
        noticed,
        training.log.read_text(),
    )
    assert "lost another rank" in training.log.read_text()
    training.exit_codes(timeout_s=0)
    finish(plan, shards, ranks=2)
    assert [line["step"] for line in curve(plan)] == list(range(1, 41))


@pytest.mark.slow
def test_other_number_of_ranks_and_other_stage(
    tmp_path: Path, shards: Manifest, reference: Any
) -> None:
    """2 ranks under ZeRO-1, then 1 rank without, then 4 ranks under ZeRO-3: one run."""
    plan = moved(reference[0], tmp_path / "run", train__timeout_seconds=60.0)
    for stage, ranks, until in ((1, 2, 8), (0, 1, 20), (3, 4, 40)):
        part = moved(plan, plan.stage.root, train__zero_stage=stage)
        if until == 40:
            finish(part, shards, ranks)
            break
        training = Training(part, shards, ranks, name=f"stage-{stage}")
        training.wait_for_step(until)
        training.send(signal.SIGTERM)
        assert training.exit_codes() == [143] * ranks, training.log.read_text()
    assert info_of(plan).world_size == 4
    ours, theirs = curve(plan), curve(reference[0])
    assert [line["step"] for line in ours] == list(range(1, 41))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=3e-5)
        assert mine["logit_scale"] == pytest.approx(other["logit_scale"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_come_back_bit_for_bit(
    tmp_path: Path, shards: Manifest, reference: Any, stage: int
) -> None:
    changes = {"train__zero_stage": stage, "train__timeout_seconds": 60.0, "train__steps": 20}
    whole, broken = (
        moved(reference[0], tmp_path / name / "run", **changes) for name in ("whole", "broken")
    )
    for plan in (whole, broken):
        Path(plan.stage.root).parent.mkdir()
    finish(whole, shards, ranks=2)
    training = Training(broken, shards, ranks=2, name="killed")
    training.wait_for_step(8)
    for rank in (1, 0):
        training.send(signal.SIGKILL, rank)
    assert training.exit_codes() in ([-9, -9], [1, -9]), training.log.read_text()
    finish(broken, shards, ranks=2)
    assert_same_run(broken, info_of(broken), (whole, info_of(whole)))


@pytest.mark.slow
def test_torchrun_restarts_a_killed_rank_by_itself(
    tmp_path: Path, shards: Manifest, reference: Any
) -> None:
    plan = moved(reference[0], tmp_path / "run")
    (tmp_path / "plan.json").write_text(dumps(plan))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--max-restarts=1",
    ]
    with open(tmp_path / "log", "w") as log:
        agent = subprocess.Popen(
            [*command, "-m", "clippo_core.train", str(tmp_path / "plan.json"), shards.uri],
            cwd=PROJECT,
            stdout=log,
            stderr=log,
            # Without it a restarted rank may connect to an address that its dead predecessor left
            # in the shared store.
            env={**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        )
        limit = time.monotonic() + 120
        while (steps_of(plan) or [0])[-1] < 5 and time.monotonic() < limit and agent.poll() is None:
            time.sleep(0.01)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert agent.wait(240) == 0, (tmp_path / "log").read_text()
    lines = journal.read(storage.join(plan.stage.root, "journal.jsonl"))
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[-1]["loss"] == pytest.approx(curve(reference[0])[-1]["loss"], rel=1e-3)
