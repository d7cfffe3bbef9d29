"""The table of docs/performance.md from clippo_core/train/costs.py: pairs per second to expect by
tower, GPU and number of GPUs.

    python tools/cost_table.py            write it into the page
    python tools/cost_table.py --check    exit 1 where the page says otherwise

A test runs the check.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from clippo_core.config import ModelConfig, TrainConfig, presets
from clippo_core.train.costs import GPUS, Gpu, StepCost, step_cost, tower_seconds
from clippo_core.train.speed import training_flops_per_pair

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
TOWERS = {
    "S/16": ModelConfig(width=384, depth=12, num_heads=6, mlp_dim=1536),
    "B/16": presets.B16,
    "L/16": presets.L16,
}
NAMES = {"nvidia-a100-80gb": "A100 80 GB", "nvidia-h100": "H100", "nvidia-h200": "H200"}
COUNTS = (1, 8, 64)
PX = 224


def row(tower: str, gpu_name: str, train: TrainConfig) -> str:
    """A tower on a GPU: alone and without anything twice, then on each number of GPUs."""
    model, gpu = TOWERS[tower], GPUS[gpu_name]
    rate = 1 / tower_seconds(model, PX, gpu, train.compile)
    share = rate * (training_flops_per_pair(model, PX) or 0) / gpu.sheet
    costs = [cell(model, gpu, train, count) for count in COUNTS]
    days = train.steps * step_cost(train, model, PX, gpu, 8).seconds / 86_400
    said = [tower, NAMES[gpu_name], digits(rate), f"{share:.0%}", *costs, f"{days:.1f}"]
    return "| " + " | ".join(said).replace("%", " %") + " |"


def cell(model: ModelConfig, gpu: Gpu, train: TrainConfig, count: int) -> str:
    """Pairs/s of all of them, and how activations fit."""
    cost = step_cost(train, model, PX, gpu, count)
    return f"{digits(cost.pairs_per_second)} ({fit(cost, count)})"


def digits(value: float) -> str:
    """Three of them: more would pretend to knowledge."""
    return f"{round(value, 3 - len(str(int(value)))):,.0f}"


def fit(cost: StepCost, count: int) -> str:
    """`plain`, or `20 chunks` of cached gradients."""
    if cost.memory.mode != "cached":
        return cost.memory.mode
    return f"{-(-cost.batch_pairs // count // cost.memory.chunk_pairs)} chunks"


def page(text: str) -> str:
    """The page with its table made anew."""
    train = presets.paper_b16().train
    lines = [
        "| tower | GPU | pairs/s of a GPU, nothing twice | of its data sheet | "
        + " | ".join(f"{count} GPU{'s' * (count > 1)}" for count in COUNTS)
        + " | days on 8 |",
        "|---" * (5 + len(COUNTS)) + "|",
        *(row(tower, gpu, train) for tower in TOWERS for gpu in GPUS),
    ]
    table = "\n".join(lines)
    block = re.compile(r"(<!-- costs -->\n).*?(<!-- end -->)", re.S)
    made, n = block.subn(lambda found: found[1] + table + "\n" + found[2], text)
    if n != 1:
        raise SystemExit(f"{PAGE.name} has no block <!-- costs --> ... <!-- end -->.")
    return made


def main() -> None:
    """Write or check the page."""
    text = PAGE.read_text(encoding="utf-8")
    made = page(text)
    if "--check" in sys.argv[1:] and made != text:
        raise SystemExit(f"{PAGE.name} is not what clippo_core/train/costs.py computes.")
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
