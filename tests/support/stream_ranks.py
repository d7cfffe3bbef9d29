"""One of several gloo ranks that read batches from a bucket, as a process of its own.

    python stream_ranks.py RANK RANKS PORT MANIFEST DATA STEPS

Prints {"keys": all in order, "bytes": of tars, "disk": the most that lay in the cache}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from clippo_core import storage
from clippo_core.config import DataConfig, RenderConfig
from clippo_core.data import loader, shards
from clippo_core.rendering import Renderer
from clippo_core.run.records import loads


def main(rank: int, ranks: int, port: int, manifest: str, data: str, steps: int) -> None:
    """Read all batches in step with the others."""
    address = f"tcp://127.0.0.1:{port}"
    timeout = timedelta(seconds=120)
    dist.init_process_group("gloo", address, timeout, ranks, rank)
    read: list[int] = []
    read_range = storage.read_range

    def counted(uri: str, start: int, size: int, if_match: str = "") -> tuple[bytes, str]:
        read.append(size)
        return read_range(uri, start, size, if_match)

    storage.read_range = counted
    keys: list[str] = []
    disk = 0
    for batch in loader.batches(
        shards.open_manifest(manifest),
        loads(DataConfig, data),
        image_px=32,
        batch_pairs=64,
        seed=0,
        text_encoder=Renderer.from_config(RenderConfig(image_px=32)),
        steps=steps,
        rank=rank,
        world_size=ranks,
    ):
        keys += batch.keys
        dist.barrier()
        disk = max(disk, used(storage.cache_folder() / "blocks"))
    dist.barrier()
    print(json.dumps({"keys": keys, "bytes": sum(read), "disk": disk}))


def used(folder: Path) -> int:
    """Bytes of all files under a folder that others write to and delete from."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(at, name)).st_size
    return total


if __name__ == "__main__":
    main(*(int(x) for x in sys.argv[1:4]), *sys.argv[4:6], int(sys.argv[6]))  # type: ignore[arg-type]
