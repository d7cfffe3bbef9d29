"""The engine in one process: what a step reports, what is refused, how memory is chosen. Several
ranks: test_engine_ranks.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from engine_ranks import IMAGE_PX, MODEL, PAIRS, batch, engine_of, tower

from clippo_core.config import ModelConfig, OptimConfig, TrainConfig
from clippo_core.engine import (
    MemoryPlan,
    apply_memory,
    choose_memory,
    contrastive_step,
    init_distributed,
    make_engine,
)
from clippo_core.engine.choose import (
    SMALLEST_CHUNK_PAIRS,
    STATE_BYTES_PER_PARAMETER,
    activation_bytes_per_pair,
    fixed_bytes,
    forward_share,
    time_over_plain,
)
from clippo_core.errors import CheckpointError, ConfigError
from clippo_core.losses import contrastive_loss
from clippo_core.models import build_tower

B16 = ModelConfig()
L16 = ModelConfig(width=1024, depth=24, num_heads=16, mlp_dim=4096)


@pytest.mark.parametrize("chunk", [0, 1, 3, 5, 16, 99])
def test_a_step_reports_the_whole_batch(chunk):
    engine = engine_of(tower())
    output = contrastive_step(engine, *batch(1), memory=MemoryPlan("plain", chunk, "test"))
    with torch.no_grad():
        first, second, scale = engine.module(*batch(1))
    similarity = first @ second.T
    others = similarity[~torch.eye(PAIRS, dtype=torch.bool)]
    assert output.loss == pytest.approx(contrastive_loss(first, second, scale).item(), rel=1e-6)
    assert output.logit_scale == pytest.approx(10.0, rel=1e-6)
    assert output.positive_similarity == pytest.approx(
        similarity.diagonal().mean().item(), abs=1e-6
    )
    assert output.negative_similarity == pytest.approx(others.mean().item(), abs=1e-6)
    assert output.accuracy == (similarity.argmax(1) == torch.arange(PAIRS)).float().mean().item()
    assert output.finite
    norm = engine.update(1.0)
    module = tower()
    gradients = torch.autograd.grad(contrastive_loss(*module(*batch(1))), list(module.parameters()))
    assert norm == pytest.approx(
        math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients)), rel=1e-5
    )


def test_pairs_that_are_none_are_refused():
    photos, first, second = batch(0)
    with pytest.raises(ValueError, match="pairs"):
        contrastive_step(engine_of(tower()), photos, first, second[1:])


def test_plain_accumulation_is_refused_with_the_reason():
    engine = engine_of(tower())
    contrastive_step(engine, *batch(0))
    with pytest.raises(ConfigError, match="negatives between them"):
        contrastive_step(engine, *batch(1))
    with pytest.raises(ConfigError, match="begins a step"), engine.coalesced():
        pass
    engine.update(1.0)
    with pytest.raises(ConfigError, match="without a backward"):
        engine.update(1.0)


def test_a_sum_over_examples_may_be_coalesced():
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    weights = {}
    for parts in (1, 4):
        torch.manual_seed(0)
        engine = make_engine(
            torch.nn.Linear(4, 1),
            OptimConfig(name="adamw", weight_decay=0.1),
            decayed={"weight"},
            views={},
        )
        with engine.coalesced():
            for xs, ys in zip(x.chunk(parts), y.chunk(parts), strict=True):
                engine.backward((engine(xs) - ys).square().sum())
        engine.update(0.7)
        weights[parts] = engine.weights()
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[4][name], value)


def test_a_group_has_its_own_rate_and_frozen_parameters_stay():
    module = torch.nn.ModuleDict(
        {
            "tower": torch.nn.Linear(4, 4),
            "head": torch.nn.Linear(4, 2),
            "frozen": torch.nn.Linear(2, 2),
        }
    )
    module["frozen"].requires_grad_(False)
    module.forward = lambda x: module["frozen"](module["head"](module["tower"](x)))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    engine = make_engine(
        module,
        OptimConfig(name="adamw", lr=1e-3, weight_decay=0.0),
        decayed=set(),
        views={},
        lr_groups={"head.": 10.0},
    )
    engine.backward(engine(torch.ones(3, 4)).square().sum())
    engine.update(1.0)
    moved = {k: (v - before[k]).abs().max().item() for k, v in engine.weights().items()}
    assert moved["tower.weight"] == pytest.approx(
        1e-3, rel=1e-3
    )  # Adam's first step is lr times the sign
    assert moved["head.weight"] == pytest.approx(1e-2, rel=1e-3)
    assert moved["frozen.weight"] == moved["frozen.bias"] == 0
    with pytest.raises(ConfigError, match="hat."):
        make_engine(module, OptimConfig(), decayed=set(), views={}, lr_groups={"hat.": 2.0})


def test_weights_come_and_go_whole():
    engine, other = engine_of(tower()), engine_of(build_tower(MODEL, IMAGE_PX, seed=5))
    weights = engine.weights()
    other.load_weights(weights)
    assert all(torch.equal(v, weights[k]) for k, v in other.weights().items())
    with pytest.raises(CheckpointError, match="lacks 't'"):
        other.load_weights({k: v for k, v in weights.items() if k != "t"})
    with pytest.raises(CheckpointError, match="unknown 'u'"):
        other.load_weights(weights | {"u": weights["t"]})
    with pytest.raises(CheckpointError, match="shape"):
        other.load_weights(weights | {"t": torch.zeros(2)})


def test_an_engine_refuses_what_it_does_not_know():
    for unknown in (
        {"decayed": {"weight", "kernel"}, "views": {}},
        {"decayed": set(), "views": {"kernel": (2, 2)}},
    ):
        with pytest.raises(ConfigError, match="names 'kernel', but Linear has no such parameter"):
            make_engine(torch.nn.Linear(2, 2), OptimConfig(), **unknown)
    with pytest.raises(ConfigError, match="precision"):
        engine_of(tower(), precision="float16")
    with pytest.raises(ConfigError, match="zero_stage"):
        engine_of(tower(), zero_stage=4)


def test_bfloat16_is_the_towers_alone():
    seen = []
    module = tower()
    module.blocks[0].mlp.fc1.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    engine = engine_of(module, precision="bfloat16")
    names = [name for name, _ in module.named_parameters()]
    output = contrastive_step(engine, *batch(0))
    assert seen == [torch.bfloat16]
    assert (
        {p.dtype for p in module.parameters()}
        == {p.grad.dtype for p in module.parameters()}
        == {torch.float32}
    )
    assert (
        [name for name, _ in module.named_parameters()]
        == names
        == [name for name, _ in tower().named_parameters()]
    )
    assert output.loss == pytest.approx(contrastive_loss(*tower()(*batch(0))).item(), abs=0.05)
    assert engine.module is module and set(engine.weights()) == set(module.state_dict())
    seen.clear()
    assert "forward" not in vars(module), "the caller's module is as it was"
    module(*batch(0))
    assert seen == [torch.float32]


def test_an_incomplete_launchers_environment_is_refused(monkeypatch):
    monkeypatch.setattr(
        torch.distributed, "is_initialized", lambda: False
    )  # other tests of this process have joined a group
    monkeypatch.setenv("RANK", "0")
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        init_distributed()


def live_bytes(model: ModelConfig, mode: str, precision: str, pairs: int) -> int:
    """What stays allocated after a forward pass of `pairs`, as torch's profiler adds it up."""
    module = build_tower(model, 64)
    apply_memory(module, MemoryPlan(mode, 0, "test"))
    photos = torch.zeros(pairs, 3, 64, 64, dtype=torch.uint8)
    texts = torch.zeros(pairs, 4, 64, dtype=torch.uint16)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    with (
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile,
        autocast,
    ):
        outputs = module(photos, texts[:0], texts)
    assert outputs[0].requires_grad
    return sum(
        event.nbytes()
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["plain", "recompute", "checkpoint"])
def test_estimated_activations_are_what_torch_allocates(mode, precision):
    shallow = ModelConfig(width=128, depth=1, num_heads=2, mlp_dim=512, embed_dim=32)
    deep = replace(shallow, depth=3)
    per_pair = {
        m: (live_bytes(m, mode, precision, 24) - live_bytes(m, mode, precision, 8)) / 16
        for m in (shallow, deep)
    }
    estimate = {m: activation_bytes_per_pair(m, 64, mode, precision) for m in (shallow, deep)}
    assert per_pair[deep] - per_pair[shallow] == pytest.approx(
        estimate[deep] - estimate[shallow], rel=0.03
    )
    # All of a step: the estimate also holds what comes back while one block runs backward.
    assert per_pair[shallow] < estimate[shallow] < per_pair[shallow] + 2 * 16 * 128 * 100


