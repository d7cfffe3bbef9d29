"""CLIPPO, 1T-CLIP and CLIP* by one recipe on the same photos and sentences: what does each cost, and what does each give?

    python benchmarks/towers.py --data DATA [--steps 1200] [--image-px 112] [--batch-pairs 128]

Six runs: three towers, each on photos with captions alone, and with a quarter of sentence pairs in every batch. Same trunk, loss,
optimizer, steps, batches and seed; the token towers read a SentencePiece model trained on the very captions and sentences. One table:
parameters, pairs a second in training, Flickr30k retrieval, the GLUE slices, modality gap and separability. A run that is there already
is not made again, so a stopped benchmark goes on. Writes benchmarks/out/towers/towers.json and .md.

Read it as: differences between towers at this small scale, one seed each unless --seeds says more. It reproduces no number of the paper.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from clippo_core import config, journal, presets
from clippo_core.config import EvaluateConfig, ModelConfig, RunConfig
from clippo_core.records import CheckpointInfo, EvaluatePlan, Manifest, PretrainPlan, RenderPlan, StagePlan, ValidatePlan

OUT = Path(__file__).resolve().parent / "out" / "towers"
TOWERS = ("clippo", "one_tower_clip", "two_tower_clip")
COLUMNS = (
    "parameters", "pairs_per_second", "loss", "flickr30k/i2t_recall@1", "flickr30k/t2i_recall@1", "flickr30k/i2t_recall@10",
    "flickr30k/t2i_recall@10", "glue/sst2_accuracy", "glue/mnli_m_accuracy", "glue/qqp_f1", "glue/stsb_spearman", "glue/cola_matthews",
    "modality_gap", "linear_separability", "matched_cosine",
)  # fmt: skip


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with flickr8k, flickr30k_multi30k, c4_like, multi30k_text and glue")
    parser.add_argument("--out", default=str(OUT))
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--image-px", type=int, default=112)
    parser.add_argument("--batch-pairs", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=8000, help="pieces of the SentencePiece model")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--limit", type=int, default=0, help="records of each source, for a try")
    parser.add_argument("--glue-tasks", nargs="*", help="e.g. SST-2 CoLA; none = no GLUE; default: all that the slices have")
    chosen = parser.parse_args()
    rows = []
    for seed in range(chosen.seeds):
        for share in (0.0, 0.25):
            base = _recipe(chosen, share, seed)
            manifest = _shards(base)
            tokenizer = _tokenizer(base, chosen.vocab)
            for kind in TOWERS:
                model = base.model if kind == "clippo" else _token_model(base.model, kind, tokenizer, chosen.image_px)
                run = dataclasses.replace(base, model=model)
                rows.append({"tower": kind, "sentence_pairs": share, "seed": seed, **_row(run, manifest, f"{base.root}/{kind}")})
                _write(rows, Path(chosen.out), chosen)
    print((Path(chosen.out) / "towers.md").read_text(encoding="utf-8"))


def _recipe(chosen: argparse.Namespace, share: float, seed: int) -> RunConfig:
    """The preset on real slices, with photos alone or with sentence pairs too, in a folder of its own."""
    run = presets.slices(chosen.data, image_px=chosen.image_px, steps=chosen.steps, batch_pairs=chosen.batch_pairs)
    sources = tuple(source for source in run.data.sources if source.has_photos or share)
    sources = tuple(dataclasses.replace(source, limit=chosen.limit) for source in sources)
    glue = run.evaluate.glue
    if glue and chosen.glue_tasks is not None:
        glue = dataclasses.replace(glue, tasks=tuple(chosen.glue_tasks)) if chosen.glue_tasks else None
    evaluate = EvaluateConfig(retrieval=run.evaluate.retrieval, glue=glue, batch_size=run.evaluate.batch_size)
    data = dataclasses.replace(run.data, sources=sources, text_pair_share=share)
    name = f"{round(100 * share)}-percent-sentences-seed-{seed}"
    changed = dataclasses.replace(run, name=name, root=f"{chosen.out}/{name}", seed=seed, data=data, evaluate=evaluate)
    return config.replace(changed, train__precision=chosen.precision)


def _shards(run: RunConfig) -> Manifest:
    from clippo_core.data.expectations import validate
    from clippo_core.data.shards import write_shards

    stage = StagePlan(f"{run.root}/data", run.seed, config.digest(run.data))
    report = validate(ValidatePlan(stage, run.data, run.render, run.evaluate))
    return write_shards(RenderPlan(stage, run.data, run.render), report)


def _tokenizer(run: RunConfig, size: int) -> str:
    """A SentencePiece model of all captions and sentences of the run's own sources."""
    from clippo_core.data.sources import PhotoRecord, read_source
    from clippo_core.models import train_tokenizer

    path = Path(run.root) / "sentencepiece.model"
    if not path.is_file():
        records = [record for source in run.data.sources for record in read_source(source) if not record.problem]
        texts = [
            text for record in records for text in (record.texts if isinstance(record, PhotoRecord) else (record.first, *record.texts))
        ]
        train_tokenizer(texts, str(path), size)
    return str(path)


