"""WebDataset tars by random access: which members a record has, and where each lies, so that a
record is one `pread`.

    000012.jpg 000012.txt 000012.json
    ─▶ Entry("000012", {"jpg": (offset, size), "txt": ..., "json": ...})

A record's key is its members' name up to the first dot of the last part, and its members stand one
after the other (webdataset's own rule). Only regular files count: links and devices are passed
over, nothing is ever unpacked, and no key becomes a path. A tar that is damaged or cut short is
refused whole: what could be read before the cut would depend on how far a download had come.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clippo_core import storage
from clippo_core.data.images import read_image_bytes
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.sources import annotation_files as files
from clippo_core.errors import DataError, ImageError, ShardError
from clippo_core.untrusted import json
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import reason, refusal
from clippo_core.untrusted.numbers import whole_number
from clippo_core.untrusted.tar import Member, tar_members
from clippo_core.untrusted.text import read_text

_LOCAL: dict[str, Path] = {}
"""Address of a tar -> the file that its members were found in, so that each record is read without
asking the bucket again."""
PICTURES = ("jpg", "jpeg", "png", "webp")
"""Members that are taken for a record's photo, in this order."""
TEXTS = ("txt", "json")
"""Members that are taken for its text, in this order."""


@dataclass(frozen=True)
class Entry:
    """One record of a tar."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Extension (after the key's dot, lower case) -> (offset, size) in the tar, in bytes."""
    problem: str = ""
    """Why its members cannot be used: their name, or how they are stored."""

    @property
    def picture(self) -> str:
        """Extension of the photo; empty = it has none."""
        return next((extension for extension in PICTURES if extension in self.members), "")

    @property
    def text(self) -> str:
        """Extension of the member with the text; empty = it has none."""
        return next((extension for extension in TEXTS if extension in self.members), "")


def members(path: str | Path, where: str = "") -> list[Member]:
    """The regular files in a local, uncompressed tar, in its order.

    where: its address, for errors and for `picture_bytes`, if not `path`. Raises ShardError for one
    that is cut short, damaged, compressed, empty or no tar.
    """
    _LOCAL[where or str(path)] = Path(path)
    with open(path, "rb") as tar:
        size = os.fstat(tar.fileno()).st_size
        return list(
            tar_members(lambda start, n: os.pread(tar.fileno(), n, start), size, where or str(path))
        )


def entries(path: str | Path, where: str = "") -> list[Entry]:
    """All records of a local, uncompressed tar, in its order. Raises ShardError as `members`."""
    found: list[Entry] = []
    for member in members(path, where):
        folder, slash, name = member.name.rpartition("/")
        stem, dot, extension = name.partition(".")
        if not member.problem and not (dot and stem):
            continue
        key, extension = folder + slash + (stem or name), extension.lower()
        is_same = bool(found) and found[-1].key == key
        if member.problem:  # its record's other members come with the same one
            if not (is_same and found[-1].problem):
                found.append(Entry(key, problem=member.problem))
            continue
        if not is_same or found[-1].problem or extension in found[-1].members:
            found.append(Entry(key))
        found[-1].members[extension] = (member.offset, member.size)
    return found


def source_records(uri: str, language: str = "en") -> Iterator[PhotoRecord]:
    """As `foreign_records`; a tar that cannot be read is one record with a problem, whose key is
    the tar's stem.
    """
    try:
        yield from foreign_records(uri, language)
    except ShardError as error:
        yield PhotoRecord(files.stem(uri), "", (), (), problem=str(error))


def foreign_records(uri: str, language: str = "en") -> Iterator[PhotoRecord]:
    """Records of a tar as img2dataset writes it: a picture with `txt`, or with `json` that has a
    `caption`. Raises ShardError, before the first record.

    Their `image` is `<uri>#<offset>+<size>`, which `picture_bytes` reads.
    """
    path = storage.fetch(uri)
    found = entries(path, uri)
    with open(path, "rb") as tar:
        for place, entry in enumerate(found):
            texts, problem = foreign_text(tar.fileno(), entry, f"record {place} of {uri}")
            offset, size = entry.members.get(entry.picture, (0, 0))
            yield PhotoRecord(
                f"{files.stem(uri)}/{entry.key}",
                "" if problem else f"{uri}#{offset}+{size}",
                texts,
                (language,) * len(texts),
                problem=problem,
                text_at=(entry.text, *entry.members.get(entry.text, (0, 0))),
            )


def foreign_text(descriptor: int, entry: Entry, where: str) -> tuple[tuple[str, ...], str]:
    """(texts, problem) of a foreign record: its txt, else the `caption` of its json.

    descriptor: of its open tar. The problem is a sentence about the record at `where`, also for one
    without a picture.
    """
    try:
        if entry.problem:
            fault = f"its member {entry.key}: {entry.problem}"
            raise refusal(DataError, where, fault, "rename it, or make the tar again")
        if not entry.picture:
            fault = f"it has no picture ({', '.join(PICTURES)})"
            raise refusal(DataError, where, fault, "add one, or remove the record")
        size = entry.members[entry.picture][1]
        if size > LIMITS.picture_bytes:
            fault = f"its picture has {size:,} bytes, more than {LIMITS.picture_bytes:,}"
            raise refusal(DataError, where, fault, "shrink or remove it")
        extension = entry.text
        if not extension:
            raise refusal(DataError, where, "it has neither txt nor json", "add one of them")
        offset, size = entry.members[extension]
        if size > LIMITS.json_header_bytes:
            fault = f"its {extension} has {size:,} bytes, more than {LIMITS.json_header_bytes:,}"
            raise refusal(DataError, where, fault, "shorten it")
        return (parse_text(os.pread(descriptor, size, offset), extension, where),), ""
    except DataError as error:
        return (), str(error)


def parse_text(data: bytes, extension: str, where: str) -> str:
    """The caption in a foreign record's `txt` or `json`. Raises DataError."""
    where = f"{where}, {extension}"
    if extension == "txt":
        return read_text([data], where).strip()
    return json.field(json.load_json(data, where), "caption", str, where).strip()


def picture_bytes(image: str) -> bytes:
    """The bytes of a record's `image`: a file, an object, or a member of a tar. Raises
    ImageError.
    """
    uri, mark, _ = image.rpartition("#")
    if not mark or not uri.endswith(".tar"):
        return read_image_bytes(image)
    offset, size = span(image)
    try:
        with open(local_copy(uri), "rb") as tar:
            return os.pread(tar.fileno(), size, offset)
    except OSError as error:
        fault = f"it cannot be read ({reason(error)})"
        raise refusal(ImageError, image, fault, "fetch it again") from error


def span(image: str) -> tuple[int, int]:
    """(offset, size) of a picture in its tar, from its address. Raises ImageError."""
    start, _, length = image.rpartition("#")[2].partition("+")
    offset = whole_number(start, image, error=ImageError)
    return offset, whole_number(length, image, maximum=LIMITS.picture_bytes, error=ImageError)


def local_copy(uri: str) -> Path:
    """Where a tar lies on this machine; fetched where it was not yet, or was deleted since."""
    path = _LOCAL.get(uri)
    return path if path and path.exists() else storage.fetch(uri)