@pytest.mark.parametrize("mode", ["recompute", "checkpoint"])
def test_recomputing_changes_no_gradient(mode):
    gradients = {}
    for how in ("plain", mode):
        module = tower()
        apply_memory(module, MemoryPlan(how, 0, "test"))
        contrastive_step(engine_of(module), *batch(0))
        gradients[how] = [p.grad for p in module.parameters()]
    for found, expected in zip(gradients[mode], gradients["plain"], strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(ConfigError, match="set_recompute"):
        apply_memory(torch.nn.Linear(2, 2), MemoryPlan(mode, 0, "test"))


def test_the_last_chunk_goes_forward_once():
    module = tower()
    calls = dict.fromkeys(range(MODEL.depth), 0)

    def count(number: int) -> None:
        calls[number] += torch.is_grad_enabled() or 1j

    for number, block in enumerate(module.blocks):
        block.register_forward_hook(lambda *_, number=number: count(number))
    engine = engine_of(module)
    for parts in (1, 2, 4):
        calls.update(dict.fromkeys(calls, 0))
        contrastive_step(engine, *batch(1), memory=MemoryPlan("plain", PAIRS // parts, "test"))
        engine.update(0.0)
        # With a graph once a chunk; before it, without one, all chunks but the last.
        assert set(calls.values()) == {parts + (parts - 1) * 1j}


@pytest.mark.parametrize(
    "chunk, last, sizes",
    [
        (0, 0, [16]),
        (16, 0, [16]),
        (4, 0, [4, 4, 4, 4]),
        (5, 0, [1, 5, 5, 5]),
        (4, 8, [4, 4, 8]),
        (6, 9, [1, 6, 9]),
        (9, 7, [9, 7]),
    ],
)
def test_chunks_end_with_a_whole_one_and_give_plains_gradient(chunk, last, sizes):
    plan = MemoryPlan("plain", chunk, "test", last)
    assert plan.sizes(PAIRS) == sizes
    gradients = []
    for memory in (None, plan):
        module = tower(torch.float64)
        contrastive_step(engine_of(module), *batch(1), memory=memory)
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    assert (gradients[1] - gradients[0]).abs().max() <= 1e-14 * gradients[0].abs().max()


def test_a_plan_says_its_chunks():
    assert MemoryPlan("recompute", 512, "", 768).words(1280) == "recompute, chunks of 512 + 768"
    assert MemoryPlan("plain", 4, "").words(14) == "plain, chunks of 2 + 3 x 4"
    assert MemoryPlan("checkpoint", 0, "").words(14) == "checkpoint, one pass"


@pytest.mark.parametrize(
    "model, ranks, gib, words",
    [
        (B16, 1, 139, "plain, chunks of 10 x 928 + 960"),
        (B16, 8, 139, "recompute, one pass"),
        (B16, 16, 139, "plain, one pass"),
        (B16, 8, 79, "recompute, chunks of 512 + 768"),
        (L16, 8, 139, "recompute, chunks of 2 x 384 + 512"),
        (L16, 64, 139, "plain, one pass"),
    ],
)
def test_the_papers_batch_on_gpus(model, ranks, gib, words):
    pairs = 10_240 // ranks
    plan = choose_memory(TrainConfig(), model, 224, pairs, ranks, gib << 30)
    assert plan.words(pairs) == words, plan.reason
    assert words in plan.reason and "GiB" in plan.reason
    assert plan == choose_memory(TrainConfig(memory_gib=gib * 0.92), model, 224, pairs, ranks)


def cheapest(room: float, pairs: int) -> float:
    """The least counted time of B/16, by trying every mode and every size of the last chunk."""
    costs, forward = time_over_plain(B16, 224), forward_share(B16, 224)
    return min(
        cost + forward * (1 - last / pairs)
        for mode, cost in costs.items()
        for last in range(1, pairs + 1)
        if last * activation_bytes_per_pair(B16, 224, mode, "bfloat16") <= room
    )


@pytest.mark.parametrize("pairs", [64, 256, 1280])
def test_no_other_plan_is_cheaper(pairs):
    fixed = fixed_bytes(TrainConfig(), B16, 224, pairs)
    for gib in (8, 12, 20, 33, 60, 90):
        plan = choose_memory(TrainConfig(memory_gib=fixed / 2**30 + gib), B16, 224, pairs)
        per_pair = activation_bytes_per_pair(B16, 224, plan.mode, "bfloat16")
        assert max(plan.sizes(pairs)) * per_pair <= gib * 2**30 and sum(plan.sizes(pairs)) == pairs
        # At most a multiple of 32 and a pair a chunk are given away.
        given_away = (SMALLEST_CHUNK_PAIRS + len(plan.sizes(pairs))) / pairs / 3
        assert 0 <= plan.cost - cheapest(gib * 2**30, pairs) <= given_away, plan.reason


def test_memory_is_chosen_by_what_fits():
    def plan(gib: float, pairs: int = 256, **train) -> MemoryPlan:
        return choose_memory(TrainConfig(memory_gib=gib, **train), B16, 224, pairs)

    states = fixed_bytes(TrainConfig(), B16, 224, 256) / 2**30
    assert states > STATE_BYTES_PER_PARAMETER * 93_474_817 / 2**30
    assert plan(0.0).mode == "plain" and "no memory limit" in plan(0.0).reason
    assert [plan(states + gib).words(256) for gib in (33, 24, 16)] == [
        "plain, one pass",
        "recompute, one pass",
        "recompute, chunks of 96 + 160",
    ]
    # Where only chunks of 15 pairs would fit.
    assert plan(states + 2, pairs=64).words(64) == "checkpoint, one pass"
    assert plan(states + 0.5).chunk_pairs > 0
    with pytest.raises(ConfigError, match="not one pair fits"):
        plan(states)
    assert plan(0.0, memory="checkpoint").mode == "checkpoint"
    told = [
        plan(gib, memory="cached", chunk_pairs=100) for gib in (0.0, 60, states + 9, states + 1)
    ]
    assert [p.sizes(256) for p in told] == 4 * [[56, 100, 100]]
    assert [p.mode for p in told] == ["plain", "plain", "recompute", "checkpoint"]
    assert plan(states + 24, memory="cached").words(256) == "plain, chunks of 96 + 160"
    with pytest.raises(ConfigError, match="not one pair"):
        plan(states, memory="cached")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode, backend",
    [("plain", "aot_eager"), ("recompute", "inductor"), ("checkpoint", "aot_eager")],
)  # aot_eager traces and differentiates as inductor, without the C++ compiler
def test_a_compiled_tower_gives_the_same_step(mode, backend):
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        module = tower()
        apply_memory(module, MemoryPlan(mode, 0, "test"))
        if compiled:
            module.compile_blocks(backend)
        engine = engine_of(module)
        output = contrastive_step(engine, *batch(0), memory=MemoryPlan("plain", 8, "test"))
        found.append([output.loss, engine.update(1.0), contrastive_step(engine, *batch(1)).loss])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
