"""Which kind of source a path is, by what lies there.

    photos/                      x.jpg beside x.txt          folder
    web/  web/{0000..0999}.tar   tars                        webdataset
    pairs.csv                    a header with a picture     csv
    org/name  set/*.parquet                                  hf
    dataset.json[=photos/]       Karpathy's or COCO's        karpathy, coco
    captions.jsonl[=photos/]     XM3600's or C4's lines      xm3600, c4
    sentences.txt                                            sentences
    train.en=train.de            two files, line by line     moses
    pairs.tsv                    no header of a picture      tsv

The pictures of an annotation file are looked for beside it. Nothing is decoded here but the first
line, or the json.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from clippo_core import storage
from clippo_core.config import SourceConfig
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources import hub, photos, tables
from clippo_core.errors import DataError, NotFoundError
from clippo_core.untrusted.json import load_json
from clippo_core.untrusted.names import refusal

PICTURE_COLUMNS = (
    "filepath", "image", "image_path", "image_name", "file_name", "filename", "path", "photo",
    "img",
)  # fmt: skip
"""Headers that are taken for the column with the picture, in this order."""
TEXT_COLUMNS = ("title", "caption", "captions", "text", "sentence", "description", "alt_text")
"""Headers that are taken for the column with the caption, in this order."""
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_BY_HAND = "write the source by hand (docs/sources.md)"


def guess_source(given: str) -> SourceConfig:
    """The source that `given` names: a path, or `ANNOTATIONS=PICTURES`, or `FIRST=SECOND` of two
    line-aligned files. Raises DataError where nothing is there, or nothing that is known.
    """
    path, _, second = (given, "", "") if _listed(given) else given.partition("=")
    found = _listed(path)
    if not found:
        if not second and _ON_HUB.fullmatch(path) and not path.endswith(".parquet"):
            return _dataset(SourceConfig("hf", path))
        raise refusal(DataError, path, "there is no such file or folder", "check the path")
    is_folder = found[0].uri.rstrip("/") != path.rstrip("/") and not re.search(r"[*{]", path)
    if is_folder:
        return _folder(path, found)
    first = found[0].uri
    endings = PurePosixPath(first.removesuffix(".gz")).suffixes[-1:]
    match endings[0].lower() if endings else "":
        case ".tar":
            return SourceConfig("webdataset", path)
        case ".parquet":
            return _dataset(SourceConfig("hf", path))
        case ".csv" | ".tsv":
            return _table(path, first)
        case ".json" | ".jsonl" | ".ndjson":
            return _annotations(path, first, second)
    if second:
        languages = tuple(
            PurePosixPath(one.removesuffix(".gz")).suffix[1:] for one in (path, second)
        )
        known = all(re.fullmatch("[a-z]{2,3}", one) and one != "txt" for one in languages)
        return SourceConfig("moses", path, second_path=second, languages=languages if known else ())
    return SourceConfig("sentences", path)


def _listed(path: str) -> list[storage.FileStat]:
    """The files that a path names; none where there is nothing."""
    try:
        return storage.list_files(path)
    except NotFoundError:
        return []


def _folder(path: str, found: Sequence[storage.FileStat]) -> SourceConfig:
    """A folder of tars, of parquet files, or of pictures beside texts."""
    ends = {PurePosixPath(stat.name).suffix.lower() for stat in found}
    if ".tar" in ends:
        return SourceConfig("webdataset", path)
    if ".parquet" in ends:
        return _dataset(SourceConfig("hf", path))
    if not ends & set(files.PICTURES):
        fault = f"the folder holds no pictures ({', '.join(files.PICTURES)}), tars or parquet files"
        raise refusal(DataError, path, fault, "name the file or folder of the pairs")
    stems = {_stem(stat.name) for stat in found if stat.name.endswith(".txt")}
    pictures = [stat.name for stat in found if stat.name.lower().endswith(files.PICTURES)]
    if not stems & set(map(_stem, pictures)):
        others = [s.name for s in found if s.name.endswith((".csv", ".tsv", ".json", ".jsonl"))]
        remedy = "put a .txt with the caption beside each picture"
        if others:
            remedy = f"name the table itself, {storage.join(path, others[0])}, if it has them"
        raise refusal(DataError, path, "no picture in it has a .txt beside it", remedy)
    return SourceConfig("folder", path)


def _stem(name: str) -> str:
    """A name below the folder, without its last extension."""
    return str(PurePosixPath(name).with_suffix(""))


def _table(path: str, first: str) -> SourceConfig:
    """A table with a header, or sentence pairs without one."""
    line = next(iter(files.lines(first)), None)
    header = line.text if line else ""
    separator = max("\t,;", key=header.count)
    names = [name.strip().strip('"') for name in header.split(separator)]
    columns = _columns(names)
    if all(columns):
        return SourceConfig(
            "csv",
            path,
            image_column="" if columns[0] == "filepath" else columns[0],
            text_column="" if columns[1] == "title" else columns[1],
            separator=separator,
        )
    if first.removesuffix(".gz").endswith(".tsv") and not any(columns) and len(names) > 1:
        return SourceConfig("tsv", path)
    fault = f"its header ({', '.join(names)}) names no picture or no caption"
    known = f"a picture is called {', '.join(PICTURE_COLUMNS)}, a caption {', '.join(TEXT_COLUMNS)}"
    raise refusal(DataError, first, fault, f"rename its columns ({known}), or {_BY_HAND}")


def _columns(names: Sequence[str]) -> tuple[str, str]:
    """(picture, caption) among the names of columns; empty where none is known."""
    lower = {name.lower(): name for name in reversed(names)}
    picture = next((lower[name] for name in PICTURE_COLUMNS if name in lower), "")
    text = next((lower[name] for name in TEXT_COLUMNS if name in lower), "")
    return picture, text


def _dataset(source: SourceConfig) -> SourceConfig:
    """A dataset of Hugging Face, with the columns that it has."""
    if source.on_hub:
        names = hub.hub_columns(source)
    else:
        names = tables.column_names(files.files(source.path, ".parquet"), files.opened)
    picture, text = _columns(names)
    if not (picture and text):
        fault = f"its columns ({', '.join(names)}) name no picture or no caption"
        raise refusal(DataError, source.path, fault, f"rename them, or {_BY_HAND}")
    return SourceConfig(
        "hf",
        source.path,
        image_column="" if picture == "image" else picture,
        text_column="" if text == "text" else text,
    )


def _annotations(path: str, first: str, images: str) -> SourceConfig:
    """Karpathy's or COCO's json, or lines of XM3600 or C4."""
    line = _json_line(first)
    if line is not None:
        if "image/key" in line:
            images = images or _beside(first, [f"{line['image/key']}{e}" for e in files.PICTURES])
            return SourceConfig("xm3600", path, images)
        if "text" in line:
            return SourceConfig("c4", path)
        fault = f"its lines have {', '.join(map(str, line))}, and neither `text` nor `image/key`"
        raise refusal(DataError, first, fault, _BY_HAND)
    kind = captions_kind(first)
    records = photos.karpathy_records if kind == "karpathy" else photos.coco_records
    named = [(one.image.removeprefix("./"), one.split) for one in records(first, ".")]
    images = images or _beside(first, [name for name, _ in named[:10] if name])
    splits = {split for _, split in named}
    return SourceConfig(kind, path, images, "train" if "train" in splits else "")


def captions_kind(uri: str) -> Any:
    """`karpathy` or `coco`: whose json a file of captions is. Raises DataError for another."""
    content = files.load_json(uri)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        if "annotations" in content:
            return "coco"
        if any(isinstance(entry, dict) and "sentences" in entry for entry in content["images"]):
            return "karpathy"
    raise refusal(DataError, uri, "it is neither Karpathy's nor COCO's json of captions", _BY_HAND)


def _json_line(uri: str) -> dict[str, Any] | None:
    """The first line where it is a JSON object of its own, and not the whole file."""
    found = list(itertools.islice(files.lines(uri), 2))
    try:
        content = load_json(found[0].text, uri, lone_surrogates=True) if found else None
    except DataError:
        return None
    is_lines = isinstance(content, dict) and not {"images", "annotations"} & content.keys()
    return content if is_lines else None


def _beside(uri: str, names: Sequence[str]) -> str:
    """The folder with one of these pictures: that of the annotation file or one in it; on a disk
    also the one above and those beside. Raises DataError.
    """
    folder = uri.rpartition("/")[0] or "."
    if storage.is_local(uri):
        here = storage.local_path(folder)
        near = [place for home in (here, here / "..") for place in (home, *sorted(home.iterdir()))]
        for place in near:
            if place.is_dir() and any((place / name).is_file() for name in names):
                return os.path.normpath(place)
    else:
        for stat in _listed(folder):
            for name in names:
                if f"/{stat.name}".endswith(f"/{name}"):
                    return storage.join(folder, stat.name.removesuffix(name)).rstrip("/")
    fault = f"no folder beside it has its picture {names[0] if names else ''}"
    raise refusal(DataError, uri, fault, f"name the folder as well: {uri}=FOLDER")
