"""Does a tower that never saw a photo learn SST-2 and QNLI, from sentences that it reads as pixels?

    python benchmarks/sentences.py --data DATA [--seeds 0 1 2]

A small tower is trained on sentence pairs alone: consecutive sentences, and sentences with their translation (c4_like, multi30k_text and
wmt21_newstest under DATA). Then the whole of it is fine-tuned on the GLUE slices, one learning rate, the last epoch reported, so that
nothing is chosen on the dev set that is scored. Letters are drawn one to a patch (monospace), so that a word looks the same wherever it
stands. Beside it: the same fine-tuning from the tower's initial weights (one step of training at a learning rate of next to zero), a
scikit-learn logistic regression on words, and the majority class. One row a seed. What is there already is not made again. Writes
benchmarks/out/sentences/sentences.json and .md.

Read it as: whether pixels and pretraining carry anything to a language task at this small scale. It reproduces no number of the paper.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from clippo_core import config, presets
from clippo_core.config import EvaluateConfig, FinetuneConfig, GlueConfig, RunConfig, SourceConfig
from clippo_core.evaluate.glue_files import TASKS, Rows, read_split
from clippo_core.records import CheckpointInfo, EvalResult, EvaluatePlan, Manifest, PretrainPlan, RenderPlan, StagePlan, ValidatePlan

OUT = Path(__file__).resolve().parent / "out" / "sentences"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with c4_like, multi30k_text, wmt21_newstest and glue")
    parser.add_argument("--out", default=str(OUT))
    parser.add_argument("--image-px", type=int, default=160)
    parser.add_argument("--layout", choices=("monospace", "reference"), default="monospace", help="monospace: one character a patch")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-pairs", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the pretraining")
    parser.add_argument("--tasks", nargs="+", default=["SST-2"])
    parser.add_argument("--finetune-lr", type=float, default=3e-4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    rows = [{"start": f"words, logistic regression ({task})", "seed": None, **_words(chosen.data, task)} for task in chosen.tasks]
    for seed in chosen.seeds:
        run = _recipe(chosen, seed)
        manifest = _shards(run)
        for start in ("initial weights", "sentence pairs"):
            checkpoint = _pretrain(run, manifest, trained=start == "sentence pairs")
            result = _finetune(run, checkpoint, f"{run.root}/glue/{start.replace(' ', '-')}")
            rows.append({"start": start, "seed": seed, "loss": checkpoint.loss, **_row(result)})
            _write(rows, Path(chosen.out), chosen)
    print((Path(chosen.out) / "sentences.md").read_text(encoding="utf-8"))


def _recipe(chosen: argparse.Namespace, seed: int) -> RunConfig:
    """The preset on real slices, with its sentence pairs alone and WMT's beside them, in a folder of its own."""
    base = presets.slices(chosen.data, image_px=chosen.image_px, steps=chosen.steps, batch_pairs=chosen.batch_pairs)
    sources = tuple(source for source in base.data.sources if not source.has_photos)
    sources += (SourceConfig("tsv", f"{chosen.data}/wmt21_newstest/parallel.tsv", name="wmt21"),)
    tuning = FinetuneConfig(batch_size=32, epochs=chosen.epochs, learning_rates=(chosen.finetune_lr,))
    evaluate = EvaluateConfig(glue=GlueConfig(f"{chosen.data}/glue", tasks=tuple(chosen.tasks), finetune=tuning))
    run = dataclasses.replace(
        base,
        name=f"seed-{seed}",
        root=f"{chosen.out}/seed-{seed}",
        seed=seed,
        data=dataclasses.replace(base.data, sources=sources, text_pair_share=1.0),
        render=dataclasses.replace(base.render, monospace=chosen.layout == "monospace"),
        model=dataclasses.replace(base.model, depth=chosen.depth),
        evaluate=evaluate,
    )
    return config.replace(run, optim__lr=chosen.lr)


def _shards(run: RunConfig) -> Manifest:
    from clippo_core.data.expectations import validate
    from clippo_core.data.shards import write_shards

    stage = StagePlan(f"{run.root}/data", run.seed, config.digest(run.data))
    report = validate(ValidatePlan(stage, run.data, run.render, run.evaluate))
    return write_shards(RenderPlan(stage, run.data, run.render), report)


def _pretrain(run: RunConfig, manifest: Manifest, *, trained: bool) -> CheckpointInfo:
    from clippo_core.train.loop import pretrain

    stage = StagePlan(f"{run.root}/{'trained' if trained else 'initial'}", run.seed, manifest.data_digest)
    optim, train = run.optim, run.train
    if not trained:
        optim = dataclasses.replace(optim, lr=1e-12)
        train = dataclasses.replace(train, steps=1)
    return pretrain(PretrainPlan(stage, run.data, run.render, run.model, optim, train), manifest)


def _finetune(run: RunConfig, checkpoint: CheckpointInfo, root: str) -> EvalResult:
    from clippo_core.evaluate import glue

    return glue.run(checkpoint.uri, EvaluatePlan(StagePlan(root, run.seed, "glue"), run.evaluate))


def _row(result: EvalResult) -> dict[str, Any]:
    if result.failure:
        return {"failure": result.failure}
    return {
        name: {
            "value": value,
            "interval": result.confidence[name],
            "chance": result.chance[name],
            "n": result.n_by_metric[name],
            "flag": result.flags.get(name, ""),
        }
        for name, value in result.metrics.items()
    }


def _words(data: str, name: str) -> dict[str, Any]:
    """Accuracy of words counted, whoever reads them: what the training rows have to give."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    task = TASKS[name]
    train, dev = (read_split(f"{data}/glue", task, split) for split in ("train", "dev"))
    words = TfidfVectorizer(sublinear_tf=True)
    counted = words.fit_transform(_joined(train))
    model = LogisticRegression(C=10, max_iter=1000).fit(counted, train.labels)
    right = float(np.mean(model.predict(words.transform(_joined(dev))) == dev.labels))
    return {f"{name} accuracy": {"value": 100 * right, "n": len(dev)}}


def _joined(rows: Rows) -> list[str]:
    return [f"{first} {second}" for first, second in zip(rows.first, rows.second or [""] * len(rows), strict=True)]


def _write(rows: list[dict[str, Any]], folder: Path, chosen: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {name: value for name, value in vars(chosen).items() if name not in ("data", "out")}
    (folder / "sentences.json").write_text(json.dumps({"recipe": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    lines = ["| start | seed | loss of pretraining | number | value | 95 % interval | chance | n |", "|---" * 8 + "|"]
    for row in rows:
        loss = f"{row['loss']:.2f}" if "loss" in row else ""
        for name, found in row.items():
            if not isinstance(found, dict):
                continue
            low, high = found.get("interval") or (None, None)
            interval = f"{low:.1f} – {high:.1f}" if low is not None else ""
            chance = f"{found['chance']:.1f}" if "chance" in found else ""
            seed = "" if row["seed"] is None else row["seed"]
            lines.append(f"| {row['start']} | {seed} | {loss} | {name} | {found['value']:.1f} | {interval} | {chance} | {found['n']} |")
        if "failure" in row:
            lines.append(f"| {row['start']} | {row['seed']} | {loss} | failed: {row['failure']} | | | | |")
    (folder / "sentences.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
