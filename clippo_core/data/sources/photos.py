"""Photos with captions, from the benchmarks' own annotation files.

    Karpathy   dataset_coco.json
               {"images": [{"filename", "filepath"?, "split", "sentences": [{"raw"}, ...]}]}
    COCO       captions_train2017.json
               {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    XM3600     captions.jsonl, one line per photo
               {"image/key", "en": {"caption": [...]}, "de": {...}, ...}

Two fields are ours, and optional: `group` of a Karpathy image or an XM3600 line (records of one
group never meet in one batch; a Karpathy image without one is a group with its captions), and
`language` of a Karpathy sentence. An entry that is not as its format says becomes a record with a
`problem`: validation names and counts it. It does not look at the pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from clippo_core import storage
from clippo_core.data.pairs import PhotoRecord, TextRecord
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources.annotation_files import PICTURES
from clippo_core.errors import DataError
from clippo_core.untrusted.json import at, field, load_json, optional


def karpathy_records(
    annotations: str, images: str, split: str = "", language: str = "en"
) -> Iterator[PhotoRecord]:
    """Records of a Karpathy json in its order; `restval` counts as `train`. Raises DataError."""
    for number, entry in enumerate(
        field(files.load_json(annotations), "images", list, annotations)
    ):
        where = f"image {number} of {annotations}"
        try:
            found = optional(entry, "split", str, "", where)
            found = "train" if found == "restval" else found
            if split and found != split:
                continue
            name = field(entry, "filename", str, where)
            sentences = field(entry, "sentences", list[dict], where)
            texts: list[Any] = [field(one, "raw", object, where, "sentences") for one in sentences]
            yield PhotoRecord(
                files.stem(name),
                files.relative(
                    images, optional(entry, "filepath", str, "", where), name, where=where
                ),
                tuple(texts),
                tuple(optional(one, "language", str, language, where) for one in sentences),
                files.stem(name) if entry.get("group") is None else _label(entry, "group", where),
                found,
            )
        except DataError as error:
            yield _unusable(f"entry-{number}", error)


def caption_pairs(annotations: str, split: str = "", language: str = "en") -> Iterator[TextRecord]:
    """Sentence pairs of a Karpathy json: captions 1 and 2 of a photo, 2 and 3, ... They and the
    photo are one group, so that no batch holds a photo and a pair about it. Raises DataError.
    """
    for photo in karpathy_records(annotations, "", split, language):
        if photo.problem:
            yield TextRecord(photo.key, "", (), (language,), problem=photo.problem)
        captions = zip(photo.texts, photo.languages, strict=True)
        for place, pair in enumerate(itertools.pairwise(captions)):
            (first, second), languages = zip(*pair, strict=True)
            is_text = isinstance(first, str) and isinstance(second, str)
            yield TextRecord(
                f"{photo.key}-{place}",
                first if is_text else "",
                (second,) if is_text else (),
                languages if is_text else (language,),
                photo.group,
                "" if is_text else f"a caption of {photo.key} in {annotations} is no text.",
            )


def coco_records(annotations: str, images: str, language: str = "en") -> Iterator[PhotoRecord]:
    """Records of COCO's captions json in the order of its images; photos without a caption are left
    out. Raises DataError.
    """
    content = files.load_json(annotations)
    captions: dict[str, list[Any]] = {}
    for number, entry in enumerate(field(content, "annotations", list, annotations)):
        where = f"annotation {number} of {annotations}"
        try:
            caption = field(entry, "caption", object, where)
            captions.setdefault(_label(entry, "image_id", where), []).append(caption)
        except DataError as error:
            yield _unusable(f"annotation-{number}", error)
    for number, entry in enumerate(field(content, "images", list, annotations)):
        where = f"image {number} of {annotations}"
        try:
            texts = tuple(captions.get(_label(entry, "id", where), ()))
            name = field(entry, "file_name", str, where)
            image = files.relative(images, name, where=where)
        except DataError as error:
            yield _unusable(f"image-{number}", error)
            continue
        if texts:
            yield PhotoRecord(files.stem(name), image, texts, (language,) * len(texts))


def xm3600_records(
    captions: str, images: str, languages: Iterable[str] = (), split: str = ""
) -> Iterator[PhotoRecord]:
    """Records of XM3600's captions.jsonl, captions ordered by language code; a photo is
    `<image/key>.jpg` (or .png ...) in `images`. Raises DataError.
    """
    wanted = tuple(languages)
    present = _names(images)
    for line in files.lines(captions):
        if not line.problem and not line.text.strip():
            continue
        where = f"line {line.number} of {captions}"
        try:
            if line.problem:
                raise DataError(line.problem)
            entry = at(load_json(line.text, where, lone_surrogates=True), dict, where)
            found = optional(entry, "split", str, "", where)
            if split and found != split:
                continue
            key = field(entry, "image/key", str, where)
            codes = [code for code in sorted(entry) if isinstance(entry[code], dict)]
            pairs = [
                (text, at(code, str, where, "a language"))
                for code in codes
                if not wanted or code in wanted
                for text in field(entry[code], "caption", list, where, code)
            ]
            name = next((key + end for end in PICTURES if key + end in present), key + ".jpg")
            yield PhotoRecord(
                key,
                files.relative(images, name, where=where),
                tuple(text for text, _ in pairs),
                tuple(code for _, code in pairs),
                "" if entry.get("group") is None else _label(entry, "group", where),
                found,
            )
        except DataError as error:
            yield _unusable(f"line-{line.number}", error)


def _label(entry: Any, name: str, where: str) -> str:
    """A field that holds a text or a whole number, as text."""
    value = field(entry, name, object, where)
    return str(at(value, int if type(value) is int else str, where, name))


def _names(folder: str) -> set[str]:
    """File names below `folder`; empty where there is none (each missing picture is then named on
    its own).
    """
    try:
        return {stat.name for stat in storage.list_files(folder)}
    except storage.StorageError:
        return set()


def _unusable(key: str, problem: DataError) -> PhotoRecord:
    return PhotoRecord(key, "", (), (), problem=str(problem))
