"""What does the order of batches cost, from a million to twelve billion records, and how well does
it shuffle, beside the rules of two other loaders at about the same disk?

    python benchmarks/order.py [--records 1e6 1e8 1e10 1.2e10] [--batches 200]

Cost: batches of 10,240, windows of 2^20 records, blocks of 128; 2 % of the records repeat another's
photo, 10 % have one of 5,000 captions; each size in a process of its own, in CPU seconds of it.
Shuffle: 20 million records in 2,000 shards, of 50 domains that lie together; the figure is the
variance of a domain's share of a batch, over that of a shuffle of all records (1 is perfect). The
others are our statements of their rules. "streaming" is mosaicml's py1e: shards in random order,
cut among 8 canonical nodes, each record moved at random within a block of 262,144. "webdataset" is
open_clip's use: shards in random order, 64 ranks of 4 workers, a buffer of 5,000 records in each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import alone, report, table, tell

from clippo_core.data.order import Marks, Order, Pool
from clippo_core.data.pairs import mix

BATCH, WINDOW, BLOCK = 10_240, 2**20, 128
SHARDS, SHARD, DOMAINS = 2_000, 10_000, 50
NODES, NODE_BLOCK = 8, 262_144
WORKERS, BUFFER = 256, 5_000


def main() -> None:
    """Measure, print two tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=float, nargs="+", default=[1e6, 1e8, 1e10, 1.2e10])
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cost-of", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cost_of:
        tell(cost(int(arguments.cost_of)))
        return
    costs = []
    for n in arguments.records:
        found = alone("--cost-of", str(n), threads=1)
        costs.append(
            [
                f"{n:.3g}".replace("e+", "e").replace("e0", "e"),
                found["cold"],
                found["rate"],
                found["peak_mib"],
            ]
        )
    cost_columns = {
        "records": "", "cold draw, CPU s": ".2f", "batches per CPU s": ",.0f", "peak MiB": ",.0f"
    }  # fmt: skip
    quality = [list(row.values()) for row in shuffles(arguments.batches)]
    title = (
        "Shuffle, 20 million records in 2,000 shards of 50 domains: variance of a domain's share"
        f" of a batch over that of a shuffle of all ({arguments.batches} batches):"
    )
    columns = {"order": "", **dict.fromkeys(LAYOUTS, ".2f")}
    tables = [table(cost_columns, costs), table(columns, quality, title)]
    clock = "CPU time of one thread, a process for each size, one run"
    report("order", tables, clock, packages=["numpy"], out=arguments.out)


