"""Text pairs in zstd frames, and indexes of which parts are read: what was written comes back, in
few bytes, and damage is seen.
"""

from __future__ import annotations

import functools
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from prepared import shards_of

from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import index_file, text_frames
from clippo_core.data.index_file import IndexFile
from clippo_core.data.pairs import TextRecord, key_hash
from clippo_core.data.records import Records
from clippo_core.data.shard_index import PHOTO, Row, ShardIndex, indexed, take
from clippo_core.errors import DataError, ShardError
from clippo_core.untrusted.limits import Limits
from clippo_core.untrusted.zstd import unpacked

GOAL_BYTES = 80
"""A pair of 130 bytes of text, with its part of the index."""


def text_records(n: int) -> list[tuple[str, TextRecord]]:
    """Sentences with one, two or three partners, some in groups, with every kind of line end."""
    ends = ("", "\n", "\u2028", "\r\n", '"\\', "\U0001f600")
    made = []
    for i in range(n):
        texts = tuple(f"Satz {i} {t}{ends[(i + t) % 6]}" for t in range(1 + (i % 7 == 0) * 2))
        group = f"g{i // 5}" if i % 11 == 0 else ""
        made.append((f"s/k-{i}", TextRecord(f"k-{i}", f"sentence {i}", texts, ("en", "de"), group)))
    return made


def photo_rows(n: int) -> list[Row]:
    return [
        Row(
            PHOTO,
            (700 * i, 500),
            (700 * i + 500, 90),
            f"web/{'é' * (i % 5)}{i}",
            f"g{i}" if i % 10 == 0 else "",
            str(i).encode(),
            tuple(f"caption {i} {c}" for c in range(1 + i % 3)),
            tuple((700 * i + 600 + c, 7) for c in range(1 + i % 3)),
        )
        for i in range(n)
    ]


def saved(path: Path, index: ShardIndex) -> Path:
    about = {"name": "s-00000.tar", "bytes": str(10**7), "sha256": "0" * 64}
    index_file.save(index, path, about)
    return path


def same(one: ShardIndex, two: ShardIndex) -> bool:
    more = (two.text_counts > 1) | (two.group_hashes > 0)  # of the others the key decides nothing
    fields = set(vars(two)) - {"key_hashes"}
    return all((getattr(one, name) == getattr(two, name)).all() for name in fields) and bool(
        (one.key_hashes == np.where(more, two.key_hashes, 0)).all()
    )


def test_every_pair_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "s-00000.jsonl.zst"
    made = text_records(600)
    index = text_frames.write(path, made)
    content = path.read_bytes()
    assert len(index) == 600 and len({tuple(span) for span in index.first.tolist()}) == 3
    for row, (key, record) in enumerate(made):
        start, size = index.first[row]
        found = text_frames.read_pair(content[start : start + size], index.second[row, 0], "x")
        assert (found.key, found.first, tuple(found.texts)) == (key, record.first, record.texts)
    texts = [text for _, record in made for text in record.texts]
    assert index.text_hashes.tolist() == [key_hash(text) for text in texts]
    again = tmp_path / "again"
    text_frames.write(again, made)
    assert again.read_bytes() == content
    lines = pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd").read()
    assert [json.loads(line)["key"] for line in lines.splitlines()] == [key for key, _ in made]


