"""The pictures that a run's evaluations will show, by content and by name, so that none of them is trained on.

Content is the file's sha256. Names are file stems, COCO's with or without `COCO_val2014_`; stems of fewer than five characters say
nothing and are not compared. Splits that an evaluation itself trains on (few-shot pool, VQA's training photos) do not count. A
picture that was scaled or encoded anew under another name is not recognised.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from clippo_core import storage
from clippo_core.config import EvaluateConfig
from clippo_core.data import annotation_files as files
from clippo_core.data import photo_sources, tars
from clippo_core.errors import ClippoError

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
    """Read the pictures of all evaluations of a run. One that cannot be read is noted; the evaluation itself will say so."""
    found = Evaluated()
    for name, pictures in _evaluations(config).items():
        try:
            uris = list(pictures)
        except ClippoError as error:
            found.notes.append(f"{name}: {error}")
            continue
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for uri, sha256 in zip(uris, pool.map(_sha256, uris), strict=True):
                if sha256:
                    found.contents.setdefault(sha256, name)
                stem = plain_stem(files.stem(uri.partition("#")[0] if ".tar#" not in uri else uri))
                if len(stem) >= MIN_STEM_CHARACTERS:
                    found.stems.setdefault(stem, name)
    return found


def _evaluations(config: EvaluateConfig) -> dict[str, Iterator[str]]:
    """Name -> URIs of the pictures that it shows."""
    found: dict[str, Iterator[str]] = {}
    if config.imagenet:
        found["imagenet"] = _folder(config.imagenet.images)
    if config.retrieval:
        found["retrieval"] = _captioned(config.retrieval.annotations, config.retrieval.images, config.retrieval.split)
    if config.vqa:
        found["vqa"] = _questioned(config.vqa.questions, config.vqa.images or config.vqa.train_images)
    if config.xm3600:
        found["xm3600"] = (record.image for record in photo_sources.xm3600_records(config.xm3600.captions, config.xm3600.images))
    return found


def _folder(uri: str) -> Iterator[str]:
    """All pictures below a folder, and all in tars below it."""
    for stat in storage.list_files(uri):
        if stat.name.endswith(".tar"):
            yield from (record.image for record in tars.foreign_records(stat.uri) if record.image)
        elif _PICTURE.search(stat.name):
            yield stat.uri


def _captioned(annotations: str, images: str, split: str) -> Iterator[str]:
    content = files.load_json(annotations)
    is_coco = isinstance(content, dict) and "annotations" in content
    records = photo_sources.coco_records(annotations, images) if is_coco else photo_sources.karpathy_records(annotations, images, split)
    yield from (record.image for record in records if record.image)


def _questioned(questions: str, images: str) -> Iterator[str]:
    """Pictures whose name ends in the image id of a question."""
    content = files.load_json(questions)
    asked = {entry.get("image_id") for entry in content.get("questions", ())} if isinstance(content, dict) else set()
    for stat in storage.list_files(images):
        number = re.search(r"(\d+)$", files.stem(stat.name))
        if number and int(number[1]) in asked:
            yield stat.uri


def _sha256(uri: str) -> str:
    """sha256 of a picture's bytes; empty where it cannot be read (its evaluation will say so)."""
    try:
        return hashlib.sha256(tars.picture_bytes(uri)).hexdigest()
    except ClippoError:
        return ""
