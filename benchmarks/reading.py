"""What teaches CLIPPO to read captions and sentences on one core, and how far is it then from the
same trunk on tokens?

    python benchmarks/reading.py --data DATA --recipe plain words words-packed --minutes 4
    python benchmarks/reading.py --data DATA --recipe words-packed-captions --steps 1500 --final

Every recipe trains for equal CPU minutes: a probe of a few steps decides how many steps that are
(--steps sets them instead). Without --final a fifth of Flickr8k's training photos is held out and
scored by retrieval alone, so that ideas are chosen without a look at any test split. With --final
all training photos are trained on, and the test photos of Flickr8k and Flickr30k and SST-2's dev
rows are scored. Validation leaves evaluated photos and captions out of the training; Multi30k's
sentences about any photo of the slices are left out here. With OMP_NUM_THREADS=1 a run takes its
minutes, and about one more. One JSON per run under --out, and a table of all of them; a run that is
there is not made again, a stopped one goes on.

Read it as: what a recipe gives at this small scale, one seed each unless --seeds says more.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from towers import tower_model, train_run_tokenizer, write_run_shards

from clippo_core import config, models
from clippo_core.config import EvaluateConfig, RetrievalConfig, RunConfig, presets
from clippo_core.config.data import SourceConfig
from clippo_core.data.loader import batches
from clippo_core.data.shards import open_manifest
from clippo_core.engine import make_engine
from clippo_core.evaluate.registry import EVALUATIONS
from clippo_core.run import journal
from clippo_core.run.contents import benchmark_digest
from clippo_core.run.records import CheckpointInfo, EvaluatePlan, Manifest, PretrainPlan, StagePlan
from clippo_core.train.loop import pretrain
from clippo_core.train.step import train_step

OUT = Path(__file__).resolve().parent / "out" / "reading"
TOWERS = ("one_tower_clip", "two_tower_clip")
C4 = {"sentences": "c4"}
REFERENCE = {"render__layout": "reference"}
WHOLE_PAGES = {"model__skip_blank_rows": False}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": C4 | REFERENCE | WHOLE_PAGES,
    "packed": C4 | REFERENCE,
    "words": C4 | WHOLE_PAGES,
    "words-packed": C4,
    "words-packed-lr": C4 | {"optim__lr": 1e-3},
    "words-packed-scale": C4 | {"model__initial_logit_scale": 30.0},
    "words-packed-lr-scale": C4 | {"optim__lr": 1e-3, "model__initial_logit_scale": 30.0},
    "words-packed-multi30k": {"sentences": "multi30k"},
    "words-packed-captions": {},
    "words-packed-0": {"text_pair_share": 0.0},
    "words-packed-captions-50": {"text_pair_share": 0.5},
    "words-packed-captions-75": {"text_pair_share": 0.75},
    "words-packed-captions-flat": {"flat": True},
    "plain-captions": REFERENCE | WHOLE_PAGES,
    "one_tower_clip": REFERENCE | WHOLE_PAGES,
    "two_tower_clip": REFERENCE | WHOLE_PAGES,
}
"""What each recipe changes of `presets.photos`. `sentences`: other sentence pairs than two captions
of a photo, C4's or Multi30k's. `flat`: the learning rate falls over the whole run, not over a
seventh of it. The last two read tokens.
"""
VOCABULARY = 2000
PLATEAU, MEAN_OF = 0.1, 20
"""The plateau ends where the mean loss of so many steps is first so far below its level."""


def main() -> None:
    """Run what is missing, print the table."""
    chosen = _options()
    if not chosen.data:
        print("not run: --data names no folder with flickr8k, flickr30k_multi30k, c4_like and glue")
        return
    length = f"{chosen.steps}-steps" if chosen.steps else f"{chosen.minutes:g}-minutes"
    for seed in chosen.seeds:
        for recipe in chosen.recipe:
            name = f"{'final' if chosen.final else 'screen'}-{recipe}-{length}-{seed}"
            path = chosen.out / "results" / f"{name}.json"
            if not path.is_file():
                row = measured(chosen, recipe, name, seed)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
            print(table([json.loads(path.read_text(encoding="utf-8"))]), flush=True)
    rows = [json.loads(path.read_text()) for path in sorted((chosen.out / "results").glob("*"))]
    print(table(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="", help="folder of the slices, as of `presets.photos`")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=["plain", "words-packed"])
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU minutes of the training")
    parser.add_argument("--steps", type=int, default=0, help="instead of --minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--final", action="store_true", help="score the test splits")
    return parser.parse_args()


def measured(chosen: argparse.Namespace, recipe: str, name: str, seed: int) -> dict[str, Any]:
    """Train, evaluate: one row of the table."""
    run = recipe_run(chosen.data, chosen.out, recipe, seed, final=chosen.final)
    manifest = write_run_shards(run)
    if recipe in TOWERS:
        tokenizer = train_run_tokenizer(run, VOCABULARY)
        run = dataclasses.replace(run, model=tower_model(run, recipe, tokenizer))
    root = f"{chosen.out}/runs/{name}"
    steps = _steps(Path(root, "steps.json"), run, chosen)
    schedule = presets.photos(chosen.data, steps=steps).optim
    timescale = steps if "flat" in RECIPES[recipe] else schedule.timescale_steps
    schedule = dataclasses.replace(schedule, lr=run.optim.lr, timescale_steps=timescale)
    run = config.replace(run, train__steps=steps, optim=schedule)
    stage = StagePlan(root, seed, manifest.data_digest)
    plan = PretrainPlan(stage, run.data, run.render, run.model, run.optim, run.train)
    checkpoint, minutes = _timed(plan, manifest)
    losses = [line["loss"] for line in journal.read(checkpoint.journal)]
    row = {
        "recipe": recipe, "seed": seed, "final": chosen.final, "steps": steps,
        "batch_pairs": run.train.batch_pairs, "text_pair_share": run.data.text_pair_share,
        "minutes": minutes, "loss": checkpoint.loss,
        "plateau_end": plateau_end(losses, run),
        "parameters": sum(p.numel() for p in models.build_tower(
            run.model, run.render.image_px, device="meta").parameters()),
    }  # fmt: skip
    return row | _evaluated(run, checkpoint, root) | {"torch": torch.__version__}


def _timed(plan: PretrainPlan, manifest: Manifest) -> tuple[CheckpointInfo, float | None]:
    """The trained checkpoint, and its CPU minutes; None for a training that was interrupted."""
    note = Path(plan.stage.root, "minutes.json")
    goes_on, started = Path(plan.stage.root, "checkpoints").is_dir(), time.process_time()
    checkpoint = pretrain(plan, manifest)
    if not note.is_file():
        minutes = None if goes_on else (time.process_time() - started) / 60
        note.write_text(json.dumps(minutes), encoding="utf-8")
    return checkpoint, json.loads(note.read_text(encoding="utf-8"))


def recipe_run(data: str, out: Path, recipe: str, seed: int, *, final: bool) -> RunConfig:
    """`presets.photos` with the recipe's changes; on a holdout of the training splits, or final."""
    changes = dict(RECIPES[recipe])
    sentences = changes.pop("sentences", "captions")
    changes.pop("flat", None)
    base = presets.photos(data)
    photos, texts = base.data.sources[:2], base.data.sources[2:]
    if not final:
        photos, retrieval = _held_out(out / "held-out", photos)
        texts = tuple(
            dataclasses.replace(text, path=photo.path)
            for text, photo in zip(texts, photos, strict=True)
        )
        base = dataclasses.replace(base, evaluate=EvaluateConfig(retrieval=retrieval))
    if sentences == "c4":
        texts = (SourceConfig("c4", f"{data}/c4_like/*.json.gz", name="c4"),)
    elif sentences == "multi30k":
        path = out / "multi30k.tsv"
        _write_multi30k(path, data, photos)
        texts = (SourceConfig("tsv", str(path), name="multi30k"),)
    share = changes.pop("text_pair_share", base.data.text_pair_share)
    if not share:
        sentences, texts = "photos", ()
    kind = "tokens" if recipe in TOWERS else sentences
    root = f"{out}/{'final' if final else 'screen'}-{kind}"
    pairs = dataclasses.replace(base.data, sources=(*photos, *texts), text_pair_share=share)
    return config.replace(base, seed=seed, root=root, data=pairs, **changes)


