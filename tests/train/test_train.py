"""The training loop: exact resume from every interruption, nothing lost silently, and the numbers
that it reports.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_plan, write_tiny_shards

from clippo_core import config, models, storage
from clippo_core.data import pairs
from clippo_core.data.loader import Batch, batches
from clippo_core.engine import Engine
from clippo_core.engine.checkpoint import Progress, latest_checkpoint, open_checkpoint
from clippo_core.errors import (
    CheckpointError,
    ConfigError,
    ConflictError,
    NotFoundError,
    Preempted,
    StorageError,
    TrainingError,
)
from clippo_core.losses import contrastive_loss
from clippo_core.optim import Adafactor, rsqrt_schedule
from clippo_core.report import watch
from clippo_core.run import journal
from clippo_core.run.records import CheckpointInfo, Manifest, PretrainPlan
from clippo_core.train import loop, speed
from clippo_core.train.lease import Lease
from clippo_core.train.step import train_step

Reference = tuple[PretrainPlan, CheckpointInfo]
TIMES = {
    "seconds",
    "pairs_per_second",
    "data_wait_share",
    "peak_memory_gib",
    "tflops_per_second",
    "mfu",
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of the tiny data."""
    return write_tiny_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def plan(tmp_path: Path) -> PretrainPlan:
    """Six steps."""
    return tiny_plan(str(tmp_path / "run"))


def train(plan: PretrainPlan, shards: Manifest, **keywords: Any) -> CheckpointInfo:
    return loop.pretrain(plan, shards, watch=watch.Watch, **keywords)


def curve(plan: PretrainPlan) -> list[dict[str, Any]]:
    """The journal without clock readings."""
    lines = journal.read(storage.join(plan.stage.root, "journal.jsonl"))
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def moved(plan: PretrainPlan, root: Path | str, **changes: Any) -> PretrainPlan:
    """The same run in another folder."""
    changed: PretrainPlan = config.replace(
        replace(plan, stage=replace(plan.stage, root=str(root))), **changes
    )
    return changed


@pytest.fixture(scope="module")
def uninterrupted(shards: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The reference run of six steps."""
    plan = tiny_plan(str(tmp_path_factory.mktemp("reference") / "run"))
    return plan, train(plan, shards)


def assert_same_run(plan: PretrainPlan, info: CheckpointInfo, reference: Reference) -> None:
    """Curve, weights and optimizer state are those of the reference, bit for bit."""
    assert curve(plan) == curve(reference[0])
    assert [file["sha256"] for file in open_checkpoint(info.uri).manifest["files"]] == [
        file["sha256"] for file in open_checkpoint(reference[1].uri).manifest["files"]
    ]
    assert (info.step, info.loss, info.weights_sha256) == (
        reference[1].step,
        reference[1].loss,
        reference[1].weights_sha256,
    )


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something while the `step`-th step from now is computed."""
    counter = itertools.count(1)

    def acting(*arguments: Any, **keywords: Any) -> Any:
        if next(counter) == step:
            act()
        return train_step(*arguments, **keywords)

    monkeypatch.setattr(loop, "train_step", acting)


def wait_for_first_save(plan: PretrainPlan) -> None:
    """Saves are written by a thread; return when the first one is whole."""
    while not storage.exists(storage.join(plan.stage.root, "checkpoints", "latest.json")):
        time.sleep(0.01)


def test_equals_a_naive_loop(shards: Manifest, uninterrupted: Reference) -> None:
    plan, info = uninterrupted
    tower = models.build_tower(plan.model, 32, seed=0)
    optimizer = Adafactor(
        tower.named_parameters(),
        lr=1e-3,
        weight_decay=1e-4,
        decayed=tower.decayed,
        views=tower.views,
    )
    losses = []
    feed = batches(
        shards,
        plan.data,
        image_px=32,
        batch_pairs=8,
        seed=0,
        text_encoder=models.text_encoder(plan.model, plan.render),
        steps=6,
    )
    for step, batch in enumerate(feed):
        loss = contrastive_loss(*tower(batch.photos, batch.first_text, batch.second_text))
        tower.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step(rsqrt_schedule(step, 6, 2, 4, 2))
        losses.append(loss.item())
    assert losses == pytest.approx([line["loss"] for line in curve(plan)], rel=1e-4)
    trained = open_checkpoint(info.uri).weights()
    for name, value in tower.state_dict().items():
        # The true gradient of a key bias is zero: Adafactor normalises rounding noise there.
        if "qkv.bias" not in name and "kv.bias" not in name:
            torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-5)


