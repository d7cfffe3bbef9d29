"""Engines on 1, 2 and 4 gloo ranks, held against one process: one process group a world size runs
all its cases (4: slow).
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from conftest import PROJECT
from engine_ranks import (
    IMAGE_PX,
    MODEL,
    OPTIM,
    PACKED,
    PAIRS,
    STEPS,
    batch,
    engine_of,
    float64_gradients,
    packed_batch,
    refusals,
    run,
    tower,
    train,
)
from test_optim import DECAYED, VIEWS, gradients, parameters

from clippo_core.engine import zero
from clippo_core.losses import contrastive_loss
from clippo_core.models import build_tower
from clippo_core.optim import Adafactor

FOUR = pytest.param(4, marks=pytest.mark.slow)
WORLD_SIZES = (2, FOUR)


class Ranks(dict):
    """World size -> what its ranks found, run at first need; 4 and 1 go on from a checkpoint that 2
    left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, world_size: int) -> list[dict]:
        if world_size != 2:
            self[2]
        self[world_size] = run(world_size, self.folder)
        return self[world_size]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return Ranks(tmp_path_factory.mktemp("ranks"))


@functools.cache
def alone() -> dict:
    """5 steps of one process without a process group."""
    return train(engine_of(tower()), range(STEPS))


@functools.cache
def definition() -> dict[str, torch.Tensor]:
    """Float64 gradients of the definition on the whole batch."""
    module = tower(torch.float64)
    loss = contrastive_loss(*module(*batch(0)))
    names, values = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


