"""GLUE as pixels: the sentences of an example drawn on one canvas, the whole tower fine-tuned, nine numbers and their mean.

    "first [SEP] second" ─▶ canvas (or tokens, for the towers that read tokens) ─▶ pooled ─▶ Linear, tanh, Linear ─▶ class or score

    glue/mnli_m_accuracy  mnli_mm_accuracy  qqp_f1  qnli_accuracy  sst2_accuracy  cola_matthews  stsb_spearman  mrpc_f1  rte_accuracy
    glue/average          the plain mean of the nine, only where all nine are there

Sources: the paper, section 4.3 and its README's tables; BERT's protocol (batch 32, 3 epochs, best of several learning rates on dev). The
hidden width of the head (the tower's), tanh (BERT's pooler) and the separator are choices where the paper's text could not be read. It
is not the benchmark's server: dev sets are scored, and chosen on, as the paper does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clippo_core import storage
from clippo_core.config import GlueConfig, require
from clippo_core.embedder import Clippo
from clippo_core.errors import ClippoError, DataError, EvaluationError, Preempted
from clippo_core.evaluate import resampled, results
from clippo_core.evaluate.finetune import Sweep, join_ranks, sweep
from clippo_core.evaluate.glue_files import TASKS, GlueTask, Rows
from clippo_core.evaluate.glue_tasks import TaskRows, baseline, make_problem, number_splits, predictions, read_task, texts
from clippo_core.evaluate.metrics import GLUE_METRICS, glue_average, glue_score, is_constant
from clippo_core.provenance import code_digest
from clippo_core.records import EvalResult, EvaluatePlan
from clippo_core.rendering.compose import join_pair

MAX_CUT_SHARE = 0.05
"""Share of a dev set's texts that the page may cut off before its number is flagged: what isn't drawn can't be read."""


@dataclass
class _Found:
    """What the tasks leave behind, by metric name."""

    values: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {k: {} for k in ("metrics", "confidence", "chance", "n_by_metric", "flags", "not_run", "counts")}
    )
    predictions: dict[str, list[Any]] = field(
        default_factory=lambda: {k: [] for k in ("task", "row", "first", "second", "truth", "prediction", "correct")}
    )
    draws: dict[str, np.ndarray] = field(default_factory=dict)
    """Number's key -> its bootstrap draws, independent of the others'."""
    seconds: dict[str, float] = field(default_factory=dict)


def run(checkpoint: str, plan: EvaluatePlan, *, progress: bool = True) -> EvalResult:
    """Fine-tune and score every task of `plan.evaluate.glue`; skips what exists, goes on where a killed run stopped.

    Runs in one process, or in every rank of a process group. A task whose files are missing or wrong is `not_run` with the reason;
    where the checkpoint can't be read or no task is left, the result is a failure that says why.
    """
    config = plan.evaluate.glue
    require(config is not None, "plan.evaluate.glue is None; give the evaluation its config.")
    assert config is not None
    for name in config.tasks:
        require(name in TASKS, f"glue.tasks has {name!r}; use {', '.join(TASKS)}.")
    folder = results.evaluation_folder(plan, "glue")
    known: dict[str, Any] = {"is_demo": plan.is_demo}
    return results.guarded("glue", config.dataset, folder, lambda: _run(checkpoint, plan, config, folder, known, progress), known)


def _run(checkpoint: str, plan: EvaluatePlan, config: GlueConfig, folder: str, known: dict[str, Any], progress: bool) -> EvalResult:
    model = Clippo.load(checkpoint, device=join_ranks())
    known |= {"weights_sha256": model.weights_sha256, "render_digest": model.render_digest, "code_digest": code_digest(__name__)}
    found = _Found()
    tasks = _read_tasks(config, found)
    if not tasks:
        reasons = "; ".join(dict.fromkeys(found.values["not_run"].values()))
        raise DataError(f"no task of GLUE can be run: {reasons}")
    files = {f"{t.task.name}/{name}": rows.sha256 for t in tasks for name, rows in {"train": t.train, **t.dev}.items()}
    wanted = results.inputs_digest(plan, "glue", **{k: known[k] for k in ("weights_sha256", "render_digest", "code_digest")}, files=files)
    finished = results.finished_result(folder, wanted)
    if finished is not None:
        return finished
    work = storage.join(folder, f"unfinished-{wanted[:16]}")
    for task in tasks:
        started = time.monotonic()
        _run_task(model, plan, config, task, work, found, progress)
        found.seconds[task.task.name] = time.monotonic() - started
    result = _result(plan, config, found, known, wanted, tasks)
    if results.is_first_rank():
        results.write_result(folder, result, found.predictions, _examples(model, config, plan.stage.seed, found), found.seconds)
        storage.delete(work)
    return result