def _token_model(model: ModelConfig, kind: Any, tokenizer: str, image_px: int) -> ModelConfig:
    """As many tokens as the image has patches, as in the paper (196 at 224 px)."""
    return dataclasses.replace(model, kind=kind, tokenizer=tokenizer, text_tokens=(image_px // 16) ** 2)


def _row(run: RunConfig, manifest: Manifest, root: str) -> dict[str, Any]:
    from clippo_core import models
    from clippo_core.evaluate import glue, retrieval
    from clippo_core.train.loop import pretrain

    stage = StagePlan(root, run.seed, manifest.data_digest)
    checkpoint = pretrain(PretrainPlan(stage, run.data, run.render, run.model, run.optim, run.train), manifest)
    tower = models.build_tower(run.model, run.render.image_px, device="meta")
    row: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in tower.parameters()),
        "pairs_per_second": statistics.median(line["pairs_per_second"] for line in journal.read(checkpoint.journal)),
        "loss": checkpoint.loss,
        **_geometry(run, checkpoint),
    }
    only = EvaluateConfig(batch_size=run.evaluate.batch_size)
    for name, evaluate in (("retrieval", retrieval.run), ("glue", glue.run)):
        if getattr(run.evaluate, name):
            plan = EvaluatePlan(stage, dataclasses.replace(only, **{name: getattr(run.evaluate, name)}))
            result = evaluate(checkpoint.uri, plan)
            row |= {"failure": result.failure} if result.failure else result.metrics
    return row


def _geometry(run: RunConfig, checkpoint: CheckpointInfo) -> dict[str, float]:
    """Gap and separability on the photos that retrieval is asked about, each with its first caption."""
    from clippo_core.analysis.geometry import measure
    from clippo_core.data.sources import read_karpathy
    from clippo_core.embedder import Clippo

    asked = run.evaluate.retrieval
    assert asked is not None
    records = read_karpathy(asked.annotations, asked.images, split=asked.split)
    found = measure(Clippo.load(checkpoint.uri), [record.image for record in records], [record.texts[0] for record in records])
    return {name: getattr(found, name) for name in ("modality_gap", "linear_separability", "matched_cosine")}


def _write(rows: list[dict[str, Any]], folder: Path, chosen: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {name: value for name, value in vars(chosen).items() if name not in ("data", "out")}
    (folder / "towers.json").write_text(json.dumps({"recipe": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    names = [f"{row['tower']}, {round(100 * row['sentence_pairs'])} % sentences, seed {row['seed']}" for row in rows]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(rows) + 1) + "|"]
    for column in COLUMNS:
        values = [row.get(column) for row in rows]
        if any(value is not None for value in values):
            cells = ["–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}" for value in values]
            lines.append(f"| {column} | " + " | ".join(cells) + " |")
    (folder / "towers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
