"""How many pairs per second does a training step reach, which share of the device's matrix
products, and in how much memory?

    python benchmarks/train_step.py                                                 CPU
    python benchmarks/train_step.py --towers B/16 L/16 --pairs 128 256 512 1024     GPU

On a CPU a small tower, so that the script itself is tested; on a GPU a sweep over micro-batches,
eager and compiled.

One process, plain torch (2.11 or later suffices; no deepspeed, no flytekit):
forward, loss, backward, Adafactor with clipping, on given inputs. Rows: eager and compiled, each
way to fit memory; open_clip's ViT-B/16 image tower in two forwards at the same FLOPs, where
open_clip and a torchvision that loads are installed. MFU is model FLOP/s over the best of many
matrix products measured in the same run on random numbers (and over 989 TFLOP/s, an H100/H200's
data sheet). The share beside forward and backward is timed apart. The projection divides by
measured pairs/s alone: it assumes that exchanges hide behind the backward pass.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clippo_core.config import ModelConfig, OptimConfig
from clippo_core.engine import Engine, MemoryPlan, apply_memory, contrastive_step, make_engine
from clippo_core.losses import contrast
from clippo_core.models import build_tower, load_torchvision
from clippo_core.train.speed import training_flops_per_pair

TOWERS = {
    "small": ModelConfig(width=128, depth=4, num_heads=2, mlp_dim=512, embed_dim=64),
    "B/16": ModelConfig(),
    "L/16": ModelConfig(width=1024, depth=24, num_heads=16, mlp_dim=4096),
}
DATA_SHEET_FLOPS = 989e12
COLUMNS = ("pairs", "ms", "pairs/s", "TFLOP/s", "MFU", "of 989", "peak GiB", "beside")
PAPER = {"batch": 10_240, "steps": 250_000}


def matmul_ceiling(device: torch.device) -> float:
    """FLOP/s of a large square product on random numbers: zeros would draw less power and read 10 %
    more.
    """
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(_timed(lambda: torch.mm(a, b), device, 10))


def inputs(pairs: int, image_px: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    photos = torch.randint(
        0, 256, (pairs, 3, image_px, image_px), generator=generator, dtype=torch.uint8
    )
    texts = torch.randint(0, 1 << 16, (pairs, image_px // 16, image_px), generator=generator).to(
        torch.uint16
    )
    return photos.to(device), texts[:0].to(device), texts.to(device)


class OpenClipTower(nn.Module):
    """open_clip's ViT-B/16 with its attentional-pool-free default head, called once a side: the
    same trunk FLOPs as ours.
    """

    def __init__(self, image_px: int) -> None:
        super().__init__()
        load_torchvision()
        import open_clip

        self.tower = open_clip.create_model("ViT-B-16", force_image_size=image_px).visual
        self.t = nn.Parameter(torch.tensor([math.log(10.0)]))
        self.decayed: set[str] = {name for name, p in self.named_parameters() if p.dim() > 1}
        self.views: dict[str, tuple[int, ...]] = {}

    def forward(
        self, photos: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        from clippo_core.models import normalise
        from clippo_core.rendering.draw import expand

        sides = (self.tower(normalise(photos)), self.tower(expand(second)))
        a, b = (nn.functional.normalize(x.float(), dim=1) for x in sides)
        return a, b, self.t.exp().reshape(())


def engine_of(
    kind: str, tower: str, mode: str, compiled: bool, image_px: int, device: torch.device
) -> Engine:
    module = (
        OpenClipTower(image_px) if kind == "open_clip" else build_tower(TOWERS[tower], image_px)
    )
    module.to(device)
    if kind == "ours":
        apply_memory(module, MemoryPlan(mode, 0, ""))
    if compiled:
        module.compile()
    return make_engine(
        module,
        OptimConfig(),
        decayed=module.decayed,
        views=module.views,
        precision="bfloat16" if device.type == "cuda" else "float32",
        device=device,
    )


def measure(
    engine: Engine, batch: tuple[Tensor, Tensor, Tensor], memory: MemoryPlan | None, steps: int
) -> dict[str, float]:
    """Seconds per step, peak memory, and seconds of what stands beside forward and backward."""
    device, pairs = engine.device, len(batch[2])

    def step() -> None:
        contrastive_step(engine, *batch, memory=memory)
        engine.update(1e-6)

    for _ in range(3):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = _timed(step, device, steps)
    result = {"seconds": sorted(seconds)[len(seconds) // 2], "spread": max(seconds) / min(seconds)}
    if device.type == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    features = [
        nn.functional.normalize(torch.randn(pairs, 768, device=device), dim=1).requires_grad_()
        for _ in range(2)
    ]
    scale = torch.tensor(10.0, device=device, requires_grad=True)
    beside = min(
        _timed(
            lambda: torch.autograd.grad(contrast(*features, scale)[0], (*features, scale)),
            device,
            steps,
        )
    )
    for parameter in engine.module.parameters():
        parameter.grad = torch.randn_like(parameter)
    result["beside_share"] = (
        beside + min(_timed(lambda: engine.optimizer.step(1e-6), device, steps))
    ) / result["seconds"]
    engine.module.zero_grad(set_to_none=True)
    return result


def _timed(run: Any, device: torch.device, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Print one line a case as it is done, then the projections; write JSON."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--towers", nargs="+", default=["B/16"] if cuda else ["small"], choices=list(TOWERS)
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[128, 256, 512] if cuda else [32])
    parser.add_argument(
        "--modes", nargs="+", default=["plain"], choices=["plain", "recompute", "checkpoint"]
    )
    parser.add_argument("--image-px", type=int, default=224 if cuda else 64)
    parser.add_argument("--steps", type=int, default=10 if cuda else 3)
    parser.add_argument(
        "--eager-only", action="store_true", help="do not compile (the default without a GPU)"
    )
    parser.add_argument(
        "--open-clip", action="store_true", help="also open_clip's tower, of B/16's size"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/train_step.json"))
    options = parser.parse_args()
    ceiling = matmul_ceiling(device)
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, {name}; matrix products reach {ceiling / 1e12:.3g} TFLOP/s;"
        f" {options.image_px} px"
    )
    print(f"{'tower':12}{'':10}{'mode':12}" + "".join(f"{title:>9}" for title in COLUMNS))
    cases = [("ours", tower, mode) for tower in options.towers for mode in options.modes]
    cases += [("open_clip", "B/16", "plain")] if options.open_clip else []
    rows = []
    for kind, tower, mode in cases:
        for compiled in (False,) if options.eager_only or not cuda else (False, True):
            for pairs in options.pairs:
                row = {
                    "kind": kind,
                    "tower": tower,
                    "mode": mode,
                    "compiled": compiled,
                    "pairs": pairs,
                }
                row |= run(row, options, device, ceiling)
                rows.append(row)
    for tower in options.towers if cuda else []:
        project(
            tower,
            [
                row["pairs_per_second"]
                for row in rows
                if (row["kind"], row["tower"]) == ("ours", tower) and "mfu" in row
            ],
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps(
            {"torch": torch.__version__, "device": name, "ceiling": ceiling, "rows": rows}, indent=2
        )
        + "\n"
    )


def project(tower: str, rates: list[float]) -> None:
    """The paper's run at the best measured rate of a GPU."""
    if rates:
        days = {
            gpus: PAPER["batch"] * PAPER["steps"] / (max(rates) * gpus) / 86_400
            for gpus in (1, 8, 64)
        }
        on_gpus = ", ".join(f"{d:.2f} days on {g}" for g, d in days.items())
        print(f"{tower}: {max(rates):,.0f} pairs/s; 250,000 steps of 10,240 pairs: {on_gpus}")