def _held_out(
    folder: Path, photos: tuple[SourceConfig, ...]
) -> tuple[tuple[SourceConfig, ...], tuple[RetrievalConfig, ...]]:
    """The photo sources without every fifth of Flickr8k's training photos, and the retrieval on
    those.
    """
    first, path = photos[0], folder / "flickr8k.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        content = json.loads(Path(first.path).read_text(encoding="utf-8"))
        images = [image for image in content["images"] if image["split"] == "train"]
        for image in images[::5]:
            image["split"] = "held-out"
        path.write_text(json.dumps({"images": content["images"]}), encoding="utf-8")
    found = RetrievalConfig(str(path), first.images, "flickr8k", "held-out", 460)
    sources = (dataclasses.replace(first, path=str(path)), *photos[1:])
    return sources, (found,)


def _write_multi30k(path: Path, data: str, photos: tuple[SourceConfig, ...]) -> None:
    """Multi30k's English and German sentences about photos that are in no split of the slices."""
    known = {
        re.split(r"[._]", image["filename"])[0]
        for source in photos
        for image in json.loads(Path(source.path).read_text(encoding="utf-8"))["images"]
    }
    folder = Path(data, "multi30k_text")
    names = (folder / "train_images.txt").read_text(encoding="utf-8").split()
    sides = [
        gzip.decompress((folder / f"train.{side}.gz").read_bytes()).decode().splitlines()
        for side in ("en", "de")
    ]
    lines = [
        f"en\tde\t{first}\t{second}\n"
        for name, first, second in zip(names, *sides, strict=True)
        if name.partition(".")[0] not in known
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def _steps(note: Path, run: RunConfig, chosen: argparse.Namespace) -> int:
    """Steps in the asked CPU minutes: by a probe of real batches, noted for a run that goes on."""
    if note.is_file():
        return int(json.loads(note.read_text())["steps"])
    steps = chosen.steps or max(1, round(60 * chosen.minutes / _seconds_per_step(run)))
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"steps": steps}), encoding="utf-8")
    return int(steps)


