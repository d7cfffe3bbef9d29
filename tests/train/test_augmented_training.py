"""Training with varied text: off it costs nothing, on it is the same for any ranks, workers and
interruptions; evaluation never sees it.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Training
from tiny import tiny_plan, write_tiny_data, write_tiny_shards

from clippo_core import __main__ as command_line
from clippo_core import storage
from clippo_core.config import AugmentConfig, RunConfig, TrainConfig, presets, replace
from clippo_core.data.loader import Batch, batches
from clippo_core.embedder import Clippo
from clippo_core.engine.checkpoint import open_checkpoint
from clippo_core.engine.recipe import check_same_recipe, recipe
from clippo_core.errors import CheckpointError, ConfigError
from clippo_core.rendering import Renderer
from clippo_core.rendering.augment import (
    LAYOUT_NUMBERS,
    AugmentedRenderer,
    augmented_pixels,
    noise_of_step,
    numbers_of_step,
)
from clippo_core.run import journal
from clippo_core.run.planning import make_plan
from clippo_core.run.records import CheckpointInfo, Manifest, PretrainPlan, from_dict
from clippo_core.train import loop, step
from clippo_core.train.step import train_step, with_varied_text

LAYOUT = AugmentConfig(max_extra_px=2, max_offset_px=9)
ALL = replace(LAYOUT, share=0.8, stroke_share=0.5, contrast=0.7, inversion_share=0.3, noise=0.2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of the tiny data."""
    return write_tiny_shards(tmp_path_factory.mktemp("shards"))


def varied_plan(root: Path, augment: AugmentConfig = ALL, **changes: Any) -> PretrainPlan:
    return tiny_plan(str(root), train__augment=augment, **changes)


def read(shards: Manifest, augment: AugmentConfig, steps: int = 5, **options: Any) -> list[Batch]:
    """Batches as the training loop gets them, on a CPU."""
    plan = tiny_plan("unused", train__augment=augment)
    varied = AugmentedRenderer(plan.render, augment) if augment.varies_layout else None
    renderer = Renderer.from_config(plan.render)
    feed: Iterator[Batch] = batches(
        shards,
        plan.data,
        image_px=32,
        batch_pairs=8,
        seed=3,
        text_encoder=renderer,
        steps=steps,
        varied=varied,
        **options,
    )
    return list(with_varied_text(feed, plan.train, 3, 32))


def train(plan: PretrainPlan, shards: Manifest) -> list[float]:
    """Losses of a run."""
    loop.pretrain(plan, shards)
    return losses(plan)


def losses(plan: PretrainPlan) -> list[float]:
    return [line["loss"] for line in journal.read(storage.join(plan.stage.root, "journal.jsonl"))]


# ---------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"max_extra_px": 9}, "use 0 to 8"),
        ({"max_offset_px": -1}, "max_offset_px is -1; it must not be negative"),
        ({"max_extra_px": 1.5}, "max_extra_px is 1.5; it must be a whole number"),
        ({"share": 0}, "share is 0.0; use a share above 0"),
        ({"double_share": 1.5}, "double_share is 1.5; it is a share, 0 to 1"),
        ({"stroke_share": -0.1}, "stroke_share is -0.1"),
        ({"contrast": float("nan")}, "contrast is nan"),
        ({"inversion_share": 2}, "inversion_share is 2.0"),
        ({"noise": -1}, "noise is -1.0"),
        ({"max_offset_px": 64}, "has only 64 px"),
        (
            {"model__kind": "two_tower_clip", "model__tokenizer": "x", "noise": 0.1},
            "two_tower_clip reads none",
        ),
        ({"render__image_px": 48, "double_share": 0.5}, "at least 64 px; render.image_px is 48"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(change: dict[str, Any], sentence: str) -> None:
    named = {
        name if "__" in name else f"train__augment__{name}": value for name, value in change.items()
    }
    with pytest.raises(ConfigError, match=sentence):
        replace(presets.demo(), **named)


def test_it_is_off_everywhere_and_reached_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    off = AugmentConfig()
    assert (
        not off.varies_layout
        and not off.varies_pixels
        and not any(dataclasses.astuple(replace(off, share=1))[1:])
    )
    for name, build in presets.by_name().items():
        assert (build("data") if name in ("slices", "photos") else build()).train.augment == off
    words = [
        "preset",
        "demo",
        "--set",
        "train__augment__noise=0.1",
        "--set",
        "train__augment__max_offset_px=8",
    ]
    assert command_line.main(words) == 0
    found = from_dict(RunConfig, json.loads(capsys.readouterr().out))
    assert found.train.augment == AugmentConfig(noise=0.1, max_offset_px=8)
    assert command_line.main(["preset", "demo", "--set", "train__augment__noise=3"]) == 2
    assert "train.augment.noise is 3.0; use 0 to 2" in capsys.readouterr().err


def test_flyte_carries_it() -> None:
    from flytekit import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine

    run = replace(presets.demo(), train__augment=replace(ALL, inversion_share=1.0))
    context = FlyteContextManager.current_context()
    literal = TypeEngine.to_literal(context, run, RunConfig, TypeEngine.to_literal_type(RunConfig))
    assert TypeEngine.to_python_value(context, literal, RunConfig) == run


def test_it_changes_training_and_nothing_before_it(tmp_path: Path) -> None:
    write_tiny_data(tmp_path / "data")
    plain = tiny_plan("unused", str(tmp_path / "data"))
    run = RunConfig(
        "tiny",
        plain.data,
        plain.render,
        plain.model,
        plain.optim,
        plain.train,
        root=str(tmp_path / "runs"),
    )
    noted: list[set[str]] = []
    for config in (run, replace(run, train__augment=LAYOUT)):
        make_plan(config, datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC))
        noted.append({path.name for path in (tmp_path / "runs" / "stages").iterdir()})
    new = {name.split("-")[0] for name in noted[1] - noted[0]}
    assert "pretrain" in new and not new & {"validate", "render"}
    # A run without it goes on from checkpoints that were written before there was such a thing.
    assert recipe(replace(plain, train__augment__share=0.5)) == recipe(plain)  # a share of nothing
    varied = replace(plain, train__augment=ALL)
    assert recipe(varied)["train"]["augment"]["noise"] == 0.2
    written_before = recipe(plain)
    del written_before["train"]["augment"]
    check_same_recipe("old", written_before, plain)
    with pytest.raises(CheckpointError, match="train.augment.*there"):
        check_same_recipe("old", written_before, varied)


