"""The embedded world of handwritten numbers: its files are whole, its answers true, and nothing
held out leaks into training.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from clippo_core import storage
from clippo_core.config import RenderConfig, SourceConfig
from clippo_core.data.images import decode_image
from clippo_core.data.numbers import tasks as number_tasks
from clippo_core.data.numbers import world as numbers
from clippo_core.data.numbers.tasks import DEV_NUMBERS, TRAIN_NUMBERS, UNSEEN, name
from clippo_core.data.sources import kinds as sources
from clippo_core.rendering import Renderer
from clippo_core.rendering.compose import join_pair

TASKS = ("CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("numbers")
    numbers.write_numbers(str(root))
    return root


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_manifest_names_every_file(world: Path) -> None:
    files = json.loads((world / "manifest.json").read_text())["files"]
    found = contents(world)
    del found["manifest.json"]
    assert files == found


def test_writing_again_changes_nothing_and_repairs_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "PICTURES_PER_NUMBER", 2)
    numbers.write_numbers(str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    numbers.write_numbers(str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
    whole = contents(tmp_path)
    (tmp_path / "glue/RTE/dev.tsv").unlink()
    numbers.write_numbers(str(tmp_path))
    assert contents(tmp_path) == whole
    numbers.write_numbers(str(tmp_path), seed=1)
    other = contents(tmp_path)
    assert set(other) == set(whole) and sum(whole[path] != other[path] for path in whole) > 1000


@pytest.mark.slow
def test_a_bucket_gets_the_same_files(
    tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "PICTURES_PER_NUMBER", 2)
    numbers.write_numbers(str(tmp_path))
    numbers.write_numbers(f"{s3}/numbers")
    stored = {file.name: file for file in storage.list_files(f"{s3}/numbers")}
    found = contents(tmp_path)
    assert set(stored) == set(found)
    for path in ("manifest.json", "glue/RTE/dev.tsv", "pretrain/images/train-42-001.png"):
        assert storage.read_bytes(stored[path].uri) == (tmp_path / path).read_bytes()
    etags = {path: file.etag for path, file in stored.items()}
    storage.delete(stored["glue/RTE/dev.tsv"].uri)
    numbers.write_numbers(f"{s3}/numbers")
    assert {file.name: file.etag for file in storage.list_files(f"{s3}/numbers")} == etags


def test_digits_lie_low_enough_for_a_question_above(world: Path) -> None:
    for path in [
        "pretrain/images/train-42-007.png",
        "imagenet/val/8/val-8-000.png",
        "xm3600/images/xm-99-000.png",
    ]:
        picture = decode_image(world / path)
        assert (
            picture.shape == (64, 64, 3)
            and not picture[:34].any()
            and not picture[62:].any()
            and picture[34:62].max() > 200
        )
    rows = Renderer.from_config(RenderConfig(image_px=64)).census(
        [question for question, *_ in number_tasks.questions(7)]
    )
    assert rows.rows.max() <= 2


def test_pretraining_set(world: Path) -> None:
    records = list(
        sources.read_source(
            SourceConfig(
                "karpathy",
                f"{world}/pretrain/dataset.json",
                f"{world}/pretrain/images",
                split="train",
            )
        )
    )
    assert len(records) == 92 * 80 and len({record.image for record in records}) == 92 * 80
    by_group = {record.group: record for record in records}
    assert set(by_group) == {f"number-{number}" for number in range(100) if number not in UNSEEN}
    assert by_group["number-42"].texts == (
        "forty-two",
        "the number forty-two",
        "zweiundvierzig",
        "四十二",
        "اثنان و أربعون",
        "42",
    )
    assert by_group["number-42"].languages == ("en", "en", "de", "ja", "ar", "zxx")
    rows = [
        line.split("\t") for line in (world / "pretrain/sentences.tsv").read_text().splitlines()
    ]
    for first_language, second_language, first, second, group in rows:
        number = int(group.removeprefix("number-"))
        assert first_language != second_language and number not in UNSEEN
        forms = {language: name(number, language) for language in numbers.LANGUAGES} | {
            "zxx": str(number)
        }
        assert (first, second) == (forms[first_language], forms[second_language])
    assert len(rows) == 92 * 10


def test_no_two_pictures_are_alike_and_no_training_digit_is_held_out(world: Path) -> None:
    digits, labels = numbers.load_digits()
    assert (
        len({digit.tobytes() for digit in digits}) == 1797
    )  # no held-out digit is a copy of a training digit
    train = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (world / "pretrain/images").iterdir()
    }
    assert len(train) == 92 * 80
    for folder in ("imagenet/val", "retrieval/images", "xm3600/images"):
        held_out = {
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (world / folder).rglob("*.png")
        }
        assert not held_out & train
    halves = {digit.tobytes() for digit in digits[:1437]}
    for path in (world / "retrieval/images").glob("test-[1-9]?-000.png"):
        picture = decode_image(path)[34:62, 4:60, 0]
        assert picture[:, :28].tobytes() not in halves and picture[:, 28:].tobytes() not in halves


def test_classification_set(world: Path) -> None:
    digits, labels = numbers.load_digits()
    counts = {
        folder.name: len(list(folder.iterdir())) for folder in (world / "imagenet/val").iterdir()
    }
    assert (
        counts == {str(digit): int((labels[1437:] == digit).sum()) for digit in range(10)}
        and sum(counts.values()) == 360
    )
    assert json.loads((world / "imagenet/class_names.json").read_text())[:4] == [
        "zero",
        "one",
        "two",
        "three",
    ]
    by_pixels = {digit.tobytes(): int(label) for digit, label in zip(digits, labels, strict=True)}
    for path in (world / "imagenet").rglob("*.png"):
        assert by_pixels[
            np.ascontiguousarray(decode_image(path)[34:62, 18:46, 0]).tobytes()
        ] == int(path.parent.name)


def test_retrieval_and_xm3600_have_one_picture_a_number(world: Path) -> None:
    records = list(
        sources.read_source(
            SourceConfig(
                "karpathy",
                f"{world}/retrieval/dataset.json",
                f"{world}/retrieval/images",
                split="test",
            )
        )
    )
    texts = [text for record in records for text in record.texts]
    assert len(records) == 100 and len(set(texts)) == len(texts) == 600
    lines = list(
        sources.read_source(
            SourceConfig(
                "xm3600", f"{world}/xm3600/captions.jsonl", images=f"{world}/xm3600/images"
            )
        )
    )
    assert len(lines) == 100 and len(numbers.XM_LANGUAGES) == 28
    for language in numbers.XM_LANGUAGES:
        names = [
            text
            for record in lines
            for text, code in zip(record.texts, record.languages, strict=True)
            if code == language
        ]
        assert len(set(names)) == len(names) == 100


def test_questions_have_true_answers(world: Path) -> None:
    for split, n_pictures in (("train", 600), ("val", 200)):
        questions = json.loads((world / f"vqa/{split}_questions.json").read_text())["questions"]
        answers = json.loads((world / f"vqa/{split}_annotations.json").read_text())["annotations"]
        assert (
            len(questions) == len(answers) == 4 * n_pictures
            and len({entry["question_id"] for entry in questions}) == 4 * n_pictures
        )
        by_id = {entry["question_id"]: entry for entry in answers}
        per_picture: dict[int, dict[str, str]] = {}
        for entry in questions:
            answer = by_id[entry["question_id"]]
            assert answer["image_id"] == entry["image_id"]
            assert [given["answer"] for given in answer["answers"]] == [
                answer["multiple_choice_answer"]
            ] * 10
            per_picture.setdefault(entry["image_id"], {})[entry["question"]] = answer[
                "multiple_choice_answer"
            ]
        found = set()
        for image_id, said in per_picture.items():
            assert (world / f"vqa/images/{image_id:012d}.jpg").is_file()
            number = int(said["Left digit?"] + said["Right digit?"])
            number = (
                number % 10
                if number // 10 == number % 10 and number not in _twins(split, image_id)
                else number
            )
            assert said["Is it even?"] == ("yes" if number % 2 == 0 else "no")
            found.add(number)
        assert (found & set(UNSEEN)) == (set() if split == "train" else set(UNSEEN))


def _twins(split: str, image_id: int) -> set[int]:
    """Whether 7 or 77 was asked about shows only in the picture's place in the list."""
    if split == "val":
        number = (image_id - 100_001) // 2
    else:
        seen = [number for number in range(100) if number not in UNSEEN]
        number = seen[(image_id - 1) % len(seen)]
    return {number}


