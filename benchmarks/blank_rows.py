"""What does leaving out trailing blank rows of rendered text cost, and what does it save? An
ablation on the demo world.

    python benchmarks/blank_rows.py [--seeds 0 1]

Two trainings per seed, about 2 minutes each on two idle cores.

The demo's preset is trained as it is and with `model.skip_blank_rows`; retrieval of its 100
held-out pictures and zero-shot digits as the demo measures them, with 95 % intervals. Pairs per
second: the training step alone, both ways in turn on the same batches in this process, at the
demo's page of 4 rows and on pages of 14 rows with the same tower. A training that is already there
is not made again. Writes benchmarks/out/robustness/blank_rows.json and .md; the plain trainings are
those of robustness.py.

Read it as: an experiment, another function than the paper's. Released weights are never read so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from robustness import OUT, trained

from clippo_core.config import RunConfig, presets, replace
from clippo_core.data.loader import Batch, batches
from clippo_core.data.shards import open_manifest
from clippo_core.engine import Engine, make_engine
from clippo_core.evaluate.imagenet import protocol as imagenet
from clippo_core.evaluate.registry import EVALUATIONS
from clippo_core.evaluate.retrieval import protocol as retrieval
from clippo_core.models import build_tower
from clippo_core.rendering import Renderer
from clippo_core.run.records import CheckpointInfo, EvaluatePlan, StagePlan
from clippo_core.train.step import train_step

WAYS = {"whole pages": False, "blank rows left out": True}
METRICS = ("digits/zero_shot_top1", "numbers/i2t_recall@1", "numbers/t2i_recall@1")


def main() -> None:
    """Train what is missing, evaluate, time, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=0, help="of training; 0 = the preset's")
    parser.add_argument("--timed-steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    rows = []
    for seed in chosen.seeds:
        for way, skip in WAYS.items():
            changes: dict[str, Any] = {"model__skip_blank_rows": skip} | (
                {"train__steps": chosen.steps} if chosen.steps else {}
            )
            run, checkpoint = trained(
                chosen.out, f"seed-{seed}-{'rows' if skip else 'plain'}", seed, **changes
            )
            rows.append(
                {"way": way, "seed": seed, "loss": checkpoint.loss, **evaluated(run, checkpoint)}
            )
    speeds = {px: pairs_per_second(chosen.out, px, chosen.timed_steps) for px in (64, 224)}
    print(written(rows, speeds, chosen.out))


def evaluated(run: RunConfig, checkpoint: CheckpointInfo) -> dict[str, Any]:
    """Metric -> value, interval and chance in percent, and n."""
    folder = checkpoint.uri.rpartition("/checkpoints")[0]
    found: dict[str, Any] = {}
    for module, name in ((imagenet, "imagenet"), (retrieval, "retrieval")):
        plan = EvaluatePlan(
            StagePlan(folder, run.seed, "numbers"),
            EVALUATIONS[name].only(run.evaluate),
            is_demo=True,
        )
        result = module.run(checkpoint.uri, plan, progress=False)
        if result.failure:
            raise SystemExit(f"{name}: {result.failure}")
        for metric in METRICS:
            if metric in result.metrics:
                known = dataclasses.asdict(result.metrics[metric])
                found[metric] = {
                    name: known[name] for name in ("value", "low", "high", "chance", "n")
                }
    return found


def pairs_per_second(out: Path, image_px: int, steps: int) -> dict[str, float]:
    """Way -> pairs of the demo's batches per second of CPU time of this process: forward, loss,
    backward, update. Medians.
    """
    run: RunConfig = replace(presets.demo(str(out)), render__image_px=image_px)
    feed = list(_batches(run, out, steps + 2))
    engines = {way: _engine(run, skip) for way, skip in WAYS.items()}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for batch in feed:
        for way, engine in engines.items():
            started = time.process_time()
            train_step(engine, batch, 1e-6, None)
            seconds[way].append(time.process_time() - started)
    return {
        way: run.train.batch_pairs / float(np.median(taken[2:])) for way, taken in seconds.items()
    }


def _batches(run: RunConfig, out: Path, steps: int) -> list[Batch]:
    return list(
        batches(
            open_manifest(f"{out}/shards"),
            run.data,
            image_px=run.render.image_px,
            batch_pairs=run.train.batch_pairs,
            seed=0,
            text_encoder=Renderer.from_config(run.render),
            steps=steps,
            count_rows=True,
        )
    )


def _engine(run: RunConfig, skip: bool) -> Engine:
    tower = build_tower(replace(run.model, skip_blank_rows=skip), run.render.image_px, seed=0)
    return make_engine(tower, run.optim, decayed=tower.decayed, views=tower.views, device="cpu")


def written(rows: list[dict[str, Any]], speeds: dict[int, dict[str, float]], out: Path) -> str:
    """Write JSON and Markdown; the latter."""
    (out / "blank_rows.json").write_text(
        json.dumps({"torch": torch.__version__, "rows": rows, "speeds": speeds}, indent=1) + "\n"
    )
    lines = ["| | seed | " + " | ".join(METRICS) + " | loss |", "|---" * (3 + len(METRICS)) + "|"]
    for row in rows:
        cells = [
            f"{row[m]['value']:.1f} [{row[m]['low']:.1f}, {row[m]['high']:.1f}]" for m in METRICS
        ]
        lines.append(
            f"| {row['way']} | {row['seed']} | " + " | ".join(cells) + f" | {row['loss']:.2f} |"
        )
    first = rows[0]
    lines.append(
        "| guessing | | "
        + " | ".join(f"{first[m]['chance']:.1f} (n {first[m]['n']})" for m in METRICS)
        + " | |"
    )
    lines += [
        "",
        "| pairs per CPU second of the step | " + " | ".join(WAYS) + " | factor |",
        "|---|---|---|---|",
    ]
    for px, found in speeds.items():
        plain, skipped = (found[way] for way in WAYS)
        lines.append(f"| {px} px | {plain:.1f} | {skipped:.1f} | {skipped / plain:.2f} |")
    text = "\n".join(lines) + "\n"
    (out / "blank_rows.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
