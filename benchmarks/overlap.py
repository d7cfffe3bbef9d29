"""At which of backward's matrix products does each exchange of gradients start?

    python benchmarks/overlap.py                                      B/16's gradients
    python benchmarks/overlap.py --width 256 --heads 4                a sixteenth of them

Two gloo ranks on one machine, images of four patches: the gradients are the tower's whatever the
number of patches. Nothing is timed. A position is the share of backward's matrix products that
were computed when an exchange was handed over: on a GPU, and over a network, what is handed over
early hides behind what is still to be computed. Products are counted, not all operators, since
they take the time, are the same eager and compiled, and an engine's own copies are none.

`whole` and `blocks` are compiled with aot_eager: traced, differentiated and cut into autograd
operators as inductor does it, which decides when a gradient is there, without its C++ compiler.
Buckets of 500,000,000 elements are DeepSpeed's default, of 25 MiB torch's for stage 0.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from measure import report, table

from clippo_core.config import ModelConfig, OptimConfig
from clippo_core.engine import Engine, buckets, init_distributed, make_engine
from clippo_core.losses import contrast
from clippo_core.models import build_tower

RANKS, IMAGE_PX, PAIRS = 2, 32, 4
END = "backward is over"
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
OURS, ANY_SIZE = "a 32nd", "a 32nd, however small"
LIMITS = {
    "25 MiB": (25 * 2**18, 25 * 2**18),
    "500,000,000 elements": (500_000_000, 500_000_000),
    OURS: (buckets.SMALLEST_ELEMENTS, buckets.LARGEST_ELEMENTS),
    ANY_SIZE: (1, buckets.LARGEST_ELEMENTS),
}
"""Least and most elements of a bucket."""


@dataclass(frozen=True)
class Case:
    """One row: an engine, what of its tower is compiled, and how large its buckets are."""

    zero_stage: int
    compiled: str
    """eager, whole or blocks."""
    bucket: str = OURS
    """One of LIMITS."""


@dataclass(frozen=True)
class Exchange:
    """An all-reduce of gradients."""

    at: float
    """Share of backward's matrix products before it, 0..1."""
    elements: int


def exchanges(engine: Engine) -> list[Exchange]:
    """All-reduces of a backward pass, in their order."""
    generator = torch.Generator().manual_seed(engine.rank)
    photos = torch.randint(
        0, 256, (PAIRS, 3, IMAGE_PX, IMAGE_PX), generator=generator, dtype=torch.uint8
    )
    texts = torch.randint(0, 1 << 16, (PAIRS, IMAGE_PX // 16, IMAGE_PX), generator=generator)
    texts = texts.to(torch.uint16)
    for _ in range(2):  # a first pass compiles, and makes DeepSpeed's buffers
        loss, _ = contrast(*engine(photos, texts[:0], texts))
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
        ) as profile:
            engine.backward(loss)
            with torch.profiler.record_function(END):
                engine.update(0.0)  # waits for all exchanges
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    given, sizes, products, is_over = [], [], 0, False
    for event in events:
        is_over = is_over or event.name() == END
        products += event.name() in PRODUCTS and not is_over
        if event.name().startswith("c10d::") and not is_over:
            given.append((event.name(), products))
        if event.name().startswith("gloo:"):
            sizes.append(sum(int(torch.Size(shape).numel()) for shape in event.shapes() if shape))
    return [
        Exchange(at / products, size)
        for (name, at), size in zip(given, sizes, strict=False)  # then come the update's
        if name == "c10d::allreduce_"  # not the features' gradients, a reduce-scatter
    ]


def engine_of(case: Case, model: ModelConfig) -> Engine:
    buckets.SMALLEST_ELEMENTS, buckets.LARGEST_ELEMENTS = LIMITS[case.bucket]
    tower = build_tower(model, IMAGE_PX)
    if case.compiled == "blocks":
        tower.compile_blocks("aot_eager")
    elif case.compiled == "whole":
        tower.compile(backend="aot_eager")
    return make_engine(
        tower,
        OptimConfig(),
        decayed=tower.decayed,
        views=tower.views,
        zero_stage=case.zero_stage,
        device="cpu",
    )


def found_in_ranks(cases: list[Case], model: ModelConfig) -> list[list[Exchange]]:
    """The exchanges of each case, as rank 0 of RANKS saw them."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        out = f"{folder}/found.json"
        mp.spawn(_rank, (port, cases, model, out), RANKS)
        found = json.loads(Path(out).read_text())
    return [[Exchange(*one) for one in case] for case in found]


def _rank(rank: int, port: int, cases: list[Case], model: ModelConfig, out: str) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": RANKS}
    place = {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": RANKS}
    os.environ.update({name: str(value) for name, value in (address | place).items()})
    torch.set_num_threads(1)
    init_distributed(600)
    found = []
    for case in cases:
        torch._dynamo.reset()
        found.append([(one.at, one.elements) for one in exchanges(engine_of(case, model))])
    if rank == 0:
        Path(out).write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def half_at(found: list[Exchange]) -> float:
    """Position at which half of the gradients' bytes had been handed over."""
    whole, sent = sum(one.elements for one in found), 0
    for one in found:
        sent += one.elements
        if 2 * sent >= whole:
            return one.at
    raise ValueError("no gradients were exchanged.")


def main() -> None:
    """Print and store the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = replace(
        ModelConfig(),
        width=options.width,
        num_heads=options.heads,
        mlp_dim=4 * options.width,
        depth=options.depth,
    )
    cases = [
        Case(stage, compiled, bucket)
        for stage in (0, 1, 2)
        for bucket, ways in (
            (list(LIMITS)[stage > 0], ("eager", "whole")),
            (OURS, ("eager", "whole", "blocks")),
        )
        for compiled in ways
    ]
    rows: list[Any] = []
    for case, found in zip(cases, found_in_ranks(cases, model), strict=True):
        largest = max(one.elements for one in found)
        name = f"{case.zero_stage}, {case.compiled}"
        rows.append([name, case.bucket, len(found), largest, found[0].at, half_at(found)])
    columns = {
        "ZeRO stage, tower": "",
        "buckets": "",
        "exchanges": ",d",
        "largest, elements": ",d",
        "first at": ".0%",
        "half of the bytes at": ".0%",
    }
    parameters = sum(p.numel() for p in build_tower(model, IMAGE_PX, device="meta").parameters())
    title = (
        f"{parameters:,} parameters, width {model.width}, depth {model.depth}; positions are"
        " shares of backward's matrix products:"
    )
    report(
        "overlap",
        [table(columns, rows, title)],
        f"nothing timed, {RANKS} gloo ranks",
        packages=["torch", "deepspeed"],
        out=options.out,
    )


if __name__ == "__main__":
    main()
