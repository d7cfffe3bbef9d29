"""The demo's held-out digits as mteb's own task MNISTZeroShot, in a process with mteb.

python mteb_digits.py MODEL FOLDER-OF-CLASSES CLASS-NAMES.json OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mteb
from datasets import ClassLabel, Dataset, Features, Image
from mteb.tasks.zeroshot_classification import MNISTZeroShotClassification

from clippo_core.adapters.mteb import ClippoEncoder


class Digits(MNISTZeroShotClassification):  # type: ignore[misc]
    """Their task on our pictures, with the bare names as prompts."""

    folder, names = Path(), list[str]()

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read the pictures class by class."""
        if self.data_loaded:
            return
        files = sorted(self.folder.glob("*/*"))
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
        return self.names


def main(model: str, folder: str, names: str, out: str) -> None:
    """Write {"accuracy": share}."""
    Digits.folder, Digits.names = Path(folder), json.loads(Path(names).read_text())
    found = mteb.evaluate(ClippoEncoder(model, device="cpu"), [Digits()], cache=None)
    scores = found.task_results[0].scores["test"][0]
    Path(out).write_text(json.dumps({"accuracy": scores["accuracy"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
