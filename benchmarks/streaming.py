"""What do ranks read of tars in a bucket, what lies on their node's disk, and what does the first
batch wait for?

    python benchmarks/streaming.py [--ranks 1 2 4]

20,480 photos of noise (3 kB each) in 20 tars of a local S3 server (moto), trained on as they lie:
windows of 4,096 records, blocks of 64, batches of 64, one epoch, by gloo ranks that are processes
of one node with an empty cache. Bytes are those of range reads; the disk is looked at after every
batch. Requests and bytes of the first batch are those of rank 0 until it has it; in the background
it has begun to fetch the window by then.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from measure import report, table
from PIL import Image

from clippo_core import storage
from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import loader, prepare, shards
from clippo_core.rendering import Renderer
from clippo_core.run.records import StagePlan, dumps, loads

TARS, EACH, WINDOW, BLOCK, BATCH, PX = 20, 1024, 4096, 64, 64, 32


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--as-rank", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        rank, ranks, port, manifest, data = arguments.as_rank
        print(json.dumps(read_all(int(rank), int(ranks), int(port), manifest, data)))
        return
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    os.environ["AWS_ENDPOINT_URL_S3"] = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    manifest, data, tar_bytes = prepared("s3://streaming")
    rows = []
    for ranks in arguments.ranks:
        told = started(ranks, manifest, data)
        first = told[0]["first"]
        rows.append(
            [
                f"{ranks}",
                max(one["records"] for one in told),
                max(one["tars"] for one in told) / tar_bytes * ranks,
                max(one["indexes"] for one in told) / 1e6,
                max(one["disk"] for one in told) / (tar_bytes * WINDOW / (TARS * EACH)),
                f"{first['seconds']:.1f} s, {first['ranges']} ranges",
            ]
        )
    server.stop()
    columns = {
        "gloo ranks": "", "records a rank": ",d", "bytes of tars a rank, of 1/N": ".3f",
        "indexes a rank, MB": ".1f", "most on disk, windows": ".2f", "first batch": "",
    }  # fmt: skip
    clock = "counts; the first batch in wall time"
    report("streaming", [table(columns, rows)], clock, packages=["moto"], out=arguments.out)


def prepared(bucket: str) -> tuple[str, str, int]:
    """(address of the manifest, DataConfig as json, bytes of all tars) of a set in a bucket."""
    import boto3

    session = boto3.session.Session()
    session.client("s3", region_name="us-east-1").create_bucket(Bucket=bucket[5:])
    for number in range(TARS):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for i in range(EACH):
                picture = io.BytesIO()
                pixels = np.random.default_rng([number, i]).integers(0, 256, (PX, PX, 3), np.uint8)
                Image.fromarray(pixels).save(picture, "PNG")
                caption = f"text {number} {i}".encode()
                for extension, member in (("png", picture.getvalue()), ("txt", caption)):
                    info = tarfile.TarInfo(f"{i:05d}.{extension}")
                    info.size = len(member)
                    tar.addfile(info, io.BytesIO(member))
        storage.write_bytes(f"{bucket}/set/{number:05d}.tar", content.getvalue())
    source = SourceConfig("webdataset", f"{bucket}/set/*.tar", name="web")
    data = DataConfig((source,), window_records=WINDOW, block_records=BLOCK)
    stage, render = StagePlan(f"{bucket}/run", 0, "data"), RenderConfig(image_px=PX)
    manifest = prepare.write_shards(stage, data, render, prepare.validate(stage, data, render))
    n_bytes = sum(shard.tar.bytes for shard in shards.shard_list(manifest))
    return manifest.uri, dumps(data), n_bytes


def started(ranks: int, manifest: str, data: str) -> list[dict[str, Any]]:
    """What each of so many ranks tells, on a fresh node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as node:
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--as-rank", str(rank), str(ranks), str(port)]
                + [manifest, data],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"XDG_CACHE_HOME": node},
            )
            for rank in range(ranks)
        ]
        return [json.loads(process.communicate()[0]) for process in processes]


def read_all(rank: int, ranks: int, port: int, manifest: str, data: str) -> dict[str, Any]:
    """Read an epoch in step with the others."""
    import torch.distributed as dist

    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", address, timedelta(seconds=300), ranks, rank)
    read: list[tuple[str, int]] = []
    read_range = storage.read_range

    def counted(uri: str, start: int, size: int, if_match: str = "") -> tuple[bytes, str]:
        read.append((uri, size))
        return read_range(uri, start, size, if_match)

    storage.read_range = counted
    first: dict[str, Any] = {}
    records = disk = 0
    start = time.perf_counter()
    for batch in loader.batches(
        shards.open_manifest(manifest),
        loads(DataConfig, data),
        image_px=PX,
        batch_pairs=BATCH,
        seed=0,
        text_encoder=Renderer(image_px=PX),
        steps=TARS * EACH // BATCH,
        rank=rank,
        world_size=ranks,
    ):
        if not records:
            first = {
                "seconds": round(time.perf_counter() - start, 2),
                "ranges": len(read),
                "bytes": sum(size for _, size in read),
            }
        records += len(batch.keys)
        dist.barrier()
        disk = max(disk, used(storage.cache_folder()))
    dist.barrier()
    return {
        "records": records,
        "tars": sum(size for uri, size in read if uri.endswith(".tar")),
        "indexes": sum(size for uri, size in read if uri.endswith(".index")),
        "disk": disk,
        "first": first,
    }


def used(folder: Path) -> int:
    """Bytes of all files under a folder that others write to and delete from."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(at, name)).st_size
    return total


if __name__ == "__main__":
    main()
