"""CLIPPO, 1T-CLIP and CLIP* by one recipe on the same photos and sentences: what does each cost,
and what does each give?

    python benchmarks/towers.py --data DATA

With OMP_NUM_THREADS=1 a run takes about nine minutes of one core. Six runs: three towers, each on
photos with captions alone, and with a quarter of sentence pairs in every batch. Same trunk, loss,
optimizer, steps, batches and seed; the token towers read a SentencePiece model trained on the very
captions and sentences. One table: parameters, pairs per second, hit rates in a batch, retrieval,
GLUE slices, modality gap and separability, each with chance and 95 % interval. A run that is there
already is not made again, so a stopped benchmark goes on. Writes towers.json and towers.md into
--out.

Read it as: differences between towers at this small scale, one seed unless --seeds says more. A
small page cuts off long texts, which only CLIPPO suffers from (`captions cut`); the token towers
read whole ones. It reproduces no number of the paper.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clippo_core import config, models
from clippo_core.config import EvaluateConfig, ModelConfig, RetrievalConfig, RunConfig, presets
from clippo_core.config.small import TINY
from clippo_core.rendering import Renderer
from clippo_core.run import journal
from clippo_core.run.contents import benchmark_digest
from clippo_core.run.records import (
    CheckpointInfo,
    EvalResult,
    EvaluatePlan,
    Manifest,
    PretrainPlan,
    StagePlan,
)

OUT = Path(__file__).resolve().parent / "out" / "towers"
TOWERS = ("clippo", "one_tower_clip", "two_tower_clip")
SHARES = (0.0, 0.25)
LAST_STEPS = 50
"""Steps behind the hit rate on training batches."""
COLUMNS = (
    "parameters", "pairs_per_second", "captions_cut", "loss",
    "training/batch_hit_rate", "held_out/batch_hit_rate",
    *(
        f"{name}/{way}_recall@{k}"
        for name in ("flickr8k", "flickr30k") for k in (1, 10) for way in ("i2t", "t2i")
    ),
    "modality_gap", "linear_separability", "matched_cosine",
)  # fmt: skip


def main() -> None:
    """Run what is missing, print the table."""
    chosen = _options()
    if not chosen.data:
        print(
            "not run: --data names no folder with flickr8k, flickr30k_multi30k, c4_like,"
            " multi30k_text and glue"
        )
        return
    rows: list[dict[str, Any]] = []
    for seed, share in itertools.product(range(chosen.seeds), SHARES):
        base = _recipe(chosen, share, seed)
        manifest = write_run_shards(base)
        tokenizer = train_run_tokenizer(base, chosen.vocab)
        runs = {
            kind: dataclasses.replace(base, model=tower_model(base, kind, tokenizer))
            for kind in TOWERS
        }
        speeds = _speeds(runs)
        for kind, run in runs.items():
            row = {
                "tower": kind,
                "sentence_pairs": share,
                "seed": seed,
                "pairs_per_second": speeds[kind],
            }
            rows.append(row | _row(run, manifest, f"{base.root}/{kind}"))
            _write(rows, Path(chosen.out), chosen)
    print((Path(chosen.out) / "towers.md").read_text(encoding="utf-8"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default="",
        help="folder with flickr8k, flickr30k_multi30k, c4_like, multi30k_text and glue",
    )
    parser.add_argument("--out", default=str(OUT))
    parser.add_argument("--steps", type=int, default=540)
    parser.add_argument("--image-px", type=int, default=96)
    parser.add_argument("--batch-pairs", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument(
        "--vocab",
        type=int,
        default=2000,
        help="pieces of the SentencePiece model: a quarter of the tower's parameters",
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--limit", type=int, default=0, help="records of each source and GLUE task, for a try"
    )
    parser.add_argument(
        "--glue-tasks", nargs="*", default=["SST-2", "CoLA", "STS-B"], help="none = no GLUE"
    )
    return parser.parse_args()


def _recipe(chosen: argparse.Namespace, share: float, seed: int) -> RunConfig:
    """The preset on real slices with the demo's tower, with photos alone or with sentence pairs
    too, in a folder of its own.
    """
    run = presets.slices(
        chosen.data, image_px=chosen.image_px, steps=chosen.steps, batch_pairs=chosen.batch_pairs
    )
    sources = tuple(source for source in run.data.sources if source.has_photos or share)
    glue = run.evaluate.glue
    assert glue is not None
    finetune = dataclasses.replace(glue.finetune, learning_rates=(3e-4,))
    tasks = tuple(chosen.glue_tasks)
    glue = (
        dataclasses.replace(glue, tasks=tasks, limit_train=chosen.limit, finetune=finetune)
        if tasks
        else None
    )
    name = f"{round(100 * share)}-percent-sentences-seed-{seed}"
    return config.replace(
        run,
        name=name,
        root=f"{chosen.out}/{name}",
        seed=seed,
        model=TINY,
        data__sources=tuple(dataclasses.replace(source, limit=chosen.limit) for source in sources),
        data__text_pair_share=share,
        optim__lr=chosen.lr,
        optim__timescale_steps=chosen.steps,
        train__precision=chosen.precision,
        evaluate=EvaluateConfig(
            retrieval=run.evaluate.retrieval, glue=glue, batch_size=run.evaluate.batch_size
        ),
    )


def write_run_shards(run: RunConfig) -> Manifest:
    from clippo_core.data import prepare

    stage = StagePlan(f"{run.root}/data", run.seed, config.digest(run.data))
    judged = prepare.validate(stage, run.data, run.render, run.evaluate)
    return prepare.write_shards(stage, run.data, run.render, judged)


def train_run_tokenizer(run: RunConfig, size: int) -> str:
    """A SentencePiece model of all captions and sentences of the run's own sources."""
    path = Path(run.root) / f"sentencepiece-{size}.model"
    if not path.is_file():
        models.train_tokenizer(models.corpus(run.data), str(path), size)
    return str(path)


