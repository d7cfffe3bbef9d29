"""VQAv2: the question rendered with the photo, one of the frequent answers chosen, official score.

    photo + rendered question ─▶ pooled ─▶ Linear, GELU, Linear ─▶ one logit per answer
    loss: BCE with soft targets, summed over answers

    vqav2/overall   vqav2/yes_no   vqav2/number   vqav2/other   vqav2/question_type/<first words>

Sources: the paper, section 4.2; the vocabulary, soft targets and optimization are those of ViLT and
METER, which it follows. Whether the question covers the photo's top rows or stands above a shrunken
photo is not known, and a setting. Questions that nobody could answer from the vocabulary are not
trained on, but are scored. What is asked and trained on is made ready in `vqa_data.py`.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from clippo_core import storage
from clippo_core.config import VqaConfig
from clippo_core.data.thumbnails import data_uri
from clippo_core.embedder import Clippo
from clippo_core.evaluate import results
from clippo_core.evaluate.checks import is_constant
from clippo_core.evaluate.finetune.problem import Inputs, Problem, text_inputs
from clippo_core.evaluate.finetune.sweep import Sweep, fine_tune, join_ranks
from clippo_core.evaluate.harness import Session, evaluate
from clippo_core.evaluate.vqa.data import VqaData, read_data
from clippo_core.evaluate.vqa.files import Question, find_pictures, server_results
from clippo_core.evaluate.vqa.photos import Photos
from clippo_core.evaluate.vqa.text import vqa_accuracy
from clippo_core.models import resize_positions
from clippo_core.rendering import Renderer
from clippo_core.rendering.compose import question_above, question_overlay
from clippo_core.run.records import EvalResult, EvaluatePlan

SERVER_FILE = "evalai.json"
"""Answers in the format of the benchmark's server, beside result.json."""


def run(checkpoint: str, plan: EvaluatePlan, *, progress: bool = True) -> EvalResult:
    """Fine-tune on `plan.evaluate.vqa` and answer its questions; skips what exists, goes on where a
    killed run stopped.

    Runs in one process, or in every rank of a process group. Where data or protocol don't fit (a
    missing picture, scoring what was trained on) the result is a failure that says why.
    """
    return evaluate("vqa", checkpoint, plan, progress, _evaluate, join_ranks())


def _evaluate(session: Session) -> None:
    config: VqaConfig = session.config
    with session.timed("reading"):
        data = read_data(config, session.plan.stage.seed)
        image_px = config.image_px or session.model.image_px
        canvas = Canvas(config, data, session.model, image_px)
    tower = session.model.tower
    if image_px != session.model.image_px:
        tower = resize_positions(copy.deepcopy(tower), image_px)
    problem = _problem(data, canvas)
    with session.timed("fine-tuning"):
        swept = fine_tune(session, problem, tower)
    _describe(session, data, swept)
    chosen = swept.outputs["asked" if "asked" in problem.others else "scored"].argmax(axis=1)
    said = [data.answers[i] for i in chosen]
    accuracies = None
    if data.truth:
        accuracies = np.array(
            [vqa_accuracy(a, t.answers) for a, t in zip(said, data.truth, strict=True)]
        )
        _score(session, data, accuracies)
        notes = [f"degenerate: every answer is {said[0]!r}"] if is_constant(said) else []
        session.flag("overall", "; ".join([*notes, *swept.remarks]))
        session.examples = _examples(canvas, data, said, accuracies, session.plan.stage.seed)
    else:
        why = f"the questions have no annotations at hand; {SERVER_FILE} is for the server"
        session.not_run("overall", why)
    _add_scores(session, data, said, accuracies)
    if results.is_first_rank():
        answers = server_results([q.question_id for q in data.asked], said)
        storage.write_text(storage.join(session.folder, SERVER_FILE), answers)


class Canvas:
    """Photos with their questions rendered in, as the tower sees them."""

    def __init__(self, config: VqaConfig, data: VqaData, model: Clippo, image_px: int) -> None:
        self._compose = question_overlay if config.question_place == "overlay" else question_above
        self._renderer = Renderer.from_config(
            replace(model.render, image_px=image_px), warn_font=model.renderer.warn_font
        )
        trained = {
            q.image_id for q in [*data.train, *(data.dev if data.dev is not data.asked else [])]
        }
        others = {q.image_id for q in data.asked} - trained
        pictures = find_pictures(config.train_images, trained)
        if others:
            pictures |= find_pictures(config.images or config.train_images, others)
        self.photos = Photos(pictures, image_px)
        self.image_px = image_px

    def inputs(self, questions: Sequence[Question]) -> Inputs:
        """The questions as inputs of a tower."""
        drawn = text_inputs(self._renderer.masks, [question.text for question in questions])

        def batch(indices: np.ndarray) -> torch.Tensor:
            photos = self.photos.batch(questions[i].image_id for i in indices)
            return self._compose(photos, drawn.batch(indices))

        return Inputs(len(questions), batch)


