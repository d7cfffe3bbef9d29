"""Pictures with a class each, as benchmarks come: folders by class, Hugging Face parquet, or tars.

    <uri>/<class>/<file>              ImageFolder: the class is the folder's name
    <uri>/*.parquet                   columns `image` (bytes, or a struct of them) and `label` (int)
    <uri>/*.tar                       members KEY.jpg with KEY.cls (a number), or <class>/<file>

A class is a number, or a folder's name that `class_index` turns into the number of its class name.
Nothing is unpacked to disk, and no member's name becomes a path. It reads bytes and does not decode
them (`data/images.py`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import IO

import numpy as np

from clippo_core import storage
from clippo_core.config.evaluate import CLASS_MAPPINGS
from clippo_core.data.images import read_image_bytes
from clippo_core.data.sources import tars
from clippo_core.data.sources.annotation_files import load_json
from clippo_core.errors import DataError, EvaluationError, NotFoundError
from clippo_core.evaluate.embed import Pictures
from clippo_core.evaluate.imagenet.prompts import canonical_name
from clippo_core.untrusted import json as untrusted_json
from clippo_core.untrusted.json import at, field, optional
from clippo_core.untrusted.names import printable, refusal
from clippo_core.untrusted.numbers import whole_number
from clippo_core.untrusted.parquet import Group, Kind, open_parquet
from clippo_core.untrusted.tar import Member, tar_members
from clippo_core.untrusted.text import read_text, read_whole

_LABEL_BYTES = 2**20
"""The longest .cls or .json in a tar."""
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
        fault = f"nothing is left of class name {printable(empty[0], 60)!r} without punctuation"
        raise refusal(EvaluationError, uri, fault, "name the class in words")
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
    files = {stat.name: stat.uri for stat in stats} or {PurePosixPath(uri).name: uri}
    for kind, read in ((".parquet", _from_parquet), (".tar", _from_tars)):
        chosen = {name: address for name, address in files.items() if address.endswith(kind)}
        if chosen:
            return read(chosen)
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


def _opened(uri: str) -> IO[bytes]:
    """An open file. Raises NotFoundError, StorageError, DataError."""
    try:
        return open(storage.fetch(uri), "rb")
    except OSError as fault:  # a folder of that name, no permission
        words = f"it cannot be read ({fault.strerror})"
        raise refusal(DataError, uri, words, "check `images`") from None


def _from_parquet(files: dict[str, str]) -> LabelledPictures:
    """files: name -> address."""
    groups: list[tuple[str, int]] = []
    place: list[tuple[int, int]] = []
    names: list[str] = []
    classes: list[str] = []
    for name, uri in files.items():
        with _opened(uri) as file:
            table = open_parquet(file, uri, {"label": Kind.WHOLE, "image": Kind.BYTES})
            for number in range(len(table.group_rows)):
                group = table.read_group(number, ["label"])
                _refuse_gaps(group, uri, number)
                labels = group.columns["label"]
                place += [(len(groups), row) for row in range(len(labels))]
                names += [f"{name}/{number}/{row:05d}" for row in range(len(labels))]
                classes += [str(label) for label in labels]
                groups.append((uri, number))

    @lru_cache(maxsize=1)
    def images(which: int) -> list[bytes]:
        uri, number = groups[which]
        with _opened(uri) as file:
            group = open_parquet(file, uri, {"image": Kind.BYTES}).read_group(number)
        _refuse_gaps(group, uri, number)
        return group.columns["image"]

    return LabelledPictures(
        Pictures(names, lambda i: images(place[i][0])[place[i][1]]), classes, by_number=True
    )


def _refuse_gaps(group: Group, uri: str, number: int) -> None:
    """A benchmark with a gap is another benchmark."""
    for row, problem in group.problems.items():
        fault = f"row {row} of row group {number} cannot be used: {problem}"
        raise refusal(DataError, uri, fault, "give the whole benchmark")


def _from_tars(files: dict[str, str]) -> LabelledPictures:
    """files: name -> address."""
    pictures: dict[str, str] = {}
    labels: dict[str, int] = {}
    for tar_name, uri in files.items():
        with _opened(uri) as file:
            found = _members(file, uri)
            for name, member in found.items():
                stem, _, kind = name.rpartition(".")
                if name.lower().endswith(_PICTURES):
                    pictures[f"{tar_name}/{name}"] = f"{uri}#{member.offset}+{member.size}"
                elif kind == "cls" or kind == "json" and f"{stem}.cls" not in found:
                    labels[f"{tar_name}/{stem}"] = _label(file, member, f"{uri}#{name}", kind)
    names = sorted(pictures)
    if not names:
        raise DataError(
            f"{', '.join(list(files.values())[:3])}: the tars hold no pictures; tars within tars"
            " must be unpacked first."
        )
    by_number = any(number >= 0 for number in labels.values())
    stems = [name.rpartition(".")[0] for name in names]
    unlabelled = [
        name
        for name, stem in zip(names, stems, strict=True)
        if by_number and labels.get(stem, -1) < 0
    ]
    if unlabelled:
        raise DataError(
            f"{printable(unlabelled[0])} (and {len(unlabelled) - 1} more) has no .cls beside it;"
            " every picture needs its class."
        )
    classes = [
        str(labels[stem]) if by_number else PurePosixPath(stem).parent.name for stem in stems
    ]
    return LabelledPictures(
        Pictures(names, lambda i: tars.picture_bytes(pictures[names[i]])), classes, by_number
    )


def _members(file: IO[bytes], uri: str) -> dict[str, Member]:
    """The members of a tar by name. Raises ShardError, DataError for one that cannot be used."""
    found: dict[str, Member] = {}
    size = file.seek(0, 2)
    for member in tar_members(lambda offset, n: os.pread(file.fileno(), n, offset), size, uri):
        problem = member.problem or ("it occurs twice" if member.name in found else "")
        if problem:
            fault = f"member {member.name!r} cannot be used: {problem}"
            raise refusal(DataError, uri, fault, "make the tar again")
        found[member.name] = member
    return found


def _label(file: IO[bytes], member: Member, where: str, kind: str) -> int:
    """The class in a .cls (a number), or in a .json (`label`); -1 for a .json without one."""
    file.seek(member.offset)
    data = read_whole(
        [file.read(min(member.size, _LABEL_BYTES + 1))], where, max_bytes=_LABEL_BYTES
    )
    if kind == "cls":
        return whole_number(data.decode(errors="replace").strip(), where)
    return optional(untrusted_json.load_json(data, where), "label", int, -1, where)


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
            lines = read_text([storage.read_bytes(beside)], beside).split("\n")
            folders = tuple(line.split(maxsplit=1)[0] for line in lines if line.strip())
        if len(folders) == n:
            return folders
    return ()
