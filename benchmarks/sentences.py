"""Does a tower that never saw a photo learn a language task, from sentences alone?

    python benchmarks/sentences.py --data DATA [--tasks SST-2 QNLI] [--seeds 0 1 2]

A small tower is trained on sentence pairs: consecutive sentences, and sentences with their
translation (c4_like, multi30k_text and wmt21_newstest under DATA); CLIPPO on pixels, 1T-CLIP on
SentencePiece tokens. Then the whole of it is fine-tuned on the GLUE slices: one learning rate, the
last epoch reported, so that nothing is chosen on the dev set that is scored (rate and epochs were
chosen on a quarter of SST-2's training rows). Letters are drawn one to a patch (monospace), so that
a word looks the same wherever it stands. Beside it: the same fine-tuning from the initial weights
(one step at a learning rate of next to zero), a logistic regression on counted words, and the
majority class. What is there already is not made again. Writes
benchmarks/out/sentences/sentences.json and .md.

Read it as: what pixels, tokens and pretraining carry to a language task at this small scale. It
reproduces no number of the paper.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from towers import tower_model, train_run_tokenizer, write_run_shards

from clippo_core import config
from clippo_core.config import (
    EvaluateConfig,
    FinetuneConfig,
    GlueConfig,
    RunConfig,
    SourceConfig,
    presets,
)
from clippo_core.evaluate.glue import protocol as glue
from clippo_core.evaluate.glue.files import TASKS, Rows, read_split
from clippo_core.report.watch import Watch
from clippo_core.run.contents import benchmark_digest
from clippo_core.run.records import (
    CheckpointInfo,
    EvalResult,
    EvaluatePlan,
    Manifest,
    PretrainPlan,
    StagePlan,
)
from clippo_core.train.loop import pretrain

OUT = Path(__file__).resolve().parent / "out" / "sentences"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", required=True, help="folder with c4_like, multi30k_text, wmt21_newstest and glue"
    )
    parser.add_argument("--out", default=str(OUT))
    parser.add_argument("--image-px", type=int, default=160)
    parser.add_argument(
        "--layout",
        choices=("monospace", "reference"),
        default="monospace",
        help="monospace: one character a patch",
    )
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-pairs", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the pretraining")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=["SST-2"],
        choices=[name for name, task in TASKS.items() if task.labels],
    )
    parser.add_argument(
        "--towers",
        nargs="+",
        default=["clippo", "one_tower_clip"],
        choices=("clippo", "one_tower_clip", "two_tower_clip"),
    )
    parser.add_argument("--vocab", type=int, default=8000, help="pieces of the SentencePiece model")
    parser.add_argument("--finetune-lr", type=float, default=1.5e-4)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    chosen = parser.parse_args()
    rows = [
        {
            "tower": "words counted, logistic regression",
            "start": "",
            "seed": "",
            **_words(chosen.data, task),
        }
        for task in chosen.tasks
    ]
    for seed in chosen.seeds:
        base = _recipe(chosen, seed)
        manifest = write_run_shards(base)
        tokenizer = train_run_tokenizer(base, chosen.vocab)
        content = benchmark_digest(base.evaluate, "glue")
        for kind in chosen.towers:
            run = dataclasses.replace(base, model=tower_model(base, kind, tokenizer))
            for start in ("initial weights", "sentence pairs"):
                root = f"{base.root}/{kind}/{start.replace(' ', '-')}"
                checkpoint = _pretrain(run, manifest, root, trained=start == "sentence pairs")
                result = glue.run(
                    checkpoint.uri, EvaluatePlan(StagePlan(root, seed, content), run.evaluate)
                )
                rows.append(
                    {
                        "tower": kind,
                        "start": start,
                        "seed": seed,
                        "loss": checkpoint.loss,
                        **_row(result),
                    }
                )
                _write(rows, Path(chosen.out), chosen)
    print((Path(chosen.out) / "sentences.md").read_text(encoding="utf-8"))


def _recipe(chosen: argparse.Namespace, seed: int) -> RunConfig:
    """The preset on real slices, with its sentence pairs alone and WMT's beside them, in a folder
    of its own.
    """
    base = presets.slices(
        chosen.data, image_px=chosen.image_px, steps=chosen.steps, batch_pairs=chosen.batch_pairs
    )
    sources = tuple(source for source in base.data.sources if not source.has_photos)
    sources += (SourceConfig("tsv", f"{chosen.data}/wmt21_newstest/parallel.tsv", name="wmt21"),)
    tuning = FinetuneConfig(
        batch_size=32, epochs=chosen.epochs, learning_rates=(chosen.finetune_lr,)
    )
    evaluate = EvaluateConfig(
        glue=GlueConfig(f"{chosen.data}/glue", tasks=tuple(chosen.tasks), finetune=tuning)
    )
    return config.replace(
        base,
        name=f"seed-{seed}",
        root=f"{chosen.out}/seed-{seed}",
        seed=seed,
        data__sources=sources,
        data__text_pair_share=1.0,
        render__monospace=chosen.layout == "monospace",
        model__depth=chosen.depth,
        optim__lr=chosen.lr,
        evaluate=evaluate,
    )


def _pretrain(run: RunConfig, manifest: Manifest, root: str, *, trained: bool) -> CheckpointInfo:
    optim, train = run.optim, run.train
    if not trained:
        optim = dataclasses.replace(optim, lr=1e-12)
        train = dataclasses.replace(train, steps=1)
    stage = StagePlan(root, run.seed, manifest.data_digest)
    plan = PretrainPlan(stage, run.data, run.render, run.model, optim, train)
    return pretrain(plan, manifest, watch=Watch)


def _row(result: EvalResult) -> dict[str, Any]:
    if result.failure:
        return {"failure": result.failure}
    return {
        name: {
            "value": metric.value,
            "interval": metric.bounds,
            "chance": metric.chance,
            "n": metric.n,
            "flag": metric.flag,
        }
        for name, metric in result.metrics.items()
        if metric.value is not None
    }


def _words(data: str, name: str) -> dict[str, Any]:
    """Accuracy of words counted, whoever reads them: what the training rows have to give."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    task = TASKS[name]
    train, dev = (
        read_split(f"{data}/glue", task, split) for split in ("train", next(iter(task.dev)))
    )
    words = TfidfVectorizer(sublinear_tf=True)
    counted = words.fit_transform(_joined(train))
    model = LogisticRegression(C=10, max_iter=1000).fit(counted, train.labels)
    right = float(np.mean(model.predict(words.transform(_joined(dev))) == dev.labels))
    return {f"{name} accuracy": {"value": 100 * right, "n": len(dev)}}