def table(path: Path, header: bool = True) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    rows = list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    names = rows[0] if header else [str(column) for column in range(len(rows[0]))]
    assert all(len(row) == len(names) for row in rows)
    return [dict(zip(names, row, strict=True)) for row in rows[header:]]


def value(text: str) -> int:
    """The number that a text names."""
    return _values()[text]


@functools.cache
def _values() -> dict[str, int]:
    names = {}
    for number in range(100):
        for form in number_tasks.FORMS:
            names[name(number, form)] = number
        for frame in number_tasks.FRAMES:
            names[frame.format(name(number, "en"))] = number
    return names


def pairs_of(world: Path, task: str, split: str) -> list[tuple[int, int, str]]:
    """(first, second, label) of a task on pairs."""
    names = {
        "RTE": ("sentence1", "sentence2", "label"),
        "MRPC": ("#1 String", "#2 String", "Quality"),
        "QQP": ("question1", "question2", "is_duplicate"),
        "STS-B": ("sentence1", "sentence2", "score"),
        "MNLI": ("sentence1", "sentence2", "gold_label"),
    }[task]
    return [
        (value(row[names[0]]), value(row[names[1]]), row[names[2]])
        for row in table(world / f"glue/{task}/{split}.tsv")
    ]


def test_glue_answers_are_true(world: Path) -> None:
    for split in ("train", "dev"):
        assert all(
            (value(row["sentence"]) % 2 == 0) == (row["label"] == "1")
            for row in table(world / f"glue/SST-2/{split}.tsv")
        )
        assert all(
            (row["3"] in _values()) == (row["1"] == "1")
            for row in table(world / f"glue/CoLA/{split}.tsv", header=False)
        )
        for row in table(world / f"glue/QNLI/{split}.tsv"):
            assert row["question"] == "over 50?" and (value(row["sentence"]) > 50) == (
                row["label"] == "entailment"
            )
        assert all(
            (a > b) == (label == "entailment") for a, b, label in pairs_of(world, "RTE", split)
        )
        assert all(
            a < b and (a // 10 == b // 10) == (label == "1")
            for a, b, label in pairs_of(world, "MRPC", split)
        )
        assert all(
            a < b and (b - a <= 9) == (label == "1")
            for a, b, label in pairs_of(world, "QQP", split)
        )
        assert all(
            abs(float(label) - 5 * (1 - (b - a) / 99)) < 1e-3
            for a, b, label in pairs_of(world, "STS-B", split)
        )
    for split in ("train", "dev_matched", "dev_mismatched"):
        for a, b, label in pairs_of(world, "MNLI", split):
            assert label == (
                "neutral"
                if abs(a - b) <= 10
                else "entailment"
                if a - b >= 25
                else "contradiction"
                if b - a >= 25
                else "?"
            )


def test_glue_dev_numbers_are_new_and_balanced(world: Path) -> None:
    assert set(DEV_NUMBERS) >= set(UNSEEN) and not set(DEV_NUMBERS) & set(TRAIN_NUMBERS)
    for task in ("RTE", "MRPC", "QQP", "STS-B"):
        assert {n for a, b, _ in pairs_of(world, task, "train") for n in (a, b)} <= set(
            TRAIN_NUMBERS
        )
        assert {n for a, b, _ in pairs_of(world, task, "dev") for n in (a, b)} <= set(DEV_NUMBERS)
    for task, column in (
        ("SST-2", "label"),
        ("QNLI", "label"),
        ("RTE", "label"),
        ("MRPC", "Quality"),
        ("QQP", "is_duplicate"),
    ):
        for split in ("train", "dev"):
            labels = [row[column] for row in table(world / f"glue/{task}/{split}.tsv")]
            assert 200 <= len(labels) <= 600 and labels.count(labels[0]) * 2 == len(labels)


def test_glue_layouts_are_the_official_ones(world: Path, slices: Path) -> None:
    """The same columns as the real files; MNLI's official dev file has 16."""
    for task in TASKS:
        real, ours = slices / f"glue/{task}/train.tsv", world / f"glue/{task}/train.tsv"
        first_real, first_ours = (
            path.read_bytes().split(b"\n")[0].removesuffix(b"\r") for path in (real, ours)
        )
        if task == "CoLA":
            assert len(first_real.split(b"\t")) == len(first_ours.split(b"\t")) == 4
        else:
            assert first_real == first_ours
    assert len(table(world / "glue/MNLI/dev_mismatched.tsv")[0]) == 16


def test_glue_texts_fit_on_the_page(world: Path) -> None:
    renderer = Renderer.from_config(RenderConfig(image_px=64))
    columns = {
        "MRPC": ("#1 String", "#2 String"),
        "QQP": ("question1", "question2"),
        "QNLI": ("question", "sentence"),
        "SST-2": ("sentence",),
    }
    texts = []
    for path in (world / "glue").rglob("*.tsv"):
        for row in table(path, header=path.parent.name != "CoLA"):
            names = (
                ("3",)
                if path.parent.name == "CoLA"
                else columns.get(path.parent.name, ("sentence1", "sentence2"))
            )
            texts.append(
                row[names[0]] if len(names) == 1 else join_pair(row[names[0]], row[names[1]])
            )
    census = renderer.census(texts)
    assert len(texts) > 6000 and not census.missing.any()
    assert not census.cut.any(), [text for text, cut in zip(texts, census.cut, strict=True) if cut][
        :5
    ]


def test_scrambled_names_are_no_names() -> None:
    names = set(_values())
    assert all(
        number_tasks.scrambled(number) not in names for number in range(21, 100) if number % 10
    )
