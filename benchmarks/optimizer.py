"""How many kernels and milliseconds does one optimizer step take, beside timm's AdafactorBigVision
and torch's own?

    python benchmarks/optimizer.py [--towers B/16 L/16] [--rounds 5] [--out FILE]

All parameters of a tower, random gradients, one device; all take turns. Operators are those that
compute (no views, no allocations), counted as torch dispatches them; on a GPU also the kernels that
its profiler saw.
Ours clips to the global norm within the step, which the others are given through
torch.nn.utils.clip_grad_norm_. Also: bytes that a step all-reduces when the state is sharded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import paired, report, spread, table, timed
from torch.utils._python_dispatch import TorchDispatchMode

from clippo_core.config import ModelConfig
from clippo_core.models import build_tower, load_timm
from clippo_core.optim import Adafactor, AdamW

TOWERS = {
    "tiny": ModelConfig(width=128, depth=2, num_heads=2, mlp_dim=512, embed_dim=64),
    "B/16": ModelConfig(),
    "L/16": ModelConfig(width=1024, depth=24, num_heads=16, mlp_dim=4096),
}
TIMM = "timm AdafactorBigVision"
NO_KERNEL = (
    "view", "reshape", "slice", "select", "split", "expand", "permute", "transpose", "t.",
    "unsqueeze", "squeeze", "detach", "alias", "empty", "_unsafe_view", "as_strided", "diagonal",
    "unbind", "item", "_local_scalar", "lift",
)  # fmt: skip


class Operators(TorchDispatchMode):
    """Counts dispatched operators that launch something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.__name__
        self.count += not name.startswith(NO_KERNEL)
        return function(*args, **(kwargs or {}))


def contestants(tower: torch.nn.Module) -> dict[str, Callable[[], Callable[[], None]]]:
    """Name -> maker of a step."""
    named = list(tower.named_parameters())
    kernels = [p for name, p in named if name in tower.decayed]
    others = [p for name, p in named if name not in tower.decayed]

    def groups() -> list[dict[str, Any]]:  # optimizers write into theirs
        return [{"params": kernels, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]

    def ours(kind: type, **options: Any) -> Callable[[], None]:
        optimizer = kind(named, 1e-3, 1e-4, tower.decayed, clip_norm=1.0, **options)
        return lambda: optimizer.step(0.5)

    def theirs(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def step() -> None:
            torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
            optimizer.step()

        return step

    def timm() -> Callable[[], None]:
        load_timm()
        from timm.optim import AdafactorBigVision

        return theirs(
            AdafactorBigVision(groups(), lr=1e-3, min_dim_size_to_factor=32, unscaled_wd=True)
        )

    return {
        "**ours** Adafactor, bf16 momentum": lambda: ours(Adafactor, views=tower.views),
        "**ours** AdamW": lambda: ours(AdamW),
        TIMM: timm,
        "torch Adafactor foreach": lambda: theirs(
            torch.optim.Adafactor(groups(), lr=1e-3, foreach=True)
        ),
        "torch AdamW foreach": lambda: theirs(torch.optim.AdamW(groups(), lr=1e-3, foreach=True)),
    }


def counted(step: Callable[[], None], on_gpu: bool) -> list[int | None]:
    """Operators of a step, and kernels on a GPU."""
    with Operators() as operators:
        step()
    if not on_gpu:
        return [operators.count, None]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
    is_kernel = [e.device_type == torch.autograd.DeviceType.CUDA for e in profile.events()]
    return [operators.count, sum(is_kernel)]


def rows(name: str, rounds: int, device: torch.device) -> list[list[Any]]:
    """Of each contestant: operators, kernels, time, and time over timm's."""
    on_gpu = device.type == "cuda"
    tower = build_tower(TOWERS[name], 224, device=device)
    for parameter in tower.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    steps = {label: make() for label, make in contestants(tower).items()}
    for step in steps.values():
        step()  # makes the state
    counts = {label: counted(step, on_gpu) for label, step in steps.items()}
    seconds = timed(steps, rounds, on_gpu=on_gpu)
    over = paired(seconds, TIMM)
    return [
        [name, label, *counts[label], spread(1000 * s for s in seconds[label]), over[label]]
        for label in steps
    ]


def all_reduced_mib(name: str) -> float:
    """What a step of sharded Adafactor all-reduces: the norm, sums of rows and columns."""
    tower = build_tower(TOWERS[name], 224)
    optimizer = Adafactor(tower.named_parameters(), 1e-3, 0.0, set(), views=tower.views)
    return 4 * (1 + optimizer._sums_length) / 2**20


def main() -> None:
    """Print the tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--towers", nargs="+", default=["B/16"], choices=list(TOWERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    found = [row for name in options.towers for row in rows(name, options.rounds, device)]
    columns = {
        "tower": "", "optimizer": "", "operators": ",d", "GPU kernels": ",d", "ms": ",.0f",
        "over timm": ".2f",
    }  # fmt: skip
    exchanged = [[name, all_reduced_mib(name)] for name in options.towers]
    tables = [
        table(columns, found),
        table({"sharded Adafactor": "", "all-reduced a step, MiB": ".2f"}, exchanged),
    ]
    clock = "wall time" if device.type == "cuda" else "CPU time of one thread"
    clock += f", {options.rounds} rounds, gradients clipped to the global norm"
    report("optimizer", tables, clock, packages=["torch", "timm"], out=options.out)


if __name__ == "__main__":
    main()