def test_long_texts_lie_in_short_frames(tmp_path: Path) -> None:
    made = [(f"s/{i}", TextRecord(str(i), "x" * 400_000, ("y",), ("", ""))) for i in range(7)]
    index = text_frames.write(tmp_path / "s.jsonl.zst", made)
    assert index.second[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("kind", ["photos", "text pairs"])
def test_some_rows_of_an_index_are_those_of_the_whole(kind: str, tmp_path: Path) -> None:
    if kind == "photos":
        index = indexed(photo_rows(2000))
    else:
        index = text_frames.write(tmp_path / "s.jsonl.zst", text_records(2000))
    path = saved(tmp_path / "s-00000.index", index)
    whole, about = index_file.load(path)
    assert same(whole, index) and about["name"] == "s-00000.tar"
    file = IndexFile(functools.partial(open, path, "rb"), str(path))
    for n in (0, 1, 3, 50, 2000):
        rows = np.sort(np.random.default_rng(n).choice(2000, n, replace=False))
        assert same(file.rows(rows), take(index, rows))
        hashes = file.rows(rows, places=False)
        assert (
            hashes.text_hashes == take(index, rows).text_hashes
        ).all() and not hashes.first.any()
    with pytest.raises(ShardError, match="it has no record 2,000"):
        file.rows(np.array([2000]))


@pytest.mark.parametrize("kind", ["photos", "text pairs"])
def test_a_flipped_bit_of_an_index_is_seen(kind: str, tmp_path: Path) -> None:
    """Wherever it lies: a part that is read has no checksum of the whole."""
    if kind == "photos":
        index = indexed(photo_rows(60))
    else:
        index = text_frames.write(tmp_path / "s.jsonl.zst", text_records(60))
    path = saved(tmp_path / "s-00000.index", index)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    chance = random.Random(0)
    for place in chance.sample(range(header, len(content)), 300):
        flipped = content[place] ^ 1 << chance.randrange(8)
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        with pytest.raises(ShardError, match="s-00000.index: it is no shard index"):
            index_file.load(path)


def test_damaged_frames_are_refused() -> None:
    codec = pyarrow.Codec("zstd")
    frame = codec.compress(b'{"key":"s/1"}\n' * 40, asbytes=True)
    assert unpacked(frame, "x") == b'{"key":"s/1"}\n' * 40
    sizes = [0, 1, 255, 256, 257, 65_535, 65_536, 65_791, 65_792, 10**6]
    for size in sizes:
        assert len(unpacked(codec.compress(bytes(size), asbytes=True), "x")) == size
    for wrong in (b"", frame[:3], frame[:-1], frame + b"x", b"x" + frame, frame[:4] + b"\0\0"):
        with pytest.raises(DataError, match="x: its? .*zstd frame"):
            unpacked(wrong, "x")
    large = codec.compress(bytes(2**20), asbytes=True)
    with pytest.raises(DataError, match="claims 1,048,576 bytes, more than 1,000"):
        unpacked(large, "x", limits=Limits(zstd_bytes=1000))
    with pytest.raises(ShardError, match="no line 40"):
        text_frames.read_pair(frame, 40, "x")
    with pytest.raises(ShardError, match="x: first is missing"):
        text_frames.read_pair(frame, 39, "x")


def test_a_changed_pair_is_named(tmp_path: Path) -> None:
    """A frame that is whole, of another text than the index notes."""
    rows = "".join(f"en\tde\tfirst {i}\tzweiter {i}\n" for i in range(300))
    (tmp_path / "s.tsv").write_text(rows)
    source = SourceConfig("tsv", str(tmp_path / "s.tsv"), name="s")
    data = DataConfig((source,), text_pair_share=1.0)
    manifest = shards_of(tmp_path, data, RenderConfig(image_px=32))
    records = Records(manifest, 2**20)
    found = records.rows((np.arange(0), np.arange(300)))
    assert records.read(found, 299, 0, at_once=False).key == "s/s-300"
    assert records.key(1, 7) == "s/s-8"
    found.index.text_hashes[299] += 1
    fault = "s-.*-00000.jsonl.zst: record in line 44 of the frame at byte .* is not what it was"
    with pytest.raises(ShardError, match=fault):
        records.read(found, 299, 0, at_once=False)


def test_bytes_of_a_pair(slices: Path, tmp_path: Path) -> None:
    """Real captions and their translations, 134 bytes of text a pair: within twice the goal."""
    files = [slices / "multi30k_text" / f"train.{language}.gz" for language in ("en", "de")]
    sides = [gzip.decompress(file.read_bytes()).decode().split("\n")[:5000] for file in files]
    rows = "".join(f"en\tde\t{one}\t{two}\n" for one, two in zip(*sides, strict=True))
    (tmp_path / "m.tsv").write_text(rows)
    source = SourceConfig("tsv", str(tmp_path / "m.tsv"), name="m")
    data = DataConfig((source,), text_pair_share=1.0)
    manifest = shards_of(tmp_path, data, RenderConfig(image_px=32))
    assert manifest.bytes / manifest.n_pairs <= 2 * GOAL_BYTES
