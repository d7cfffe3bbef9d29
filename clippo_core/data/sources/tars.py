"""WebDataset tars by random access: which members a record has, and where each lies, so that a
record is one `pread`.

    000012.jpg 000012.txt 000012.json
    ─▶ Entry("000012", {"jpg": (offset, size), "txt": ..., "json": ...})

A record's key is its members' name up to the first dot of the last part, and its members stand one
after the other (webdataset's own rule). Only regular files count: links and devices are passed
over, nothing is ever unpacked, and no key becomes a path.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clippo_core import storage
from clippo_core.data.images import read_image_bytes
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.sources import annotation_files as files
from clippo_core.errors import ImageError, ShardError

PICTURES = ("jpg", "jpeg", "png", "webp")
"""Members that are taken for a record's photo, in this order."""


@dataclass(frozen=True)
class Entry:
    """One record of a tar."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Extension (after the key's dot, lower case) -> (offset, size) in the tar, in bytes."""

    @property
    def picture(self) -> str:
        """Extension of the photo; empty = it has none."""
        return next((extension for extension in PICTURES if extension in self.members), "")


@dataclass(frozen=True)
class Member:
    """One regular file in a tar."""

    name: str
    offset: int
    """Where its content begins in the tar, in bytes."""
    size: int
    """In bytes."""


def members(path: str | Path) -> list[Member]:
    """The regular files in a local, uncompressed tar, in its order.

    Raises ShardError for one that is cut short or no tar.
    """
    size = Path(path).stat().st_size
    found: list[Member] = []
    try:
        with tarfile.open(path, "r:") as tar:
            end = 0
            for member in tar:
                end = member.offset_data + member.size
                if member.isreg() and end <= size:
                    found.append(Member(member.name, member.offset_data, member.size))
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise ShardError(f"{path} is no readable tar ({error}); make or fetch it again.") from error
    if end > size or size - end < tarfile.BLOCKSIZE:
        raise ShardError(
            f"{path} is cut short: it ends within or right after its last member; make or fetch it"
            " again."
        )
    return found


def entries(path: str | Path) -> list[Entry]:
    """All records of a local, uncompressed tar, in its order. Raises ShardError as `members`."""
    found: list[Entry] = []
    for member in members(path):
        folder, slash, name = member.name.rpartition("/")
        stem, dot, extension = name.partition(".")
        if not dot or not stem:
            continue
        key = folder + slash + stem
        if not found or found[-1].key != key or extension.lower() in found[-1].members:
            found.append(Entry(key))
        found[-1].members[extension.lower()] = (member.offset, member.size)
    return found


def foreign_records(uri: str, language: str = "en") -> Iterator[PhotoRecord]:
    """Records of a tar as img2dataset writes it: a picture with `txt`, or with `json` that has a
    `caption`.

    Their `image` is `<uri>#<offset>+<size>`, which `picture_bytes` reads.
    """
    path = storage.fetch(uri)
    with open(path, "rb") as tar:
        for place, entry in enumerate(entries(path)):
            key = f"{files.stem(uri)}/{entry.key}"
            if not entry.picture:
                yield PhotoRecord(
                    key,
                    "",
                    (),
                    (),
                    problem=f"record {place} of {uri} has no picture ({', '.join(PICTURES)})",
                )
                continue
            offset, size = entry.members[entry.picture]
            tar.seek(0)
            texts, problem = foreign_text(tar.fileno(), entry)
            yield PhotoRecord(
                key,
                f"{uri}#{offset}+{size}",
                texts,
                (language,) * len(texts),
                problem=problem and f"record {place} of {uri}: {problem}",
            )


def foreign_text(descriptor: int, entry: Entry) -> tuple[tuple[str, ...], str]:
    """(texts, problem) of a foreign record: the `caption` of its json, else its txt."""
    import os

    for extension in ("txt", "json"):
        if extension not in entry.members:
            continue
        offset, size = entry.members[extension]
        try:
            data = os.pread(descriptor, size, offset)
            if extension == "txt":
                return (data.decode().strip(),), ""
            caption = json.loads(data)["caption"]
            return (caption.strip() if isinstance(caption, str) else caption,), ""
        except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
            return (), f"its {extension} cannot be read ({error!r})"[:300]
    return (), "it has neither txt nor json"


def picture_bytes(image: str) -> bytes:
    """The bytes of a record's `image`: a file, an object, or a member of a tar. Raises
    ImageError.
    """
    uri, mark, span = image.rpartition("#")
    if not mark or not uri.endswith(".tar"):
        return read_image_bytes(image)
    offset, _, size = span.partition("+")
    try:
        with open(storage.fetch(uri), "rb") as tar:
            tar.seek(int(offset))
            return tar.read(int(size))
    except (OSError, ValueError) as error:
        raise ImageError(f"{image} cannot be read ({error}).") from error