def _joined(rows: Rows) -> list[str]:
    return [
        f"{first} {second}"
        for first, second in zip(rows.first, rows.second or [""] * len(rows), strict=True)
    ]


def _write(rows: list[dict[str, Any]], folder: Path, chosen: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {name: value for name, value in vars(chosen).items() if name not in ("data", "out")}
    (folder / "sentences.json").write_text(
        json.dumps({"recipe": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    lines = [
        (
            "| tower | start | seed | loss of pretraining | number | value | 95 % interval | chance"
            " | n |"
        ),
        "|---" * 9 + "|",
    ]
    for row in rows:
        loss = f"{row['loss']:.2f}" if "loss" in row else ""
        head = f"| {row['tower']} | {row['start']} | {row['seed']} | {loss} | "
        for name, found in row.items():
            if not isinstance(found, dict):
                continue
            low, high = found.get("interval") or (None, None)
            interval = f"{low:.1f} – {high:.1f}" if low is not None else ""
            chance = f"{found['chance']:.1f}" if "chance" in found else ""
            lines.append(
                f"{head}{name} | {found['value']:.1f} | {interval} | {chance} | {found['n']} |"
            )
        if "failure" in row:
            lines.append(f"{head}failed: {row['failure']} | | | | |")
    (folder / "sentences.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
