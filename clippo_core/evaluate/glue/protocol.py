"""GLUE as pixels: the sentences of an example rendered on one canvas, the whole tower fine-tuned,
nine numbers and their mean.

    "first [SEP] second" ─▶ canvas (tokens, for the towers that read tokens) ─▶ pooled
                         ─▶ Linear, tanh, Linear ─▶ class or score

    glue/mnli_m_accuracy  mnli_mm_accuracy  qqp_f1  qnli_accuracy  sst2_accuracy
         cola_matthews  stsb_spearman  mrpc_f1  rte_accuracy
    glue/average          the plain mean of the nine, only where all nine are there

Sources: the paper, section 4.3 and its README's tables; BERT's protocol (batch 32, 3 epochs, best
of several learning rates on dev). The hidden width of the head (the tower's), tanh (BERT's pooler)
and the separator are choices where the paper's text could not be read. Dev sets are
scored, and chosen on, as the paper does; the benchmark's server is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clippo_core.config import GlueConfig, require
from clippo_core.data.thumbnails import data_uri
from clippo_core.errors import ClippoError, DataError, EvaluationError, Preempted
from clippo_core.evaluate import bootstrap, results
from clippo_core.evaluate.checks import is_constant
from clippo_core.evaluate.finetune.sweep import Sweep, fine_tune, join_ranks
from clippo_core.evaluate.glue.files import TASKS, Rows
from clippo_core.evaluate.glue.scores import GLUE_METRICS, STATISTICS, glue_average, glue_score
from clippo_core.evaluate.glue.tasks import (
    TaskRows,
    baseline,
    make_problem,
    number_splits,
    predictions,
    read_task,
    texts,
)
from clippo_core.evaluate.harness import Session, evaluate
from clippo_core.rendering.compose import join_pair
from clippo_core.run.records import EvalResult, EvaluatePlan

MAX_CUT_SHARE = 0.05
"""Share of a dev set's texts that the page may cut off before its number is flagged: what isn't
drawn can't be read."""
AVERAGE = "average"


def run(checkpoint: str, plan: EvaluatePlan, *, progress: bool = True) -> EvalResult:
    """Fine-tune and score every task of `plan.evaluate.glue`; skips what exists, goes on where a
    killed run stopped.

    Runs in one process, or in every rank of a process group. A task whose files are missing or
    wrong is `not_run` with the reason; where the checkpoint can't be read or no task is left, the
    result is a failure that says why.
    """
    for name in plan.evaluate.glue.tasks if plan.evaluate.glue else ():
        require(name in TASKS, f"glue.tasks has {name!r}; use {', '.join(TASKS)}.")
    return evaluate("glue", checkpoint, plan, progress, _evaluate, join_ranks())


def _evaluate(session: Session) -> None:
    config: GlueConfig = session.config
    tasks = _read_tasks(session)
    if not tasks:
        raise DataError(f"no task of GLUE can be run: {_reasons(session)}")
    session.split = "dev"
    session.protocol = _protocol(config)
    session.n_examples = sum(len(rows) for task in tasks for rows in task.dev.values())
    session.is_partial = len(tasks) < len(TASKS) or any(task.is_partial for task in tasks)
    draws: dict[str, np.ndarray] = {}
    for task in tasks:
        with session.timed(task.task.name):
            draws |= _run_task(session, task)
    _note_average(session, draws)
    if not draws:
        raise EvaluationError(_reasons(session))
    scored = [_metric(key) for key in GLUE_METRICS if key in draws]
    session.main_metrics = [AVERAGE] if len(scored) == len(GLUE_METRICS) else scored
    session.examples = _examples(session)


def _read_tasks(session: Session) -> list[TaskRows]:
    """The tasks that can be run; for every number that cannot, the reason is noted."""
    tasks = []
    for name in session.config.tasks:
        try:
            tasks.append(read_task(session.config, name))
            missing = tasks[-1].missing
        except ClippoError as error:
            missing = dict.fromkeys(number_splits(TASKS[name]), str(error))
        for key, reason in missing.items():
            session.not_run(_metric(key), reason)
    return tasks


