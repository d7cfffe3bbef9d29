"""The pictures that a run's evaluations will show, by content and by name, so that none of them is
trained on.

Content is the file's sha256. Names are file stems, COCO's with or without `COCO_val2014_`; stems of
fewer than five characters say nothing and are not compared. Splits that an evaluation itself trains
on (few-shot pool, VQA's training photos) do not count. A picture that was scaled or encoded anew
under another name is not recognised.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from clippo_core import storage
from clippo_core.config import EvaluateConfig
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources import photos as photo_sources
from clippo_core.data.sources import tars
from clippo_core.errors import ClippoError
from clippo_core.evaluate.registry import EVALUATIONS, Pictures

MIN_STEM_CHARACTERS = 5
_COCO_PREFIX = re.compile(r"^COCO_(train|val|test)\d{4}_")
_PICTURE = re.compile(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)


@dataclass
class Evaluated:
    """Content and names of evaluated pictures -> the evaluation."""

    contents: dict[str, str] = field(default_factory=dict)
    stems: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Evaluations whose pictures could not be looked at, and why."""

    def where(self, sha256: str, stem: str) -> str | None:
        """The evaluation that shows a picture of this content or this name, or None."""
        return self.contents.get(sha256) or self.stems.get(plain_stem(stem))


def plain_stem(stem: str) -> str:
    """A file's stem without COCO's prefix."""
    return _COCO_PREFIX.sub("", stem)


def evaluated_pictures(config: EvaluateConfig) -> Evaluated:
    """Read the pictures of all evaluations of a run. One that cannot be read is noted; the
    evaluation itself will say so.
    """
    found = Evaluated()
    for name, evaluation in EVALUATIONS.items():
        for pictures in evaluation.pictures(config):
            try:
                _note(found, name, list(listed_pictures(pictures)))
            except ClippoError as error:
                found.notes.append(f"{name}: {error}")
    return found


def _note(found: Evaluated, name: str, uris: list[str]) -> None:
    """Add the pictures at `uris`, by content and by stem, as shown by the evaluation `name`."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for uri, sha256 in zip(uris, pool.map(_sha256, uris), strict=True):
            if sha256:
                found.contents.setdefault(sha256, name)
            stem = plain_stem(files.stem(uri if ".tar#" in uri else uri.partition("#")[0]))
            if len(stem) >= MIN_STEM_CHARACTERS:
                found.stems.setdefault(stem, name)


def _folder(pictures: Pictures) -> Iterator[str]:
    """All pictures below a folder, and all in tars below it."""
    for stat in storage.list_files(pictures.images):
        if stat.name.endswith(".tar"):
            yield from (record.image for record in tars.foreign_records(stat.uri) if record.image)
        elif _PICTURE.search(stat.name):
            yield stat.uri


def _captions(pictures: Pictures) -> Iterator[str]:
    """Pictures of Karpathy's or COCO's json."""
    content = files.load_json(pictures.listed_in)
    if isinstance(content, dict) and "annotations" in content:
        records = photo_sources.coco_records(pictures.listed_in, pictures.images)
    else:
        records = photo_sources.karpathy_records(
            pictures.listed_in, pictures.images, pictures.split
        )
    return (record.image for record in records if record.image)


def _questions(pictures: Pictures) -> Iterator[str]:
    """Pictures whose name ends in the image id of a question."""
    content = files.load_json(pictures.listed_in)
    questions = content.get("questions", ()) if isinstance(content, dict) else ()
    asked = {entry.get("image_id") for entry in questions}
    for stat in storage.list_files(pictures.images):
        number = re.search(r"(\d+)$", files.stem(stat.name))
        if number and int(number[1]) in asked:
            yield stat.uri


def _xm3600(pictures: Pictures) -> Iterator[str]:
    """Pictures of captions.jsonl."""
    records = photo_sources.xm3600_records(pictures.listed_in, pictures.images)
    return (record.image for record in records)


_LISTED: dict[str, Callable[[Pictures], Iterator[str]]] = {
    "folder": _folder,
    "captions": _captions,
    "questions": _questions,
    "xm3600": _xm3600,
}
"""How the pictures of each format are listed."""


def listed_pictures(pictures: Pictures) -> Iterator[str]:
    """Addresses of a set of evaluated pictures, one after another. Raises DataError, StorageError
    where what lists them cannot be read.
    """
    return _LISTED[pictures.format](pictures)


def _sha256(uri: str) -> str:
    """sha256 of a picture's bytes; empty where it cannot be read (its evaluation will say so)."""
    try:
        return hashlib.sha256(tars.picture_bytes(uri)).hexdigest()
    except ClippoError:
        return ""