def _seconds_per_step(run: RunConfig, steps: int = 12) -> float:
    """Median CPU seconds of a step on real batches, loading them included."""
    tower = models.build_tower(run.model, run.render.image_px, seed=0)
    engine = make_engine(
        tower, run.optim, decayed=tower.decayed, views=tower.views,
        precision=run.train.precision, device="cpu",
    )  # fmt: skip
    feed = batches(
        open_manifest(f"{run.root}/data/shards"), run.data, image_px=run.render.image_px,
        batch_pairs=run.train.batch_pairs, seed=0, steps=steps,
        text_encoder=models.text_encoder(run.model, run.render),
        count_rows=run.model.skip_blank_rows,
    )  # fmt: skip
    taken, started = [], time.process_time()
    for batch in feed:
        train_step(engine, batch, 1e-6, None)
        taken.append(time.process_time() - started)
        started = time.process_time()
    return float(np.median(taken[2:]))


def plateau_end(losses: list[float], run: RunConfig) -> int | None:
    """The first step at which the mean loss of the last MEAN_OF steps is PLATEAU below that of a
    tower which knows a photo from a sentence and nothing else; None = never.

    Without sentence pairs that is ln B; with them, chance among the pairs of the same kind.
    """
    share, pairs = run.data.text_pair_share, run.train.batch_pairs
    level = sum(part * math.log(part * pairs) for part in (share, 1 - share) if part)
    means = np.convolve(losses, np.ones(MEAN_OF) / MEAN_OF, "valid")
    below = np.flatnonzero(means < level - PLATEAU)
    return int(below[0]) + MEAN_OF if len(below) else None


def _evaluated(run: RunConfig, checkpoint: CheckpointInfo, root: str) -> dict[str, Any]:
    """Metric -> value, interval, chance, n; and why an evaluation failed."""
    found: dict[str, Any] = {}
    parts = [EvaluateConfig(retrieval=(one,)) for one in run.evaluate.retrieval]
    if run.evaluate.glue:
        parts.append(EvaluateConfig(glue=run.evaluate.glue))
    for part in parts:
        name = "retrieval" if part.retrieval else "glue"
        stage = StagePlan(
            f"{root}/{part.retrieval[0].dataset if part.retrieval else name}", run.seed,
            benchmark_digest(part, name),
        )  # fmt: skip
        result = EVALUATIONS[name].run(checkpoint.uri, EvaluatePlan(stage, part))
        if result.failure:
            found.setdefault("failures", []).append(result.failure)
        for key, metric in result.metrics.items():
            if metric.value is not None and ("recall@" in key or "sst2_acc" in key):
                found[key] = {
                    "value": metric.value, "interval": metric.bounds, "chance": metric.chance,
                    "n": metric.n,
                }  # fmt: skip
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    names = sorted({key for row in rows for key in row if key.endswith("@10") or "sst2_acc" in key})
    lines = [
        "| recipe | test splits | seed | steps | CPU min | plateau's end | "
        + " | ".join(names) + " |",
        "|---" * (6 + len(names)) + "|",
    ]  # fmt: skip
    for row in rows:
        cells = [row["recipe"], "yes" if row["final"] else "no", row["seed"], row["steps"]]
        cells += [f"{row['minutes'] or math.nan:.1f}", row["plateau_end"] or "–"]
        cells += [_cell(row.get(name)) for name in names]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _cell(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    low, high = found["interval"] or (math.nan, math.nan)
    chance = f" ({found['chance']:.1f})" if found["chance"] is not None else ""
    return f"{found['value']:.1f} [{low:.1f}, {high:.1f}]{chance}"


if __name__ == "__main__":
    main()
