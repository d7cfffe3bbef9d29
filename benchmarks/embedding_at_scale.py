"""What does `clippo embed` into shards cost beside the loop that one would write, and how much room
do the names of a million texts take?

    python benchmarks/embedding_at_scale.py [--tower b16] [--device cuda] [--precision bfloat16]

Both read the same files with the model in memory: the command as it is, into four shards with
metadata, and `embed_texts` or `embed_images` with np.save. They take turns; the best of the rounds
counts, in items a second and in the process's own time on all its threads, which a busy machine
disturbs less. Weights are random, which cost the same as trained ones. The demo's small tower is
the harder case on a CPU: there is less work to hide behind.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from embedding import WORDS
from PIL import Image

from clippo_core import models
from clippo_core.cli import embed
from clippo_core.cli import main as command_line
from clippo_core.config import ModelConfig, RenderConfig
from clippo_core.config.small import TINY
from clippo_core.embedder import Clippo


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", choices=("demo", "b16"), default="demo")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--n", type=int, default=0, help="texts and images a round")
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    _measure(parser.parse_args())


def _measure(chosen: argparse.Namespace) -> None:
    config, px = (ModelConfig(), 224) if chosen.tower == "b16" else (TINY, 64)
    model = Clippo(
        models.build_tower(config, px),
        RenderConfig(image_px=px),
        device=chosen.device,
        precision=chosen.precision,
    )
    on_gpu = chosen.device.startswith("cuda")
    n = chosen.n or (20_000 if on_gpu else 4_000 if chosen.tower == "demo" else 64)
    batch_size = chosen.batch_size or (256 if on_gpu or chosen.tower == "demo" else 16)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts, photos = _write_inputs(folder, n)
        model.save(folder / "model.safetensors")
        bare: dict[str, Callable[[], np.ndarray]] = {
            "texts": lambda: model.embed_texts(
                texts.read_text().splitlines(), batch_size=batch_size, progress=False
            ),
            "images": lambda: model.embed_images(photos, batch_size=batch_size, progress=False),
        }
        for number in range(chosen.rounds + 1):
            for what, loop in bare.items():
                begin = _clocks()
                np.save(folder / "bare.npy", loop())
                between = _clocks()
                _embed_command(model, what, folder, number, batch_size, n)
                end = _clocks()
                for key, start, stop in ((what, begin, between), (f"{what} shards", between, end)):
                    seconds = (stop[0] - start[0], stop[1] - start[1])
                    found.setdefault(key, []).append(seconds)
        machine = (
            torch.cuda.get_device_name(chosen.device)
            if on_gpu
            else f"{torch.get_num_threads()} CPU threads"
        )
        print(
            f"{machine}, {chosen.precision}, tower {chosen.tower}, {n} of each, batches of"
            f" {batch_size}, best of {chosen.rounds + 1} rounds"
        )
        for what in bare:
            loop_best, ours = (np.min(found[key], axis=0) / n for key in (what, f"{what} shards"))
            for clock, unit in enumerate(("a second", "ms of CPU each")):
                one, other = (
                    (1 / value if clock == 0 else 1000 * value)
                    for value in (loop_best[clock], ours[clock])
                )
                print(
                    f"{what:<8}bare loop {one:>9.2f}   clippo embed {other:>9.2f}"
                    f"   {100 * (other / one - 1):+5.1f} %   {unit}"
                )
        print(_names_of_a_million(folder))


def _clocks() -> tuple[float, float]:
    """Seconds of the wall's clock, and of this process on all its threads."""
    return time.perf_counter(), time.process_time()


def _write_inputs(folder: Path, n: int) -> tuple[Path, list[str]]:
    """A file of n texts, and n names of JPEGs of 500 x 333 px, of which 64 differ."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.permutation(np.array(WORDS))[: 3 + i % 8]) for i in range(n)]
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    (folder / "photos").mkdir()
    smooth = random.integers(0, 256, (64, 9, 13, 3), dtype=np.uint8)
    for i, small in enumerate(smooth):
        photo = Image.fromarray(small).resize((500, 333), Image.Resampling.BICUBIC)
        photo.save(folder / f"{i}.jpg", quality=90)
    names = []
    for i in range(n):
        name = folder / "photos" / f"{i:06d}.jpg"
        name.hardlink_to(folder / f"{i % 64}.jpg")
        names.append(str(name))
    return folder / "texts.txt", names


def _embed_command(
    model: Clippo, what: str, folder: Path, number: int, batch_size: int, n: int
) -> None:
    """`clippo embed` into four shards, with the model in memory already."""
    given = folder / {"texts": "texts.txt", "images": "photos"}[what]
    words = ["embed", str(folder / "model.safetensors"), f"--{what}", str(given)]
    words += ["--out", str(folder / f"{what}-{number}"), "--batch-size", str(batch_size)]
    words += ["--shard-size", str(max(1, n // 4))]
    said = io.StringIO()
    with (
        mock.patch.object(embed, "load", lambda chosen: model),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        assert command_line.main(words) == 0, said.getvalue()
    assert f"{n:,} {what}" in said.getvalue(), said.getvalue()


def _names_of_a_million(folder: Path) -> str:
    """Peak memory and bytes on disk of a million texts' names on their way into shards, by a model
    that gives each a row of one number.
    """
    path = folder / "million.txt"
    with open(path, "w") as file:
        file.writelines(f"{i}: {' '.join(WORDS[: 3 + i % 8])}\n" for i in range(999_999))
        file.write("x" * 20_000 + "\n")
    program = """
import re, sys
import numpy as np, pyarrow.parquet
from clippo_core.search import collection, embedding, inputs
class Model:
    text_encoder = staticmethod(lambda texts: np.zeros((len(texts), 1), np.float32))
    embed_prepared = staticmethod(lambda batch, what: batch)
facts = collection.Facts("m", "", "", "float32", "squash", "float32", 1, 100_000)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
embedding.embed_collection(
    Model(), sys.argv[2], facts, "texts", inputs.texts(sys.argv[1]), say=lambda line: None
)
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(folder / "million")],
        check=True,
        capture_output=True,
        text=True,
    )
    on_disk = sum(one.stat().st_size for one in (folder / "million/metadata").iterdir())
    return (
        f"names of 1,000,000 texts ({path.stat().st_size / 1e6:.0f} MB of text, one of 20,000"
        f" characters): {int(done.stdout) / 1e3:.0f} MB of memory, {on_disk / 1e6:.0f} MB on disk"
    )


if __name__ == "__main__":
    main()