def test_what_a_run_leaves_behind(uninterrupted: Reference) -> None:
    plan, info = uninterrupted
    root = Path(plan.stage.root)
    lines = journal.read(info.journal)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6] and lines[-1][
        "pairs_seen"
    ] == 48 == info.pairs_seen
    for line in lines:
        assert (
            line["lr"]
            == 1e-3 * line["multiplier"]
            == 1e-3 * rsqrt_schedule(line["step"] - 1, 6, 2, 4, 2)
        )
        assert 0 <= line["data_wait_share"] <= 1 and line["pairs_per_second"] == pytest.approx(
            8 / line["seconds"]
        )
        assert "mfu" not in line  # a share of a CPU's ceiling says nothing
        assert (
            line["tflops_per_second"] > 0
            and 0 < line["peak_memory_gib"] < 100
            and line["skipped"] == 0
        )
        assert -1 <= line["negative_similarity"] <= 1 and 0 <= line["accuracy"] <= 1
    assert info.loss == pytest.approx(sum(line["loss"] for line in lines) / 6)
    assert json.loads((root / "checkpoints" / "latest.json").read_text()) == {
        "name": "step-00000006",
        "step": 6,
        "finished": True,
    }
    page = (root / "training.html").read_text()
    assert "6/6" in page and "refresh" not in page.partition("</head>")[0].lower().replace(
        "refreshing", ""
    )
    assert json.loads((root / "owner.json").read_text()) == {"released": True}


@pytest.mark.parametrize("step", [1, 3, 4])
def test_sigterm_saves_and_the_same_command_goes_on(
    plan: PretrainPlan,
    shards: Manifest,
    uninterrupted: Reference,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_step(
            patch, step, lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)] and None
        )
        with pytest.raises(Preempted, match=f"after step {step}, which is saved"):
            train(plan, shards)
    assert signal.getsignal(signal.SIGTERM) is handler
    stopped = latest_checkpoint(storage.join(plan.stage.root, "checkpoints"))
    assert stopped is not None and stopped.progress.step == step
    assert_same_run(plan, train(plan, shards), uninterrupted)


