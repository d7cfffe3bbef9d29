"""Tars in a bucket, trained on as they lie: what is requested, what lies on disk, what each rank
reads.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from prepared import shards_of
from web_tars import captioned_tar

from clippo_core import storage
from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import loader, separate, shards
from clippo_core.data.records import Records
from clippo_core.errors import ShardError
from clippo_core.rendering import Renderer
from clippo_core.run.records import Manifest, dumps
from clippo_core.storage import bucket

SUPPORT = Path(__file__).resolve().parents[1] / "support"
RENDER = RenderConfig(image_px=32)
ENCODE = Renderer.from_config(RENDER)


def foreign(bucket_uri: str, tars: int, each: int, **settings: int) -> tuple[Manifest, DataConfig]:
    """Tars of photos and captions in a bucket, and shards that are only their indexes."""
    for number in range(tars):
        records = (
            (
                f"{i:05d}",
                np.full((8, 8, 3), (number, i % 256, i // 256), np.uint8),
                f"text {number} {i}",
            )
            for i in range(each)
        )
        storage.write_bytes(f"{bucket_uri}/set/{number:05d}.tar", captioned_tar(records))
    source = SourceConfig("webdataset", f"{bucket_uri}/set/*.tar", name="web")
    data = dataclasses.replace(DataConfig((source,)), **settings)
    return shards_of(f"{bucket_uri}/run", data, RENDER), data


def batches(
    manifest: Manifest, data: DataConfig, steps: int, start: int = 0, pairs: int = 16
) -> list[loader.Batch]:
    return list(
        loader.batches(
            manifest,
            data,
            image_px=32,
            batch_pairs=pairs,
            seed=0,
            text_encoder=ENCODE,
            start_step=start,
            steps=steps,
        )
    )


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(operation, bytes) of every request to the bucket from now on."""
    made: list[tuple[str, int]] = []
    call = bucket.Objects._call

    def counted(self: bucket.Objects, operation: str, uri: str, **arguments: object) -> dict:
        reply = call(self, operation, uri, **arguments)
        made.append((operation, reply.get("ContentLength", 0) if "Body" in reply else 0))
        return reply

    monkeypatch.setattr(bucket.Objects, "_call", counted)
    return made


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a fresh node."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    return tmp_path / "node"