def run(
    case: dict[str, Any], options: argparse.Namespace, device: torch.device, ceiling: float
) -> dict[str, Any]:
    name = case["tower"] if case["kind"] == "ours" else case["kind"]
    label = f"{name:12}{'compiled' if case['compiled'] else 'eager':10}{case['mode']:12}"
    try:
        engine = engine_of(
            case["kind"], case["tower"], case["mode"], case["compiled"], options.image_px, device
        )
        result = measure(
            engine, inputs(case["pairs"], options.image_px, device), None, options.steps
        )
    except (torch.cuda.OutOfMemoryError, ImportError, RuntimeError) as error:
        print(
            f"{label}{case['pairs']:6}  not run: {type(error).__name__}:"
            f" {str(error).splitlines()[0][:80]}",
            flush=True,
        )
        return {"not_run": str(error).splitlines()[0]}
    finally:
        engine = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    flops = training_flops_per_pair(TOWERS[case["tower"]], options.image_px)
    assert flops is not None
    rate = case["pairs"] / result["seconds"]
    result |= {
        "pairs_per_second": rate,
        "flops_per_second": flops * rate,
        "mfu": flops * rate / ceiling,
    }
    shown = [
        f"{case['pairs']}",
        f"{result['seconds'] * 1e3:.1f}",
        f"{rate:.1f}",
        f"{flops * rate / 1e12:.3g}",
        f"{result['mfu']:.1%}",
    ]
    shown += [
        f"{flops * rate / DATA_SHEET_FLOPS:.1%}",
        f"{result.get('peak_gib', float('nan')):.1f}",
        f"{result['beside_share']:.1%}",
    ]
    print(label + "".join(f"{value:>9}" for value in shown), flush=True)
    return result


if __name__ == "__main__":
    main()
