"""The embedded world: handwritten numbers 0 to 99 and their names, written once in the file formats
of the real benchmarks.

    scikit-learn's 1,797 digits
      ├─ first 1,437 (training writers) ─▶ pretrain, imagenet/train, vqa train
      └─ last 360 (held-out writers)    ─▶ imagenet/val, retrieval, vqa val, xm3600

Pictures are those of `scribe.py`. 23 37 46 54 68 72 81 95 stand in no training picture and in no
training sentence.

    pretrain/dataset.json, images/   Karpathy json: 92 numbers x 80 pictures; a group per number;
                                     texts en, "the number {}", de, ja, ar, digits
    pretrain/sentences.tsv           the number's name in two languages (or as digits):
                                     five columns, the last is the group
    imagenet/val/<digit>/            360 held-out digits
    imagenet/train/<digit>/          50 of each digit as few-shot pool
    imagenet/class_names.json        English names
    retrieval/dataset.json, images/  one picture of each of the 100 numbers, six captions each:
                                     no two pictures share a caption
    vqa/{train,val}_{questions,annotations}.json, images/
                                     four questions per picture; val: each number twice
    glue/<task>/{train,dev}.tsv      eight tasks about names of numbers (`number_tasks`);
                                     dev numbers are in no training row
    xm3600/captions.jsonl, images/   one picture of each number, its name in 28 languages
    manifest.json                    seed, version and every file's sha256, last

Everything follows from the seed. That the held-out writers are other people is likely (the file is
ordered by blocks of writers), not certain; and held-out pictures of two digits are put together
from 360 digits, so they are not independent of each other.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clippo_core import storage
from clippo_core.data.numbers import tasks as number_tasks
from clippo_core.data.numbers.scribe import IMAGE_PX, TRAIN_DIGITS, Scribe, load_digits
from clippo_core.data.numbers.tasks import NUMBERS, UNSEEN, name
from clippo_core.errors import DataError
from clippo_core.run.folder import MANIFEST
from clippo_core.untrusted.json import field, load_json

VERSION = 1
"""Raised whenever the written bytes change."""
LANGUAGES = ("en", "de", "ja", "ar")
"""Languages of pretraining."""
XM_LANGUAGES = (
    "ar", "bn", "cs", "da", "de", "en", "es", "fa", "fi", "fr", "he", "hu", "id", "it", "ja",
    "ko", "nl", "no", "pl", "pt", "ro", "ru", "sv", "te", "th", "tr", "uk", "vi",
)  # fmt: skip
"""The languages of XM3600 in which num2words counts."""
PICTURES_PER_NUMBER, POOL_PER_DIGIT, VQA_TRAIN_PICTURES = 80, 50, 600
DIGITS = "zxx"
"""Language code of a number in digits: no linguistic content (ISO 639-2)."""


def write_numbers(root: str, seed: int = 0) -> None:
    """Write the whole world under the folder `root`, unless it is there already, whole and of this
    version and seed.
    """
    if _is_there(root, seed):
        return
    writer = Writer(root)
    digits, labels = load_digits()
    train = Scribe(digits[:TRAIN_DIGITS], labels[:TRAIN_DIGITS], np.random.default_rng([seed, 1]))
    held_out = Scribe(
        digits[TRAIN_DIGITS:], labels[TRAIN_DIGITS:], np.random.default_rng([seed, 2])
    )
    _write_pretraining(writer, train)
    _write_classification(writer, train, held_out)
    _write_retrieval(writer, held_out)
    _write_vqa(writer, train, held_out)
    for path, content in number_tasks.glue_files(seed).items():
        writer.text(f"glue/{path}", content)
    _write_multilingual(writer, held_out)
    writer.finish(
        {
            "version": VERSION,
            "seed": seed,
            "image_px": IMAGE_PX,
            "unseen_numbers": list(UNSEEN),
            "languages": list(LANGUAGES),
        }
    )


class Writer:
    """Files below a folder or prefix, and the list of them."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._files: dict[str, str] = {}
        self._folders: set[Path] = set()
        # Thousands of small files: a bucket takes them side by side.
        self._uploads = ThreadPoolExecutor(16)
        self._uploading: list[Future[str]] = []

    def bytes(self, path: str, data: bytes) -> None:
        target = storage.join(self._root, path)
        # The manifest, written last and atomically, says that all of them are whole.
        if storage.is_local(target):
            folder = storage.local_path(target).parent
            if folder not in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
            storage.local_path(target).write_bytes(data)
        else:
            self._uploading.append(self._uploads.submit(storage.write_bytes, target, data))
        self._files[path] = hashlib.sha256(data).hexdigest()

    def text(self, path: str, content: str) -> None:
        self.bytes(path, content.encode())

    def json(self, path: str, content: Any) -> None:
        self.text(path, json.dumps(content, ensure_ascii=False) + "\n")

    def picture(self, path: str, pixels: np.ndarray) -> None:
        buffer = io.BytesIO()
        options: dict[str, Any] = (
            {"quality": 95} if path.endswith(".jpg") else {"compress_level": 1}
        )
        Image.fromarray(pixels).save(buffer, "JPEG" if path.endswith(".jpg") else "PNG", **options)
        self.bytes(path, buffer.getvalue())

    def finish(self, about: dict[str, Any]) -> None:
        """Write the manifest: from now on the world is whole."""
        for upload in self._uploading:
            upload.result()
        self._uploads.shutdown()
        storage.write_text(
            storage.join(self._root, MANIFEST),
            json.dumps({**about, "files": self._files}, indent=0) + "\n",
        )