def _run_task(session: Session, task: TaskRows) -> dict[str, np.ndarray]:
    """Fine-tune one task and note its numbers; a failure is noted as `not_run`.

    Returns the bootstrap draws of each number, by its key.
    """
    try:
        swept = fine_tune(session, make_problem(session.model, session.config, task))
    except Preempted:
        raise
    except ClippoError as error:
        for key in task.dev:
            session.not_run(_metric(key), str(error))
        return {}
    first = next(iter(task.dev))
    draws: dict[str, np.ndarray] = {}
    for key in task.dev:
        draws |= _score(session, task, key, swept, swept.outputs["scored" if key == first else key])
    counts = {
        "train_rows": len(task.train),
        "trials": len(swept.trials),
        "collapsed_trials": swept.n_collapsed,
        "skipped_rows": task.train.n_skipped + sum(rows.n_skipped for rows in task.dev.values()),
        "dev_rows_also_in_train": sum(
            len(rows.keys() & task.train.keys()) for rows in task.dev.values()
        ),
    }
    session.count(**{f"{task.task.folder}_{name}": count for name, count in counts.items()})
    return draws


def _score(
    session: Session, task: TaskRows, key: str, swept: Sweep, outputs: np.ndarray
) -> dict[str, np.ndarray]:
    """Note one of the nine numbers with interval, baseline, count, flags and predictions.

    Returns its bootstrap draws, by its key; nothing where there is no number.
    """
    rows, metric, kind = task.dev[key], _metric(key), GLUE_METRICS[key]
    predicted = predictions(task.task, outputs)
    _add_scores(session, task, key, predicted)
    n_cut = _count_cut(session, key, rows)
    notes = []
    if is_constant(predicted):
        said = task.task.labels[int(predicted[0])] if task.task.labels else f"{predicted[0]:.3g}"
        notes.append(f"degenerate: every prediction is {said!r}")
        if kind == "spearman":
            session.not_run(metric, f"{notes[0]}, so there is no rank correlation")
            return {}
    share = n_cut / len(rows)
    cut = f"the page cuts off {100 * share:.0f} % of its texts"
    notes += swept.remarks + ([cut] if share > MAX_CUT_SHARE else [])
    samples = session.plan.evaluate.bootstrap_samples
    seed = [session.plan.stage.seed, list(GLUE_METRICS).index(key)]
    pairs = np.stack([predicted, rows.labels], axis=1)
    draws = bootstrap.bootstrap_draws(pairs, samples, seed, statistic=STATISTICS[kind])
    session.put(
        metric,
        100 * glue_score(key, predicted, rows.labels),
        n=len(rows),
        chance=100 * baseline(kind, rows.labels, task.train.labels),
        bounds=_percent(bootstrap.interval(draws)),
    )
    session.flag(metric, "; ".join(notes))
    return {key: draws}


def _count_cut(session: Session, key: str, rows: Rows) -> int:
    """Count the dev rows that the page cuts off; none where the tower reads tokens."""
    if session.model.tower.config.kind not in ("clippo", "image_only"):
        return 0
    n_cut = int(session.model.renderer.census(texts(rows, session.config)).cut.sum())
    session.count(**{f"{key}_dev_rows_cut_by_the_page": n_cut})
    return n_cut


