"""What it takes to measure, judge, merge and write one partition, as it grows: CPU seconds and peak
RSS of each step in a process of its own.

    python benchmarks/validation.py [--pairs 1000000] [--photos 200000]

Without options 10,000 and 100,000 text pairs, and 10,000 photos; those above take some 15 minutes.

The photos are PNGs of 32 x 32 in one tar, so that it is the records that cost, and not the pixels.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from measure import alone, report, table, tell
from PIL import Image

from clippo_core.config import DataConfig, EvaluateConfig, RenderConfig, SourceConfig
from clippo_core.data.partitions import MAX_PARTITIONS, make_partitions
from clippo_core.data.prepare import write_plan
from clippo_core.run.records import (
    EvaluatedPlan,
    Part,
    PartitionPlan,
    RenderPlan,
    StagePlan,
    ValidatePlan,
    dumps,
    from_dict,
)

RENDER = RenderConfig(image_px=64)
STEPS = ("measure", "judge", "merge", "write", "render")
WORDS = "a the dog cat runs sleeps on under red blue small large house street tree night".split()  # noqa: SIM905


def write_pairs(folder: Path, n: int) -> DataConfig:
    """`n` text pairs of some 140 bytes in one file."""
    random = np.random.default_rng(0)
    with open(folder / "pairs.tsv", "w", encoding="utf-8") as file:
        for number in range(n):
            words = [WORDS[place] for place in random.integers(0, len(WORDS), 24)]
            file.write(
                f"en\tde\t{' '.join(words[:12])} {number}\t{' '.join(words[12:])} {number}\n"
            )
    source = SourceConfig("tsv", str(folder / "pairs.tsv"), name="pairs")
    return DataConfig((source,), text_pair_share=1.0)


def write_photos(folder: Path, n: int) -> DataConfig:
    """`n` photos with captions in one tar."""
    random = np.random.default_rng(0)
    with tarfile.open(folder / "web.tar", "w") as tar:
        for number in range(n):
            picture = io.BytesIO()
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(picture, "PNG", compress_level=0)
            caption = f"photo {number} of a street".encode()
            for extension, data in (("png", picture.getvalue()), ("txt", caption)):
                member = tarfile.TarInfo(f"{number:07d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return DataConfig((SourceConfig("webdataset", str(folder / "web.tar"), name="web"),))


def one_step(step: str, folder: Path) -> None:
    """Do a step in this process, and print what it took."""
    state = json.loads((folder / "state.json").read_text())
    data = from_dict(DataConfig, state["data"])
    known = {name: from_dict(Part, part) for name, part in state["parts"].items()}
    prepared, stage = str(folder / "prepared"), StagePlan(str(folder), 0, "benchmark")
    plan = PartitionPlan(prepared, RENDER)
    if step == "measure":
        from clippo_core.data.validate.measure import measure

        known["facts"] = measure(plan, known["partition"], False)
    elif step == "judge":
        from clippo_core.data.validate.expectations import judge

        known["verdict"] = judge(plan, known["facts"])
    elif step == "merge":
        from clippo_core.data.validate.evaluated import fingerprints
        from clippo_core.data.validate.merge import merge

        shown = fingerprints(EvaluatedPlan(prepared, EvaluateConfig(), "benchmark"))
        whole = ValidatePlan(stage, data, prepared)
        found, [known["excluded"]] = merge(whole, [known["facts"]], [known["verdict"]], shown)
        (folder / "report.json").write_text(dumps(found))
    elif step == "write":
        from clippo_core.data.write import write

        sizes = write_plan(data, RENDER, prepared)
        known["list"] = write(sizes, known["facts"], known["excluded"], False)
    else:
        from clippo_core.data.shards import write_manifest
        from clippo_core.run.records import ValidationReport, loads

        found = loads(ValidationReport, (folder / "report.json").read_text())
        write_manifest(RenderPlan(stage, data, RENDER, prepared), found, [known["list"]])
    parts = {name: json.loads(dumps(part)) for name, part in known.items()}
    (folder / "state.json").write_text(json.dumps({"data": state["data"], "parts": parts}))
    tell({})


def measured(kind: str, n: int) -> list[str | float]:
    """A row of the growth table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_pairs(folder, n) if kind == "text pairs" else write_photos(folder, n)
        [partition] = make_partitions(data, str(folder / "prepared"))
        parts = {"partition": json.loads(dumps(partition))}
        state = {"data": json.loads(dumps(data)), "parts": parts}
        (folder / "state.json").write_text(json.dumps(state))
        cells = []
        for step in STEPS:
            took = alone("--step", step, "--folder", name)
            cells.append(f"{took['cpu_seconds']:.1f} s, {took['peak_mib']:,.0f} MiB")
        facts = sum(path.stat().st_size for path in (folder / "prepared" / "facts").iterdir())
    return [f"{n:,} {kind}", *cells, facts / n]


def literal_bytes() -> int:
    """Size of a list of MAX_PARTITIONS results between two tasks."""
    from flytekit import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine

    listed = [
        Part(f"exclusions/{n:032x}.parquet", f"{n:064x}", 2**40) for n in range(MAX_PARTITIONS)
    ]
    context = FlyteContextManager.current_context()
    values = TypeEngine.dict_to_literal_map(context, {"x": listed}, {"x": list[Part]})
    return len(values.to_flyte_idl().SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--photos", type=int, nargs="*", default=[10_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        one_step(chosen.step, chosen.folder)
        return
    rows = [measured("text pairs", n) for n in chosen.pairs]
    rows += [measured("photos", n) for n in chosen.photos]
    columns = {"records": "", **dict.fromkeys(STEPS, ""), "facts of a record, bytes": ",.0f"}
    listed = table(
        {f"a list of {MAX_PARTITIONS:,} partitions": "", "bytes": ",d"},
        [["between two tasks", literal_bytes()]],
    )
    clock = "CPU time of all threads, a process for each step, one run"
    report("validation", [table(columns, rows), listed], clock, out=chosen.out)


if __name__ == "__main__":
    main()
