"""Readers of pairs on files from outside: right records, counted ones, or one sentence; twice.

What a reader gives is also measured as validation does, and must pass through json; and where the
format is simple, it is compared with a plain reading of the same bytes.
"""

from __future__ import annotations

import atexit
import contextlib
import csv
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from checks import Refused, check, outcome
from data_files import FILE_ENDS
from strategies import picture_files

from clippo_core import storage
from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import index_file, parts, shard_index
from clippo_core.data.images import decode_image, squash
from clippo_core.data.pairs import MAX_KEY_CHARACTERS, PhotoRecord
from clippo_core.data.partitions import make_partitions
from clippo_core.data.prepare import write_plan
from clippo_core.data.sources import tars
from clippo_core.data.sources.annotation_files import PICTURES
from clippo_core.data.sources.kinds import read_records
from clippo_core.data.validate.measure import measure
from clippo_core.data.write import write
from clippo_core.evaluate.imagenet.prompts import load_templates
from clippo_core.rendering import font
from clippo_core.run.records import Part, PartitionPlan, ShardList

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-readers-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
NOTHING = Part("", "", 0)
PHOTOS = FOLDER / "photos"
PHOTOS.mkdir()
for _name, _content in (("0.jpg", picture_files()[7]), ("1.png", picture_files()[0])):
    (PHOTOS / _name).write_bytes(_content)


def written(name: str, data: bytes) -> str:
    """The address of a file with these bytes."""
    path = FOLDER / name
    path.write_bytes(data)
    return str(path)


def records_of(kind: str, path: str, **options: Any) -> Any:
    """(id, record) of a source, and what validation measures; or Refused. Both are printable."""
    photos = "" if kind in ("tsv", "sentences", "c4", "moses", "captions") else str(PHOTOS)
    source = SourceConfig(kind, path, images=photos, name="s", **options)
    data = DataConfig((source,), text_pair_share=0.0 if photos else 1.0)

    def decode() -> Any:
        found = list(read_records("s", source))
        if zlib.crc32(repr(found).encode()) % 8:  # measuring takes 50 ms
            return found, b""
        with tempfile.TemporaryDirectory() as prepared:
            (part,) = make_partitions(data, prepared)
            facts = measure(PartitionPlan(prepared, RenderConfig(image_px=32)), part, False)
            assert facts.count == len(found)
            return found, storage.read_bytes(storage.join(prepared, facts.name))

    before = sorted(FOLDER.rglob("*"))
    found = outcome(decode, path)
    assert sorted(FOLDER.rglob("*")) == before
    if isinstance(found, Refused):
        return found
    ids = [key for key, _ in found[0]]
    assert len(set(ids)) == len(ids)
    for key, record in found[0]:
        sound = record.problem or len(record.key) <= MAX_KEY_CHARACTERS
        assert key.isprintable() and sound and record.problem.isprintable(), (key, record)
        assert not record.problem or FOLDER.name in record.problem, record.problem
        if isinstance(record, PhotoRecord) and not record.problem:
            home = {"webdataset": f"{path}#", "folder": f"{path}/", "hf": "row "}.get(kind)
            home = home or f"{PHOTOS}/"
            assert record.image.startswith(home) and ".." not in record.image[len(home) :].split(
                "/"
            )
            assert len(record.texts) == len(record.languages)
    return found[0]


def _sound(found: list[tuple[str, Any]]) -> list[Any]:
    return [record for _, record in found if not record.problem]


@check("karpathy")
def check_karpathy(data: bytes) -> bool:
    found = records_of("karpathy", written("set.json", data))
    if isinstance(found, Refused):
        return False
    entries = json.loads(data.decode("utf-8-sig"))["images"]
    assert len(found) == len(entries)
    assert not isinstance(records_of("captions", written("set.json", data)), Refused)
    for (_, record), entry in zip(found, entries, strict=True):
        if not record.problem:
            assert record.texts == tuple(one["raw"] for one in entry["sentences"])
            assert record.image.endswith("/" + entry["filename"].rpartition("/")[2])
    return bool(_sound(found))


@check("coco")
def check_coco(data: bytes) -> bool:
    found = records_of("coco", written("set.json", data))
    if isinstance(found, Refused):
        return False
    content = json.loads(data.decode("utf-8-sig"))
    for record in _sound(found):
        ids = [e["id"] for e in content["images"] if isinstance(e, dict) and "id" in e]
        captions = [e for e in content["annotations"] if isinstance(e, dict)]
        texts = [
            [e["caption"] for e in captions if str(e.get("image_id")) == str(n) and "caption" in e]
            for n in ids
        ]
        assert list(record.texts) in texts
    return bool(_sound(found))