# ---------------------------------------------------------------- the batches


def test_off_the_batches_are_the_loaders_own(shards: Manifest) -> None:
    plan = tiny_plan("unused")
    encode = Renderer.from_config(plan.render)
    feed = list(
        batches(shards, plan.data, image_px=32, batch_pairs=8, seed=3, text_encoder=encode, steps=3)
    )
    assert all(
        one is other
        for one, other in zip(with_varied_text(iter(feed), TrainConfig(), 3, 32), feed, strict=True)
    )
    for one, other in zip(read(shards, AugmentConfig(), 3), feed, strict=True):
        assert torch.equal(one.second_text, other.second_text) and torch.equal(
            one.first_text, other.first_text
        )


def test_each_text_is_varied_by_its_own_numbers(shards: Manifest) -> None:
    """By hand, one text after the other: what a sentence pair says follows from its key."""
    for batch in read(shards, ALL):
        numbers = numbers_of_step(3, batch.step, 8, ALL.share)
        noise = torch.from_numpy(noise_of_step(3, batch.step, 32))
        for place in range(6, 8):
            n = int(batch.keys[place].rpartition("-")[2]) - 1
            for side, text, found in (
                (0, f"left {n}", batch.first_text[place - 6]),
                (1, f"right {n}", batch.second_text[place]),
            ):
                chosen = numbers[place : place + 1, side]
                masks = AugmentedRenderer(tiny_plan("unused").render, ALL).masks(
                    [text], chosen[:, :LAYOUT_NUMBERS]
                )
                pixels = augmented_pixels(
                    torch.from_numpy(masks),
                    ALL,
                    torch.from_numpy(chosen[:, LAYOUT_NUMBERS:]),
                    noise,
                )
                assert torch.equal(found, pixels[0])


@pytest.mark.parametrize("augment", [LAYOUT, ALL])
def test_the_same_texts_for_any_number_of_ranks(shards: Manifest, augment: AugmentConfig) -> None:
    whole = read(shards, augment)
    for world_size in (2, 4):
        for rank in range(world_size):
            for part, full in zip(
                read(shards, augment, rank=rank, world_size=world_size), whole, strict=True
            ):
                assert torch.equal(part.second_text, full.second_text[part.places])
                firsts = part.places[part.places >= 6] - 6
                assert torch.equal(part.first_text, full.first_text[firsts])


