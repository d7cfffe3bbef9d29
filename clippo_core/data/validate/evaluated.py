"""What a run's evaluations will show, so that none of it is trained on: pictures by content, by
look and by name, and captions.

    evaluations ─▶ kind      first     second   evaluation          evaluated/<key>.parquet
                   content   bytes     0        imagenet
                   look      64 bits   64 bits  imagenet            `data.perceptual`
                   name      stem      0        imagenet            `plain.stem_hash`
                   caption   text      0        retrieval           `plain.plain_hash`

first and second are 64-bit hashes (`pairs.key_hash`), 0 = none. Captions are those of retrieval, in
every language. Splits that an evaluation itself trains on (few-shot pool, VQA's training photos) do
not count, and neither do questions, sentences and class names, which are no captions.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clippo_core import storage
from clippo_core.config import EvaluateConfig, digest, identity
from clippo_core.data import parts
from clippo_core.data.images import decoded_image
from clippo_core.data.pairs import PhotoRecord, key_hash
from clippo_core.data.perceptual import perceptual_hash
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources import photos as photo_sources
from clippo_core.data.sources import tars
from clippo_core.data.validate.facts import table_writer
from clippo_core.data.validate.plain import plain_hash, stem_hash
from clippo_core.errors import ClippoError
from clippo_core.evaluate.registry import EVALUATIONS, Pictures
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import EvaluatedPlan, FileEntry, Part
from clippo_core.untrusted.names import is_unicode

COLUMNS = {"kind": "string", "first": "uint64", "second": "uint64", "evaluation": "string"}
_PICTURE = re.compile(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)
Shown = tuple[str, tuple[object, ...]]
"""(address of a picture, its captions)."""
Found = dict[tuple[str, int, int], str]
"""(kind, first, second) -> evaluation."""


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated, in a table."""

    table: FileEntry
    n_pictures: int
    notes: list[str] = field(default_factory=list)
    """Evaluations whose pictures could not be looked at, and why."""


def fingerprints(plan: EvaluatedPlan) -> Part:
    """The fingerprints of all that is evaluated: those that were noted before, or taken now."""
    made_of = [identity(plan.evaluate), plan.content, code_digest(__name__)]
    name = PreparedFolder.part("evaluated", digest(made_of))
    known = parts.finished(plan.prepared, name, Evaluated, ("table",))
    if known is not None:
        return parts.noted(name, known, known.n_pictures)
    found, n_pictures, notes = taken(plan.evaluate)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "evaluated")
        with table_writer(path, COLUMNS) as writer:
            for row in sorted(found):
                writer.add([dict(zip(COLUMNS, (*row, found[row]), strict=True))])
        stored = name.removesuffix(".json") + ".parquet"
        entry = parts.store_table(plan.prepared, stored, path, len(found))
    known = Evaluated(entry, n_pictures, notes)
    return parts.write(plan.prepared, name, known, n_pictures)


def taken(config: EvaluateConfig) -> tuple[Found, int, list[str]]:
    """(fingerprints, pictures, notes) of all evaluations of a run. One that cannot be read is
    noted; the evaluation itself will say so.
    """
    found: Found = {}
    notes: list[str] = []
    n_pictures = 0
    for name, evaluation in EVALUATIONS.items():
        for pictures in evaluation.pictures(config):
            try:
                shown = list(_LISTED[pictures.format](pictures))
            except ClippoError as error:
                notes.append(f"{name}: {error}")
                continue
            n_pictures += len(shown)
            for uri, captions in shown:
                stem = files.stem(uri if ".tar#" in uri else uri.partition("#")[0])
                _note(found, name, "name", stem_hash(stem))
                for text in captions:
                    if isinstance(text, str) and is_unicode(text):
                        _note(found, name, "caption", plain_hash(text))
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                for content, look in pool.map(_of_picture, (uri for uri, _ in shown)):
                    _note(found, name, "content", content)
                    _note(found, name, "look", *look)
    return found, n_pictures, notes


def _note(found: Found, evaluation: str, kind: str, first: int, second: int = 0) -> None:
    """Add a fingerprint, of which 0 is none; the first evaluation that has it is named."""
    if first or second:
        found.setdefault((kind, first, second), evaluation)


def _of_picture(uri: str) -> tuple[int, tuple[int, int]]:
    """(content, look) of a picture; zeros where it cannot be read (its evaluation will say so)."""
    content = 0
    try:
        data = tars.picture_bytes(uri)
        content = key_hash(data)
        with decoded_image(data, uri) as pixels:
            return content, perceptual_hash(pixels)
    except ClippoError:
        return content, (0, 0)


def _folder(pictures: Pictures) -> Iterator[Shown]:
    """All pictures below a folder, and all in tars below it."""
    for stat in storage.list_files(pictures.images):
        if stat.name.endswith(".tar"):
            for record in tars.foreign_records(stat.uri):
                if record.image:
                    yield record.image, ()
        elif _PICTURE.search(stat.name):
            yield stat.uri, ()


def _captions(pictures: Pictures) -> Iterator[Shown]:
    """Pictures of Karpathy's or COCO's json."""
    content = files.load_json(pictures.listed_in)
    if isinstance(content, dict) and "annotations" in content:
        records = photo_sources.coco_records(pictures.listed_in, pictures.images)
    else:
        records = photo_sources.karpathy_records(
            pictures.listed_in, pictures.images, pictures.split
        )
    return _of_records(records)


def _questions(pictures: Pictures) -> Iterator[Shown]:
    """Pictures whose name ends in the image id of a question."""
    content = files.load_json(pictures.listed_in)
    questions = content.get("questions", ()) if isinstance(content, dict) else ()
    asked = {entry.get("image_id") for entry in questions}
    for stat in storage.list_files(pictures.images):
        number = re.search(r"(\d+)$", files.stem(stat.name))
        if number and int(number[1]) in asked:
            yield stat.uri, ()


def _xm3600(pictures: Pictures) -> Iterator[Shown]:
    """Pictures of captions.jsonl."""
    return _of_records(photo_sources.xm3600_records(pictures.listed_in, pictures.images))


def _of_records(records: Iterator[PhotoRecord]) -> Iterator[Shown]:
    return ((record.image, record.texts) for record in records if record.image)


_LISTED: dict[str, Callable[[Pictures], Iterator[Shown]]] = {
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
    return (uri for uri, _ in _LISTED[pictures.format](pictures))