def _note_average(session: Session, draws: dict[str, np.ndarray]) -> None:
    """Note the mean of the nine numbers, or why there is none."""
    if len(draws) < len(GLUE_METRICS):
        why = f"it is the mean of nine numbers, and {len(draws)} of them are there"
        session.not_run(AVERAGE, why)
        return
    nine = {key: session.metrics[session.named(_metric(key))] for key in GLUE_METRICS}
    session.put(
        AVERAGE,
        glue_average({k: m.value for k, m in nine.items() if m.value is not None}),
        n=sum(metric.n for metric in nine.values()),
        chance=glue_average({k: m.chance for k, m in nine.items() if m.chance is not None}),
        bounds=_percent(bootstrap.interval(np.mean([draws[key] for key in nine], axis=0))),
    )
    degenerate = [key for key, metric in nine.items() if metric.flag.startswith("degenerate")]
    if degenerate:
        session.flag(AVERAGE, f"{', '.join(degenerate)} in it: degenerate")


def _protocol(config: GlueConfig) -> str:
    tuning = config.finetune
    stop = (
        f", stopped after {tuning.patience_epochs} epochs without gain"
        if tuning.patience_epochs
        else ""
    )
    limit = f", at most {tuning.max_steps} steps" if tuning.max_steps else ""
    rows = f", the first {config.limit_train} training rows" if config.limit_train else ""
    return (
        f"Both sentences on one page, joined by {config.separator!r}. The whole tower is fine-tuned"
        f" with a two-layer tanh head and AdamW: batch {tuning.batch_size}, {tuning.epochs}"
        f" epochs{stop}{limit}{rows}, warm-up over a share of {tuning.warmup_share:g}, weight decay"
        f" {tuning.weight_decay:g}, the head's learning rate x{tuning.head_lr_multiplier:g}. The"
        f" best on dev (MNLI: matched) of {len(tuning.learning_rates)} trials counts, with learning"
        f" rates {', '.join(f'{lr:g}' for lr in tuning.learning_rates)}. Chance is the majority"
        " class (F1: always positive)."
    )


def _add_scores(session: Session, task: TaskRows, key: str, predicted: np.ndarray) -> None:
    """One row per dev example: prediction and label as class ids or scores, and in words."""
    rows, labels = task.dev[key], task.task.labels

    def name(value: float) -> str:
        return labels[int(value)] if labels else f"{value:.4f}"

    session.scores.add(
        session.named(_metric(key)),
        range(len(rows)),
        predicted.tolist(),
        targets=rows.labels.tolist(),
        first=rows.first,
        second=rows.second or [""] * len(rows),
        truth=[name(value) for value in rows.labels],
        prediction=[name(value) for value in predicted],
        correct=(predicted == rows.labels).tolist() if labels else [None] * len(rows),
    )


def _examples(session: Session) -> list[dict[str, Any]]:
    """Six hits and six misses over all classification tasks, as the canvas that the tower sees."""
    columns, renderer = session.scores.columns, session.model.renderer
    judged = [i for i, correct in enumerate(columns["correct"]) if correct is not None]
    hits = [columns["correct"][i] for i in judged]
    examples = []
    for i in (judged[place] for place in results.hits_and_misses(hits, session.plan.stage.seed)):
        first, second = columns["first"][i], columns["second"][i]
        text = join_pair(first, second, session.config.separator) if second else first
        task = columns["metric"][i].rpartition("/")[2].rpartition("_")[0]
        is_drawn = session.model.tower.config.kind == "clippo"
        page = renderer.render([text])[0] if is_drawn else None
        examples.append(
            {
                "hit": columns["correct"][i],
                "pictures": [] if page is None else [data_uri(page, len(page))],
                "asked": f"{task}: {text}",
                "predicted": columns["prediction"][i],
                "truth": columns["truth"][i],
            }
        )
    return examples


def _reasons(session: Session) -> str:
    """Why metrics were not run, each reason once."""
    whys = (metric.why_not for metric in session.metrics.values())
    return "; ".join(dict.fromkeys(why for why in whys if why))


def _percent(bounds: Sequence[float]) -> tuple[float, float]:
    low, high = bounds
    return 100 * low, 100 * high


def _metric(key: str) -> str:
    return f"{key}_{GLUE_METRICS[key]}"
