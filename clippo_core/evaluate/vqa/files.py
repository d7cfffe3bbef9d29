"""VQAv2's official files: questions, annotations, pictures, and the results file of its server; the
answer vocabulary and targets.

    questions     {"questions": [{"question_id", "image_id", "question"}]}
    annotations   {"annotations": [{"question_id", "image_id", "question_type", "answer_type",
                                    "multiple_choice_answer", "answers": [{"answer"}]}]}
    results       [{"question_id", "answer"}]

A class is an answer that enough questions have; a target is the score that answering it would get.
It scores nothing itself (`vqa_text.py` has the accuracy) and trains nothing (`vqa.py`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clippo_core import storage
from clippo_core.data.sources.annotation_files import load_json
from clippo_core.errors import DataError, EvaluationError
from clippo_core.evaluate.vqa.text import normalise
from clippo_core.untrusted.json import field
from clippo_core.untrusted.names import printable, refusal

SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)
"""Soft target of an answer that 0, 1, 2, 3, or more of the ten people gave."""
ANSWER_TYPES = ("yes/no", "number", "other")
"""The benchmark's own; each is a metric."""


@dataclass(frozen=True)
class Question:
    """One question about one picture."""

    question_id: int
    image_id: int
    text: str


@dataclass(frozen=True)
class Annotation:
    """What people answered to one question."""

    question_id: int
    image_id: int
    answers: tuple[str, ...]
    """Raw, usually ten."""
    multiple_choice_answer: str
    """The most frequent."""
    answer_type: str
    """One of ANSWER_TYPES."""
    question_type: str
    """The first words, by the benchmark's list."""


def read_questions(uri: str) -> list[Question]:
    """The questions of an official questions file, in its order. Raises DataError,
    NotFoundError.
    """
    found = [
        Question(
            field(item, "question_id", int, uri, path),
            field(item, "image_id", int, uri, path),
            field(item, "question", str, uri, path),
        )
        for path, item in _items(uri, "questions")
    ]
    _refuse_twins(uri, [question.question_id for question in found])
    return found


def read_annotations(uri: str) -> dict[int, Annotation]:
    """question_id -> annotation, in the file's order. Raises DataError, NotFoundError."""
    found = []
    for path, item in _items(uri, "annotations"):
        answers = field(item, "answers", list[dict], uri, path)
        if not answers:
            raise refusal(DataError, uri, f"{path}.answers is empty", "take a file with answers")
        kind = field(item, "answer_type", str, uri, path)
        if kind not in ANSWER_TYPES:
            fault = f"{path}.answer_type is {printable(kind, 40)!r}"
            raise refusal(DataError, uri, fault, f"it must be one of {', '.join(ANSWER_TYPES)}")
        found.append(
            Annotation(
                field(item, "question_id", int, uri, path),
                field(item, "image_id", int, uri, path),
                tuple(field(answer, "answer", str, uri, path) for answer in answers),
                field(item, "multiple_choice_answer", str, uri, path),
                kind,
                field(item, "question_type", str, uri, path),
            )
        )
    _refuse_twins(uri, [annotation.question_id for annotation in found])
    return {annotation.question_id: annotation for annotation in found}


def annotated(
    uri: str, questions: Sequence[Question], annotations: dict[int, Annotation]
) -> list[Annotation]:
    """The annotation of each question, in their order. Raises DataError for one without, or of
    another picture.
    """
    missing = [q.question_id for q in questions if q.question_id not in annotations]
    if missing:
        raise DataError(
            f"{uri}: {len(missing)} questions have no annotation, e.g. {missing[:3]}; give the"
            " annotations of these questions."
        )
    found = [annotations[q.question_id] for q in questions]
    for question, annotation in zip(questions, found, strict=True):
        if question.image_id != annotation.image_id:
            raise DataError(
                f"{uri}: question {question.question_id} is about image {question.image_id}, its"
                f" annotation about {annotation.image_id}; questions and annotations are not of one"
                " set."
            )
    return found


def vocabulary(annotations: Iterable[Annotation], min_count: int) -> list[str]:
    """The normalised most frequent answers of at least `min_count` questions, in the order in which
    they first occur.
    """
    counts = Counter(normalise(annotation.multiple_choice_answer) for annotation in annotations)
    answers = [answer for answer, count in counts.items() if count >= min_count]
    if not answers:
        raise EvaluationError(
            f"no answer occurs in {min_count} of the {sum(counts.values())} questions; give more"
            " vocabulary_annotations, or lower vqa.min_answer_count."
        )
    return answers


def soft_targets(answers: Sequence[str], classes: dict[str, int]) -> dict[int, float]:
    """class -> 0.3, 0.6, 0.9 or 1 by how many people gave it; raw strings are counted, as everybody
    trains on this set.
    """
    counts = Counter(answers)
    return {
        classes[answer]: SCORES[min(count, 4)]
        for answer, count in counts.items()
        if answer in classes
    }


def split_by_photo(
    questions: Sequence[Question], held_out_share: float, seed: int
) -> tuple[list[Question], list[Question]]:
    """(train, held out) in their order, so that no photo is in both. Raises EvaluationError where
    one part would be empty.
    """
    photos = sorted({question.image_id for question in questions})
    n_held = round(held_out_share * len(photos))
    if not 0 < n_held < len(photos):
        raise EvaluationError(
            f"{len(photos)} photos cannot be split with a share of {held_out_share} held out;"
            " change vqa.holdout_share."
        )
    held = {photos[i] for i in np.random.default_rng(seed).permutation(len(photos))[:n_held]}
    return [q for q in questions if q.image_id not in held], [
        q for q in questions if q.image_id in held
    ]


def find_pictures(folder: str, wanted: Iterable[int]) -> dict[int, str]:
    """image_id -> address, by the number that ends a file's name
    (`COCO_train2014_000000000042.jpg`, `42.png`). Raises DataError.
    """
    ending = re.compile(r"(?<![0-9])([0-9]{1,19})\.(?:jpe?g|png|webp)$", re.IGNORECASE)
    wanted = set(wanted)
    found: dict[int, str] = {}
    for stat in storage.list_files(folder):
        match = ending.search(stat.name)
        if match and int(match[1]) in wanted:
            address = storage.join(folder, stat.name)
            if found.setdefault(int(match[1]), address) != address:
                fault = f"two pictures have the number {match[1]}, and one of them is {stat.name}"
                raise refusal(DataError, folder, fault, "leave the right one there")
    missing = sorted(wanted - found.keys())
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of the questions' pictures are not there, e.g."
            f" {missing[:3]}; complete the folder."
        )
    return {image_id: found[image_id] for image_id in sorted(wanted)}


def server_results(question_ids: Sequence[int], answers: Sequence[str]) -> str:
    """The results file that EvalAI's VQA server takes, as JSON."""
    rows = [
        {"question_id": int(i), "answer": answer}
        for i, answer in zip(question_ids, answers, strict=True)
    ]
    return json.dumps(rows, ensure_ascii=False) + "\n"


def _items(uri: str, key: str) -> Iterator[tuple[str, dict]]:
    """(place in the file, object) of each object of the list `key`."""
    items = field(load_json(uri), key, list[dict], uri)
    if not items:
        raise refusal(DataError, uri, f"{key} is empty", f"give the official {key} file of VQAv2")
    return ((f"{key}[{number}]", item) for number, item in enumerate(items))


def _refuse_twins(uri: str, ids: Sequence[int]) -> None:
    twice = [question_id for question_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(
            f"{uri}: {len(twice)} question ids occur twice, e.g. {twice[:3]}; every question is"
            " scored once."
        )
