"""What each gloo rank of `test_engine_ranks.py` runs: all cases of one world size in one process
group; results go to files.

Not a test file: the parent starts `main` in spawned processes and compares what they leave with one
process and with definitions.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from clippo_core import losses
from clippo_core.config import ModelConfig, OptimConfig
from clippo_core.engine import (
    Engine,
    MemoryPlan,
    PlainEngine,
    contrastive_step,
    init_distributed,
    make_engine,
)
from clippo_core.errors import ConfigError
from clippo_core.models import build_tower
from clippo_core.optim import Adafactor, Fragment, ShardedOptimizer
from clippo_core.rendering.draw import used_rows

MODEL = ModelConfig(width=64, depth=2, num_heads=2, mlp_dim=128, embed_dim=32)
OPTIM = OptimConfig(momentum_dtype="float32")
IMAGE_PX, PHOTOS, TEXTS = 32, 12, 4
PAIRS, STEPS = PHOTOS + TEXTS, 5
MULTIPLIERS = (0.5, 1.0, 1.0, 0.8, 0.6)


class Sgd(ShardedOptimizer):
    """w -= lr * gradient: the change of the weights is the gradient, and no normalisation hides a
    factor.
    """

    def _allocate(self, like: Tensor) -> None:
        self._bundles = [self._bundle(self._fragments, 0)] if self._fragments else []

    def _measure(self, gradients: list[Tensor], sums: Tensor) -> Tensor:
        return torch.stack([self._like().new_zeros(()), *(g.dot(g) for g in gradients)]).sum()

    def _change(
        self, gradients: list[Tensor], sums: Tensor, clip: Tensor, size: Tensor | float
    ) -> None:
        for bundle, gradient in zip(self._bundles, gradients, strict=True):
            self._apply(bundle, self._parameters(bundle), gradient * clip, size)

    def _slots(self) -> dict:
        return {}


def batch(step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's photos, first texts and second texts of the global batch of `step`."""
    g = torch.Generator().manual_seed(step)
    photos = torch.randint(0, 256, (PHOTOS, 3, IMAGE_PX, IMAGE_PX), generator=g, dtype=torch.uint8)
    first, second = (
        torch.randint(0, 1 << 16, (n, IMAGE_PX // 16, IMAGE_PX), generator=g).to(torch.uint16)
        for n in (TEXTS, PAIRS)
    )
    p, m = PHOTOS // world_size, TEXTS // world_size
    of_photos, of_texts = (
        second[:PHOTOS][rank * p : (rank + 1) * p],
        second[PHOTOS:][rank * m : (rank + 1) * m],
    )
    return (
        photos[rank * p : (rank + 1) * p],
        first[rank * m : (rank + 1) * m],
        torch.cat([of_photos, of_texts]),
    )


def tower(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return build_tower(MODEL, IMAGE_PX, seed=3).to(dtype)


def engine_of(module: torch.nn.Module, **options: Any) -> Engine:
    """An engine that trains a tower as OPTIM says; `options` as make_engine's."""
    return make_engine(module, OPTIM, decayed=module.decayed, views=module.views, **options)


def chunks(parts: int, world_size: int) -> MemoryPlan | None:
    return MemoryPlan("plain", PAIRS // world_size // parts, "test") if parts > 1 else None


def train(engine: Engine, steps: range, parts: int = 1) -> dict[str, Any]:
    """Run `steps`; losses, norms and (on rank 0) the state that they lead to."""
    history = []
    for step in steps:
        output = contrastive_step(
            engine,
            *batch(step, engine.rank, engine.world_size),
            memory=chunks(parts, engine.world_size),
        )
        history.append(
            [
                output.loss,
                output.accuracy,
                output.positive_similarity,
                output.negative_similarity,
                output.logit_scale,
            ]
        )
        history[-1].append(engine.update(MULTIPLIERS[step]))
    return {
        "history": torch.tensor(history),
        "weights": engine.weights(),
        "state": engine.optimizer_state(),
    }


def float64_gradients(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    """Minus the change of the weights by one SGD step at lr 1, in float64: plain, in 4 chunks,
    tiled.
    """
    found, usual = {}, losses.TILE_ELEMENTS
    for name, parts, elements in (
        ("plain", 1, usual),
        ("4 chunks", 4, usual),
        ("tiled", 1, 3 * PAIRS),
    ):
        module = tower(torch.float64)
        before = {k: v.detach().clone() for k, v in module.named_parameters()}
        engine = PlainEngine(
            module, Sgd(module.named_parameters(), 1.0, 0.0, set()), "float32", torch.device("cpu")
        )
        losses.TILE_ELEMENTS = elements
        contrastive_step(engine, *batch(0, rank, world_size), memory=chunks(parts, world_size))
        losses.TILE_ELEMENTS = usual
        engine.update(1.0)
        found[name] = {k: before[k] - v.detach() for k, v in module.named_parameters()}
    return found


def zero_gradients(stage: int, parts: int) -> dict[str, Tensor]:
    """The same of a ZeRO stage, in float32."""
    from clippo_core.engine.zero import ZeroEngine

    module = tower()
    before = {k: v.detach().clone() for k, v in module.named_parameters()}
    engine = ZeroEngine(
        module,
        Sgd(module.named_parameters(), 1.0, 0.0, set()),
        "float32",
        torch.device("cpu"),
        stage,
    )
    contrastive_step(
        engine, *batch(0, engine.rank, engine.world_size), memory=chunks(parts, engine.world_size)
    )
    engine.update(1.0)
    return {k: before[k] - v for k, v in engine.weights().items()}


PACKED = replace(MODEL, skip_blank_rows=True)


def packed_batch(rank: int, world_size: int) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """Inputs of step 0 of which about every other text has one row alone, and how many each has.
    Which ones follows from the texts, so that it is the same on any number of ranks.
    """
    photos, *texts = batch(0, rank, world_size)
    for text in texts:
        words = text.view(torch.int16)
        words[words[:, 0, 0] % 2 == 0, 1:] = 0
    first, second = (used_rows(text) for text in texts)
    return [photos, *texts], (first, second)


def packed_gradients(stage: int, parts: int) -> dict[str, Tensor]:
    """Minus the change of a packing tower's weights by one SGD step at lr 1."""
    module = build_tower(PACKED, IMAGE_PX, seed=3)
    before = {k: v.detach().clone() for k, v in module.named_parameters()}
    sgd, cpu = Sgd(module.named_parameters(), 1.0, 0.0, set()), torch.device("cpu")
    if stage:
        from clippo_core.engine.zero import ZeroEngine

        engine: Engine = ZeroEngine(module, sgd, "float32", cpu, stage)
    else:
        engine = PlainEngine(module, sgd, "float32", cpu)
    inputs, rows = packed_batch(engine.rank, engine.world_size)
    contrastive_step(engine, *inputs, memory=chunks(parts, engine.world_size), text_rows=rows)
    engine.update(1.0)
    return {k: before[k] - v for k, v in engine.weights().items()}


def counted(engine: Engine, parts: int) -> dict[str, list[int]]:
    """Collective -> elements of each call in one step, as torch's own profiler saw them."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        contrastive_step(
            engine,
            *batch(0, engine.rank, engine.world_size),
            memory=chunks(parts, engine.world_size),
        )
        engine.update(0.0)
    calls: dict[str, list[int]] = {}
    for (
        event
    ) in profile.profiler.kineto_results.events():  # `profile.events()` takes ten times as long
        if event.name().startswith("gloo:"):
            calls.setdefault(event.name()[5:], []).append(
                sum(int(torch.Size(shape).numel()) for shape in event.shapes() if shape)
            )
    return calls


def skipped_steps(stage: int) -> dict[str, Any]:
    """A NaN on one rank only, twice (seen by the loss; seen by the norm), between ordinary steps:
    it must leave no trace.
    """
    engine = engine_of(tower(), zero_stage=stage)
    train(engine, range(2))
    photos, first, second = batch(2, engine.rank, engine.world_size)
    poisoned = (
        photos.float() / 255 * (float("nan") if engine.rank == engine.world_size - 1 else 1.0)
    )
    output = contrastive_step(engine, poisoned, first, second)
    engine.discard()
    a, _, scale = engine(photos, first, second)
    engine.backward(
        a.sum() * scale * (float("nan") if engine.rank == engine.world_size - 1 else 1.0)
    )
    norm = engine.update(1.0)
    try:
        contrastive_step(engine, photos, first, second)
        contrastive_step(engine, photos, first, second)
        refused = ""
    except ConfigError as error:
        refused = str(error)
    engine.discard()
    return train(engine, range(2, STEPS)) | {
        "finite": output.finite,
        "norm": norm,
        "refused": refused,
    }


def shards_of_adafactor(rank: int, world_size: int, momentum_dtype: torch.dtype) -> dict[str, Any]:
    """20 steps on given gradients, each rank with a slice of the flattened parameters cut at
    arbitrary places.
    """
    from test_optim import DECAYED, VIEWS, gradients, parameters

    weights = parameters()
    numels = {name: w.numel() for name, w in weights.items()}
    total = sum(numels.values())
    cuts = [
        0,
        *sorted(
            torch.randint(
                1, total, (world_size - 1,), generator=torch.Generator().manual_seed(world_size)
            ).tolist()
        ),
        total,
    ]
    low, high, begin = cuts[rank], cuts[rank + 1], 0
    fragments = []
    for name, n in numels.items():
        start, stop = max(low, begin), min(high, begin + n)
        if start < stop:
            fragments.append(Fragment(name, start - begin, stop - start, start - low))
        begin += n
    shard = torch.cat([w.detach().reshape(-1) for w in weights.values()])[low:high].clone()
    optimizer = Adafactor(
        weights.items(),
        1e-3,
        1e-4,
        DECAYED,
        momentum_dtype=momentum_dtype,
        views=VIEWS,
        clip_norm=1.0,
    )
    optimizer.place(shard, fragments)
    for step in range(20):
        shard.grad = torch.cat([torch.from_numpy(g).reshape(-1) for g in gradients(step).values()])[
            low:high
        ]
        optimizer.step(0.5)
    return {"shard": shard, "low": low, "state": optimizer.full_state()}


def cases(rank: int, world_size: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"float64": float64_gradients(rank, world_size)}
    for dtype in (torch.float32, torch.bfloat16):
        found[f"adafactor {dtype}"] = shards_of_adafactor(rank, world_size, dtype)
    for stage in (0, 1, 2, 3):
        for parts in (1, 4):
            engine = engine_of(tower(), zero_stage=stage)
            found[f"train {stage} {parts}"] = train(engine, range(STEPS), parts)
            found[f"count {stage} {parts}"] = counted(engine, parts)
            found[f"packed {stage} {parts}"] = packed_gradients(stage, parts)
            if stage:
                found[f"gradient {stage} {parts}"] = zero_gradients(stage, parts)
        found[f"skip {stage}"] = skipped_steps(stage)
        saved = folder / "after 3 steps.pt"
        if saved.exists():
            checkpoint = torch.load(saved, weights_only=True)
            engine = engine_of(build_tower(MODEL, IMAGE_PX, seed=9), zero_stage=stage)
            engine.load_weights(checkpoint["weights"])
            engine.load_optimizer_state(checkpoint["state"])
            found[f"resume {stage}"] = train(engine, range(3, STEPS))
    if world_size == 2:
        engine = engine_of(tower(), zero_stage=1)
        done = train(engine, range(3))
        if rank == 0:
            torch.save(done, folder / "after 3 steps.pt")
        engine = engine_of(tower(), zero_stage=1, precision="bfloat16")
        found["bfloat16"] = train(engine, range(STEPS))
        found["count bfloat16"] = counted(engine, 1)
    return found


def one_process(folder: Path) -> dict[str, Any]:
    """A launcher-less process: every stage over a group of one."""
    checkpoint = torch.load(folder / "after 3 steps.pt", weights_only=True)
    found: dict[str, Any] = {}
    for stage in (1, 3):
        engine = engine_of(tower(), zero_stage=stage)
        engine.load_weights(checkpoint["weights"])
        engine.load_optimizer_state(checkpoint["state"])
        found[f"resume {stage}"] = train(engine, range(3, STEPS), parts=4)
    return found


def refusals(_: int, file: str) -> None:
    """What ZeRO engines say when DeepSpeed lacks a private attribute, one after the other.

    In a process of its own: DeepSpeed changes torch for the rest of the process.
    """
    import deepspeed

    from clippo_core.engine import zero

    found = []

    def note(call: Callable[[], Any]) -> None:
        try:
            call()
        except ConfigError as error:
            found.append(str(error))

    engine = engine_of(tower(), zero_stage=1)
    names = {id(p): name for name, p in engine.module.named_parameters()}
    inside = engine._zero.optimizer
    assert len(zero._shard_stage12(inside, names, 0)[1]) == len(names)
    del inside.bit16_groups[0][3]._hp_mapping
    note(lambda: zero._shard_stage12(inside, names, 0))
    del inside.single_partition_of_fp32_groups
    note(lambda: zero._shard_stage12(inside, names, 0))
    third = engine_of(tower(), zero_stage=3)._zero.optimizer
    del third.grad_position
    note(lambda: zero._shard_stage3(third, names, 0))
    del deepspeed.ops.__compatible_ops__
    del deepspeed.ops.__getattr__  # or the module makes it anew
    note(lambda: engine_of(tower(), zero_stage=1))
    Path(file).write_text(json.dumps(found))
    dist.destroy_process_group()


def main(rank: int, world_size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ.update(address, RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    assert init_distributed(120).world_size == world_size
    found = cases(rank, world_size, Path(folder)) if world_size > 1 else one_process(Path(folder))
    torch.save(found, Path(folder) / f"{world_size}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run(world_size: int, folder: Path) -> list[dict[str, Any]]:
    """What every rank found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(main, (world_size, port, str(folder)), world_size)
    return [
        torch.load(folder / f"{world_size}-{rank}.pt", weights_only=True)
        for rank in range(world_size)
    ]