def _problem(data: VqaData, canvas: Canvas) -> Problem:
    n_answers = len(data.answers)

    def loss(outputs: torch.Tensor, indices: np.ndarray) -> torch.Tensor:
        targets = torch.zeros(len(indices), n_answers)
        for row, i in enumerate(indices):
            for answer, value in data.targets[i].items():
                targets[row, answer] = value
        return binary_cross_entropy_with_logits(
            outputs, targets.to(outputs.device), reduction="none"
        ).sum(dim=1)

    def score(outputs: np.ndarray) -> float:
        if not data.dev_annotations:
            return math.nan
        said = [data.answers[i] for i in outputs.argmax(axis=1)]
        return float(
            np.mean(
                [
                    vqa_accuracy(a, t.answers)
                    for a, t in zip(said, data.dev_annotations, strict=True)
                ]
            )
        )

    return Problem(
        name="vqa",
        reads="images",
        n_outputs=n_answers,
        activation="gelu",
        train=canvas.inputs(data.train),
        loss=loss,
        scored=canvas.inputs(data.dev),
        score=score,
        constant=lambda outputs: is_constant(outputs.argmax(axis=1)),
        others={} if data.dev is data.asked else {"asked": canvas.inputs(data.asked)},
    )


def _describe(session: Session, data: VqaData, swept: Sweep) -> None:
    session.split = data.split
    session.protocol = _protocol(session.config)
    session.n_examples = len(data.asked)
    session.main_metrics = ["overall"] if data.truth else []
    session.is_partial = len(data.asked) < session.config.expect_questions
    session.count(
        questions=len(data.asked),
        photos=len({q.image_id for q in data.asked}),
        train_questions=len(data.train),
        train_questions_without_known_answer=data.n_unanswerable,
        answers=len(data.answers),
        trials=len(swept.trials),
        collapsed_trials=swept.n_collapsed,
    )


def _score(session: Session, data: VqaData, accuracies: np.ndarray) -> None:
    """Note accuracies: overall, by answer type, by question type; intervals over photos."""
    guesses = [data.priors.get(t.question_type, data.priors[""]) for t in data.truth]
    guessed = np.array(
        [vqa_accuracy(guess, t.answers) for guess, t in zip(guesses, data.truth, strict=True)]
    )
    photos = np.array([t.image_id for t in data.truth])
    members: dict[str, list[int]] = defaultdict(list)
    for i, annotation in enumerate(data.truth):
        for name in (
            "overall",
            annotation.answer_type.replace("/", "_"),
            f"question_type/{annotation.question_type}",
        ):
            members[name].append(i)
    for name, chosen in members.items():
        chance = 100 * float(guessed[chosen].mean())
        session.score(name, accuracies[chosen], chance=chance, groups=photos[chosen], scale=100.0)
    for kind in ("yes_no", "number", "other"):
        if kind not in members:
            session.not_run(kind, "no such question among the scored")


def _protocol(config: VqaConfig) -> str:
    tuning = config.finetune
    place = (
        "over the photo's top rows"
        if config.question_place == "overlay"
        else "above the shrunken photo"
    )
    size = f"{config.image_px} px" if config.image_px else "the tower's resolution"
    stop = (
        f", stopped after {tuning.patience_epochs} epochs without gain on them"
        if tuning.patience_epochs
        else ""
    )
    limit = f", at most {tuning.max_steps} steps" if tuning.max_steps else ""
    trials = (
        f"The best of {len(tuning.learning_rates)} trials on the scored questions counts, with"
        if len(tuning.learning_rates) > 1
        else "There is one trial, with"
    )
    return (
        f"The question is rendered {place}, at {size}. Classes are the answers of at least"
        f" {config.min_answer_count} questions; targets are soft, the binary cross-entropy is"
        " summed over answers. The whole tower is fine-tuned with a two-layer GELU head and AdamW:"
        f" batch {tuning.batch_size}, {tuning.epochs} epochs{stop}{limit}, warm-up over a share of"
        f" {tuning.warmup_share:g}, weight decay {tuning.weight_decay:g}, the head's learning rate"
        f" x{tuning.head_lr_multiplier:g}. {trials} learning rate"
        f" {', '.join(f'{lr:g}' for lr in tuning.learning_rates)}. Scored by the official accuracy;"
        " intervals are over photos. Chance is the most frequent training answer of the question's"
        " type."
    )


def _add_scores(
    session: Session, data: VqaData, said: list[str], accuracies: np.ndarray | None
) -> None:
    known: dict[str, list[Any]] = {}
    if accuracies is not None:
        known = {
            "truth": [t.multiple_choice_answer for t in data.truth],
            "answer_type": [t.answer_type for t in data.truth],
            "question_type": [t.question_type for t in data.truth],
        }
    session.scores.add(
        session.named("overall"),
        [q.question_id for q in data.asked],
        [None] * len(said) if accuracies is None else (100 * accuracies).tolist(),
        groups=[q.image_id for q in data.asked],
        question=[q.text for q in data.asked],
        answer=said,
        **known,
    )


def _examples(
    canvas: Canvas, data: VqaData, said: list[str], accuracies: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """Six hits and six misses, with the canvas that the tower sees."""
    inputs = canvas.inputs(data.asked)
    return [
        {
            "hit": bool(accuracies[i] >= 0.5),
            "pictures": [
                data_uri(inputs.batch(np.array([i]))[0].permute(1, 2, 0).numpy(), canvas.image_px)
            ],
            "asked": data.asked[i].text,
            "predicted": said[i],
            "truth": data.truth[i].multiple_choice_answer,
        }
        for i in results.hits_and_misses(accuracies >= 0.5, seed)
    ]