def captions(number: int) -> list[tuple[str, str]]:
    """(text, language) of a picture in pretraining and retrieval."""
    return [
        (name(number, "en"), "en"),
        (f"the number {name(number, 'en')}", "en"),
        *[(name(number, language), language) for language in LANGUAGES[1:]],
        (str(number), DIGITS),
    ]


def _is_there(root: str, seed: int) -> bool:
    try:
        found = load_json(storage.read_bytes(storage.join(root, MANIFEST)), root)
        made = [field(found, name, int, root) for name in ("version", "seed")]
        files = field(found, "files", dict[str, str], root)
        there = {file.name for file in storage.list_files(root)}
        return made == [VERSION, seed] and set(files) <= there
    except (storage.StorageError, DataError):
        return False


def _karpathy(entries: Iterable[tuple[str, str, int]], dataset: str) -> dict[str, Any]:
    """Karpathy's json of (file name, split, number)."""
    images = []
    for imgid, (filename, split, number) in enumerate(entries):
        texts = captions(number)
        sentences = [
            {
                "tokens": text.lower().split(),
                "raw": text,
                "imgid": imgid,
                "sentid": imgid * len(texts) + place,
                "language": language,
            }
            for place, (text, language) in enumerate(texts)
        ]
        images.append(
            {
                "sentids": [sentence["sentid"] for sentence in sentences],
                "imgid": imgid,
                "sentences": sentences,
                "split": split,
                "filename": filename,
                "group": f"number-{number}",
            }
        )
    return {"images": images, "dataset": dataset}


def _write_pretraining(writer: Writer, train: Scribe) -> None:
    entries, rows = [], []
    for number in NUMBERS:
        if number in UNSEEN:
            continue
        for nth in range(PICTURES_PER_NUMBER):
            filename = f"train-{number:02d}-{nth:03d}.png"
            pixels = train.sample(number, nth) if number < 10 else train.picture(number)
            writer.picture(f"pretrain/images/{filename}", pixels)
            entries.append((filename, "train", number))
        forms = [(name(number, language), language) for language in LANGUAGES] + [
            (str(number), DIGITS)
        ]
        for one in range(len(forms)):
            for two in range(one):
                (first, first_language), (second, second_language) = (forms[one], forms[two])[
                    :: 1 if (number + one + two) % 2 else -1
                ]
                rows.append(
                    "\t".join([first_language, second_language, first, second, f"number-{number}"])
                )
    writer.json("pretrain/dataset.json", _karpathy(entries, "numbers"))
    writer.text("pretrain/sentences.tsv", "\n".join(rows) + "\n")


def _write_classification(writer: Writer, train: Scribe, held_out: Scribe) -> None:
    for digit in range(10):
        for nth in range(held_out.n_samples[digit]):
            writer.picture(
                f"imagenet/val/{digit}/val-{digit}-{nth:03d}.png", held_out.sample(digit, nth)
            )
        for nth in range(POOL_PER_DIGIT):
            writer.picture(
                f"imagenet/train/{digit}/pool-{digit}-{nth:03d}.png", train.sample(digit, nth)
            )
    writer.json("imagenet/class_names.json", [name(digit, "en") for digit in range(10)])


def _write_retrieval(writer: Writer, held_out: Scribe) -> None:
    entries = []
    for number in NUMBERS:
        filename = f"test-{number:02d}-000.png"
        writer.picture(f"retrieval/images/{filename}", held_out.picture(number))
        entries.append((filename, "test", number))
    writer.json("retrieval/dataset.json", _karpathy(entries, "numbers"))


def _write_multilingual(writer: Writer, held_out: Scribe) -> None:
    lines = []
    for number in NUMBERS:
        key = f"xm-{number:02d}-000"
        writer.picture(f"xm3600/images/{key}.png", held_out.picture(number))
        line: dict[str, Any] = {"image/key": key, "image/locale": "en", "group": f"number-{number}"}
        for language in XM_LANGUAGES:
            line[language] = {"caption": [name(number, language)]}
        lines.append(json.dumps(line, ensure_ascii=False))
    writer.text("xm3600/captions.jsonl", "\n".join(lines) + "\n")


def _write_vqa(writer: Writer, train: Scribe, held_out: Scribe) -> None:
    """VQAv2's two files each for train and val; ten equal answers a question."""
    seen = [number for number in NUMBERS if number not in UNSEEN]
    plan = {
        "train": (train, 1, [seen[nth % len(seen)] for nth in range(VQA_TRAIN_PICTURES)]),
        "val": (held_out, 100_001, [number for number in NUMBERS for _ in range(2)]),
    }
    for split, (scribe, first_id, numbers) in plan.items():
        questions, annotations = [], []
        for image_id, number in enumerate(numbers, start=first_id):
            writer.picture(f"vqa/images/{image_id:012d}.jpg", scribe.picture(number))
            for nth, (question, answer, question_type, answer_type) in enumerate(
                number_tasks.questions(number)
            ):
                question_id = image_id * 1000 + nth
                questions.append(
                    {"image_id": image_id, "question": question, "question_id": question_id}
                )
                annotations.append(
                    {
                        "question_type": question_type,
                        "multiple_choice_answer": answer,
                        "answers": [
                            {"answer": answer, "answer_confidence": "yes", "answer_id": n}
                            for n in range(1, 11)
                        ],
                        "image_id": image_id,
                        "answer_type": answer_type,
                        "question_id": question_id,
                    }
                )
        about = {
            "info": {"description": "Handwritten numbers", "version": str(VERSION)},
            "license": {},
            "data_subtype": split,
        }
        about |= {"data_type": "numbers"}
        writer.json(
            f"vqa/{split}_questions.json",
            {**about, "task_type": "Open-Ended", "questions": questions},
        )
        writer.json(f"vqa/{split}_annotations.json", {**about, "annotations": annotations})