def test_the_first_batch_on_a_fresh_node(
    s3: str,
    tmp_path: Path,
    node: Path,
    requests: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The manifest and its list; of the index of each tar that the window touches its head, its
    marks for the order and for the records, its places; and one range per pair: no tar and no index
    is read as a whole, and in all less than the window holds.
    """
    manifest, data = foreign(s3, 8, 100, window_records=256, block_records=16)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "fresh"))
    monkeypatch.setattr(Records, "fetch", lambda *_: None)  # what is fetched behind it
    requests.clear()
    [batch] = batches(manifest, data, 1)
    count = Counter(operation for operation, _ in requests)
    assert len(set(batch.keys)) == 16
    assert set(count) == {"get_object"} and count["get_object"] <= 2 + 8 * 4 + 16
    n_bytes = sum(shard.tar.bytes for shard in shards.shard_list(manifest))
    assert sum(size for _, size in requests) < n_bytes * 256 / 800


def test_two_windows_lie_on_disk_at_most(s3: str, node: Path) -> None:
    manifest, data = foreign(s3, 8, 100, window_records=256, block_records=16)
    source = loader.batches(
        manifest, data, image_px=32, batch_pairs=16, seed=0, text_encoder=ENCODE, steps=100
    )
    keys: Counter[str] = Counter()
    for batch in source:
        keys.update(batch.keys)
        [run] = (node / "clippo" / "blocks").iterdir()
        assert len({int(path.name) for path in run.iterdir()}) <= 2
    assert len(keys) == 800 and set(keys.values()) <= {1, 2, 3}
    assert [b.keys for b in batches(manifest, data, 60, start=57)] == [
        b.keys for b in batches(manifest, data, 60)[57:]
    ]


def test_the_same_batches_from_a_bucket_and_from_a_disk(
    s3: str, node: Path, tmp_path: Path
) -> None:
    manifest, data = foreign(s3, 4, 50, window_records=64, block_records=8)
    (tmp_path / "set").mkdir()
    for number in range(4):
        name = f"{number:05d}.tar"
        (tmp_path / "set" / name).write_bytes(storage.read_bytes(f"{s3}/set/{name}"))
    source = dataclasses.replace(data.sources[0], path=str(tmp_path / "set/*.tar"))
    here = dataclasses.replace(data, sources=(source,))
    local = shards_of(tmp_path / "run", here, RENDER)
    for one, two in zip(batches(manifest, data, 30), batches(local, here, 30), strict=True):
        assert one.keys == two.keys
        assert (one.photos == two.photos).all() and (one.second_text == two.second_text).all()


def test_a_window_is_dealt_once_a_node(
    s3: str, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks of a node: each window's order is made once, from marks that are read once; no copy
    of an index stays, and what the ranks hold is what one would.
    """
    manifest, data = foreign(s3, 8, 100, window_records=256, block_records=16)
    alone = batches(manifest, data, 40)
    shutil.rmtree(node)
    dealt: list[int] = []
    deal = separate.dealt
    monkeypatch.setattr(separate, "dealt", lambda *a: [dealt.append(1), deal(*a)][1])
    ranks = [
        loader.batches(
            manifest, data, image_px=32, batch_pairs=16, seed=0, text_encoder=ENCODE, steps=40,
            rank=rank, world_size=2,
        )
        for rank in range(2)
    ]  # fmt: skip
    for batch, *parts in zip(alone, *ranks, strict=True):
        assert sorted(batch.keys) == sorted(sum((part.keys for part in parts), []))
    assert len(dealt) == -(-40 // 16)
    assert {path.relative_to(node / "clippo").parts[0] for path in node.rglob("*.*")} == {"blocks"}


def test_text_pairs_from_a_bucket_and_from_a_disk(
    s3: str, node: Path, tmp_path: Path, requests: list[tuple[str, int]]
) -> None:
    rows = "".join(f"en\tde\tfirst {i}\tzweiter {i}\n" for i in range(1024))
    (tmp_path / "pairs.tsv").write_text(rows)
    source = SourceConfig("tsv", str(tmp_path / "pairs.tsv"), name="pairs")
    data = DataConfig(
        (source,), text_pair_share=1.0, records_per_shard=300, window_records=64, block_records=8
    )
    remote, local = (shards_of(root, data, RENDER) for root in (s3, tmp_path))
    requests.clear()
    keys: Counter[str] = Counter()
    for one, two in zip(batches(remote, data, 64), batches(local, data, 64), strict=True):
        assert one.keys == two.keys and (one.first_text == two.first_text).all()
        assert (one.second_text == two.second_text).all()
        keys.update(one.keys)
    assert len(keys) == 1024 and set(keys.values()) == {1}
    assert {operation for operation, _ in requests} == {"get_object"}


def test_a_replaced_tar_is_named(s3: str, node: Path) -> None:
    """One of the same size with other photos: their hashes tell, before or after ranges of it were
    fetched.
    """
    manifest, data = foreign(s3, 2, 100, window_records=64, block_records=8)
    name = f"{s3}/set/00001.tar"
    content = storage.read_bytes(name)
    other = content.replace(b"IDAT", b"IdAT")
    assert len(other) == len(content) and other != content
    storage.write_bytes(name, other)
    with pytest.raises(ShardError, match="00001.tar: record web/00001/000.. is not what it was"):
        batches(manifest, data, 8)
    source = loader.batches(
        manifest, data, image_px=32, batch_pairs=16, seed=1, text_encoder=ENCODE, steps=60
    )
    storage.write_bytes(name, content)
    next(iter(source))
    storage.write_bytes(name, other)
    with pytest.raises(ShardError, match="00001.tar was replaced while it was read"):
        list(source)


@pytest.mark.slow
def test_each_rank_reads_its_share(s3: str, node: Path) -> None:
    """20,480 records of 20 tars by 1, 2 and 4 gloo ranks of one node: the same batches, to each
    rank 1/N of the records and hardly more than 1/N of the bytes, two windows on disk at most.
    """
    manifest, data = foreign(s3, 20, 1024, window_records=4096, block_records=64)
    steps = 20 * 1024 // 64
    sizes = [shard.tar.bytes for shard in shards.shard_list(manifest)]
    first: list[set[str]] = []
    for ranks in (1, 2, 4):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [
            subprocess.Popen(
                [sys.executable, str(SUPPORT / "stream_ranks.py"), str(rank), str(ranks), str(port)]
                + [manifest.uri, dumps(data), str(steps)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        told = [json.loads(process.communicate(timeout=500)[0]) for process in processes]
        each = 64 // ranks
        whole = [
            {key for one in told for key in one["keys"][step * each : (step + 1) * each]}
            for step in range(steps)
        ]
        assert all(len(batch) == 64 for batch in whole) and len(set.union(*whole)) == 20 * 1024
        assert {len(one["keys"]) for one in told} == {20 * 1024 // ranks}
        first = first or whole
        assert whole == first
        assert max(one["bytes"] for one in told) <= 1.1 * sum(sizes) / ranks
        assert max(one["disk"] for one in told) <= 1.1 * 2 * 4096 / (20 * 1024) * sum(sizes)
