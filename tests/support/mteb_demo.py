"""The demo's held-out digits and numbers in mteb's own tasks MNISTZeroShot and Flickr30k retrieval,
in a process with mteb.

python mteb_demo.py MODEL FOLDER-OF-THE-DEMO'S-FILES OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mteb
from datasets import ClassLabel, Dataset, Features, Image, Value
from mteb.tasks.retrieval import Flickr30kI2TRetrieval, Flickr30kT2IRetrieval
from mteb.tasks.zeroshot_classification import MNISTZeroShotClassification

from clippo_core.adapters.mteb import ClippoEncoder

WORLD = Path(sys.argv[2])


class Digits(MNISTZeroShotClassification):  # type: ignore[misc]
    """Their task on our pictures, with the bare names as prompts."""

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read the pictures class by class."""
        files = sorted((WORLD / "imagenet/val").glob("*/*"))
        classes = sorted({path.parent.name for path in files})
        rows = {
            "image": [str(path) for path in files],
            "label": [classes.index(path.parent.name) for path in files],
        }
        kinds = Features({"image": Image(), "label": ClassLabel(names=classes)})
        self.dataset = {"test": Dataset.from_dict(rows, features=kinds)}
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        """The names as they are."""
        return list(json.loads((WORLD / "imagenet/class_names.json").read_text()))


def numbers(task: Any, queries: str) -> None:
    """Fill a retrieval task with the demo's photos and captions; queries: `image` or `text`."""
    listed = json.loads((WORLD / "retrieval/dataset.json").read_text())["images"]
    rows: dict[str, dict[str, list[str]]] = {
        "image": {"id": [], "image": []},
        "text": {"id": [], "text": []},
    }
    relevant: dict[str, dict[str, int]] = {}
    for one in (one for one in listed if one["split"] == "test"):
        photo = one["filename"]
        rows["image"]["id"].append(photo)
        rows["image"]["image"].append(str(WORLD / "retrieval/images" / photo))
        for position, sentence in enumerate(one["sentences"]):
            text = f"{photo}-{position}"
            rows["text"]["id"].append(text)
            rows["text"]["text"].append(sentence["raw"])
            query, found = (photo, text) if queries == "image" else (text, photo)
            relevant.setdefault(query, {})[found] = 1
    kinds = {"image": Image(), "text": Value("string")}
    sets = {
        side: Dataset.from_dict(rows[side], features=Features({"id": Value("string"), side: kind}))
        for side, kind in kinds.items()
    }
    corpus = "text" if queries == "image" else "image"
    task.dataset = {
        "default": {
            "test": {
                "corpus": sets[corpus],
                "queries": sets[queries],
                "relevant_docs": relevant,
                "top_ranked": None,
            }
        }
    }
    task.data_loaded = True


class ImageToText(Flickr30kI2TRetrieval):  # type: ignore[misc]
    """Their task on the demo's numbers."""

    def load_data(self, *_: Any, **__: Any) -> None:
        """Photos ask for captions."""
        numbers(self, "image")


class TextToImage(Flickr30kT2IRetrieval):  # type: ignore[misc]
    """Their task on the demo's numbers."""

    def load_data(self, *_: Any, **__: Any) -> None:
        """Captions ask for photos."""
        numbers(self, "text")


def main(model: str, out: str) -> None:
    """Write the share of right digits, and that of queries with a hit among the first k."""
    encoder = ClippoEncoder(model, device="cpu")
    found = {}
    for name, task in (("digits", Digits()), ("i2t", ImageToText()), ("t2i", TextToImage())):
        (result,) = mteb.evaluate(encoder, [task], cache=None).task_results
        found[name] = result.scores["test"][0]
    Path(out).write_text(json.dumps(found, default=str))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3])