def _read_tasks(config: GlueConfig, found: _Found) -> list[TaskRows]:
    """The tasks that can be run; the reason under `not_run` for every number that can't."""
    tasks = []
    for name in config.tasks:
        try:
            tasks.append(read_task(config, name))
            missing = tasks[-1].missing
        except ClippoError as error:
            missing = dict.fromkeys(number_splits(TASKS[name]), str(error))
        found.values["not_run"] |= {_metric(config, key): reason for key, reason in missing.items()}
    return tasks


def _run_task(model: Clippo, plan: EvaluatePlan, config: GlueConfig, task: TaskRows, work: str, found: _Found, progress: bool) -> None:
    """Fine-tune one task and note its numbers; a failure becomes `not_run`."""
    try:
        problem = make_problem(model, config, task)
        swept = sweep(
            model.tower,
            problem,
            config.finetune,
            seed=plan.stage.seed,
            folder=work,
            batch_size=plan.evaluate.batch_size,
            device=model.device,
            progress=progress,
        )
    except Preempted:
        raise
    except ClippoError as error:
        found.values["not_run"] |= {_metric(config, key): str(error) for key in task.dev}
        return
    first = next(iter(task.dev))
    for key, rows in task.dev.items():
        if model.tower.config.kind in ("clippo", "image_only"):
            n_cut = int(model.renderer.census(texts(rows, config)).cut.sum())
            found.values["counts"][f"{key}_dev_rows_cut_by_the_page"] = n_cut
        _score(plan, config, task, key, rows, swept, swept.outputs["scored" if key == first else key], found)
    counts = {
        "train_rows": len(task.train),
        "trials": len(swept.trials),
        "collapsed_trials": swept.n_collapsed,
        "skipped_rows": task.train.n_skipped + sum(rows.n_skipped for rows in task.dev.values()),
        "dev_rows_also_in_train": sum(len(rows.keys() & task.train.keys()) for rows in task.dev.values()),
    }
    found.values["counts"] |= {f"{task.task.folder}_{name}": count for name, count in counts.items()}


def _score(
    plan: EvaluatePlan, config: GlueConfig, task: TaskRows, key: str, rows: Rows, swept: Sweep, outputs: np.ndarray, found: _Found
) -> None:
    """Note one of the nine numbers with its interval, baseline, count, flags and predictions."""
    values, metric, kind = found.values, _metric(config, key), GLUE_METRICS[key]
    predicted = predictions(task.task, outputs)
    _note_predictions(task.task, key, rows, predicted, found)
    values["n_by_metric"][metric] = len(rows)
    values["chance"][metric] = 100 * baseline(kind, rows.labels, task.train.labels)
    notes = []
    if is_constant(predicted):
        said = task.task.labels[int(predicted[0])] if task.task.labels else f"{predicted[0]:.3g}"
        notes.append(f"degenerate: every prediction is {said!r}")
        if kind == "spearman":
            values["not_run"][metric] = f"{notes[0]}, so there is no rank correlation"
            del values["n_by_metric"][metric], values["chance"][metric]
            return
    notes += [f"{swept.n_collapsed} of {len(swept.trials)} trials collapsed"] if swept.n_collapsed else []
    n_cut = values["counts"].get(f"{key}_dev_rows_cut_by_the_page", 0)
    notes += [f"the page cuts off {100 * n_cut / len(rows):.0f} % of its texts"] if n_cut > MAX_CUT_SHARE * len(rows) else []
    if notes:
        values["flags"][metric] = "; ".join(notes)
    values["metrics"][metric] = 100 * glue_score(key, predicted, rows.labels)
    pairs, seed = np.stack([predicted, rows.labels], axis=1), [plan.stage.seed, list(GLUE_METRICS).index(key)]
    found.draws[key] = results.bootstrap_draws(pairs, plan.evaluate.bootstrap_samples, seed, statistic=resampled.BY_NAME[kind])
    values["confidence"][metric] = [100 * bound for bound in results.interval(found.draws[key])]


