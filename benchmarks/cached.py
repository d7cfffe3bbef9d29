"""What do cached gradients cost: time of a step in chunks, over that of plain passes?

    python benchmarks/cached.py     CPU: a small tower, 96 pairs in 2, 3 and 4 chunks
    python benchmarks/cached.py --tower B/16 --pairs 10240 --chunks 20 --no-one-pass --compile   GPU

Contestants, all with the gradient of the whole batch and one update a step: ours, which keeps the
last chunk's graph; the definition, both passes for every chunk; open_clip's --accum-freq loop,
which computes the whole loss once per chunk (and multiplies the logit scale's gradient by their
number). Expected from FLOPs alone: 1 + (1 - 1/K) / 3 for ours, 1.33 for the two others. What all
are compared with is a plain pass for each chunk, with the loss of that chunk: another loss, but the
same tensors and one forward pass each. One plain pass over all pairs is a row of its own: on a CPU
its larger tensors cost more per pair.

All contestants take a step in turn (`measure.py`) and are compared round by round. Under --compile
one process measures one number of chunks, and --no-one-pass leaves out the pass over all pairs, so
that no graph was compiled for another shape before; it also is for batches that do not fit at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from measure import paired, report, table, timed
from torch import Tensor
from train_step import TOWERS, inputs

from clippo_core.config import OptimConfig
from clippo_core.engine import Engine, MemoryPlan, contrastive_step, make_engine
from clippo_core.losses import contrast, contrastive_loss
from clippo_core.models import build_tower

Chunk = tuple[Tensor, Tensor, Tensor]


def ours(engine: Engine, chunks: list[Chunk]) -> None:
    """One pass of one chunk, or cached gradients; `chunks` are of one size."""
    whole = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
    plan = MemoryPlan("plain", len(chunks[-1][2]), "") if len(chunks) > 1 else None
    contrastive_step(engine, *whole, memory=plan)


def both_passes(engine: Engine, chunks: list[Chunk]) -> None:
    """GradCache's definition: every chunk forward without a graph, then with one."""
    with torch.no_grad():
        outputs = [engine(*chunk) for chunk in chunks]
    sides = [torch.cat([output[side] for output in outputs]).requires_grad_() for side in (0, 1)]
    scale = outputs[0][2].clone().requires_grad_()
    loss, _ = contrast(*sides, scale)
    *gradients, of_scale = torch.autograd.grad(loss, (*sides, scale))
    parts = [gradient.split([len(chunk[2]) for chunk in chunks]) for gradient in gradients]
    with engine.coalesced():
        for number, chunk in enumerate(chunks):
            *features, scale = engine(*chunk)
            surrogate = sum((f * p[number]).sum() for f, p in zip(features, parts, strict=True))
            engine.backward(surrogate if number else surrogate + scale * of_scale)
    float(loss.detach())  # waits for the device, as our step's report does


def accumulated(engine: Engine, chunks: list[Chunk]) -> None:
    """open_clip's training loop with --accum-freq, written out for our tower."""
    with torch.no_grad():
        cached = [engine(*c)[:2] for c in chunks]
    with engine.coalesced():
        for j, c in enumerate(chunks):
            first, second, scale = engine(*c)
            sides = [
                torch.cat([*(f[s] for f in cached[:j]), x, *(f[s] for f in cached[j + 1 :])])
                for s, x in enumerate((first, second))
            ]
            loss = contrastive_loss(sides[0], sides[1], scale)
            engine.backward(loss)
    float(loss.detach())


def plain_passes(engine: Engine, chunks: list[Chunk]) -> None:
    """Forward, loss and backward of each chunk on its own."""
    with engine.coalesced():
        for chunk in chunks:
            loss, _ = contrast(*engine(*chunk))
            engine.backward(loss)
    float(loss.detach())


def one_pass(engine: Engine, chunks: list[Chunk]) -> None:
    """Forward, loss and backward of all pairs at once."""
    ours(engine, [tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))])


BASE = "plain passes"
CONTESTANTS: dict[str, Callable[[Engine, list[Chunk]], None]] = {
    BASE: plain_passes,
    "plain, one pass": one_pass,
    "ours, the last graph kept": ours,
    "both passes for every chunk": both_passes,
    "open_clip's accumulation": accumulated,
}


def cut(batch: Chunk, chunks: int) -> list[Chunk]:
    """Photo/text pairs in `chunks` equal chunks."""
    photos, none, texts = batch
    size = len(texts) // chunks
    return [
        (photos[i : i + size], none, texts[i : i + size]) for i in range(0, size * chunks, size)
    ]


def contestants(engine: Engine, batch: Chunk, chunks: int) -> dict[str, Callable[[], None]]:
    """Name -> a step on all pairs of `batch` with its update."""

    def step(run: Callable[[Engine, list[Chunk]], None], parts: list[Chunk]) -> None:
        run(engine, parts)
        engine.update(1e-6)

    parts = cut(batch, chunks)
    return {name: lambda run=run: step(run, parts) for name, run in CONTESTANTS.items()}


def expected(name: str, chunks: int) -> float:
    """The ratio by FLOPs: a forward pass is a third of a step."""
    again = {BASE: 0, "plain, one pass": 0, "ours, the last graph kept": 1 - 1 / chunks}
    return 1 + again.get(name, 1) / 3


def engine_of(options: argparse.Namespace, device: torch.device) -> Engine:
    module = build_tower(TOWERS[options.tower], options.image_px).to(device)
    if options.compile:
        module.compile_blocks()
    return make_engine(
        module,
        OptimConfig(),
        decayed=module.decayed,
        views=module.views,
        precision="bfloat16" if device.type == "cuda" else "float32",
        device=device,
    )


def main() -> None:
    """Print the table, write JSON."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", default="B/16" if cuda else "small", choices=list(TOWERS))
    parser.add_argument("--pairs", type=int, default=480 if cuda else 96)
    parser.add_argument("--chunks", type=int, nargs="+", default=[2] if cuda else [2, 3, 4])
    parser.add_argument("--image-px", type=int, default=224 if cuda else 64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-one-pass", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if any(options.pairs % chunks or chunks < 2 for chunks in options.chunks):
        parser.error(f"--chunks from 2 that divide --pairs {options.pairs}")
    if options.compile and len(options.chunks) > 1:
        parser.error("--compile measures one number of chunks a process; name one --chunks")
    torch.set_num_threads(1)
    engine = engine_of(options, device)
    batch = inputs(options.pairs, options.image_px, device)
    rows = []
    for chunks in options.chunks:
        steps = contestants(engine, batch, chunks)
        if options.no_one_pass:
            del steps["plain, one pass"]
        over = paired(timed(steps, options.rounds, on_gpu=cuda), BASE)
        rows += [
            [name, chunks, over[name], expected(name, chunks)] for name in over if name != BASE
        ]
    report(
        "cached",
        [table({"": "", "chunks": "d", "time over plain passes": ".3f", "by FLOPs": ".3f"}, rows)],
        "wall time" if cuda else "CPU time of one thread",
        packages=["torch"],
        out=options.out,
    )


if __name__ == "__main__":
    main()