def cost(n: int) -> dict[str, Any]:
    """CPU seconds and memory of an order over n records."""
    order = made(n, web_marks)
    start = time.process_time()
    order.draw(order.window_steps * (2 * n // WINDOW))  # in the third epoch
    cold = time.process_time() - start
    start, steps = time.process_time(), 3 * order.window_steps
    for step in range(steps):
        order.draw(step)
    rate = steps / (time.process_time() - start)
    return {"cold": cold, "rate": rate}


def made(n: int, marks: Callable[[np.ndarray], Marks]) -> Order:
    """Our order of n photos."""
    pools = Pool(n, marks, str), Pool(0, marks, str)
    return Order(*pools, BATCH, 0, 0, window_records=WINDOW, block_records=BLOCK)


def own_marks(records: np.ndarray) -> Marks:
    """Records that share nothing."""
    own = mix(records.astype(np.uint64), 1, 0)
    return Marks(own, np.zeros_like(own), own, np.ones(len(own), np.int64), mix(own, 2, 0))


def web_marks(records: np.ndarray) -> Marks:
    """2 % repeated photos (pairs of neighbours), 10 % with one of 5,000 captions."""
    marks = own_marks(records)
    chance = mix(records.astype(np.uint64) // np.uint64(2), 3, 0) % np.uint64(50)
    twin = mix(records.astype(np.uint64) // np.uint64(2), 4, 0)
    caption = mix(marks.key_hashes, 5, 0) % np.uint64(5_000) + np.uint64(1)
    is_common = mix(marks.key_hashes, 6, 0) % np.uint64(10) == 0
    return Marks(
        marks.key_hashes,
        marks.group_hashes,
        np.where(chance == 0, twin, marks.first_hashes),
        marks.text_counts,
        np.where(is_common, caption, marks.text_hashes),
    )


LAYOUTS = {"each shard one domain": SHARD, "runs of 200": 200, "half shards": SHARD // 2}
"""How many neighbours are of one domain."""


def shuffles(batches: int) -> list[dict[str, Any]]:
    """The variance of each order's domain shares, over a global shuffle's."""
    random = np.random.default_rng(0)
    n = SHARDS * SHARD
    orders: dict[str, np.ndarray] = {
        "shuffle of all": random.permutation(n)[: batches * BATCH],
        "ours": ours(n, batches),
        "streaming's rule py1e, 8 nodes": py1e(random, batches),
        "open_clip's webdataset, 64 ranks of 4 workers": buffered(random, batches),
    }
    rows = []
    for name, records in orders.items():
        row: dict[str, Any] = {"order": name}
        for layout, run in LAYOUTS.items():
            domains = np.random.default_rng(1).integers(0, DOMAINS, -(-n // run))
            row[layout] = dispersion(domains[records // run], domains)
        rows.append(row)
    return rows


def dispersion(drawn: np.ndarray, domains: np.ndarray) -> float:
    """Mean of (count - expected)^2 / variance, over batches and domains."""
    share = np.bincount(domains, minlength=DOMAINS) / len(domains)
    batches = drawn.reshape(-1, BATCH)
    counts = np.stack([np.bincount(batch, minlength=DOMAINS) for batch in batches])
    return float(((counts - BATCH * share) ** 2 / (BATCH * share * (1 - share))).mean())


def ours(n: int, batches: int) -> np.ndarray:
    """Our records, batch after batch."""
    order = made(n, own_marks)
    return np.concatenate([order.draw(step).records for step in range(batches)])


def py1e(random: np.random.Generator, batches: int) -> np.ndarray:
    """streaming's: each canonical node reads its part of the shards in a random order, with each
    record moved within a block; a batch takes as many from each node.
    """
    parts = []
    for shards in np.split(random.permutation(SHARDS), NODES):
        records = (shards[:, None] * SHARD + np.arange(SHARD)).reshape(-1)
        for shard in records.reshape(-1, SHARD):
            random.shuffle(shard)
        moved = np.arange(len(records)) + random.uniform(-0.5, 0.5, len(records)) * NODE_BLOCK
        skipped = 4 * NODE_BLOCK  # away from the first block, which is mixed less
        order = np.argsort(moved)[skipped : skipped + batches * BATCH // NODES]
        parts.append(records[order].reshape(batches, -1))
    return np.concatenate(parts, axis=1).reshape(-1)


def buffered(random: np.random.Generator, batches: int) -> np.ndarray:
    """webdataset's: each worker reads shards one after the other through a buffer; a rank's batch
    comes from one of its workers, in turns.
    """
    ranks, share = WORKERS // 4, BATCH // (WORKERS // 4)
    shards = random.permutation(SHARDS)
    found = np.empty((ranks, batches, share), np.int64)
    for worker in range(WORKERS):
        records = (shards[worker::WORKERS][:, None] * SHARD + np.arange(SHARD)).reshape(-1)
        mine = range(worker % 4, batches, 4)
        skipped = int(random.integers(0, SHARD))  # workers are not all at a shard's beginning
        buffer, fresh = records[skipped : skipped + BUFFER].tolist(), skipped + BUFFER
        drawn = []
        for place in random.integers(0, BUFFER, len(mine) * share).tolist():
            drawn.append(buffer[place])
            buffer[place] = records[fresh]
            fresh += 1
        found[worker // 4, mine] = np.array(drawn).reshape(-1, share)
    return found.transpose(1, 0, 2).reshape(-1)


if __name__ == "__main__":
    main()
