"""Pictures with a class each, as benchmarks come: folders by class, Hugging Face parquet, or tars.

    <uri>/<class>/<file>              ImageFolder: the class is the folder's name
    <uri>/*.parquet                   columns `image` (bytes, or a struct of them) and `label` (int)
    <uri>/*.tar                       members KEY.jpg with KEY.cls (a number), or <class>/<file>

A class is a number, or a folder's name, which `class_names.py` turns into the number of its class.
Nothing is unpacked to disk, and no member's name becomes a path. It reads bytes and does not decode
them (`data/images.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import IO

from clippo_core import storage
from clippo_core.data.images import read_image_bytes
from clippo_core.data.sources import tars
from clippo_core.data.sources.annotation_files import opened
from clippo_core.errors import DataError, NotFoundError
from clippo_core.evaluate.embed import Pictures
from clippo_core.untrusted import json as untrusted_json
from clippo_core.untrusted.json import optional
from clippo_core.untrusted.names import printable, refusal
from clippo_core.untrusted.numbers import whole_number
from clippo_core.untrusted.parquet import Group, Kind, open_parquet
from clippo_core.untrusted.tar import Member
from clippo_core.untrusted.text import read_whole

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


def _from_parquet(files: dict[str, str]) -> LabelledPictures:
    """files: name -> address."""
    groups: list[tuple[str, int]] = []
    place: list[tuple[int, int]] = []
    names: list[str] = []
    classes: list[str] = []
    for name, uri in files.items():
        with opened(uri) as file:
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
        with opened(uri) as file:
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
        with opened(uri) as file:
            found = _members(file, uri)
            for name, member in found.items():
                stem, _, kind = name.rpartition(".")
                if name.lower().endswith(_PICTURES):
                    pictures[f"{tar_name}/{name}"] = f"{uri}#{member.offset}+{member.size}"
                elif kind == "cls" or kind == "json" and f"{stem}.cls" not in found:
                    labels[f"{tar_name}/{stem}"] = _label(file, member, f"{uri}, {name}", kind)
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
    for member in tars.members(file.name, uri):
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
