"""What is a B/16 step made of on this GPU, and what should be chosen there? The plan for a first
half hour, in its order, each part in a process of its own.

    python benchmarks/gpu.py                          the whole plan
    python benchmarks/gpu.py --parts sdpa step        some of it
    python benchmarks/gpu.py --tiny                   a check on a CPU: no figure means anything

    sdpa       attention's kernels           copy   is it hidden behind the step?
    patch      convolution or product        step   eager, blocks, whole; recompute; cuDNN
    optimizer  eager and compiled            kept   cached gradients
    loss       exact and in TF32             loop   the training loop's journal

It needs torch (2.11 or above) and this checkout on PYTHONPATH, no lock; `loop` also what the loop
needs (pyarrow and the like). Under compile a process has one batch size, for a second one would be
compiled for any size. Every line of output is a JSON object; all are kept in --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measure import timed
from PIL import Image

from clippo_core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RenderConfig,
    SourceConfig,
    TrainConfig,
)
from clippo_core.engine import Engine, MemoryPlan, apply_memory, contrastive_step, make_engine
from clippo_core.engine.attention import KERNELS, probe_seconds, using_attention
from clippo_core.losses import contrast
from clippo_core.models import build_tower
from clippo_core.models.patches import PatchProduct

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
PRECISION = "bfloat16" if ON_GPU else "float32"
PLAN = """sdpa; patch; optimizer; loss; copy
step --how eager; step --how blocks; step --how whole; step --how blocks --pairs 512
step --how blocks --pairs 512 --attention cudnn; step --how blocks --pairs 512 --memory recompute
step --how blocks --pairs 768 --memory recompute; kept --pairs 320 --memory recompute
loop --pairs 448; loop --pairs 448 --stage 1; loop --pairs 448 --skip-blank-rows
sdpa --large; step --large --how blocks --pairs 128"""


@dataclass(frozen=True)
class Size:
    model: ModelConfig
    image_px: int
    pairs: int
    rounds: int


def milliseconds(rounds: int, **runs: Callable[[], object]) -> dict[str, list[float]]:
    """Name -> least, median and most; the contestants take turns. Wall time on a GPU, else CPU."""
    seconds = timed(runs, rounds, warm_up=2, on_gpu=ON_GPU)
    return {
        f"{name}_ms": [round(1e3 * x, 3) for x in (min(t), statistics.median(t), max(t))]
        for name, t in seconds.items()
    }


def batch(pairs: int, px: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    photos = torch.randint(0, 256, (pairs, 3, px, px), generator=stream, dtype=torch.uint8)
    text = torch.randint(0, 1 << 16, (pairs, px // 16, px), generator=stream).to(torch.uint16)
    return photos.to(DEVICE), text[:0].to(DEVICE), text.to(DEVICE)


def engine_of(size: Size, how: str, memory: str) -> Engine:
    tower = build_tower(size.model, size.image_px).to(DEVICE)
    apply_memory(tower, MemoryPlan(memory, 0, ""))
    if how == "whole":
        tower.compile(dynamic=False)
    elif how == "blocks":
        tower.compile_blocks()
    return make_engine(
        tower, OptimConfig(), decayed=tower.decayed, views=tower.views, precision=PRECISION,
        device=DEVICE, compile_update=how != "eager",
    )  # fmt: skip


def sdpa(size: Size, o: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of one block's attention, forward and backward, by kernel."""
    times = {
        name: 1e3 * probe_seconds(name, size.model, size.image_px, PRECISION, DEVICE)
        for name in KERNELS
    }
    return {name: None if ms == float("inf") else round(ms, 3) for name, ms in times.items()}


def patch(size: Size, o: argparse.Namespace) -> dict[str, Any]:
    """The patch embedding of both images, forward and backward, as convolution and as product."""
    px, width = size.image_px, size.model.width
    images = torch.randn(2 * size.pairs, 3, px, px, device=DEVICE).to(getattr(torch, PRECISION))
    embedding = PatchProduct(3, width, 16).to(DEVICE, images.dtype)

    def convolution() -> None:
        F.conv2d(images, embedding.weight, embedding.bias, 16).sum().backward()

    def product() -> None:
        embedding(images).sum().backward()

    return milliseconds(size.rounds, convolution=convolution, product=product)


def optimizer(size: Size, o: argparse.Namespace) -> dict[str, Any]:
    """One update, eager and compiled."""
    steps = {}
    for how in ("eager", "compiled"):
        updated = engine_of(size, "eager", "plain").optimizer
        if how == "compiled":
            updated.compile()
        for parameter in updated.param_groups[0]["params"]:
            parameter.grad = torch.randn_like(parameter) * 1e-3
        steps[how] = lambda updated=updated: updated.step(1e-6)
    return milliseconds(size.rounds, **steps)


