"""What does the loss over a large batch cost, in memory and time, beside the dense definition and
open_clip's ClipLoss?

    python benchmarks/loss.py [--batches 1280 2560 5120 10240] [--width 768]
                              [--largest-dense 10240] [--rounds 3] [--out FILE]

One process, forward and backward on features of unit length, float32, on a GPU if there is one.
The forms take turns. Extra memory is the peak of what is allocated between the call and the end of
backward, gradients of both features (2 B d floats) included, features not. It also prints the
largest gradient difference from the definition in float64, so that nothing wrong is fast.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import paired, report, spread, table, timed
from torch import Tensor

from clippo_core.losses import contrastive_loss, distributed_contrastive_loss

MIB, CPU = 1 << 20, torch.device("cpu")
OURS, DENSE = "**ours**, tiled", "definition, dense"


def open_clip_loss() -> Callable[..., Tensor] | None:
    """open_clip's ClipLoss, loaded by its file alone: the package needs a torchvision that fits;
    None where it is not installed.
    """
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.origin:
        return None
    spec = importlib.util.spec_from_file_location(
        "open_clip_loss", Path(package.origin).with_name("loss.py")
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.ClipLoss()


def features(
    batch: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.nn.functional.normalize(torch.randn(batch, width, generator=generator), dim=1)
        for _ in range(2)
    )
    pair = (a, torch.nn.functional.normalize(0.2 * a + b, dim=1), torch.tensor(20.0))
    return tuple(x.to(device, dtype).requires_grad_() for x in pair)


def extra_bytes(run: Callable[[], None], device: torch.device) -> int:
    """Peak of allocated bytes above those at the start: the device's counter, or the sum of all
    events of the CPU's allocator.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    events = sorted(
        (e.start_ns(), e.nbytes())
        for e in profile.profiler.kineto_results.events()
        if e.name() == "[memory]"
    )
    peak = held = 0
    for _, change in events:
        held += change
        peak = max(peak, held)
    return peak


def gradient_error(loss: Callable[..., Tensor], batch: int, width: int) -> float:
    """Largest difference from the definition's gradient in float64, over that one's largest."""
    given, exact = (features(batch, width, CPU, kind) for kind in (torch.float32, torch.float64))
    truth = torch.autograd.grad(contrastive_loss(*exact), exact)[:2]
    found = torch.autograd.grad(loss(*given), given)[:2]
    largest = max(float(t.abs().max()) for t in truth)
    return max(float((x - t).abs().max()) / largest for x, t in zip(found, truth, strict=True))


def rows(
    batch: int, forms: dict[str, Callable[..., Tensor]], width: int, rounds: int
) -> list[list[Any]]:
    """Of each form: extra memory, time, and time over the definition's in the same round."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = features(batch, width, device)

    def run(loss: Callable[..., Tensor]) -> Callable[[], None]:
        return lambda: torch.autograd.backward(loss(*inputs), inputs=inputs)

    runs = {name: run(loss) for name, loss in forms.items()}
    memory = {}
    for name, one in runs.items():
        for x in inputs:
            x.grad = None
        memory[name] = extra_bytes(one, device) / MIB
    seconds = timed(runs, rounds, warm_up=0, on_gpu=device.type == "cuda")
    over = paired(seconds, DENSE) if DENSE in runs else dict.fromkeys(runs)
    return [
        [f"{batch:,}", name, memory[name], spread(1000 * s for s in seconds[name]), over[name]]
        for name in runs
    ]


def main() -> None:
    """Print the tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1280, 2560, 5120, 10240])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument(
        "--largest-dense", type=int, default=10240, help="no dense form above this batch"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    forms = {OURS: distributed_contrastive_loss, DENSE: contrastive_loss}
    open_clip = open_clip_loss()
    if open_clip is not None:
        forms["open_clip ClipLoss"] = open_clip
    found = []
    for batch in options.batches:
        dense = batch <= options.largest_dense
        some = {name: loss for name, loss in forms.items() if dense or name == OURS}
        found += rows(batch, some, options.width, options.rounds)
    columns = {"batch": "", "form": "", "extra MiB": ",.1f", "ms": ",.0f", "over dense": ".2f"}
    least = min(options.batches)
    errors = [[name, gradient_error(loss, least, options.width)] for name, loss in forms.items()]
    error_columns = {f"{least:,} pairs, float32": "", "largest gradient error": ".1e"}
    clock = "wall time" if torch.cuda.is_available() else "CPU time of one thread"
    clock += f", width {options.width}, float32, {options.rounds} rounds"
    tables = [table(columns, found), table(error_columns, errors)]
    report("loss", tables, clock, packages=["torch"], out=options.out)


if __name__ == "__main__":
    main()
