"""The pictures that a run's evaluations will show, by content and by name, so that none of them is
trained on.

Content is the file's sha256. Names are file stems, COCO's with or without `COCO_val2014_`; stems of
fewer than five characters say nothing and are not compared. Splits that an evaluation itself trains
on (few-shot pool, VQA's training photos) do not count. A picture that was scaled or encoded anew
under another name is not recognised.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from clippo_core import storage
from clippo_core.config import EvaluateConfig, digest, identity
from clippo_core.data import parts
from clippo_core.data.pairs import key_hash
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources import photos as photo_sources
from clippo_core.data.sources import tars
from clippo_core.data.validate.plain import stem_hash
from clippo_core.errors import ClippoError
from clippo_core.evaluate.registry import EVALUATIONS, Pictures
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import EvaluatedPlan, Part

_PICTURE = re.compile(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)


@dataclass(frozen=True)
class EvaluatedPictures:
    """Content and names of evaluated pictures -> the evaluation."""

    contents: dict[str, str] = field(default_factory=dict)
    stems: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Evaluations whose pictures could not be looked at, and why."""

    def where(self, content: int, stem: int) -> str | None:
        """The evaluation that shows a picture of this content or this name, or None."""
        return self.contents.get(str(content)) or self.stems.get(str(stem))


def fingerprints(plan: EvaluatedPlan) -> Part:
    """What is evaluated, as noted before or read now."""
    made_of = [identity(plan.evaluate), plan.content, code_digest(__name__)]
    name = PreparedFolder.part("evaluated", digest(made_of))
    found = parts.finished(plan.prepared, name, EvaluatedPictures)
    if found is None:
        found = evaluated_pictures(plan.evaluate)
        return parts.write(plan.prepared, name, found, len(found.contents))
    return parts.noted(name, found, len(found.contents))


def evaluated_pictures(config: EvaluateConfig) -> EvaluatedPictures:
    """Read the pictures of all evaluations of a run. One that cannot be read is noted; the
    evaluation itself will say so.
    """
    found = EvaluatedPictures()
    for name, evaluation in EVALUATIONS.items():
        for pictures in evaluation.pictures(config):
            try:
                _note(found, name, list(_LISTED[pictures.format](pictures)))
            except ClippoError as error:
                found.notes.append(f"{name}: {error}")
    return found


def _note(found: EvaluatedPictures, name: str, uris: list[str]) -> None:
    """Add the pictures at `uris`, by content and by stem, as shown by the evaluation `name`."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for uri, content in zip(uris, pool.map(_content, uris), strict=True):
            if content:
                found.contents.setdefault(str(content), name)
            stem = stem_hash(files.stem(uri if ".tar#" in uri else uri.partition("#")[0]))
            if stem:
                found.stems.setdefault(str(stem), name)


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


def _content(uri: str) -> int:
    """Hash of a picture's bytes; 0 where it cannot be read (its evaluation will say so)."""
    try:
        return key_hash(tars.picture_bytes(uri))
    except ClippoError:
        return 0
