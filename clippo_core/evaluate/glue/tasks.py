"""One task of GLUE made ready: its rows, the problem that is fine-tuned on them, and the score that
needs no reading.

    classes   cross entropy, argmax
    STS-B     squared error of the standardised score (a rank correlation knows no unit)

The files are read in `glue_files.py`; scores, intervals and flags are `glue.py`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from clippo_core.config import GlueConfig
from clippo_core.embedder import Clippo
from clippo_core.errors import ClippoError, DataError
from clippo_core.evaluate.checks import is_constant
from clippo_core.evaluate.finetune.problem import Problem, text_inputs
from clippo_core.evaluate.glue.files import TASKS, GlueTask, Rows, read_split
from clippo_core.evaluate.glue.scores import glue_score
from clippo_core.rendering.compose import join_pair


@dataclass(frozen=True)
class TaskRows:
    """One task's rows, read."""

    task: GlueTask
    train: Rows
    dev: dict[str, Rows]
    """Number's key (mnli_m, ...) -> rows; the first is chosen on."""
    missing: dict[str, str]
    """Number's key -> why its dev set is not there."""

    @property
    def is_partial(self) -> bool:
        """Whether it has fewer rows than the benchmark."""
        full = {key: self.task.dev[split] for key, split in number_splits(self.task).items()}
        few = any(len(rows) < full[key] for key, rows in self.dev.items())
        return bool(self.missing) or few or len(self.train) < self.task.n_train


def read_task(config: GlueConfig, name: str) -> TaskRows:
    """A task's rows. Raises DataError or NotFoundError where there is nothing to train on, or
    nothing to score.
    """
    task = TASKS[name]
    train = read_split(config.root, task, "train").take(config.limit_train)
    dev, missing = {}, {}
    for key, split in number_splits(task).items():
        try:
            dev[key] = read_split(config.root, task, split)
        except ClippoError as error:
            missing[key] = str(error)
    if not dev:
        raise DataError("; ".join(missing.values()))
    return TaskRows(task, train, dev, missing)


def make_problem(model: Clippo, config: GlueConfig, task: TaskRows) -> Problem:
    """What is learnt from a task's rows, by the tower of `model`."""
    first, *others = task.dev
    labels = task.train.labels
    regression = not task.task.labels
    # A rank correlation does not know units, and a standardised target learns at the rates of the
    # other tasks.
    mean, std = (labels.mean(), labels.std() or 1.0) if regression else (0.0, 1.0)
    targets = torch.from_numpy((labels - mean) / std if regression else labels)

    def loss(outputs: torch.Tensor, indices: np.ndarray) -> torch.Tensor:
        wanted = targets[torch.from_numpy(indices)].to(outputs.device)
        return (
            (outputs[:, 0] - wanted.float()) ** 2
            if regression
            else cross_entropy(outputs, wanted, reduction="none")
        )

    def score(outputs: np.ndarray) -> float:
        predicted = predictions(task.task, outputs)
        return (
            math.nan
            if regression and is_constant(predicted)
            else glue_score(first, predicted, task.dev[first].labels)
        )

    return Problem(
        name=task.task.name,
        reads="texts",
        n_outputs=1 if regression else len(task.task.labels),
        activation="tanh",
        train=text_inputs(model.text_encoder, texts(task.train, config)),
        loss=loss,
        scored=text_inputs(model.text_encoder, texts(task.dev[first], config)),
        score=score,
        constant=lambda outputs: is_constant(predictions(task.task, outputs)),
        others={
            key: text_inputs(model.text_encoder, texts(task.dev[key], config)) for key in others
        },
    )


def baseline(kind: str, labels: np.ndarray, train_labels: np.ndarray) -> float:
    """What needs no reading: the training set's most frequent class (accuracy), always 1 (F1, which
    always 0 would score 0), or 0.
    """
    if kind == "accuracy":
        return float((labels == np.bincount(train_labels.astype(np.int64)).argmax()).mean())
    if kind == "f1":
        return glue_score("mrpc", np.ones_like(labels), labels)
    return 0.0


def predictions(task: GlueTask, outputs: np.ndarray) -> np.ndarray:
    """Class ids int64 [n], or scores float64 [n]."""
    return outputs.argmax(axis=1) if task.labels else outputs[:, 0].astype(np.float64)


def texts(rows: Rows, config: GlueConfig) -> list[str]:
    """What is rendered for each example."""
    if not rows.second:
        return rows.first
    return [
        join_pair(first, second, config.separator)
        for first, second in zip(rows.first, rows.second, strict=True)
    ]


def number_splits(task: GlueTask) -> dict[str, str]:
    """Key of the nine numbers -> dev split."""
    return (
        {"mnli_m": "dev_matched", "mnli_mm": "dev_mismatched"}
        if task.name == "MNLI"
        else {task.folder: "dev"}
    )