def loss(size: Size, o: argparse.Namespace) -> dict[str, Any]:
    """The loss with its gradients, over 1,280 and 10,240 pairs."""
    found = {}
    for n in (64,) if o.tiny else (1280, 10_240):
        first, second = (
            F.normalize(torch.randn(n, 768, device=DEVICE), dim=1).requires_grad_()
            for _ in range(2)
        )
        scale = torch.tensor(20.0, device=DEVICE, requires_grad=True)

        def gradients(precision: str, given: tuple[torch.Tensor, ...]) -> None:
            torch.backends.cuda.matmul.fp32_precision = precision
            torch.autograd.grad(contrast(*given)[0], given)
            torch.backends.cuda.matmul.fp32_precision = "ieee"

        given = (first, second, scale)
        ways = {
            f"{name}_{n}": lambda name=name, given=given: gradients(name, given)
            for name in ("ieee", "tf32")
        }
        found |= milliseconds(size.rounds, **ways)
    return found


def copy(size: Size, o: argparse.Namespace) -> dict[str, Any]:
    """Whether the copy of the next batch is hidden behind a step: the feed of both should cost as
    much as the step alone. On a CPU nothing is copied.
    """
    from clippo_core.data.loader import Batch
    from clippo_core.train.step import on_device

    photos, first, text = (x.cpu() for x in batch(size.pairs, size.image_px))
    host = Batch(photos, first, text, [], np.zeros(0), 0)
    host = host.pin_memory() if ON_GPU else host
    side = 8192 if ON_GPU else 64
    a = torch.randn(side, side, device=DEVICE)

    def work() -> None:
        for _ in range(20):
            torch.mm(a, a)

    def feed() -> None:
        for _ in on_device((replace(host, step=i) for i in range(8)), DEVICE):
            work()

    def alone() -> None:
        for _ in range(8):
            work()

    return milliseconds(size.rounds, eight_steps=alone, eight_steps_fed=feed)


def step(size: Size, o: argparse.Namespace) -> dict[str, Any]:
    """Rate, compile time, peak memory, and of a GPU its kernels, idle time and what they did."""
    started = time.perf_counter()
    engine, given = engine_of(size, o.how, o.memory), batch(size.pairs, size.image_px)

    def run() -> None:
        contrastive_step(engine, *given)
        engine.update(1e-6)

    with using_attention(o.attention):
        run()
        found: dict[str, Any] = {"first_step_s": round(time.perf_counter() - started, 1)}
        found |= milliseconds(size.rounds, step=run)
        found["pairs_per_s"] = round(1e3 * size.pairs / found["step_ms"][1], 1)
        return found | (kernels(run, found["step_ms"][1]) if ON_GPU else {})


def kernels(run: Callable[[], None], step_ms: float) -> dict[str, Any]:
    """The GPU's own view of three steps, as its profiler gives it."""
    torch.cuda.reset_peak_memory_stats()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(3):
            run()
        torch.cuda.synchronize()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    by_name: dict[str, float] = {}
    for event in events:
        by_name[event.name[:60]] = by_name.get(event.name[:60], 0.0) + event.device_time / 3e3
    busy = sum(by_name.values())
    longest = sorted(by_name.items(), key=lambda item: -item[1])[:14]
    return {
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "kernels": len(events) // 3,
        "idle_ms": round(step_ms - busy, 2),
        "longest_ms": {name: round(ms, 2) for name, ms in longest},
    }


def kept(size: Size, o: argparse.Namespace) -> dict[str, Any]:
    """Cached gradients in 2 and 4 chunks, over the time of a plain step per pair."""
    engine = engine_of(size, "blocks" if ON_GPU else "eager", o.memory)

    def run(chunks: int) -> Callable[[], None]:
        given = batch(chunks * size.pairs, size.image_px)
        plan = MemoryPlan("cached", size.pairs if chunks > 1 else 0, "")

        def act() -> None:
            contrastive_step(engine, *given, memory=plan)
            engine.discard()

        return act

    found = milliseconds(size.rounds, **{f"chunks_{n}": run(n) for n in (1, 2, 4)})
    plain = found["chunks_1_ms"][1]
    ratios = {f"over_plain_{n}": found[f"chunks_{n}_ms"][1] / plain / n for n in (2, 4)}
    return found | {name: round(ratio, 3) for name, ratio in ratios.items()}


