"""What do cached gradients cost: time per pair at a large global batch in chunks, over one plain
pass of a chunk's size?

    python benchmarks/cached.py     CPU: a small tower, 512 pairs
    python benchmarks/cached.py --tower B/16 --pairs 10240 --chunk 512 [--compile]   GPU

Expected from FLOPs alone: 1.334, one more forward pass. Inputs stay on the device between the
passes. Also open_clip's way with the same chunks (its --accum-freq loop computes the whole loss
once per chunk, and multiplies the logit scale's gradient by their number).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from train_step import TOWERS, _timed, inputs

from clippo_core.config import OptimConfig
from clippo_core.engine import Engine, MemoryPlan, contrastive_step, make_engine
from clippo_core.losses import contrastive_loss
from clippo_core.models import build_tower


def accumulated(engine: Engine, batch: tuple[Tensor, Tensor, Tensor], chunk: int) -> None:
    """open_clip's training loop with --accum-freq, written out for our tower."""
    photos, none, texts = batch
    chunks = [
        (photos[i : i + chunk], none, texts[i : i + chunk]) for i in range(0, len(texts), chunk)
    ]
    with torch.no_grad():
        cached = [engine(*c)[:2] for c in chunks]
    with engine.coalesced():
        for j, c in enumerate(chunks):
            first, second, scale = engine(*c)
            sides = [
                torch.cat([*(f[s] for f in cached[:j]), x, *(f[s] for f in cached[j + 1 :])])
                for s, x in enumerate((first, second))
            ]
            engine.backward(contrastive_loss(sides[0], sides[1], scale))
    engine.update(1e-6)


def main() -> None:
    """Print the table, write JSON."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", default="B/16" if cuda else "small", choices=list(TOWERS))
    parser.add_argument("--pairs", type=int, default=10_240 if cuda else 512)
    parser.add_argument("--chunk", type=int, default=512 if cuda else 64)
    parser.add_argument("--image-px", type=int, default=224 if cuda else 64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/cached.json"))
    options = parser.parse_args()
    module = build_tower(TOWERS[options.tower], options.image_px).to(device)
    if options.compile:
        module.compile()
    engine = make_engine(
        module,
        OptimConfig(),
        decayed=module.decayed,
        views=module.views,
        precision="bfloat16" if cuda else "float32",
        device=device,
    )

    def step(batch: tuple[Tensor, Tensor, Tensor], chunk: int) -> None:
        contrastive_step(engine, *batch, memory=MemoryPlan("cached", chunk, ""))
        engine.update(1e-6)

    whole, one = (
        inputs(options.pairs, options.image_px, device),
        inputs(options.chunk, options.image_px, device),
    )
    runs = {
        f"plain, {options.chunk} pairs": (options.chunk, lambda: step(one, 0)),
        f"cached gradients, {options.pairs} pairs in chunks of {options.chunk}": (
            options.pairs,
            lambda: step(whole, options.chunk),
        ),
        "open_clip's accumulation, the same chunks": (
            options.pairs,
            lambda: accumulated(engine, whole, options.chunk),
        ),
    }
    print(f"torch {torch.__version__}, {device}, tower {options.tower}, {options.image_px} px")
    rows: dict[str, dict[str, float]] = {}
    for name, (pairs, run) in runs.items():
        run()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        rate = pairs / min(_timed(run, device, options.steps))
        rows[name] = {
            "pairs_per_second": rate,
            "time_over_plain": (
                next(iter(rows.values()), {"pairs_per_second": rate})["pairs_per_second"] / rate
            ),
        }
        rows[name] |= {"peak_gib": torch.cuda.max_memory_allocated() / 2**30} if cuda else {}
        print(
            f"{name:60}" + "".join(f"  {key} {value:.3f}" for key, value in rows[name].items()),
            flush=True,
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"torch": torch.__version__, "device": str(device), "rows": rows}, indent=2)
        + "\n"
    )


if __name__ == "__main__":
    main()