def tower_model(run: RunConfig, kind: Any, tokenizer: str) -> ModelConfig:
    """The tower; for tokens as many places as the image has patches, as in the paper (196 at 224
    px).
    """
    if kind == "clippo":
        return run.model
    return dataclasses.replace(
        run.model,
        kind=kind,
        tokenizer=tokenizer,
        text_tokens=(run.render.image_px // ModelConfig.PATCH_PX) ** 2,
    )


def _speeds(runs: dict[str, RunConfig], rounds: int = 7) -> dict[str, float]:
    """Pairs per second of CPU time, over all threads: forward, loss, backward and update, the
    towers taking turns on equal batches.

    CPU time and turns, because other processes on the machine would otherwise favour whichever
    tower trained while it was quiet. Reading photos and drawing or tokenizing texts is not in it:
    with these sizes about a hundredth of a step (the journals' `data_wait_share`).
    """
    from clippo_core.engine import contrastive_step, make_engine

    steps = {}
    for kind, run in runs.items():
        captions = list(itertools.islice(models.corpus(run.data), run.train.batch_pairs))
        texts = torch.from_numpy(models.text_encoder(run.model, run.render)(captions))
        n_texts = round(run.data.text_pair_share * len(captions))
        photos = torch.randint(
            0,
            256,
            (len(captions) - n_texts, 3, run.render.image_px, run.render.image_px),
            dtype=torch.uint8,
        )
        tower = models.build_tower(run.model, run.render.image_px)
        engine = make_engine(
            tower,
            run.optim,
            decayed=tower.decayed,
            views=tower.views,
            precision=run.train.precision,
            device="cpu",
        )
        steps[kind] = (engine, (photos, texts[:n_texts], texts))
    seconds: dict[str, list[float]] = {kind: [] for kind in runs}
    for kind in list(steps) * (rounds + 1):
        engine, batch = steps[kind]
        start = time.process_time()
        contrastive_step(engine, *batch)
        engine.update(1e-6)
        seconds[kind].append(time.process_time() - start)
    return {
        kind: len(steps[kind][1][2]) / float(np.median(found[1:]))
        for kind, found in seconds.items()
    }


def _row(run: RunConfig, manifest: Manifest, root: str) -> dict[str, Any]:
    """Train, and everything that one column of the table says; beside it chance, interval and n by
    metric.
    """
    from clippo_core.evaluate.glue import protocol as glue
    from clippo_core.evaluate.retrieval import protocol as retrieval
    from clippo_core.report.watch import Watch
    from clippo_core.train.loop import pretrain

    stage = StagePlan(root, run.seed, manifest.data_digest)
    plan = PretrainPlan(stage, run.data, run.render, run.model, run.optim, run.train)
    checkpoint = pretrain(plan, manifest, watch=Watch)
    tower = models.build_tower(run.model, run.render.image_px, device="meta")
    last = journal.read(checkpoint.journal)[-LAST_STEPS:]
    pairs = run.train.batch_pairs
    row: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in tower.parameters()),
        "captions_cut": _captions_cut(run),
        "loss": checkpoint.loss,
        "training/batch_hit_rate": 100 * float(np.mean([line["accuracy"] for line in last])),
        "chance": {"loss": float(np.log(pairs)), "training/batch_hit_rate": 100 / pairs},
        "confidence": {},
        "n": {"training/batch_hit_rate": len(last) * pairs},
        "not_run": {},
    }
    galleries = _galleries(run)
    for gallery in galleries:
        one = EvaluateConfig(retrieval=(gallery,))
        content = benchmark_digest(one, "retrieval")
        plan = EvaluatePlan(StagePlan(f"{root}/{gallery.dataset}", run.seed, content), one)
        _add(row, retrieval.run(checkpoint.uri, plan))
    _add_held_out(row, checkpoint, galleries[-1], pairs)
    if run.evaluate.glue:
        content = benchmark_digest(run.evaluate, "glue")
        one = EvaluateConfig(glue=run.evaluate.glue)
        _add(row, glue.run(checkpoint.uri, EvaluatePlan(StagePlan(root, run.seed, content), one)))
    return row


