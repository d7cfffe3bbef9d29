"""How many pairs per second does the loader make from real JPEG shards, by worker processes, does
rendering text live cost anything, and what does a text pair cost on disk and in CPU time?

    python benchmarks/loader.py [--image-px 224] [--batch-pairs 256] [--steps 4]
                                [--workers 0] [--rounds 5] [--out FILE]

Photos and captions of ../shared/data/flickr8k (224 px JPEGs, short side kept), written into shards
with their rendered texts. All take turns; "drawn" renders the captions in the loader, "stored"
decodes the shards' 1-bit PNGs, "webdataset" reads the same tars with the webdataset library and
Pillow's own resize (its usual use: other pixels, other order, no exactness), one text drawn. With
worker processes rates are of wall time, which is worth nothing on a busy machine. Text pairs are
those of Multi30k (English and German), C4's sample and WMT21's newstest: bytes of text, bytes of
shard and index, CPU time of writing them (from the files to the finished shards, one thread) and
of reading one.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import cpu_seconds, paired, rates, report, spread, table, timed
from PIL import Image

from clippo_core.config import DataConfig, RenderConfig, SourceConfig
from clippo_core.data import loader, prepare, shards
from clippo_core.data.images import decode_image, squash
from clippo_core.data.records import Records
from clippo_core.rendering import Renderer
from clippo_core.run.records import Manifest, StagePlan

SLICES = Path(__file__).resolve().parents[2] / "shared" / "data"
FLICKR = SLICES / "flickr8k"
OVER = "time over the first"


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-px", type=int, default=224)
    parser.add_argument("--batch-pairs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not FLICKR.is_dir():
        raise SystemExit(f"{FLICKR} is absent; this benchmark needs real JPEGs.")
    loader.KEEP_BYTES = 0  # a set too large to keep is the case that matters
    with tempfile.TemporaryDirectory() as folder:
        manifest, data = prepared(Path(folder), arguments.image_px)
        tables = [
            table({"": "", "pairs/s": ",.0f", OVER: ".2f"}, turns(manifest, data, arguments)),
            table(
                {"part, of a pair": "", "ms": ".3f"},
                parts(manifest, arguments.image_px, arguments.rounds),
            ),
            table(
                {
                    "text pairs": "", "text, bytes": ",.0f", "shard and index, bytes": ",.1f",
                    "written, us": ",.0f", "read at random, us": ",.0f",
                },
                text_pairs(Path(folder)),
            ),
        ]  # fmt: skip
    clock = "wall time" if any(arguments.workers) else "CPU time"
    clock += f", {arguments.batch_pairs} pairs a batch at {arguments.image_px} px"
    packages = ["numpy", "pillow", "webdataset"]
    report("loader", tables, clock, packages=packages, out=arguments.out)


def prepared(folder: Path, image_px: int) -> tuple[Manifest, DataConfig]:
    """Flickr8k's training photos as shards that also hold their drawings."""
    source = SourceConfig(
        "karpathy",
        str(FLICKR / "dataset_flickr8k.json"),
        str(FLICKR / "Flicker8k_Dataset"),
        "train",
        name="flickr8k",
    )
    data = DataConfig((source,), store_drawings=True)
    stage, render = StagePlan(str(folder), 0, "benchmark"), RenderConfig(image_px=image_px)
    judged = prepare.validate(stage, data, render)
    return prepare.write_shards(stage, data, render, judged), data


def text_pairs(folder: Path) -> Iterable[list[Any]]:
    """What text pairs cost: a row for each set."""
    for language in ("en", "de"):
        packed = SLICES / "multi30k_text" / f"train.{language}.gz"
        (folder / f"m30k.{language}").write_bytes(gzip.decompress(packed.read_bytes()))
    sources = {
        "Multi30k": SourceConfig("moses", f"{folder}/m30k.en", second_path=f"{folder}/m30k.de"),
        "C4": SourceConfig("c4", f"{SLICES}/c4_like/*.json.gz"),
        "WMT21": SourceConfig("tsv", f"{SLICES}/wmt21_newstest/parallel.tsv"),
    }
    for name, source in sources.items():
        data = DataConfig((source,), text_pair_share=1.0)
        stage = StagePlan(str(folder / name), 0, "benchmark")
        judged = prepare.validate(stage, data, RenderConfig())
        start = time.process_time()
        manifest = prepare.write_shards(stage, data, RenderConfig(), judged)
        written = time.process_time() - start
        records = Records(manifest, 2**20)
        n = manifest.n_pairs
        found = records.rows((np.arange(0), np.arange(n)))
        chosen = np.random.default_rng(0).integers(0, n, 2000).tolist()
        start = time.process_time()
        read = [records.read(found, row, 0, at_once=False) for row in chosen]
        reading = time.process_time() - start
        texts = sum(len(one.first) + len("".join(one.texts).encode()) for one in read) / len(read)
        us = [1e6 * written / n, 1e6 * reading / len(read)]
        yield [name, texts, manifest.bytes / n, *us]


