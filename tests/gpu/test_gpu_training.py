"""Training on a CUDA device: bfloat16, one rank of NCCL, compiled blocks, chunks, checkpoints, and
the optimizer, each held against the CPU or the plain way.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from engine_ranks import batch, engine_of, tower
from test_optim import DECAYED, VIEWS, gradients, parameters
from tiny import tiny_plan, write_tiny_shards

from clippo_core import config
from clippo_core.engine import (
    MemoryPlan,
    contrastive_step,
    init_distributed,
    make_engine,
)
from clippo_core.engine.attention import PROBED, choose_attention, probe_seconds
from clippo_core.engine.checkpoint import open_checkpoint
from clippo_core.optim import Adafactor, AdamW
from clippo_core.run import journal
from clippo_core.train import loop

GPU = torch.device("cuda", 0)
BFLOAT16 = 2e-2
"""Of the largest gradient: 8 bits of mantissa, through two blocks and back."""


def on_gpu(precision: str, module: torch.nn.Module | None = None):
    module = module or tower()
    return make_engine(
        module,
        config.OptimConfig(momentum_dtype="float32"),
        decayed=module.decayed,
        views=module.views,
        precision=precision,
        device=GPU,
    )


def gradient(engine, chunk_pairs: int = 0) -> torch.Tensor:
    """All of a step's gradients, flat, on the CPU."""
    given = [x.to(engine.device) for x in batch(0)]
    mode = "cached" if chunk_pairs else "plain"
    contrastive_step(engine, *given, memory=MemoryPlan(mode, chunk_pairs, ""))
    return torch.cat([p.grad.reshape(-1).float().cpu() for p in engine.module.parameters()])


def share(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest element."""
    return float((found - expected).abs().max() / expected.abs().max())


def test_float32_gradients_are_the_cpus():
    assert share(gradient(on_gpu("float32")), gradient(engine_of(tower(), device="cpu"))) < 1e-4


def test_bfloat16_gradients_are_near_float32s():
    found = gradient(on_gpu("bfloat16"))
    assert found.isfinite().all()
    assert 0 < share(found, gradient(engine_of(tower(), device="cpu"))) < BFLOAT16


@pytest.mark.parametrize("chunk_pairs", [4, 6])
def test_cached_gradients_in_bfloat16_are_the_plain_ones(chunk_pairs):
    plain = gradient(on_gpu("bfloat16"))
    assert share(gradient(on_gpu("bfloat16"), chunk_pairs), plain) < BFLOAT16


def test_compiled_blocks_give_the_same_gradients():
    module = tower()
    module.compile_blocks()
    found = gradient(on_gpu("bfloat16", module))
    assert share(found, gradient(on_gpu("bfloat16"))) < BFLOAT16


def test_one_rank_of_nccl_sums_with_itself():
    ranks = init_distributed()
    try:
        assert (dist.get_backend(), ranks.device) == ("nccl", GPU)
        value = torch.arange(5.0, device=GPU)
        dist.all_reduce(value)
        assert value.tolist() == [0, 1, 2, 3, 4]
        assert gradient(on_gpu("float32")).isfinite().all()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", [Adafactor, AdamW])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_optimizer_is_the_cpus(kind, compiled):
    states = []
    for device in ("cpu", "cuda"):
        weights = {
            name: torch.nn.Parameter(w.detach().to(device)) for name, w in parameters().items()
        }
        options = {"views": VIEWS, "momentum_dtype": torch.float32} if kind is Adafactor else {}
        optimizer = kind(weights.items(), 1e-3, 1e-4, DECAYED, clip_norm=1.0, **options)
        if compiled and device == "cuda":
            optimizer.compile()
        for step in range(10):
            for name, values in gradients(step).items():
                weights[name].grad = torch.from_numpy(values).to(device)
            optimizer.step(0.5)
        before = {name: w.detach().cpu() for name, w in weights.items()}
        weights["bias"].grad.fill_(math.inf)
        optimizer.step(0.5)  # changes nothing
        assert all(torch.equal(before[name], w.detach().cpu()) for name, w in weights.items())
        states.append(before)
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, atol=2e-6, rtol=0)


def test_the_probe_finds_a_kernel():
    model = config.ModelConfig()
    times = {name: probe_seconds(name, model, 224, "bfloat16", GPU) for name in PROBED}
    assert min(times.values()) < 1
    chosen = choose_attention("auto", "", GPU, times.__getitem__)
    hopper = torch.cuda.get_device_capability(GPU) >= (9, 0)
    assert chosen in (PROBED if hopper else ("",))


def test_a_run_trains_saves_and_goes_on(tmp_path):
    shards = write_tiny_shards(tmp_path / "shards")
    plan = tiny_plan(str(tmp_path / "run"), train__precision="bfloat16", train__compile=True)
    info = loop.pretrain(plan, shards)
    assert info.step == plan.train.steps
    losses = [line["loss"] for line in journal.read(info.journal)]
    assert len(losses) == plan.train.steps and all(map(math.isfinite, losses))
    checkpoint = open_checkpoint(info.uri)
    engines = [engine_like(plan, device) for device in (GPU, torch.device("cpu"))]
    for engine in engines:  # from CUDA to both
        engine.load_weights(checkpoint.weights())
        engine.load_optimizer_state(checkpoint.optimizer())
    for there, here in zip(engines[0].weights().items(), engines[1].weights().items(), strict=True):
        assert there[0] == here[0] and torch.equal(there[1], here[1])
    states = [engine.optimizer_state() for engine in engines]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def engine_like(plan, device: torch.device):
    from clippo_core.models import build_tower

    module = build_tower(plan.model, plan.render.image_px, seed=7)
    return make_engine(
        module, plan.optim, decayed=module.decayed, views=module.views, device=device
    )
