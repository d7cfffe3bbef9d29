"""What the ranks of `test_waiting.py` run: steps as training queues them, and a start with a slow
rank. Not a test file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from engine_ranks import PAIRS, batch, chunks, engine_of, tower, train
from syncs import Syncs

from clippo_core.data.loader import Batch
from clippo_core.engine import Engine, MemoryPlan, init_distributed
from clippo_core.run.records import Manifest, PretrainPlan
from clippo_core.train.step import StepNumbers, train_step

PATIENCE_SECONDS = 3.0
PARTS = {"plain": 1, "cached": 4}


def queued(engine: Engine, step: int, parts: int, photos_times: float = 1.0) -> Any:
    """A step of `batch(step)`, as training queues it."""
    photos, first, second = batch(step, engine.rank, engine.world_size)
    if photos_times != 1.0:
        photos = photos.float() / 255 * photos_times
    pairs = [str(n) for n in range(len(second))]
    given = Batch(photos, first, second, pairs, np.arange(len(second)), step)
    memory = chunks(parts, engine.world_size) or MemoryPlan("plain", 0, "test")
    return train_step(engine, given, 0.5, memory)


def counted(engine: Engine, parts: int) -> dict[str, Any]:
    """Places of a later step that wait for the device, and elements of every all-reduce. The
    update is a GPU's: on a CPU, where nothing waits, it looks whether the step counts.
    """
    engine.optimizer.in_cache = False
    queued(engine, 0, parts)
    with Syncs() as syncs:
        queued(engine, 1, parts)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        queued(engine, 2, parts)
    reduced = [
        sum(int(torch.Size(shape).numel()) for shape in event.shapes() if shape)
        for event in profile.profiler.kineto_results.events()
        if event.name() == "gloo:all_reduce"
    ]
    return {"syncs": dict(syncs.places), "all_reduce": reduced}


def skipped(engine: Engine, parts: int) -> tuple[StepNumbers, bool, bool]:
    """A step with a NaN on the last rank, after two others: its numbers, whether it changed
    nothing, whether the next one changed something (rank 0 compares).
    """
    train(engine, range(2))

    def state() -> dict[str, torch.Tensor]:
        return {**engine.weights(), **engine.optimizer_state()}

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        def bits(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.contiguous().view(-1).view(torch.uint8)

        return all(torch.equal(bits(one[name]), bits(other[name])) for name in one)

    before = state()
    last = engine.rank == engine.world_size - 1
    numbers = queued(engine, 2, parts, float("nan") if last else 1.0).read()
    after = state()
    queued(engine, 2, parts)
    later = state()  # every rank takes part
    return numbers, same(before, after), engine.rank > 0 or not same(after, later)


def steps(rank: int, world_size: int, port: int, stages: tuple[int, ...], folder: str) -> None:
    """Each of the stages, in one pass and in chunks."""
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(address, RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    init_distributed(120)
    found: dict[str, Any] = {}
    for stage in stages:
        for way, parts in PARTS.items():
            engine = engine_of(tower(), zero_stage=stage)
            found[f"counted {stage} {way}"] = counted(engine, parts)
        numbers, unchanged, goes_on = skipped(engine_of(tower(), zero_stage=stage), PARTS["cached"])
        found[f"skipped {stage}"] = [numbers.skipped, numbers.output.finite, unchanged, goes_on]
    assert PAIRS % world_size == 0
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def slow_start(
    rank: int, world_size: int, port: int, plan: PretrainPlan, shards: Manifest, slow: str
) -> None:
    """A run whose rank 1 takes longer than a step's patience over its first batch, or over
    compiling."""
    from clippo_core.train import loop

    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(address, RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    seconds = 2 * PATIENCE_SECONDS if rank == 1 else 0.0
    usual = loop.batches

    def slow_batches(*args: Any, **kwargs: Any) -> Iterator[Batch]:
        time.sleep(seconds)
        yield from usual(*args, **kwargs)

    def slow_compiler(graph: Any, _: Any) -> Any:
        time.sleep(seconds)
        return graph.forward

    if slow == "batch":
        loop.batches = slow_batches  # type: ignore[assignment]
    else:
        compile_ = torch.nn.Module.compile
        torch.nn.Module.compile = lambda module, **_: compile_(  # type: ignore[method-assign]
            module, backend=slow_compiler, dynamic=False
        )
    loop.pretrain(plan, shards)
