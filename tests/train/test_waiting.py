"""Nobody waits without need: no step asks the device for a number, what it came to is read when the
next one is queued, and a slow start of one rank kills no other.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from engine_ranks import batch, chunks, engine_of, tower
from syncs import Syncs
from test_train import at_step, curve, spoil, train
from tiny import tiny_plan, write_tiny_shards
from waiting_ranks import PARTS, PATIENCE_SECONDS, counted, queued, slow_start, steps

from clippo_core import config, storage
from clippo_core.engine import Engine, contrastive_step, rehearse
from clippo_core.engine.checkpoint import latest_checkpoint, open_checkpoint
from clippo_core.errors import Preempted, TrainingError
from clippo_core.run.records import Manifest, PretrainPlan
from clippo_core.train import loop
from clippo_core.train.step import StepResult, train_step

STAGES = (0, 1, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (2, 3)))
REPORT = 5


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of the tiny data."""
    return write_tiny_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def plan(tmp_path: Path) -> PretrainPlan:
    """Six steps, saved at the end."""
    return tiny_plan(str(tmp_path / "run"), train__save_every_steps=100)


class Ranks(dict[int, list[dict[str, Any]]]):
    """Stage -> what each of two ranks found, run at first need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, stage: int) -> list[dict[str, Any]]:
        stages = (0, 1) if stage < 2 else (2, 3)
        mp.spawn(steps, (2, free_port(), stages, str(self.folder)), 2)
        found = [torch.load(self.folder / f"{n}.pt", weights_only=False) for n in (0, 1)]
        self.update(dict.fromkeys(stages, found))
        return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("ranks"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize("way", PARTS)
def test_a_step_waits_for_nothing(way: str) -> None:
    engine = engine_of(tower())
    assert counted(engine, PARTS[way])["syncs"] == {}
    with Syncs() as syncs:
        contrastive_step(engine, *batch(0))
        engine.update(1.0)
    assert sum(syncs.places.values()) == 2, "what reads at once is counted"


@pytest.mark.parametrize("way", PARTS)
@pytest.mark.parametrize("stage", STAGES)
def test_no_rank_waits_under_any_stage(ranks: Ranks, stage: int, way: str) -> None:
    for found in ranks[stage]:
        places = found[f"counted {stage} {way}"]["syncs"]
        assert not [place for place in places if place.startswith("clippo_core/")], places
        assert stage > 0 or not places


@pytest.mark.parametrize("way", PARTS)
@pytest.mark.parametrize("stage", STAGES)
def test_report_and_sums_travel_together(ranks: Ranks, stage: int, way: str) -> None:
    state = engine_of(tower()).optimizer_state()
    factors = sum(v.numel() for k, v in state.items() if k.endswith(("v_row", "v_col")))
    shared = REPORT if stage == 0 else REPORT + 1 + factors
    for found in ranks[stage]:
        sizes = found[f"counted {stage} {way}"]["all_reduce"]
        assert sizes.count(shared) == 1
        assert not ({REPORT, 1 + factors} - {shared}) & set(sizes)


@pytest.mark.parametrize("stage", STAGES)
def test_a_nan_of_one_rank_changes_no_bit_on_any(ranks: Ranks, stage: int) -> None:
    for found in ranks[stage]:
        assert found[f"skipped {stage}"] == [True, False, True, True]


def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(step that was read, newest queued step), in order, of the next run."""
    order: list[StepResult] = []
    found: list[tuple[int, int]] = []
    usual = StepResult.read

    def reading(result: StepResult) -> Any:
        found.append((order.index(result) + 1, len(order)))
        return usual(result)

    def queueing(*args: Any) -> StepResult:
        order.append(train_step(*args))
        return order[-1]

    monkeypatch.setattr(StepResult, "__eq__", object.__eq__)
    monkeypatch.setattr(StepResult, "read", reading)
    monkeypatch.setattr(loop, "train_step", queueing)
    return found