@check("xm3600")
def check_xm3600(data: bytes) -> bool:
    found = records_of("xm3600", written("captions.jsonl", data))
    for record in [] if isinstance(found, Refused) else _sound(found):
        assert record.texts == () or f'"{record.languages[0]}"'.encode() in data
    return not isinstance(found, Refused) and bool(_sound(found))


@check("c4")
def check_c4(data: bytes) -> bool:
    found = records_of("c4", written("c4.json", data))
    return not isinstance(found, Refused) and bool(_sound(found))


@check("text")
def check_text(data: bytes) -> bool:
    """tsv, sentences and moses, beside a plain reading where the bytes are plain."""
    path = written("pairs.txt", data)
    rows, lines = records_of("tsv", path), records_of("sentences", path)
    aligned = records_of("moses", path, second_path=path)
    assert not any(isinstance(found, Refused) for found in (rows, lines, aligned))
    if data.isascii() and b"\0" not in data:
        plain = [line.removesuffix("\r") for line in data.decode().split("\n")]
        plain = plain[:-1] if plain[-1] == "" else plain
        cells = [[cell.strip() for cell in line.split("\t")] for line in plain if line.strip()]
        expected = [
            (row[-4:][-2] if len(row) == 2 else row[2], row[1] if len(row) == 2 else row[3])
            for row in cells
            if len(row) in (2, 4, 5)
        ]
        assert [(record.first, record.texts[0]) for record in _sound(rows)] == expected
        assert [record.first for record in _sound(aligned)] == [line.strip() for line in plain]
    return bool(_sound(rows) or _sound(lines))


@check("csv")
def check_csv(data: bytes) -> bool:
    found = records_of("csv", written("pairs.csv", data), separator=",")
    if isinstance(found, Refused):
        return False
    if data.isascii() and b"\0" not in data:
        lines = re.sub("\r?\n", "\n", data.decode()).splitlines(keepends=True)
        rows = [row for row in csv.reader(lines) if row]
        names = [name.strip() for name in rows[0]]
        places = names.index("filepath"), names.index("title")
        expected = {
            (f"pairs-{n}", tuple(row[place].strip() for place in places))
            for n, row in enumerate(rows[1:], 1)
            if len(row) > max(places)
        }
        for record in _sound(found):
            name = record.image.removeprefix(f"{PHOTOS}/")
            assert any(
                key == record.key and text == record.texts[0] and Path(row).name == Path(name).name
                for key, (row, text) in expected
            ), record
    return bool(_sound(found))


def folder_of(data: bytes) -> Path:
    """The folder that `data_files.folder_files` stands for, of names that a file system takes."""
    home = FOLDER / "folder"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    for part in data.split(FILE_ENDS):
        name, _, content = part.partition(b"\0")
        place = Path(os.fsdecode(os.path.normpath(b"/" + name)[1:]))
        with contextlib.suppress(OSError, ValueError):  # too long, a folder, a NUL
            (home / place).parent.mkdir(parents=True, exist_ok=True)
            (home / place).write_bytes(content)
    return home


@check("folder")
def check_folder(data: bytes) -> bool:
    home = folder_of(data)
    found = records_of("folder", str(home))
    if isinstance(found, Refused):
        return False
    for record in _sound(found):
        picture = Path(record.image)
        assert home in picture.parents and picture.suffix.lower() in PICTURES
        beside = [picture.with_suffix(end) for end in (".txt", ".TXT")]
        texts = [one.read_bytes().decode(errors="replace") for one in beside if one.exists()]
        assert list(record.texts) in [[text.strip()] for text in texts]
    return bool(_sound(found))


@check("hf-parquet")
def check_hf_parquet(data: bytes) -> bool:
    import pyarrow.parquet as pq

    found = records_of("hf", written("pairs.parquet", data))
    if isinstance(found, Refused):
        return False
    file = pq.ParquetFile(io.BytesIO(data))
    is_struct = file.schema_arrow.field("image").type.num_fields > 0
    leaves = ["image.bytes" if is_struct else "image", "text"]  # a path beside may be damaged
    groups = [file.read_row_group(group, leaves) for group in range(file.num_row_groups)]
    rows = [row for group in groups for row in group.to_pylist()]
    assert len(rows) == len(found)
    for (_, record), row in zip(found, rows, strict=True):
        image, texts = row["image"], row["text"]
        content = image["bytes"] if isinstance(image, dict) else image
        texts = texts if isinstance(texts, list) else [texts]
        assert bool(record.problem) == (not content or row["text"] is None or None in texts)
        if not record.problem:
            assert (record.content, list(record.texts)) == (content, [one.strip() for one in texts])
    return bool(_sound(found))


