"""How does every preset fit into every cluster shape, and what does it cost in time?

    python benchmarks/memory_plans.py     counts only; no device, nothing is timed

The plan that `train.memory = "auto"` makes, for the pairs of one rank, beside the one that the
earlier rule made: plain or recompute in one pass, else equal chunks that pass twice and keep
everything. Cost is the counted time over that of plain in one pass. Presets with equal towers and
batches share a row; shapes whose ranks do not divide the batch have none. A test holds the table.
"""

from __future__ import annotations

import argparse
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import report, table

from clippo_core.config import RunConfig, presets
from clippo_core.engine.choose import (
    GIB,
    USABLE,
    MemoryPlan,
    activation_bytes_per_pair,
    choose_memory,
    fixed_bytes,
    forward_share,
    time_over_plain,
)
from clippo_core.models import build_tower
from clippo_core.train.costs import GPUS
from tasks.settings import SHAPES

VOCABULARY = 32_000
COLUMNS = {
    "presets": "",
    "shape": "",
    "pairs a rank": ",d",
    "fixed GiB": ".1f",
    "plan": "",
    "GiB": ".1f",
    "cost": ".2f",
    "before": "",
    "its cost": ".2f",
}


def main() -> None:
    """Print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    report("memory_plans", [table(COLUMNS, rows())], "nothing timed", out=options.out)


def rows() -> list[list[Any]]:
    """A row for each group of presets and each shape."""
    found = []
    for names, run, parameters in groups():
        for shape, cluster in SHAPES.items():
            ranks = cluster.nodes * cluster.processes_per_node
            if run.train.batch_pairs % ranks:
                continue  # refused at the start
            pairs = run.train.batch_pairs // ranks
            gib = GPUS[cluster.accelerator.to_flyte_idl().device].gib if cluster.accelerator else 0
            found.append([names, shape, pairs, *cells(run, pairs, ranks, gib, parameters)])
    return found


def groups() -> list[tuple[str, RunConfig, int]]:
    """Names of presets with equal towers, batches and pages; one of them; its parameters."""
    found: dict[str, tuple[list[str], RunConfig, int]] = {}
    for name, make in presets.by_name().items():
        run = make(**({"data": "data"} if "data" in inspect.signature(make).parameters else {}))
        tower = build_tower(run.model, run.render.image_px, device="meta", vocab_size=VOCABULARY)
        plain = replace(run.model, initial_weights="")
        key = repr((plain, run.train.batch_pairs, run.train.memory, run.render.image_px))
        count = sum(p.numel() for p in tower.parameters())
        found.setdefault(key, ([], run, count))[0].append(name)
    return [(", ".join(names), run, count) for names, run, count in found.values()]


def cells(run: RunConfig, pairs: int, ranks: int, gib: int, parameters: int) -> list[Any]:
    """Fixed GiB, plan, its GiB and cost, the plan before and its cost."""
    px, precision = run.render.image_px, run.train.precision
    plan = choose_memory(run.train, run.model, px, pairs, ranks, gib * GIB, parameters)
    fixed = fixed_bytes(run.train, run.model, px, pairs, parameters)
    alive = activation_bytes_per_pair(run.model, px, plan.mode, precision) * max(plan.sizes(pairs))
    old, old_cost = before(run, pairs, gib, parameters)
    now = plan.words(pairs) + ("" if gib else " (no limit is known)")
    return [fixed / GIB, now, alive / GIB, plan.cost, old.words(pairs), old_cost]


def before(run: RunConfig, pairs: int, gib: int, parameters: int) -> tuple[MemoryPlan, float]:
    """The earlier rule's plan, with the bytes that are fixed now, and its counted cost."""
    px, costs = run.render.image_px, time_over_plain(run.model, run.render.image_px)
    if not gib:
        return MemoryPlan("plain", 0, ""), 1.0
    room = gib * GIB * USABLE - fixed_bytes(run.train, run.model, px, pairs, parameters)
    each = {m: activation_bytes_per_pair(run.model, px, m, run.train.precision) for m in costs}
    for mode in ("plain", "recompute"):
        if each[mode] * pairs <= room:
            return MemoryPlan(mode, 0, ""), costs[mode]
    fewest = -(-pairs // max(int(room // each["plain"]), 1))
    parts = next((n for n in range(fewest, 2 * fewest) if pairs % n == 0), fewest)
    return MemoryPlan("plain", -(-pairs // parts), ""), 1 + forward_share(run.model, px)


if __name__ == "__main__":
    main()