def loop(size: Size, o: argparse.Namespace) -> dict[str, Any]:
    """The training loop on made-up JPEGs, as its journal tells it; the median of the later half."""
    from clippo_core.data import prepare
    from clippo_core.run import journal
    from clippo_core.run.records import PretrainPlan, StagePlan
    from clippo_core.train.loop import pretrain

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder, max(4 * size.pairs, 64))
        source = SourceConfig("karpathy", str(folder / "dataset.json"), str(folder / "images"))
        data, render = DataConfig((source,)), RenderConfig(image_px=size.image_px)
        stage = StagePlan(str(folder / "run"), 0, "0" * 64)
        manifest = prepare.write_shards(stage, data, render, prepare.validate(stage, data, render))
        train = TrainConfig(
            steps=4 if o.tiny else 40, batch_pairs=size.pairs, zero_stage=o.stage,
            precision=PRECISION, compile=ON_GPU, save_every_steps=10**6,
            loader_workers=0 if o.tiny else 12, timeout_seconds=900,
        )  # fmt: skip
        optim = OptimConfig(warmup_steps=2, timescale_steps=4, cooldown_steps=2)
        model = replace(size.model, skip_blank_rows=o.skip_blank_rows)
        info = pretrain(PretrainPlan(stage, data, render, model, optim, train), manifest)
        lines = journal.read(info.journal)
    names = ("seconds", "pairs_per_second", "data_wait_share", "tflops_per_second", "mfu")
    late = lines[len(lines) // 2 :]
    found = {n: statistics.median(x[n] for x in late) for n in names if n in late[0]}
    return {"first_step_s": lines[0]["seconds"], "peak_gib": lines[-1]["peak_memory_gib"], **found}


def write_photos(folder: Path, n: int) -> None:
    """Smooth noise, about as many bytes as a photo, each with a caption."""
    words = ("brown", "dog", "runs", "along", "beach", "with", "stick", "while", "children", "play")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    images = []
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (17, 23, 3), dtype=np.uint8))
        small.resize((341, 256), Image.Resampling.BICUBIC).save(folder / "images" / f"{i}.jpg")
        caption = f"{i} {' '.join(rng.permutation(words))}"
        images.append({"filename": f"{i}.jpg", "split": "train", "sentences": [{"raw": caption}]})
    (folder / "dataset.json").write_text(json.dumps({"images": images}))


PARTS = {f.__name__: f for f in (sdpa, patch, optimizer, loss, copy, step, kept, loop)}


def size_of(o: argparse.Namespace) -> Size:
    if o.tiny:
        model = ModelConfig(width=64, depth=2, num_heads=2, mlp_dim=128, embed_dim=32)
        return Size(model, 64, 8, 1)
    large = ModelConfig(width=1024, depth=24, num_heads=16, mlp_dim=4096)
    return Size(large if o.large else ModelConfig(), 224, o.pairs, 10)


def planned(parts: list[str], tiny: bool) -> Iterator[dict[str, Any]]:
    """Run the plan's lines of these parts, one after the other; what each said."""
    for line in PLAN.replace("\n", "; ").split("; "):
        words = line.split()
        if words[0] not in parts or (tiny and "whole" in words):
            continue
        command = [sys.executable, __file__, "--part", *words, *["--tiny"] * tiny]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout.splitlines()[-1:] if done.returncode == 0 else []
        failed = json.dumps({"part": line, "failed": done.stderr[-600:]})
        yield json.loads(said[0] if said else failed)


def main() -> None:
    """One part, or the plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, help="this one, in this process")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--how", choices=("eager", "blocks", "whole"), default="eager")
    parser.add_argument("--memory", default="plain", help="plain, recompute or checkpoint")
    parser.add_argument("--attention", choices=("", *KERNELS), default="")
    parser.add_argument("--stage", type=int, default=0, help="ZeRO stage, of `loop`")
    for flag in ("--skip-blank-rows", "--large", "--tiny"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/gpu.jsonl"))
    o = parser.parse_args()
    if o.part:
        about = {"part": " ".join(sys.argv[2:]), "torch": torch.__version__}
        name = torch.cuda.get_device_name() if ON_GPU else "cpu"
        print(json.dumps(about | {"device": name, **PARTS[o.part](size_of(o), o)}))
        return
    o.out.parent.mkdir(parents=True, exist_ok=True)
    with open(o.out, "w", encoding="utf-8") as file:
        for found in planned(o.parts, o.tiny):
            line = json.dumps(found)
            print(line, flush=True)
            file.write(f"{line}\n")
            file.flush()


if __name__ == "__main__":
    main()
