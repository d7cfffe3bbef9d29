"""What does merging the facts of all partitions cost, from a hundred thousand to a hundred million
records?

    python benchmarks/merge.py [--records 1e5 1e6 1e7 [1e8]]

Photos with one caption each, in partitions of a million: 2 % of the photos come again, 10 % of the
captions are of 5,000 that recur, one caption stands in 1 %; 1 % of the records break a rule; 60,000
evaluated pictures and captions; batches of 10,240. Only the columns that the merge reads are
written. Each size is merged in a process of its own: CPU seconds of all its threads, peak memory,
bytes read. 1e8 needs 12 GB of disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import alone, cpu_seconds, report, table, tell

from clippo_core.config import DataConfig, SourceConfig
from clippo_core.data import parts
from clippo_core.data.pairs import mix
from clippo_core.data.shard_index import PHOTO
from clippo_core.data.validate.evaluated import COLUMNS, Evaluated
from clippo_core.data.validate.facts import (
    RECORDS,
    ROW_GROUP,
    TEXTS,
    VERDICT,
    Facts,
    Verdict,
    schema,
)
from clippo_core.data.validate.merge import merge
from clippo_core.run.records import FileEntry, Part, StagePlan, ValidatePlan

PARTITION, BATCH, EVALUATED, RECURRING = 10**6, 10_240, 60_000, 5_000


def stored(root: str, name: str, columns: dict[str, Any], types: dict[str, str]) -> FileEntry:
    """Write a table of these columns."""
    path = Path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = schema({column: types[column] for column in columns})
    table = pa.table(list(columns.values()), schema=kept)
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)
    return FileEntry(name, path.stat().st_size, "", table.num_rows)


def repeated_text(text: str, n: int) -> Any:
    """A column that is read for a few rows only."""
    return pa.repeat(text, n)


def partition(root: str, number: int, n: int, total: int) -> tuple[Part, Part]:
    """Facts and verdict of records number * PARTITION ... of `total`."""
    ids = np.arange(n, dtype=np.uint64) + np.uint64(number * PARTITION)
    chance = mix(ids, 0, 1) >> np.uint64(11)
    share = chance * 2.0**-53
    photo = np.where(share < 0.02, mix(ids, 0, 2) % np.uint64(total), ids)
    texts = np.where(share > 0.9, mix(ids, 0, 3) % np.uint64(RECURRING), ids + np.uint64(2**40))
    texts[(share > 0.5) & (share < 0.51)] = 2**50
    same = np.zeros(n, np.uint64)
    columns = {
        "ordinal": np.arange(n),
        "id": repeated_text("web/an-id", n),
        "key_hash": mix(ids, 1, 0),
        "group_hash": same,
        "first_hash": mix(photo, 2, 0),
        "kind": np.full(n, PHOTO, np.uint8),
        "is_photo": np.ones(n, bool),
        "n_texts": np.ones(n, np.int32),
        "look_low": mix(photo, 3, 0),
        "look_high": mix(photo, 4, 0),
        "stem_hash": mix(ids, 5, 0),
    }
    said = {
        "ordinal": np.arange(n),
        "number": np.zeros(n, np.int32),
        "text_hash": mix(texts, 6, 0),
        "plain_hash": mix(texts, 7, 0),
        "shown": repeated_text("'a caption'", n),
    }
    name = f"facts/{number:05d}"
    entries = [
        stored(root, f"{name}-records.parquet", columns, RECORDS),
        stored(root, f"{name}-texts.parquet", said, TEXTS),
    ]
    broken = np.flatnonzero((share > 0.3) & (share < 0.31))
    rows = {
        "table": ["records"] * len(broken),
        "ordinal": broken,
        "number": np.full(len(broken), -1, np.int32),
        "rule": ["photo_problem"] * len(broken),
        "shown": ["it is damaged or cut short"] * len(broken),
    }
    verdict = Verdict([], stored(root, f"verdicts/{number:05d}.parquet", rows, VERDICT))
    facts = Facts(Part("", "", n), "web", n, n, entries[0], entries[1])
    return (
        parts.write(root, f"{name}.json", facts, n),
        parts.write(root, f"verdicts/{number:05d}.json", verdict, len(broken)),
    )


def shown(root: str, total: int) -> Part:
    """The evaluated pictures: every hundredth is one of the photos in another size."""
    ids = np.arange(EVALUATED, dtype=np.uint64) + np.uint64(2**45)
    ids[::100] = np.arange(0, total, max(1, total // (EVALUATED // 100)))[: EVALUATED // 100]
    halves = [("content", mix(ids, 8, 0), ids * 0), ("look", mix(ids, 3, 0) ^ 5, mix(ids, 4, 0))]
    halves.append(("caption", mix(ids, 9, 0), ids * 0))
    columns = {
        "kind": np.repeat([kind for kind, _, _ in halves], EVALUATED).tolist(),
        "first": np.concatenate([first for _, first, _ in halves]),
        "second": np.concatenate([second for _, _, second in halves]),
        "evaluation": ["imagenet"] * 3 * EVALUATED,
    }
    entry = stored(root, "evaluated/all.parquet", columns, COLUMNS)
    return parts.write(root, "evaluated/all.json", Evaluated(entry, EVALUATED), EVALUATED)


def prepare(root: str, total: int) -> None:
    """Write the facts, verdicts and evaluated pictures of `total` records, and list them."""
    numbers = range(-(-total // PARTITION))
    made = [partition(root, k, min(PARTITION, total - k * PARTITION), total) for k in numbers]
    listed = [[[part.name, part.sha256, part.count] for part in pair] for pair in made]
    last = shown(root, total)
    Path(root, "listed.json").write_text(json.dumps([listed, [last.name, last.sha256, last.count]]))


def measure(root: str) -> dict[str, Any]:
    """Merge what `prepare` wrote, in this process."""
    listed, last = json.loads(Path(root, "listed.json").read_text())
    facts, verdicts = ([Part(*pair[k]) for pair in listed] for k in (0, 1))
    data = DataConfig((SourceConfig("webdataset", "web.tar"),))
    plan = ValidatePlan(StagePlan(root, 0, ""), data, root, batch_pairs=BATCH)
    cpu = cpu_seconds()
    found, exclusions = merge(plan, facts, verdicts, Part(*last))
    took = cpu_seconds() - cpu
    read = sum(p.stat().st_size for p in Path(root).rglob("*.parquet") if "excl" not in str(p))
    digest = hashlib.sha256(repr((found, exclusions)).encode()).hexdigest()[:12]
    return {"records": found.n_records, "seconds": took, "read": read, "digest": digest}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--records", nargs="+", type=float, default=[1e5, 1e6, 1e7])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs=2, default=(), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        tell(measure(args.measure))
        return
    if args.prepare:
        tell({"made": prepare(args.prepare[0], int(args.prepare[1]))})
        return
    rows = []
    for total in args.records:
        with tempfile.TemporaryDirectory() as root:
            alone("--prepare", root, str(int(total)))
            one = alone("--measure", root)
        rows.append(
            [f"{total:.0e}".replace("e+0", "e")]
            + [one["seconds"], one["peak_mib"], one["read"] / 1e6, one["digest"]]
        )
    columns = {
        "records (and as many texts)": "", "CPU s": ",.1f", "peak MiB": ",.0f",
        "tables read, MB": ",.0f", "digest of what it found": "",
    }  # fmt: skip
    clock = "CPU time of all threads, a process for each size, one run"
    report("merge", [table(columns, rows)], clock, packages=["duckdb"], out=args.out)


if __name__ == "__main__":
    main()
