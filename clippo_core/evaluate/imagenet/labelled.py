"""Pictures with a class each, as benchmarks come: folders by class, Hugging Face parquet, or tars.

    <uri>/<class>/<file>              ImageFolder: the class is the folder's name
    <uri>/*.parquet                   columns `image` (bytes, or a struct of them) and `label` (int)
    <uri>/*.tar                       members KEY.jpg with KEY.cls (a number), or <class>/<file>

A class is a number, or a folder's name that `class_index` turns into the number of its class name.
Nothing is unpacked to disk, and no member's name becomes a path. It reads bytes and does not decode
them (`data/images.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np

from clippo_core import storage
from clippo_core.config.evaluate import CLASS_MAPPINGS
from clippo_core.data.images import read_image_bytes
from clippo_core.data.sources import tars
from clippo_core.data.sources.annotation_files import load_json
from clippo_core.errors import (
    DataError,
    EvaluationError,
    ImageError,
    NotFoundError,
    ShardError,
    StorageError,
)
from clippo_core.evaluate.embed import Pictures
from clippo_core.evaluate.imagenet.prompts import canonical_name

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures and their classes, in the order of their names."""

    pictures: Pictures
    classes: Sequence[str]
    """Class of each picture: a folder's name, or a number as text."""
    by_number: bool
    """Whether classes are numbers, and not folder names."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the pictures, unique, relative to the set."""
        return self.pictures.names

    def __len__(self) -> int:
        return len(self.classes)


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
            numbers = np.array([int(c) for c in labelled.classes], np.int64)
            if numbers.min() < 0 or numbers.max() >= len(self.names):
                raise EvaluationError(
                    f"labels lie in {numbers.min()}..{numbers.max()}, but there are"
                    f" {len(self.names)} class names: the wrong list."
                )
            return numbers
        found = sorted(set(labelled.classes))
        folders = self.folders or (tuple(found) if len(found) == len(self.names) else ())
        if not folders:
            raise EvaluationError(
                f"the pictures lie in {len(found)} class folders, but there are {len(self.names)}"
                f" class names. Give one name a folder, or put {' or '.join(CLASS_MAPPINGS)} beside"
                " the names, which says which folder is which class."
            )
        number = {folder: i for i, folder in enumerate(folders)}
        unknown = [folder for folder in found if folder not in number]
        if unknown:
            raise EvaluationError(
                f"class folder {unknown[0]!r} (and {len(unknown) - 1} more) is none of the"
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
    folders: tuple[str, ...] = ()
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        raw = content
        folders = _folders_beside(uri, len(raw))
    elif (
        isinstance(content, dict)
        and content
        and all(isinstance(value, str) for value in content.values())
    ):
        folders = tuple(sorted(content))
        raw = [content[folder] for folder in folders]
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
        raise EvaluationError(
            f"{uri}: nothing is left of class name {empty[0]!r} without punctuation; name the class"
            " in words."
        )
    return ClassNames(names, folders)


def open_labelled(uri: str) -> LabelledPictures:
    """The pictures at `uri`, a folder (local or s3://), or one .parquet or .tar file, or a pattern
    with `*`. Raises DataError.
    """
    try:
        stats = (
            storage.list_files(uri) if "*" in uri or not uri.endswith((".parquet", ".tar")) else []
        )
    except NotFoundError as error:
        raise DataError(f"{uri}: there are no pictures; check `images`.") from error
    files = [stat.uri for stat in stats] or [uri]
    parquet = [file for file in files if file.endswith(".parquet")]
    tar_files = [file for file in files if file.endswith(".tar")]
    if parquet:
        return _from_parquet(parquet)
    if tar_files:
        return _from_tars(tar_files)
    found = sorted(
        (stat.name, stat.uri)
        for stat in stats
        if "/" in stat.name and stat.name.lower().endswith(_PICTURES)
    )
    if not found:
        raise DataError(
            f"{uri} holds no pictures in class folders, no .parquet and no .tar; check `images`."
        )
    uris = [file for _, file in found]
    return LabelledPictures(
        Pictures([name for name, _ in found], lambda i: read_image_bytes(uris[i])),
        [PurePosixPath(name).parent.name for name, _ in found],
        by_number=False,
    )


def _from_parquet(files: list[str]) -> LabelledPictures:
    import pyarrow.parquet

    groups: list[tuple[str, int]] = []
    place: list[tuple[int, int]] = []
    names: list[str] = []
    classes: list[str] = []
    for file in files:
        try:
            reader = pyarrow.parquet.ParquetFile(storage.fetch(file))
            for group in range(reader.num_row_groups):
                labels = reader.read_row_group(group, columns=["label"]).column("label").to_pylist()
                place += [(len(groups), row) for row in range(len(labels))]
                names += [
                    f"{PurePosixPath(file).name}/{group}/{row:05d}" for row in range(len(labels))
                ]
                classes += [str(int(label)) for label in labels]
                groups.append((file, group))
        except (
            OSError,
            KeyError,
            TypeError,
            ValueError,
            pyarrow.ArrowException,
            StorageError,
        ) as error:
            raise DataError(
                f"{file} is no parquet file with columns `image` and `label` ({error})."
            ) from error

    @lru_cache(maxsize=1)
    def images(number: int) -> list[bytes]:
        file, group = groups[number]
        column = (
            pyarrow.parquet.ParquetFile(storage.fetch(file))
            .read_row_group(group, columns=["image"])
            .column("image")
        )
        return [
            value["bytes"] if isinstance(value, dict) else value for value in column.to_pylist()
        ]

    def read(i: int) -> bytes:
        return images(place[i][0])[place[i][1]] or b""

    return LabelledPictures(Pictures(names, read), classes, by_number=True)


def _from_tars(files: list[str]) -> LabelledPictures:
    pictures: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for file in files:
        try:
            path = storage.fetch(file)
            for member in tars.members(path):
                name = f"{PurePosixPath(file).name}/{member.name}"
                address = f"{file}#{member.offset}+{member.size}"
                if name.lower().endswith(_PICTURES):
                    pictures[name] = address
                elif name.endswith((".cls", ".json")) and member.size < 2**20:
                    stem = name.rpartition(".")[0]
                    text = tars.picture_bytes(address).decode()
                    numbers[stem] = _number(text, name, numbers.get(stem))
        except (ImageError, ShardError, OSError, ValueError, StorageError) as error:
            raise DataError(f"{file} is no readable tar of pictures ({error}).") from error
    names = sorted(pictures)
    if not names:
        raise DataError(
            f"{', '.join(files[:3])}: the tars hold no pictures; tars within tars must be unpacked"
            " first."
        )
    by_number = any(number >= 0 for number in numbers.values())
    stems = [name.rpartition(".")[0] for name in names]
    unlabelled = [
        name
        for name, stem in zip(names, stems, strict=True)
        if by_number and numbers.get(stem, -1) < 0
    ]
    if unlabelled:
        raise DataError(
            f"{unlabelled[0]} (and {len(unlabelled) - 1} more) has no .cls beside it; every picture"
            " needs its class."
        )
    classes = [
        str(numbers[stem]) if by_number else PurePosixPath(stem).parent.name for stem in stems
    ]
    return LabelledPictures(
        Pictures(names, lambda i: tars.picture_bytes(pictures[names[i]])), classes, by_number
    )


def _number(text: str, name: str, known: int | None) -> int:
    """The class in a .cls (a number), or in a .json (`label`); -1 for a .json without one. A .cls
    wins.
    """
    if name.endswith(".cls"):
        return int(text)
    label = json.loads(text).get("label", -1)
    return (
        known if known is not None and known >= 0 else int(label) if isinstance(label, int) else -1
    )


def _class_index(content: object, uri: str) -> tuple[tuple[str, ...], list[str]]:
    """(folders, names) of {"0": [folder, name], "1": ...}."""
    try:
        rows = [content[str(i)] for i in range(len(content))]  # type: ignore[arg-type,index]  # else refused below
        folders, names = [str(row[0]) for row in rows], [row[1] for row in rows]
        if all(isinstance(row, list) and len(row) == 2 for row in rows) and all(
            isinstance(name, str) for name in names
        ):
            return tuple(folders), names
    except (TypeError, KeyError, IndexError):
        pass
    raise EvaluationError(
        f'{uri} is no list of class names; give a JSON list, {{"0": [folder, name], ...}} or'
        " {folder: name}."
    )


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
            folders = tuple(
                line.split(maxsplit=1)[0]
                for line in storage.read_text(beside).splitlines()
                if line.strip()
            )
        if len(folders) == n:
            return folders
    return ()
