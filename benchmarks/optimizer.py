"""How many kernels and milliseconds does one optimizer step take, beside timm's AdafactorBigVision
and torch's own?

    python benchmarks/optimizer.py [--towers B/16 L/16] [--steps 3] [--out FILE]

All parameters of a tower, random gradients, one device. Operators are those that compute (no views,
no allocations), counted as torch dispatches them; on a GPU also the kernels that its profiler saw.
Ours clips to the global norm within the step, which the others are given through
torch.nn.utils.clip_grad_norm_. Also: bytes that a step all-reduces when the state is sharded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clippo_core.config import ModelConfig
from clippo_core.models import build_tower, load_timm
from clippo_core.optim import Adafactor, AdamW

TOWERS = {
    "tiny": ModelConfig(width=128, depth=2, num_heads=2, mlp_dim=512, embed_dim=64),
    "B/16": ModelConfig(),
    "L/16": ModelConfig(width=1024, depth=24, num_heads=16, mlp_dim=4096),
}
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
        "ours Adafactor (bf16 momentum)": lambda: ours(Adafactor, views=tower.views),
        "ours AdamW": lambda: ours(AdamW),
        "timm AdafactorBigVision": timm,
        "torch Adafactor foreach": lambda: theirs(
            torch.optim.Adafactor(groups(), lr=1e-3, foreach=True)
        ),
        "torch AdamW foreach": lambda: theirs(torch.optim.AdamW(groups(), lr=1e-3, foreach=True)),
    }


def measure(step: Callable[[], None], steps: int, device: torch.device) -> dict[str, float]:
    step()
    with Operators() as operators:
        step()
    result: dict[str, float] = {"operators": operators.count}
    if device.type == "cuda":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            step()
        result["kernels"] = sum(
            1 for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA
        )
    # On a CPU the process's own time, which other processes on the machine disturb less.
    seconds, clock = [], time.perf_counter if device.type == "cuda" else time.process_time
    for _ in range(steps):
        _finish(device)
        start = clock()
        step()
        _finish(device)
        seconds.append(clock() - start)
    return result | {"ms": 1e3 * min(seconds)}


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--towers", nargs="+", default=["B/16"], choices=list(TOWERS))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/optimizer.json"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, {device}; ms:"
        f" {'of wall time' if device.type == 'cuda' else 'of CPU time, one thread'}"
    )
    print(f"{'tower':6}{'optimizer':34}{'operators':>10}{'GPU kernels':>13}{'ms':>9}")
    for name in options.towers:
        tower = build_tower(TOWERS[name], 224, device=device)
        for parameter in tower.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-3
        for label, make in contestants(tower).items():
            row = {"tower": name, "optimizer": label, **measure(make(), options.steps, device)}
            rows.append(row)
            print(
                f"{name:6}{label:34}{row['operators']:10.0f}"
                f"{row.get('kernels', float('nan')):13.0f}{row['ms']:9.1f}",
                flush=True,
            )
        exchanged = 4 * (
            1
            + Adafactor(tower.named_parameters(), 1e-3, 0.0, set(), views=tower.views)._sums_length
        )
        rows.append({"tower": name, "all_reduced_bytes": exchanged})
        print(
            f"{name:6}sharded Adafactor all-reduces {exchanged / 2**20:.2f} MiB per step (norm,"
            " rows, columns), in one call"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"torch": torch.__version__, "device": str(device), "rows": rows}, indent=2)
        + "\n"
    )


if __name__ == "__main__":
    main()
