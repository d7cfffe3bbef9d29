"""Photos with captions, from the benchmarks' own annotation files.

    Karpathy   dataset_coco.json
               {"images": [{"filename", "filepath"?, "split", "sentences": [{"raw"}, ...]}]}
    COCO       captions_train2017.json
               {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    XM3600     captions.jsonl, one line per photo
               {"image/key", "en": {"caption": [...]}, "de": {...}, ...}

Two fields are ours, and optional: `group` of a Karpathy image or an XM3600 line (records of one
group never meet in one batch), and `language` of a Karpathy sentence. An entry that is not as its
format says becomes a record with a `problem`: validation names and counts it. It does not look at
the pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from clippo_core import storage
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.sources import annotation_files as files
from clippo_core.errors import DataError

_EXTENSIONS = (".jpg", ".png", ".jpeg", ".webp")


def karpathy_records(
    annotations: str, images: str, split: str = "", language: str = "en"
) -> Iterator[PhotoRecord]:
    """Records of a Karpathy json in its order; `restval` counts as `train`."""
    entries = _part(files.load_json(annotations), "images", annotations, "Karpathy")
    for number, entry in enumerate(entries):
        try:
            name, sentences = entry["filename"], entry["sentences"]
            found = "train" if entry.get("split") == "restval" else str(entry.get("split", ""))
            if split and found != split:
                continue
            texts = tuple(sentence["raw"] for sentence in sentences)
            languages = tuple(str(sentence.get("language", language)) for sentence in sentences)
            image = files.relative(images, str(entry.get("filepath", "")), name)
        except (KeyError, TypeError, AttributeError, DataError) as error:
            yield _unusable(
                f"entry-{number}",
                f"image {number} of {annotations} is not in Karpathy's schema ({error!r})",
            )
            continue
        yield PhotoRecord(
            files.stem(name), image, texts, languages, str(entry.get("group", "")), found
        )


def coco_records(annotations: str, images: str, language: str = "en") -> Iterator[PhotoRecord]:
    """Records of COCO's captions json in the order of its images; photos without a caption are left
    out.
    """
    content = files.load_json(annotations)
    captions: dict[Any, list[str]] = {}
    for number, entry in enumerate(_part(content, "annotations", annotations, "COCO")):
        try:
            captions.setdefault(entry["image_id"], []).append(entry["caption"])
        except (KeyError, TypeError) as error:
            yield _unusable(
                f"annotation-{number}",
                f"annotation {number} of {annotations} is not in COCO's schema ({error!r})",
            )
    for number, entry in enumerate(_part(content, "images", annotations, "COCO")):
        try:
            texts = tuple(captions.get(entry["id"], ()))
            name = entry["file_name"]
            image = files.relative(images, name)
        except (KeyError, TypeError, DataError) as error:
            yield _unusable(
                f"image-{number}",
                f"image {number} of {annotations} is not in COCO's schema ({error!r})",
            )
            continue
        if texts:
            yield PhotoRecord(files.stem(name), image, texts, (language,) * len(texts))


def xm3600_records(
    captions: str, images: str, languages: Iterable[str] = (), split: str = ""
) -> Iterator[PhotoRecord]:
    """Records of XM3600's captions.jsonl, captions ordered by language code; a photo is
    `<image/key>.jpg` (or .png ...) in `images`.
    """
    wanted = tuple(languages)
    present = _names(images)
    for number, line in files.lines(captions):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            key = str(entry["image/key"])
            found = str(entry.get("split", ""))
            if split and found != split:
                continue
            codes = [
                code
                for code in sorted(entry)
                if isinstance(entry[code], dict) and (not wanted or code in wanted)
            ]
            pairs = [(text, code) for code in codes for text in entry[code]["caption"]]
            name = next(
                (key + extension for extension in _EXTENSIONS if key + extension in present),
                key + ".jpg",
            )
            image = files.relative(images, name)
        except (KeyError, TypeError, ValueError, DataError) as error:
            yield _unusable(
                f"line-{number}",
                f"line {number} of {captions} is not in XM3600's schema ({error!r})",
            )
            continue
        yield PhotoRecord(
            key,
            image,
            tuple(t for t, _ in pairs),
            tuple(c for _, c in pairs),
            str(entry.get("group", "")),
            found,
        )


def _part(content: Any, name: str, uri: str, schema: str) -> list[Any]:
    """The list `name` of a json file. Raises DataError."""
    part = content.get(name) if isinstance(content, dict) else None
    if not isinstance(part, list):
        raise DataError(f"{uri} has no list `{name}`; it is not in the {schema} schema.")
    return part


def _names(folder: str) -> set[str]:
    """File names below `folder`; empty where there is none (each missing picture is then named on
    its own).
    """
    try:
        return {stat.name for stat in storage.list_files(folder)}
    except storage.StorageError:
        return set()


def _unusable(key: str, problem: str) -> PhotoRecord:
    return PhotoRecord(key, "", (), (), problem=problem[:500])