@check("templates")
def check_templates(data: bytes) -> bool:
    path = written("templates.json", data)
    found = outcome(lambda: load_templates(path), path)
    assert isinstance(found, Refused) or all(one.count("{}") == 1 for one in found)
    return not isinstance(found, Refused)


@check("web-tar")
def check_web_tar(data: bytes) -> bool:
    path = written("web.tar", data)
    found = records_of("webdataset", path)
    assert not isinstance(found, Refused), "a tar that cannot be read is a record"
    excluded = [key for key, record in found if record.problem]
    if excluded == ["s/web"]:
        outcome(lambda: tars.entries(path), path)
        return False
    good = [(key, record) for key, record in found if not record.problem]
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        contents = [tar.extractfile(one).read() for one in tar if one.isreg()]  # type: ignore[union-attr]
    for _, record in good:
        assert tars.picture_bytes(record.image) in contents

    def index() -> list[str]:
        data = DataConfig((SourceConfig("webdataset", path, name="s"),))
        with tempfile.TemporaryDirectory() as prepared:
            (part,) = make_partitions(data, prepared)
            render = RenderConfig(image_px=32)
            facts = measure(PartitionPlan(prepared, render), part, False)
            shards = write(write_plan(data, render, prepared), facts, NOTHING, False)
            for shard in parts.read(prepared, shards, ShardList).shards:
                arrays, _ = index_file.load(Path(prepared, shard.index.name))
                return [arrays.key(n) for n in range(len(arrays))]
        return []

    assert outcome(index, path) == [key for key, _ in good]
    outcome(lambda: len(shard_index.index_ours(Path(path))), path)
    return bool(good)


@check("index")
def check_index(data: bytes) -> bool:
    path = written("s-00000.index", data)

    def decode() -> Any:
        index, about = index_file.load(Path(path))
        keys = [index.key(n) for n in range(len(index))]
        ends = [span.sum() for span in (*index.first, *index.second, *index.drawings)]
        assert all(0 <= end <= int(about["bytes"]) for end in ends)
        assert index.text_counts.sum() == len(index.text_hashes) == len(index.drawings)
        return keys, about, len(shard_index.concatenate([index, index]))

    return not isinstance(outcome(decode, path), Refused)


@check("hex-font")
def check_hex_font(data: bytes) -> bool:
    path = written("a.hex", data)

    def decode() -> Any:
        glyphs = font.read_hex(path)
        return glyphs.code_points, glyphs.cells, glyphs.cell_px

    found = outcome(decode, f"font {path}")
    if isinstance(found, Refused):
        return False
    lines = [
        line.strip().split(":") for line in data.decode("utf-8-sig").split("\n") if line.strip()
    ]
    plain = {int(code, 16): bits for code, bits in lines}
    assert found[0].tolist() == sorted(plain)
    for code_point, cell, px in zip(*found, strict=True):
        rows = [int("".join(row), 16) for row in _rows(plain[int(code_point)])]
        width = 8 if len(plain[int(code_point)]) == 32 else 16
        assert px == width
        drawn = [[row >> (width - 1 - x) & 1 for x in range(width)] for row in rows]
        assert [[int(cell[x]) >> y & 1 for x in range(width)] for y in range(16)] == drawn
    return True


def _rows(bits: str) -> list[str]:
    n = len(bits) // 16
    return [bits[start : start + n] for start in range(0, len(bits), n)]


@check("photo")
def check_photo(data: bytes) -> bool:
    def decode() -> Any:
        pixels = decode_image(data, "s/photo")
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        small = squash(pixels, 32)
        assert small.shape == (32, 32, 3)
        return pixels, small

    found = outcome(decode, "s/photo")
    path = written("photos/fuzzed.jpg", data)
    assert not isinstance(outcome(lambda: decode_image(path), path), Refused) or isinstance(
        found, Refused
    )
    return not isinstance(found, Refused)