def without_key_biases(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The elements whose true gradient is not zero: a key's bias shifts all logits of a query
    alike.
    """
    if not name.startswith(("blocks", "attn_pool")) or ".bias" not in name or tensor.dim() != 1:
        return tensor
    if ".qkv." in name:
        return torch.cat([tensor[: MODEL.width], tensor[2 * MODEL.width :]])
    return tensor[MODEL.width :] if ".kv." in name else tensor


def assert_equal(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float
) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        here, there = without_key_biases(name, found[name]), without_key_biases(name, value)
        torch.testing.assert_close(
            here, there, atol=atol, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("case", ["plain", "4 chunks", "tiled"])
@pytest.mark.parametrize("world_size", [1, 2, FOUR])
def test_gradients_equal_the_definition_in_float64(ranks, world_size, case):
    per_rank = (
        [float64_gradients(0, 1)]
        if world_size == 1
        else [found["float64"] for found in ranks[world_size]]
    )
    largest = max(float(g.abs().max()) for g in definition().values())
    for found in per_rank:
        assert_equal(found[case], definition(), atol=1e-12 * largest)
        assert float(found[case]["t"]) == pytest.approx(float(definition()["t"]), rel=1e-12)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_packed_gradients_equal_those_of_the_whole_batch(ranks, world_size, stage, parts):
    module = build_tower(PACKED, IMAGE_PX, seed=3)
    inputs, _ = packed_batch(0, 1)
    names, values = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(contrastive_loss(*module(*inputs)), values)
    expected = dict(zip(names, gradients, strict=True))
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    found = ranks[world_size][0][f"packed {stage} {parts}"]
    assert_equal(found, expected, atol=1e-5 * largest)


def test_the_true_gradient_of_key_biases_is_zero():
    width = MODEL.width
    for name, gradient in definition().items():
        if name.endswith("qkv.bias"):
            assert (
                gradient[width : 2 * width].abs().max() < 1e-12 * gradient[2 * width :].abs().max()
            )
        if name.endswith("kv.bias") and "attn_pool" in name:
            assert gradient[:width].abs().max() < 1e-12 * gradient[width:].abs().max()


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_zero_exchanges_the_definitions_gradient(ranks, world_size, stage, parts):
    found = ranks[world_size][0][f"gradient {stage} {parts}"]
    expected = {name: value.float() for name, value in definition().items()}
    assert_equal(found, expected, atol=1e-6)
    assert float(found["t"]) == pytest.approx(float(expected["t"]), rel=1e-5)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_five_steps_equal_one_process(ranks, world_size, stage, parts):
    for rank, found in enumerate(ranks[world_size]):
        here = found[f"train {stage} {parts}"]
        torch.testing.assert_close(here["history"], alone()["history"], atol=2e-5, rtol=2e-5)
        if rank == 0:
            assert_equal(here["weights"], alone()["weights"], atol=1e-6)
            assert here["state"].keys() == alone()["state"].keys()
        else:
            assert here["weights"] == here["state"] == {}
    assert (
        alone()["history"][:, -1].min() > OPTIM.clip_norm
    )  # so that clipping is part of what is compared


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_one_exchange_a_step_whatever_the_number_of_chunks(ranks, world_size, stage):
    parameters_ = sum(p.numel() for p in tower().parameters())
    factors = sum(v.numel() for k, v in alone()["state"].items() if k.endswith(("v_row", "v_col")))
    for parts in (1, 4):
        calls = ranks[world_size][0][f"count {stage} {parts}"]
        # Sums of step reports; of squares (norm, rows, columns), once; of gradients, once (stage 3:
        # padded shards).
        assert calls["all_reduce"].count(5) == 1
        assert calls["all_reduce"].count(1 + factors) == (stage > 0)
        large = [n for n in calls["all_reduce"] if n >= parameters_]
        assert len(large) == 1 and large[0] <= parameters_ * 1.01 + 1000, calls["all_reduce"]
        # The features of one side with their pairs' similarities, and the parts of the columns'
        # log-sum-exps.
        assert calls["all_gather"].count(PAIRS // world_size * (MODEL.embed_dim + 1)) >= 1
        assert (
            calls["all_gather"].count(PAIRS) == 1 or stage == 3
        )  # where some shard of weights is as large
    if stage < 3:  # stage 3 fetches weights for every chunk
        once, chunked = (ranks[world_size][0][f"count {stage} {parts}"] for parts in (1, 4))
        assert {k: sorted(v) for k, v in once.items()} == {k: sorted(v) for k, v in chunked.items()}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_skipped_step_leaves_no_trace_on_any_rank(ranks, world_size, stage):
    for rank, found in enumerate(ranks[world_size]):
        here = found[f"skip {stage}"]
        assert here["finite"] is False and not torch.isfinite(torch.tensor(here["norm"]))
        assert "micro-batches" in here["refused"]
        torch.testing.assert_close(here["history"], alone()["history"][2:], atol=2e-5, rtol=2e-5)
        if rank == 0:
            assert_equal(here["weights"], alone()["weights"], atol=1e-6)


@pytest.mark.parametrize(
    "world_size, stage",
    [(1, 1), (1, 3), *(pytest.param(4, stage, marks=pytest.mark.slow) for stage in (0, 1, 2, 3))],
)
def test_two_ranks_state_goes_on_under_other_stages_and_numbers(ranks, world_size, stage):
    here = ranks[world_size][0][f"resume {stage}"]
    assert_equal(here["weights"], alone()["weights"], atol=1e-6)
    for key, value in alone()["state"].items():
        if not key.endswith(".bias/momentum") and not key.endswith(".bias/v"):
            torch.testing.assert_close(
                here["state"][key],
                value,
                atol=2e-4,
                rtol=1e-3,
                msg=lambda m, key=key: f"{key}: {m}",
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_shards_of_adafactor_equal_the_whole(ranks, world_size, dtype):
    weights = parameters()
    whole = Adafactor(
        weights.items(), 1e-3, 1e-4, DECAYED, momentum_dtype=dtype, views=VIEWS, clip_norm=1.0
    )
    for step in range(20):
        for name, gradient in gradients(step).items():
            weights[name].grad = torch.from_numpy(gradient)
        whole.step(0.5)
    flat = torch.cat([w.detach().reshape(-1) for w in weights.values()])
    found = torch.cat([rank[f"adafactor {dtype}"]["shard"] for rank in ranks[world_size]])
    difference = (found - flat).abs()
    rounds = dtype == torch.bfloat16  # a momentum between two bfloat16 numbers may round either way
    assert (difference > 1e-6).float().mean() <= (1e-3 if rounds else 0)
    assert difference.max() <= (5e-5 if rounds else 1e-6)
    state = ranks[world_size][0][f"adafactor {dtype}"]["state"]
    assert state.keys() == whole.full_state().keys()
    for key, value in whole.full_state().items():
        torch.testing.assert_close(
            state[key].float(),
            value.float(),
            atol=2e-2 if rounds and "momentum" in key else 1e-6,
            rtol=1e-5,
        )


def test_bfloat16_is_close_and_still_exchanges_float32(ranks):
    found = ranks[2][0]["bfloat16"]
    torch.testing.assert_close(found["history"][:, 0], alone()["history"][:, 0], atol=0.05, rtol=0)
    assert all(value.dtype == torch.float32 for value in found["weights"].values())
    assert ranks[2][0]["count bfloat16"] == ranks[2][0]["count 1 1"]


def test_another_deepspeed_is_refused_in_words(tmp_path):
    mp.spawn(refusals, (str(tmp_path / "found.json"),), 1)
    found = json.loads((tmp_path / "found.json").read_text())
    names = [
        "_hp_mapping",
        "single_partition_of_fp32_groups",
        "grad_position",
        "__compatible_ops__",
    ]
    for name, sentence in zip(names, found, strict=True):
        assert re.match(
            rf"deepspeed [\w.+]+ has no `{name}` in .*written for {zero.WRITTEN_FOR}", sentence
        )


def test_the_locked_deepspeed_is_the_one_it_was_written_for():
    assert (
        f"deepspeed=={zero.WRITTEN_FOR}" in (PROJECT / "requirements.lock").read_text().splitlines()
    )