def _result(
    plan: EvaluatePlan, config: GlueConfig, found: _Found, known: dict[str, Any], wanted: str, tasks: Sequence[TaskRows]
) -> EvalResult:
    values: dict[str, Any] = found.values
    main = _note_average(config, found)
    if not main:
        raise EvaluationError("; ".join(dict.fromkeys(values["not_run"].values())))
    n_examples = sum(len(rows) for task in tasks for rows in task.dev.values())
    return EvalResult(
        name="glue",
        dataset=config.dataset,
        split="dev",
        protocol=_protocol(config),
        n_examples=n_examples,
        **values,
        main_metrics=main,
        **known,
        inputs_digest=wanted,
        is_partial=len(tasks) < len(TASKS) or any(task.is_partial for task in tasks),
    )


def _note_average(config: GlueConfig, found: _Found) -> list[str]:
    """Note the mean of the nine numbers, or why there is none; returns the metrics that stand for the evaluation."""
    values, average = found.values, f"{config.dataset}/average"
    names = {key: _metric(config, key) for key in GLUE_METRICS if _metric(config, key) in values["metrics"]}
    if len(names) < len(GLUE_METRICS):
        values["not_run"][average] = f"it is the mean of nine numbers, and {len(names)} of them are there"
        return list(names.values())
    values["metrics"][average] = glue_average({key: values["metrics"][name] for key, name in names.items()})
    values["chance"][average] = glue_average({key: values["chance"][name] for key, name in names.items()})
    values["n_by_metric"][average] = sum(values["n_by_metric"][name] for name in names.values())
    draws = np.mean([found.draws[key] for key in names], axis=0)
    values["confidence"][average] = [100 * bound for bound in results.interval(draws)]
    degenerate = [key for key, name in names.items() if values["flags"].get(name, "").startswith("degenerate")]
    if degenerate:
        values["flags"][average] = f"{', '.join(degenerate)} in it: degenerate"
    return [average]


def _protocol(config: GlueConfig) -> str:
    tuning = config.finetune
    stop = f", stopped after {tuning.patience_epochs} epochs without gain" if tuning.patience_epochs else ""
    limit = f", at most {tuning.max_steps} steps" if tuning.max_steps else ""
    rows = f", the first {config.limit_train} training rows" if config.limit_train else ""
    return (
        f"Sentence pairs joined by {config.separator!r} on one canvas; whole tower fine-tuned with a two-layer tanh head, AdamW, batch "
        f"{tuning.batch_size}, {tuning.epochs} epochs{stop}{limit}{rows}, warm-up {tuning.warmup_share:g}, weight decay "
        f"{tuning.weight_decay:g}, head rate x{tuning.head_lr_multiplier:g}; best on dev of {len(tuning.learning_rates)} trials with rates "
        f"{', '.join(f'{lr:g}' for lr in tuning.learning_rates)} (MNLI: on matched); chance is the majority class (F1: always positive)."
    )


def _note_predictions(task: GlueTask, key: str, rows: Rows, predicted: np.ndarray, found: _Found) -> None:
    def name(value: float) -> str:
        return task.labels[int(value)] if task.labels else f"{value:.4f}"

    columns = found.predictions
    n = len(rows)
    columns["task"] += [key] * n
    columns["row"] += list(range(n))
    columns["first"] += rows.first
    columns["second"] += rows.second or [""] * n
    columns["truth"] += [name(value) for value in rows.labels]
    columns["prediction"] += [name(value) for value in predicted]
    columns["correct"] += (predicted == rows.labels).tolist() if task.labels else [None] * n


def _examples(model: Clippo, config: GlueConfig, seed: int, found: _Found) -> list[dict[str, Any]]:
    """Six hits and six misses over all classification tasks, as the canvas that the tower sees."""
    columns = found.predictions
    judged = [i for i, correct in enumerate(columns["correct"]) if correct is not None]
    chosen = [judged[i] for i in results.hits_and_misses([columns["correct"][i] for i in judged], seed)]
    examples = []
    for i in chosen:
        first, second = columns["first"][i], columns["second"][i]
        text = join_pair(first, second, config.separator) if second else first
        drawn = [results.picture(model.renderer.render([text])[0])] if model.tower.config.kind == "clippo" else []
        shown = {"pictures": drawn, "asked": f"{columns['task'][i]}: {text}"}
        examples.append({"hit": columns["correct"][i], **shown, "predicted": columns["prediction"][i], "truth": columns["truth"][i]})
    return examples


def _metric(config: GlueConfig, key: str) -> str:
    return f"{config.dataset}/{key}_{GLUE_METRICS[key]}"