def turns(manifest: Manifest, data: DataConfig, arguments: argparse.Namespace) -> list[list[Any]]:
    """Pairs per second, from shards to batches, and the time over ours."""
    renderer = Renderer(image_px=arguments.image_px)

    def ours(workers: int, stored: bool) -> Iterable[loader.Batch]:
        return loader.batches(
            manifest,
            replace(data, store_drawings=stored),
            image_px=arguments.image_px,
            batch_pairs=arguments.batch_pairs,
            seed=0,
            text_encoder=renderer,
            steps=arguments.steps * (arguments.rounds + 1),
            workers=workers,
        )

    runs: dict[str, Callable[[], Iterable[Any]]] = {}
    for workers in arguments.workers:
        words = f"{workers} workers"
        runs[f"**ours**, text drawn, {words}"] = lambda workers=workers: ours(workers, False)
        runs[f"**ours**, stored, {words}"] = lambda workers=workers: ours(workers, True)
        runs[f"webdataset, Pillow's resize, {words}"] = lambda workers=workers: theirs(
            manifest, renderer, arguments, workers
        )
    feeds = {name: iter(run()) for name, run in runs.items()}

    def some(name: str) -> Callable[[], None]:
        def batches() -> None:
            for _ in range(arguments.steps):
                next(feeds[name])

        return batches

    clock = time.perf_counter if any(arguments.workers) else cpu_seconds
    seconds = timed({name: some(name) for name in runs}, arguments.rounds, clock=clock)
    over = paired(seconds, next(iter(runs)))
    n = arguments.steps * arguments.batch_pairs
    return [[name, rates(n, seconds[name]), over[name]] for name in runs]


def theirs(
    manifest: Manifest, renderer: Renderer, arguments: argparse.Namespace, workers: int
) -> Iterable[Any]:
    """The same tars through the webdataset library."""
    import torch
    import webdataset

    px = arguments.image_px

    def decoded(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        picture = (
            Image.open(io.BytesIO(sample["jpg"]))
            .convert("RGB")
            .resize((px, px), Image.Resampling.BILINEAR)
        )
        return np.asarray(picture), renderer.masks([json.loads(sample["json"])["texts"][0]])[0]

    urls = [shards.file_uri(manifest, shard.tar) for shard in shards.shard_list(manifest)]
    pipeline = webdataset.WebDataset(
        urls, shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False
    )
    pipeline = pipeline.repeat().map(decoded).batched(arguments.batch_pairs)
    return torch.utils.data.DataLoader(pipeline, batch_size=None, num_workers=workers)


def parts(manifest: Manifest, image_px: int, rounds: int) -> list[list[Any]]:
    """Milliseconds per pair of each part, on one core."""
    source = Records(manifest, 2**20)
    renderer = Renderer(image_px=image_px)
    found = source.rows((np.arange(256), np.arange(0)), drawings=True)
    records = range(256)
    read = [source.read(found, row, 0, at_once=False) for row in records]
    data = [one.first for one in read]
    images = [np.resize(decode_image(one), (256, 341, 3)) for one in data]
    texts = [one.texts[0] for one in read]
    spans = found.index.drawings[found.text_starts]
    drawings = [one.member(span) for one, span in zip(read, spans, strict=True)]
    work: dict[str, Callable[[], Any]] = {
        "decode a photo": lambda: [decode_image(one) for one in data],
        f"squash it to {image_px} px (from 341 x 256)": lambda: [
            squash(image, image_px) for image in images
        ],
        "read it and its texts": lambda: [
            source.read(found, row, 0, at_once=False) for row in records
        ],
        "draw a text": lambda: renderer.masks(texts),
        "decode a stored drawing": lambda: [loader._masks(one) for one in drawings],
    }
    seconds = timed(work, rounds)
    return [[name, spread(1000 * s / len(records) for s in seconds[name])] for name in work]


if __name__ == "__main__":
    main()