def _captions_cut(run: RunConfig) -> float:
    """Percent of the photos' captions that the page, or the length in tokens, cuts off."""
    captions = list(
        models.corpus(config.replace(run.data, sources=run.data.sources[:2], text_pair_share=0.0))
    )
    if run.model.kind == "clippo":
        return 100 * float(Renderer.from_config(run.render).census(captions).cut.mean())
    ids = models.load_tokenizer(run.model.tokenizer).encode([text.lower() for text in captions])
    return 100 * float(np.mean([len(one) >= run.model.text_tokens for one in ids]))


def _galleries(run: RunConfig) -> list[RetrievalConfig]:
    """Flickr30k's test photos, and Flickr8k's, which are more."""
    (flickr30k,), source = run.evaluate.retrieval, run.data.sources[0]
    return [
        flickr30k,
        RetrievalConfig(source.path, source.images, dataset="flickr8k", expect_images=1000),
    ]


def _add(row: dict[str, Any], result: EvalResult) -> None:
    """Take over an evaluation's numbers; a failed one leaves its reason under the dataset's
    name.
    """
    for name, metric in result.metrics.items():
        if metric.value is None:
            row["not_run"][name] = metric.why_not
            continue
        row[name], row["n"][name] = metric.value, metric.n
        if metric.chance is not None:
            row["chance"][name] = metric.chance
        if metric.bounds:
            row["confidence"][name] = metric.bounds
    if result.failure:
        row["not_run"][result.dataset] = result.failure


def _add_held_out(
    row: dict[str, Any], checkpoint: CheckpointInfo, gallery: RetrievalConfig, pairs: int
) -> None:
    """Gap, separability and the hit rate in batches as large as in training, on test photos, each
    with its first caption.
    """
    from clippo_core.data.sources.photos import karpathy_records
    from clippo_core.embedder import Clippo
    from clippo_core.measure.geometry import geometry

    records = list(karpathy_records(gallery.annotations, gallery.images, gallery.split))
    model = Clippo.load(checkpoint.uri)
    images, texts = (
        model.embed_images([record.image for record in records]),
        model.embed_texts([record.texts[0] for record in records]),
    )
    found = geometry(images, texts)
    row |= {
        name: getattr(found, name)
        for name in ("modality_gap", "linear_separability", "matched_cosine")
    }
    row["chance"]["linear_separability"] = 0.5
    hits = []
    for low in range(0, len(records) - pairs + 1, pairs):
        scores = images[low : low + pairs] @ texts[low : low + pairs].T
        hits += [scores.argmax(axis) == np.arange(pairs) for axis in (0, 1)]
    name = "held_out/batch_hit_rate"
    if hits:
        row[name], row["chance"][name], row["n"][name] = (
            100 * float(np.mean(hits)),
            100 / pairs,
            len(hits) * pairs // 2,
        )
    row["n"] |= dict.fromkeys(
        ("modality_gap", "linear_separability", "matched_cosine"), len(records)
    )


def _write(rows: list[dict[str, Any]], folder: Path, chosen: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {name: value for name, value in vars(chosen).items() if name not in ("data", "out")}
    facts |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    (folder / "towers.json").write_text(
        json.dumps({"recipe": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    names = [
        f"{row['tower']}, {round(100 * row['sentence_pairs'])} % sentences, seed {row['seed']}"
        for row in rows
    ]
    lines = ["| | n | chance | " + " | ".join(names) + " |", "|---" * (len(rows) + 3) + "|"]
    for column in (
        *COLUMNS,
        *sorted({name for row in rows for name in row if name.startswith("glue/")}),
    ):
        if any(isinstance(row.get(column), (int, float)) for row in rows):
            known = {
                what: next((row[what][column] for row in rows if column in row[what]), None)
                for what in ("n", "chance")
            }
            cells = [
                _number(known["n"]),
                _number(known["chance"]),
                *[_cell(row, column) for row in rows],
            ]
            lines.append(f"| {column} | " + " | ".join(cells) + " |")
    (folder / "towers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(row: dict[str, Any], column: str) -> str:
    if column not in row:
        return str(row["not_run"].get(column) or row["not_run"].get(column.partition("/")[0], "–"))
    bounds = row["confidence"].get(column)
    return _number(row[column]) + (
        f" [{_number(bounds[0])}, {_number(bounds[1])}]" if bounds else ""
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
    main()
