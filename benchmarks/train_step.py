"""How many pairs per second does a training step reach, which share of the device's matrix
products, and in how much memory?

    python benchmarks/train_step.py                                                 CPU
    python benchmarks/train_step.py --towers B/16 L/16 --pairs 128 256 512 1024     GPU

On a CPU a small tower, so that the script itself is tested; on a GPU a sweep over micro-batches,
eager and compiled.

Plain torch (2.11 or later suffices; no deepspeed, no flytekit): forward, loss, backward, Adafactor
with clipping, on given inputs. Rows: eager and compiled, each way to fit memory; open_clip's
ViT-B/16 image tower in two forwards at the same FLOPs, where open_clip and a torchvision that loads
are installed. Each row is a process of its own: what torch compiled for one batch size would be
used, with shapes left open, for the next. MFU is model FLOP/s over the best of many matrix products
measured in the same process on random numbers, and over 989 TFLOP/s, an H100/H200's data sheet; on
a GPU only, for a shared CPU's products vary by a half from run to run. The share beside forward and
backward is timed apart. docs/performance.md says what to expect.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import alone, rates, report, table, tell, timed
from torch import Tensor, nn

from clippo_core.config import ModelConfig, OptimConfig
from clippo_core.engine import Engine, MemoryPlan, apply_memory, contrastive_step, make_engine
from clippo_core.losses import contrast
from clippo_core.models import build_tower, load_torchvision
from clippo_core.train.speed import matmul_flops_per_second, training_flops_per_pair

TOWERS = {
    "small": ModelConfig(width=128, depth=4, num_heads=2, mlp_dim=512, embed_dim=64),
    "B/16": ModelConfig(),
    "L/16": ModelConfig(width=1024, depth=24, num_heads=16, mlp_dim=4096),
}
DATA_SHEET_FLOPS = 989e12
COLUMNS = {
    "tower": "", "": "", "memory": "", "pairs": "", "pairs/s": ",.0f", "TFLOP/s": ".3g",
    "MFU": ".1%", "of 989": ".1%", "peak GiB": ".1f", "beside": ".1%",
}  # fmt: skip


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
    engine: Engine, batch: tuple[Tensor, Tensor, Tensor], steps: int
) -> dict[str, list[float] | float]:
    """Seconds of each step, peak memory, and the share of what stands beside forward and
    backward: loss and update.
    """
    on_gpu, pairs = engine.device.type == "cuda", len(batch[2])
    features = [
        nn.functional.normalize(torch.randn(pairs, 768, device=engine.device), dim=1)
        for _ in range(2)
    ]
    given = (*features, torch.tensor(10.0, device=engine.device))
    for x in given:
        x.requires_grad_()

    def step() -> None:
        contrastive_step(engine, *batch, memory=None)
        engine.update(1e-6)

    def update() -> None:
        engine.optimizer.step(1e-6)

    def loss() -> None:
        torch.autograd.grad(contrast(*given)[0], given)

    found = timed({"step": step}, steps, warm_up=3, on_gpu=on_gpu)
    result = {"seconds": found["step"]}
    if on_gpu:
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    for parameter in engine.module.parameters():
        parameter.grad = torch.randn_like(parameter)
    found |= timed({"loss": loss, "update": update}, steps, on_gpu=on_gpu)
    beside = median(found["loss"]) + median(found["update"])
    return result | {"beside": beside / median(found["step"])}


def main() -> None:
    """Print the table, write JSON."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--towers", nargs="+", default=["B/16"] if cuda else ["small"], choices=list(TOWERS)
    )
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[128, 256, 512] if cuda else [32, 64]
    )
    parser.add_argument(
        "--modes", nargs="+", default=["plain"], choices=["plain", "recompute", "checkpoint"]
    )
    parser.add_argument("--image-px", type=int, default=224 if cuda else 64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--eager-only", action="store_true", help="do not compile (the default without a GPU)"
    )
    parser.add_argument(
        "--open-clip", action="store_true", help="also open_clip's tower, of B/16's size"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        tell(run(*options.case, options.image_px, options.steps))
        return
    cases = [("ours", tower, mode) for tower in options.towers for mode in options.modes]
    cases += [("open_clip", "B/16", "plain")] if options.open_clip else []
    fixed = ["--image-px", str(options.image_px), "--steps", str(options.steps)]
    rows = []
    for kind, tower, mode in cases:
        for compiled in (False,) if options.eager_only or not cuda else (False, True):
            for pairs in options.pairs:
                case = json.dumps([kind, tower, mode, compiled, pairs])
                found = alone(*fixed, "--case", case)
                rows.append(row(kind, tower, mode, compiled, pairs, found))
                print(rows[-1], flush=True)
    clock = "wall time" if cuda else "CPU time of one thread, float32"
    clock += f", {options.image_px} px, {options.steps} steps each"
    report("train_step", [table(COLUMNS, rows)], clock, packages=["torch"], out=options.out)


def run(
    kind: str, tower: str, mode: str, compiled: bool, pairs: int, image_px: int, steps: int
) -> dict[str, Any]:
    """Measure one case in this process; what hinders it, where it cannot be."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)  # of a CPU: threads that wait for each other would count as work
    try:
        engine = engine_of(kind, tower, mode, compiled, image_px, device)
        found = measure(engine, inputs(pairs, image_px, device), steps)
    except (torch.cuda.OutOfMemoryError, ImportError, RuntimeError) as error:
        return {"not_run": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
    flops = (training_flops_per_pair(TOWERS[tower], image_px) or 0) * pairs
    found["flops_per_second"] = flops / median(found["seconds"])
    if device.type == "cuda":
        ceiling = matmul_flops_per_second(device, "bfloat16")
        found["mfu"] = found["flops_per_second"] / ceiling
        found["of_sheet"] = found["flops_per_second"] / DATA_SHEET_FLOPS
    return found


def row(
    kind: str, tower: str, mode: str, compiled: bool, pairs: int, found: dict[str, Any]
) -> list[Any]:
    """The case's row."""
    head = [tower if kind == "ours" else kind, "compiled" if compiled else "eager", mode]
    if "not_run" in found:
        return [*head, f"{pairs}: {found['not_run']}", *[None] * 6]
    rest = [found.get(name) for name in ("mfu", "of_sheet", "peak_gib", "beside")]
    speed = [rates(pairs, found["seconds"]), found["flops_per_second"] / 1e12]
    return [*head, str(pairs), *speed, *rest]


if __name__ == "__main__":
    main()