def test_stop_at_the_last_step_is_the_end(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(plan, shards).step == 6


def test_finished_run_is_not_trained_again(
    uninterrupted: Reference, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train_step", None)
    assert train(uninterrupted[0], shards) == uninterrupted[1]


def test_a_finished_run_needs_no_lease(
    uninterrupted: Reference, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes may evaluate one finished run at the same time."""
    plan, info = uninterrupted
    other = Lease(plan.stage.root, seconds=30)
    monkeypatch.setattr(loop, "train_step", None)
    assert train(plan, shards) == info
    with pytest.raises(CheckpointError, match="optim.lr is 0.001 there, 0.002 here"):
        train(moved(plan, plan.stage.root, optim__lr=2e-3), shards)
    other.release()


def test_state_of_another_type_is_refused(plan: PretrainPlan, shards: Manifest) -> None:
    train(plan, shards)
    path = Path(open_checkpoint(storage.join(plan.stage.root, "checkpoints")).uri, "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["progress"] |= {"state": {"skipped": "none"}, "finished": False}
    del manifest["sha256"]
    manifest["sha256"] = config.digest(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="state.skipped is a text, 'none', and must be"):
        train(plan, shards)


def test_crash_goes_on_from_the_last_checkpoint(
    plan: PretrainPlan, shards: Manifest, uninterrupted: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        at_step(patch, 6, crash)
        with pytest.raises(MemoryError):
            train(plan, shards)
    assert [line["step"] for line in curve(plan)] == [1, 2, 3, 4, 5]
    storage.delete(
        storage.join(plan.stage.root, "checkpoints", "step-00000004", "optimizer.safetensors")
    )
    assert_same_run(plan, train(plan, shards), uninterrupted)


def test_in_a_bucket(
    shards: Manifest,
    s3: str,
    uninterrupted: Reference,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = moved(uninterrupted[0], f"{s3}/run")
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted):
            train(plan, shards)
    assert [line["step"] for line in curve(plan)] == [1, 2, 3]
    assert_same_run(plan, train(plan, shards), uninterrupted)
    assert "6/6" in storage.read_text(f"{s3}/run/training.html")


def test_disk_full_stops_with_a_message_and_goes_on_later(
    plan: PretrainPlan, shards: Manifest, uninterrupted: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk() -> None:
        wait_for_first_save(plan)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    with monkeypatch.context() as patch:
        at_step(patch, 4, fill_the_disk)
        try:
            with pytest.raises(StorageError, match="no room left.*Nothing older was touched"):
                train(plan, shards)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = latest_checkpoint(storage.join(plan.stage.root, "checkpoints"))
    assert kept is not None and kept.progress.step == 2
    assert_same_run(plan, train(plan, shards), uninterrupted)


def test_second_run_on_the_same_folder_is_refused(plan: PretrainPlan, shards: Manifest) -> None:
    other = Lease(plan.stage.root, seconds=30)
    with pytest.raises(ConflictError, match="Stop that one first"):
        train(plan, shards)
    other.release()
    assert train(plan, shards).step == 6


def test_run_that_was_taken_over_commits_nothing(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_over() -> None:
        wait_for_first_save(plan)
        storage.write_text(
            storage.join(plan.stage.root, "owner.json"),
            json.dumps({"id": "other", "pid": 7, "host": "far"}),
        )

    at_step(monkeypatch, 3, take_over)
    with pytest.raises(ConflictError, match="taken over by"):
        train(plan, shards)
    kept = latest_checkpoint(storage.join(plan.stage.root, "checkpoints"))
    assert kept is not None and kept.progress.step == 2


def test_other_settings_are_refused_with_what_changed(
    uninterrupted: Reference, shards: Manifest
) -> None:
    for changes, sentence in (
        ({"optim__lr": 2e-3}, "optim.lr is 0.001 there, 0.002 here"),
        ({"model__depth": 3}, "model.depth is 2 there"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            train(config.replace(uninterrupted[0], **changes), shards)


def test_pairs_that_are_left_out_since_are_refused(
    uninterrupted: Reference, shards: Manifest
) -> None:
    """An evaluation that came later may show what was trained on."""
    shown = replace(shards, left_out="1" * 16)
    with pytest.raises(CheckpointError, match="trained on pairs that are left out now"):
        train(uninterrupted[0], shown)
    checkpoint = open_checkpoint(uninterrupted[1].uri)
    assert checkpoint.progress.left_out == shards.left_out != ""


def test_three_sources_of_a_resume(
    plan: PretrainPlan,
    shards: Manifest,
    uninterrupted: Reference,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with monkeypatch.context() as patch:  # an attempt elsewhere got to step 3
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted):
            train(plan, shards)
    earlier = storage.join(plan.stage.root, "checkpoints")
    elsewhere = moved(plan, tmp_path / "second")
    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            loop, "train_step", lambda *a, **k: steps.append(a[1].step) or train_step(*a, **k)
        )
        info = train(elsewhere, shards, previous=earlier)
        assert steps == [3, 4, 5] and info.uri.startswith(elsewhere.stage.root)
        assert info.weights_sha256 == uninterrupted[1].weights_sha256
        steps.clear()
        # A named start counts only while the run has nothing of its own; its settings may differ,
        # its tower may not.
        third = moved(
            plan, tmp_path / "third", train__resume_from=earlier, train__steps=8, optim__lr=5e-4
        )
        train(third, shards)
        train(third, shards)
        assert steps == [3, 4, 5, 6, 7]
    with pytest.raises(CheckpointError, match="step-00000003.*another tower"):
        train(moved(third, tmp_path / "fourth", model__mlp_dim=32), shards)
    with pytest.raises(ConfigError, match="at step 3.*only 3"):
        train(
            moved(
                third,
                tmp_path / "fifth",
                train__steps=3,
                optim__warmup_steps=1,
                optim__cooldown_steps=1,
            ),
            shards,
        )
    with pytest.raises(
        ConfigError, match="trained with model.skip_blank_rows False: another function"
    ):
        train(moved(third, tmp_path / "sixth", model__skip_blank_rows=True), shards)
    with pytest.raises(ConfigError, match="resume_from.*no checkpoint"):
        train(
            moved(plan, tmp_path / "seventh", train__resume_from=str(tmp_path / "nothing")), shards
        )


def test_a_warm_start_takes_the_whole_tower_and_a_schedule_of_its_own(
    plan: PretrainPlan, shards: Manifest, uninterrupted: Reference, tmp_path: Path
) -> None:
    first = uninterrupted[1]
    started = moved(plan, tmp_path / "warm", model__initial_weights=first.uri, optim__lr=1e-9)
    info = train(started, shards)
    before, after = (open_checkpoint(one.uri).weights() for one in (first, info))
    assert before.keys() == after.keys()
    for name, value in before.items():
        # Weight decay does not follow the learning rate: 6 steps of at most 1e-4.
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-6, msg=name)
    lines = journal.read(info.journal)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert train(started, shards).weights_sha256 == info.weights_sha256
    with pytest.raises(ConfigError, match="model.initial_weights .* another function"):
        train(moved(started, tmp_path / "other", model__mlp_dim=32), shards)
    nowhere = str(tmp_path / "nothing")
    with pytest.raises(NotFoundError, match="no checkpoint"):
        train(moved(started, tmp_path / "third", model__initial_weights=nowhere), shards)


def test_a_checkpoint_of_the_old_order_starts_another_run(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Version 0.1.0 dealt batches otherwise, and noted no order: the run cannot go on from it, but
    another one starts from its weights.
    """
    plan = moved(plan, tmp_path / "old")
    with monkeypatch.context() as patch:
        patch.setattr(pairs, "ORDER_VERSION", 1)
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted):
            train(plan, shards)
    with pytest.raises(CheckpointError, match="another order of batches.*train.resume_from"):
        train(plan, shards)
    warm = train(
        moved(plan, tmp_path / "new", train__resume_from=f"{plan.stage.root}/checkpoints"), shards
    )
    assert warm.step == plan.train.steps


def test_a_token_tower_records_its_tokenizer(
    shards: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokenizer = str(tmp_path / "small.model")
    texts = [f"{kind} {n}" for kind in ("photo", "picture", "left", "right") for n in range(40)]
    models.train_tokenizer(texts, tokenizer, vocab_size=300)
    plan = tiny_plan(
        str(tmp_path / "run"),
        model__kind="one_tower_clip",
        model__tokenizer=tokenizer,
        model__text_tokens=8,
    )
    expected = models.text_encoder(plan.model, plan.render).digest
    with monkeypatch.context() as patch:
        # As versions before wrote it, which looked for the digest of a renderer only.
        patch.setattr(loop, "Progress", lambda **known: Progress(**known | {"render_digest": ""}))
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted):
            train(plan, shards)
    older = latest_checkpoint(storage.join(plan.stage.root, "checkpoints"))
    assert older and older.progress.step == 3 and older.progress.render_digest == ""
    newer = open_checkpoint(train(plan, shards).uri)
    assert [line["step"] for line in curve(plan)] == [1, 2, 3, 4, 5, 6]
    assert newer.progress.render_digest == expected and len(expected) == 64


def spoil(monkeypatch: pytest.MonkeyPatch, spoilt_steps: set[int]) -> None:
    """Batches of these steps (from 0) have a NaN in one photo."""

    def spoiling(*arguments: Any, **keywords: Any) -> Iterator[Batch]:
        for batch in batches(*arguments, **keywords):
            if batch.step in spoilt_steps:
                photos = models.normalise(batch.photos)
                photos[0, 0, 3, 3] = math.nan
                batch = replace(batch, photos=photos)
            yield batch

    monkeypatch.setattr(loop, "batches", spoiling)


def test_non_finite_step_changes_nothing_and_counts(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[list[bytes]] = []

    def recording(engine: Engine, *arguments: Any) -> Any:
        result = train_step(engine, *arguments)
        everything = {
            name: value.reshape(-1)
            for name, value in {**engine.weights(), **engine.optimizer_state()}.items()
        }
        states.append(
            [everything[name].view(torch.uint8).numpy().tobytes() for name in sorted(everything)]
        )
        return result

    spoil(monkeypatch, {3})
    monkeypatch.setattr(loop, "train_step", recording)
    info = train(plan, shards)
    assert states[3] == states[2] and states[4] != states[3]
    lines = curve(plan)
    assert (
        [line["skipped"] for line in lines] == [0, 0, 0, 1, 1, 1]
        and lines[3]["loss"] is None
        and lines[3]["grad_norm"] is None
    )
    assert len(lines[3]["skipped_keys"]) == 8 and "skipped_keys" not in lines[4]
    assert math.isfinite(info.loss) and open_checkpoint(info.uri).progress.state["skipped"] == [4]


def test_too_many_non_finite_steps_stop_the_run_with_their_keys(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = config.replace(plan, train__max_skipped_steps=2)
    spoil(monkeypatch, {1, 2, 4})
    with pytest.raises(
        TrainingError, match=r"in 3 steps \(2, 3, 5\).*karpathy.*skipped_keys.*lower optim.lr"
    ):
        train(limited, shards)
    assert [len(line["skipped_keys"]) for line in curve(limited) if "skipped_keys" in line] == [
        8,
        8,
        8,
    ]
    with pytest.raises(
        TrainingError, match=r"in 3 steps \(2, 3, 5\)"
    ):  # and not a fresh count after a restart
        train(limited, shards)


def test_non_finite_gradient_is_skipped_too(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil_gradient(engine: Engine, *arguments: Any) -> Any:
        if arguments[0].step == 2:
            parameter = next(engine.module.parameters())
            handle = parameter.register_hook(lambda gradient: gradient * math.inf)
            try:
                return train_step(engine, *arguments)
            finally:
                handle.remove()
        return train_step(engine, *arguments)

    monkeypatch.setattr(loop, "train_step", spoil_gradient)
    train(plan, shards)
    lines = curve(plan)
    assert (
        [line["skipped"] for line in lines] == [0, 0, 1, 1, 1, 1]
        and lines[2]["loss"] is not None
        and lines[2]["grad_norm"] is None
    )


def test_batch_that_does_not_divide_is_refused(
    plan: PretrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="batch_pairs 8 does not divide by 3 ranks; use 6"):
        plan.train.pairs_per_rank(3)


def test_page_that_cannot_be_written_does_not_stop_training(
    plan: PretrainPlan, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PAGE_SECONDS", 0.0)
    (Path(plan.stage.root) / "training.html").mkdir(parents=True)
    assert train(plan, shards).step == 6


def test_flops_of_the_papers_towers() -> None:
    base = config.ModelConfig()
    large = config.ModelConfig(width=1024, depth=24, num_heads=16, mlp_dim=4096, embed_dim=1024)
    assert speed.forward_flops(base, 224) / 1e9 == pytest.approx(35.418, abs=0.01)
    assert speed.forward_flops(large, 224) / 1e9 == pytest.approx(123.31, abs=0.03)
    assert speed.training_flops_per_pair(base, 224) == pytest.approx(212.0e9, rel=1e-3)
    assert speed.training_flops_per_pair(large, 224) == pytest.approx(739.2e9, rel=1e-3)
    assert (
        speed.training_flops_per_pair(config.ModelConfig(kind="one_tower_clip", tokenizer="x"), 224)
        is None
    )


def test_flops_are_what_torch_counts(plan: PretrainPlan) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    tower = models.build_tower(plan.model, 32)
    photos, text = (
        torch.zeros(4, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(4, 2, 32, dtype=torch.uint16),
    )
    with FlopCounterMode(display=False) as counter:
        contrastive_loss(*tower(photos, text[:0], text)).backward()
    loss_flops = 3 * 2 * 4 * 4 * plan.model.embed_dim
    expected = 4 * (speed.training_flops_per_pair(plan.model, 32) or 0)
    assert counter.get_total_flops() - loss_flops == pytest.approx(expected, rel=0.02)


def test_a_run_that_goes_on_by_another_memory_plan_says_so(
    shards: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    uninterrupted: Reference,
) -> None:
    plan, _ = uninterrupted
    stopped = moved(plan, tmp_path / "stopped")
    with monkeypatch.context() as patch:  # saved at step 4, however busy the machine is
        at_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted):
            train(stopped, shards)
    start = storage.join(stopped.stage.root, "checkpoints", "step-00000004")
    assert (open_checkpoint(start).progress.state or {})["memory"] == "plain, one pass"
    half = plan.train.batch_pairs // 2
    changes = {"memory": "cached", "chunk_pairs": half, "resume_from": start}
    chunks = moved(plan, tmp_path, **{f"train__{name}": value for name, value in changes.items()})
    train(chunks, shards)
    said = f"by another plan (plain, chunks of 2 x {half}) than in {start}"
    assert said in caplog.text and "not bit for bit" in caplog.text
    found = [line["loss"] for line in curve(chunks)]
    expected = [line["loss"] for line in curve(plan)][4:]
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_kernel_of_attention_is_kept_when_a_run_goes_on(
    plan: PretrainPlan, shards: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[str] = []

    def hopper(wanted: str, kept: str, device: torch.device, seconds: Any) -> str:
        """The decision as it falls on a Hopper GPU, in the first attempt only."""
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        times = {"flash": 2.0, "cudnn": 1.0}
        gpu = torch.device("cuda", 0)
        return choose(wanted, kept, gpu, lambda name: (probed.append(name), times[name])[1])

    choose = loop.choose_attention
    monkeypatch.setattr(loop, "choose_attention", hopper)
    half = moved(plan, plan.stage.root, train__save_every_steps=3)
    with pytest.raises(Preempted), monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(half, shards)
    assert probed == ["flash", "cudnn"]
    checkpoint = latest_checkpoint(f"{plan.stage.root}/checkpoints")
    assert checkpoint and (checkpoint.progress.state or {})["attention"] == "cudnn"
    train(half, shards)
    assert probed == ["flash", "cudnn"]  # not again
    assert [line.get("attention") for line in curve(half)].count("cudnn") == 2  # once an attempt
    # By hand it is another one, and the same function.
    by_hand = moved(plan, tmp_path / "by hand", train__attention="math")
    info = train(by_hand, shards)
    state = open_checkpoint(info.uri).progress.state or {}
    assert state["attention"] == "math" and curve(by_hand)[0]["attention"] == "math"
    for ours, theirs in zip(curve(by_hand), curve(half), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
