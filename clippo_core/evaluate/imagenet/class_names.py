"""The classes of a benchmark, and which of them a picture shows: json files beside the pictures.

    ["tench", ...]                      names in class order
    {"0": ["n01440764", "tench"], ...}  folder and name by class number
    {"n01440764": "tench", ...}         by folder, classes in the order of the folders
    [[3], [], [7, 12], ...]             ReaL: the right classes of each picture, by file name

Pictures are not read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clippo_core import storage
from clippo_core.config.evaluate import CLASS_MAPPINGS
from clippo_core.data.sources.annotation_files import load_json, opened
from clippo_core.errors import EvaluationError
from clippo_core.evaluate.imagenet.labelled import LabelledPictures
from clippo_core.evaluate.imagenet.prompts import canonical_name
from clippo_core.untrusted.json import at, field
from clippo_core.untrusted.names import printable, refusal
from clippo_core.untrusted.text import read_text


@dataclass(frozen=True)
class ClassNames:
    """The classes that are told apart."""

    names: tuple[str, ...]
    """Canonical names by class number; two classes may have the same."""
    folders: tuple[str, ...]
    """Folder name of each class, where a file says so; else empty."""

    def index(self, labelled: LabelledPictures) -> np.ndarray:
        """Class number of each picture, int64 [n]. Raises EvaluationError where folders and names
        can't be matched.
        """
        if labelled.by_number:
            numbers = [int(label) for label in labelled.classes]
            if min(numbers) < 0 or max(numbers) >= len(self.names):
                raise EvaluationError(
                    f"labels lie in {min(numbers)}..{max(numbers)}, but there are"
                    f" {len(self.names)} class names: the wrong list."
                )
            return np.array(numbers, np.int64)
        found = sorted(set(labelled.classes))
        folders = self.folders or (tuple(found) if len(found) == len(self.names) else ())
        if not folders:
            raise EvaluationError(
                f"the pictures lie in {len(found)} class folders, but there are {len(self.names)}"
                f" class names. Give one name a folder, or put {' or '.join(CLASS_MAPPINGS)} beside"
                " the names, which says which folder is which class."
            )
        number = {folder: i for i, folder in enumerate(folders)}
        if len(number) < len(folders):
            twice = Counter(folders).most_common(1)[0][0]
            raise EvaluationError(
                f"class folder {printable(twice, 60)!r} belongs to two classes in the class list;"
                " correct it."
            )
        unknown = [folder for folder in found if folder not in number]
        if unknown:
            first = printable(unknown[0], 60)
            raise EvaluationError(
                f"class folder {first!r} (and {len(unknown) - 1} more) is none of the"
                f" {len(folders)} known classes."
            )
        return np.array([number[c] for c in labelled.classes], np.int64)


def load_class_names(uri: str, n_classes: int) -> ClassNames:
    """Class names from a JSON list in class order, {"0": [folder, name], ...} or {folder: name}.

    For a list, folder names come from imagenet_class_index.json or LOC_synset_mapping.txt beside
    it, if there is one of its length. Raises EvaluationError for another number of names than
    `n_classes`.
    """
    content = load_json(uri)
    if isinstance(content, list):
        raw = at(content, list[str], uri, "class", error=EvaluationError)
        folders = _folders_beside(uri, len(raw))
    elif isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        by_folder = at(content, dict[str, str], uri, error=EvaluationError)
        folders = tuple(sorted(by_folder))
        raw = [by_folder[folder] for folder in folders]
    else:
        folders, raw = _class_index(content, uri)
    if len(raw) != n_classes:
        raise EvaluationError(
            f"{uri} lists {len(raw)} classes, but the benchmark has {n_classes}; a wrong list"
            " shifts every label."
        )
    names = tuple(canonical_name(name) for name in raw)
    empty = [raw[i] for i, name in enumerate(names) if not name]
    if empty:
        fault = f"nothing is left of class name {printable(empty[0], 60)!r} without punctuation"
        raise refusal(EvaluationError, uri, fault, "name the class in words")
    return ClassNames(names, folders)


def multi_labels(uri: str, names: Sequence[str]) -> list[list[int]]:
    """Labels of each picture from a JSON list in the order of the pictures' file names (ReaL's), or
    {file name: labels}, or {name within the set: labels}.
    """
    content = load_json(uri)
    files = [name.rpartition("/")[2] for name in names]
    twice = len(files) - len(set(files))
    if isinstance(content, list):
        if len(content) != len(files):
            raise EvaluationError(
                f"{uri} has labels for {len(content)} pictures, but there are {len(files)}."
            )
        content = dict(zip(sorted(files), content, strict=True)) if not twice else {}
    by_name = at(content, dict[str, list], uri, error=EvaluationError)
    keys = names if by_name and all(name in by_name for name in names) else files
    if keys is files and twice:
        fault = f"{twice} pictures have the file name of another one, and could not be told apart"
        remedy = f"give {{name: labels}} with names such as {names[0]}"
        raise refusal(EvaluationError, uri, fault, remedy)
    found = []
    for key in keys:
        labels = field(by_name, key, list[int], uri, error=EvaluationError)
        if min(labels, default=0) < 0:
            fault = f"{key} has the label {min(labels)}"
            raise refusal(EvaluationError, uri, fault, "labels are class numbers from 0")
        found.append(sorted(set(labels)))
    return found


def _class_index(content: object, uri: str) -> tuple[tuple[str, ...], list[str]]:
    """(folders, names) of {"0": [folder, name], "1": ...}."""
    rows = at(content, dict[str, list], uri, error=EvaluationError)
    pairs = [
        field(rows, str(number), list[str], uri, error=EvaluationError)
        for number in range(len(rows))
    ]
    odd = next((number for number, pair in enumerate(pairs) if len(pair) != 2), None)
    if odd is not None:
        fault = f"class {odd} has {len(pairs[odd])} entries"
        raise refusal(EvaluationError, uri, fault, "give it a folder and a name")
    return tuple(folder for folder, _ in pairs), [name for _, name in pairs]


def _folders_beside(uri: str, n: int) -> tuple[str, ...]:
    """Folder names in class order from a mapping file beside the class names, if it has as many
    classes.
    """
    parent = uri.rpartition("/")[0] or "."
    for name in CLASS_MAPPINGS:
        beside = storage.join(parent, name)
        if not storage.exists(beside):
            continue
        if name.endswith(".json"):
            folders = _class_index(load_json(beside), beside)[0]
        else:
            with opened(beside) as file:
                lines = read_text(file, beside).split("\n")
            folders = tuple(line.split(maxsplit=1)[0] for line in lines if line.strip())
        if len(folders) == n:
            return folders
    return ()
