"""VQAv2's questions made ready: what is trained on, chosen on and answered; vocabulary, soft
targets and the prior to beat.

    other files to answer   train ─▶ train, asked ─▶ scored (and chosen on),
                            or only answered where they have no annotations
    one file for both       split by photo: no photo is on both sides

What was trained on is never scored. The files themselves are read in `vqa_files.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from clippo_core.config import VqaConfig
from clippo_core.errors import EvaluationError
from clippo_core.evaluate.vqa.files import (
    Annotation,
    Question,
    annotated,
    read_annotations,
    read_questions,
    soft_targets,
    split_by_photo,
    vocabulary,
)


@dataclass(frozen=True)
class VqaData:
    """Everything that is read before training."""

    train: list[Question]
    targets: list[dict[int, float]]
    """Of each training question: class -> soft target; none is empty."""
    n_unanswerable: int
    """Training questions left out, because no answer of theirs is in the vocabulary."""
    dev: list[Question]
    """Questions that trials and epochs are chosen on: the scored ones, or a part held out of
    training where those have no answers."""
    dev_annotations: list[Annotation]
    asked: list[Question]
    """Questions to answer."""
    truth: list[Annotation]
    """Of `asked`; empty where they have none."""
    answers: list[str]
    """The vocabulary."""
    priors: dict[str, str]
    """Question type -> the most frequent training answer; under "" that of all questions."""
    split: str


def read_data(config: VqaConfig, seed: int) -> VqaData:
    """Questions, answers, vocabulary and targets of both sides. Raises DataError,
    EvaluationError.
    """
    questions = read_questions(config.train_questions)
    by_id = read_annotations(config.train_annotations)
    if config.questions == config.train_questions:
        train, asked = split_by_photo(questions, config.holdout_share, seed)
        truth = annotated(config.train_annotations, asked, by_id)
        split = f"{config.holdout_share:g} of the photos held out"
    else:
        train, asked, truth = questions, read_questions(config.questions), []
        split = config.questions.rpartition("/")[2].removesuffix(".json")
        if config.annotations:
            truth = annotated(config.annotations, asked, read_annotations(config.annotations))
            _refuse_leak(train, asked)
    dev, dev_annotations = asked, truth
    tuning = config.finetune
    if not truth and (len(tuning.learning_rates) > 1 or tuning.patience_epochs):
        train, dev = split_by_photo(train, config.holdout_share, seed)
        dev_annotations = annotated(config.train_annotations, dev, by_id)
    train_annotations = annotated(config.train_annotations, train, by_id)
    counted = [
        *train_annotations,
        *(a for uri in config.vocabulary_annotations for a in read_annotations(uri).values()),
    ]
    answers = vocabulary(counted, config.min_answer_count)
    classes = {answer: i for i, answer in enumerate(answers)}
    targets = [soft_targets(annotation.answers, classes) for annotation in train_annotations]
    kept = [i for i, target in enumerate(targets) if target]
    return VqaData(
        train=[train[i] for i in kept],
        targets=[targets[i] for i in kept],
        n_unanswerable=len(train) - len(kept),
        dev=dev,
        dev_annotations=dev_annotations,
        asked=asked,
        truth=truth,
        answers=answers,
        priors=_priors(train_annotations),
        split=split,
    )


def _priors(annotations: Sequence[Annotation]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for annotation in annotations:
        for kind in ("", annotation.question_type):
            counts[kind][annotation.multiple_choice_answer] += 1
    return {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}


def _refuse_leak(train: Sequence[Question], asked: Sequence[Question]) -> None:
    questions = {q.question_id for q in train} & {q.question_id for q in asked}
    if questions:
        raise EvaluationError(
            f"{len(questions)} of {len(asked)} questions to score were trained on, e.g."
            f" {sorted(questions)[:3]}; train on another split, or leave vqa.annotations empty and"
            " send the answers to the benchmark's server."
        )
    photos = {q.image_id for q in train} & {q.image_id for q in asked}
    if photos:
        raise EvaluationError(
            f"{len(photos)} photos are both trained on and scored, e.g. {sorted(photos)[:3]}; split"
            " by photo (give the same file as vqa.questions and vqa.train_questions) or remove"
            " them."
        )