def test_blocks_change_nothing(shards: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(shards, ALL)
    monkeypatch.setattr(step, "BLOCK_TEXTS", 3)
    for one, other in zip(read(shards, ALL), whole, strict=True):
        assert torch.equal(one.second_text, other.second_text) and torch.equal(
            one.first_text, other.first_text
        )


@pytest.mark.parametrize("options", [{"workers": 2}, {"start_step": 3}])
def test_the_same_texts_for_any_workers_and_start(
    shards: Manifest, options: dict[str, int]
) -> None:
    for one, other in zip(
        read(shards, ALL, **options), read(shards, ALL)[options.get("start_step", 0) :], strict=True
    ):
        assert one.step == other.step
        assert torch.equal(one.second_text, other.second_text) and torch.equal(
            one.first_text, other.first_text
        )


def test_stored_drawings_are_not_used_for_a_varying_layout(tmp_path: Path) -> None:
    from prepared import shards_of

    write_tiny_data(tmp_path / "data")
    plan = tiny_plan(str(tmp_path), str(tmp_path / "data"), data__store_drawings=True)
    manifest = shards_of(tmp_path, plan.data, plan.render)
    made = {
        stored: list(
            batches(
                manifest,
                replace(plan.data, store_drawings=stored),
                image_px=32,
                batch_pairs=8,
                seed=0,
                text_encoder=Renderer.from_config(plan.render),
                steps=3,
                varied=AugmentedRenderer(plan.render, LAYOUT),
            )
        )
        for stored in (True, False)
    }
    assert all(
        torch.equal(one.second_text, other.second_text)
        for one, other in zip(made[True], made[False], strict=True)
    )


# ---------------------------------------------------------------- training


def test_training_differs_and_goes_on_bit_for_bit(
    tmp_path: Path, shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = {
        name: train(varied_plan(tmp_path / name, augment), shards)
        for name, augment in (("off", AugmentConfig()), ("layout", LAYOUT), ("all", ALL))
    }
    assert all(one != other for one, other in itertools.combinations(curves.values(), 2))
    killed = varied_plan(tmp_path / "killed")
    counter = itertools.count(1)

    def failing(*arguments: Any) -> Any:
        if next(counter) == 4:
            raise MemoryError
        return train_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", failing)
        with pytest.raises(MemoryError):
            train(killed, shards)
    assert len(losses(killed)) == 3
    info: CheckpointInfo = loop.pretrain(killed, shards)
    assert losses(killed) == curves["all"]
    assert (
        info.weights_sha256
        == open_checkpoint(storage.join(str(tmp_path / "all"), "checkpoints")).info.weights_sha256
    )
    with pytest.raises(CheckpointError, match="train.augment.noise is 0.2 there, 0.1 here"):
        train(replace(killed, train__augment__noise=0.1), shards)


def test_cached_gradients_see_one_and_the_same_drawing(tmp_path: Path, shards: Manifest) -> None:
    plain = train(varied_plan(tmp_path / "plain"), shards)
    cached = train(
        varied_plan(tmp_path / "cached", train__memory="cached", train__chunk_pairs=4), shards
    )
    assert cached == pytest.approx(plain, rel=1e-4)


def test_compiled_blocks_meet_one_shape(tmp_path: Path, shards: Manifest) -> None:
    import torch._dynamo.testing as testing

    from clippo_core import models

    plan = varied_plan(tmp_path)
    counter = testing.CompileCounterWithBackend("eager")
    tower = models.build_tower(plan.model, 32)
    tower.compile_blocks(counter)
    for batch in read(shards, ALL):
        features = tower(batch.photos, batch.first_text, batch.second_text)[1]
        assert features.isfinite().all()
    assert counter.frame_count == 1


def test_evaluation_draws_plainly(tmp_path: Path, shards: Manifest) -> None:
    plan = varied_plan(tmp_path / "run", train__steps=4)
    info = loop.pretrain(plan, shards)
    model = Clippo.load(info.uri, "cpu")
    plain = Renderer.from_config(plan.render)
    assert model.render_digest == plain.digest == open_checkpoint(info.uri).progress.render_digest
    texts = ["photo 3", "right 4"]
    with torch.inference_mode():
        expected = model.tower.embed_encoded_text(torch.from_numpy(plain.masks(texts)))
    np.testing.assert_array_equal(model.embed_texts(texts), expected.numpy())


@pytest.mark.slow
def test_killed_on_two_ranks_it_goes_on_with_one(tmp_path: Path, shards: Manifest) -> None:
    """The curve is that of one rank alone, to rounding: every rank varies its texts as one
    would.
    """
    changes = {"train__steps": 16, "train__timeout_seconds": 60.0}
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    alone = train(varied_plan(tmp_path / "alone" / "run", **changes), shards)
    killed = varied_plan(tmp_path / "killed" / "run", **changes)
    training = Training(killed, shards, ranks=2)
    training.wait_for_step(5)
    for rank in (1, 0):
        training.send(signal.SIGKILL, rank)
    training.exit_codes()
    assert 5 <= len(losses(killed)) < 16, training.log.read_text()
    assert train(killed, shards) == pytest.approx(alone, rel=1e-3)