def test_a_step_is_read_when_the_next_is_queued(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reads(monkeypatch)
    train(config.replace(plan, train__save_every_steps=4), shards)
    # Before a save and at the end, the newest step as well.
    assert found == [(1, 2), (2, 3), (3, 4), (4, 4), (5, 6), (6, 6)]


def test_between_two_saves_only_the_step_before_is_asked(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Counter[str]] = []
    syncs = Syncs()
    made = loop.make_engine

    def as_on_a_gpu(*args: Any, **options: Any) -> Engine:
        """With an update that does not look, as it may on a CPU, whether the step counts."""
        engine = made(*args, **options)
        engine.optimizer.in_cache = False
        return engine

    monkeypatch.setattr(loop, "make_engine", as_on_a_gpu)

    def noting(*args: Any) -> StepResult:
        places.append(syncs.places.copy())
        return train_step(*args)

    monkeypatch.setattr(loop, "train_step", noting)
    with syncs:
        train(plan, shards)
    asked = places[5] - places[1]  # from before step 2 to before step 6
    on_the_host = ("clippo_core/data/", "clippo_core/rendering/")
    of_the_device = {place: n for place, n in asked.items() if not place.startswith(on_the_host)}
    assert of_the_device == {"clippo_core/train/step.py in read": 4}


def test_a_run_in_trouble_is_read_step_by_step(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reads(monkeypatch)
    spoil(monkeypatch, {1})
    train(plan, shards)
    assert found == [(1, 2), (2, 3), (3, 3), (4, 5), (5, 6), (6, 6)]


@pytest.mark.parametrize(("save_every", "queued_steps"), [(4, 4), (100, 5)])
def test_too_many_skipped_steps_end_the_run_before_anything_is_saved(
    plan: PretrainPlan,
    shards: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    save_every: int,
    queued_steps: int,
) -> None:
    counts: list[int] = []
    spoil(monkeypatch, {3})
    monkeypatch.setattr(loop, "train_step", lambda *a: counts.append(1) or train_step(*a))
    limited = config.replace(plan, train__save_every_steps=save_every, train__max_skipped_steps=0)
    with pytest.raises(TrainingError, match=r"in 1 steps \(4\)"):
        train(limited, shards)
    assert len(counts) == queued_steps
    assert latest_checkpoint(storage.join(plan.stage.root, "checkpoints")) is None
    assert curve(plan)[3]["skipped_keys"]


@pytest.mark.parametrize("spoilt", [True, False])
def test_a_stop_saves_what_the_newest_step_came_to(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch, spoilt: bool
) -> None:
    if spoilt:
        spoil(monkeypatch, {2})
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted, match="after step 3"):
        train(plan, shards)
    saved = open_checkpoint(storage.join(plan.stage.root, "checkpoints")).progress
    assert saved.step == 3 == curve(plan)[-1]["step"]
    assert saved.state["skipped"] == [3] * spoilt and len(saved.state["losses"]) == 3 - spoilt


def test_a_rehearsal_leaves_nothing_behind() -> None:
    engine = engine_of(tower())
    queued(engine, 0, 1)
    before = {**engine.weights(), **engine.optimizer_state()}
    random = torch.get_rng_state()
    seen: list[tuple[bool, int]] = []
    engine.module.register_forward_hook(
        lambda module, inputs, _: seen.append((torch.is_grad_enabled(), len(inputs[2])))
    )
    rehearse(engine, *batch(1), memory=chunks(4, 1))
    # Of photos only, then of texts only; the last chunk is one of these.
    assert seen == [(False, 4), (True, 4), (True, 4)]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in engine.module.parameters())
    after = {**engine.weights(), **engine.optimizer_state()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    contrastive_step(engine, *batch(1))  # no gradient waits


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["batch", "compiler"])
def test_a_slow_start_of_one_rank_kills_no_other(
    plan: PretrainPlan, shards: Manifest, slow: str
) -> None:
    patient = config.replace(
        plan, train__timeout_seconds=PATIENCE_SECONDS, train__compile=slow == "compiler"
    )
    mp.spawn(slow_start, (2, free_port(), patient, shards, slow), 2)
    assert [line["step"] for line in curve(plan)] == [1, 2, 3, 4, 5, 6]
