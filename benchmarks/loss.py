"""What does the loss over a large batch cost, in memory and time, beside the dense definition and
open_clip's ClipLoss?

    python benchmarks/loss.py [--batches 1280 2560 5120 10240] [--width 768]
                              [--largest-dense 10240] [--out FILE]

One process, forward and backward on features of unit length, float32, on a GPU if there is one.
Extra memory is the peak of what is allocated between the call and the end of backward, gradients of
both features (2 B d floats) included, features not. It prints the largest gradient difference to
the definition in float64 (up to 2,560), so that nothing wrong is fast.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from clippo_core.losses import contrastive_loss, distributed_contrastive_loss

MIB = 1 << 20


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


def measure(
    loss: Callable[..., Tensor], batch: int, width: int, device: torch.device, repeats: int
) -> dict[str, float]:
    inputs = features(batch, width, device)

    def run() -> None:
        torch.autograd.backward(loss(*inputs), inputs=inputs)

    memory = extra_bytes(run, device)
    # On a CPU the process's own time, which other processes on the machine disturb less.
    seconds, clock = [], time.perf_counter if device.type == "cuda" else time.process_time
    for _ in range(repeats):
        for x in inputs:
            x.grad = None
        start = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    result = {"extra_mib": memory / MIB, "seconds": min(seconds)}
    if batch <= 2560:
        exact = features(batch, width, device, torch.float64)
        truth = torch.autograd.grad(contrastive_loss(*exact), exact)
        scale = max(float(t.abs().max()) for t in truth[:2])
        result["gradient_error"] = max(
            float((x.grad - t).abs().max()) / scale
            for x, t in zip(inputs[:2], truth[:2], strict=True)
        )
    return result


def main() -> None:
    """Print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1280, 2560, 5120, 10240])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument(
        "--largest-dense", type=int, default=10240, help="no dense form above this batch"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/loss.json"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forms: dict[str, Callable[..., Tensor] | None] = {
        "ours, tiled": distributed_contrastive_loss,
        "definition, dense": contrastive_loss,
        "open_clip ClipLoss": open_clip_loss(),
    }
    rows = []
    torch.set_num_threads(1)
    clock = "wall time" if device.type == "cuda" else "CPU time, one thread"
    print(f"torch {torch.__version__}, {device}; width {options.width}, float32; ms of {clock}")
    print(f"{'batch':>7}  {'form':20}{'extra MiB':>11}{'ms':>10}{'gradient error':>16}")
    for batch in options.batches:
        for name, loss in forms.items():
            if loss is None or (batch > options.largest_dense and name != "ours, tiled"):
                print(f"{batch:7}  {name:20}{'not installed' if loss is None else 'not run':>11}")
                continue
            row = {
                "batch": batch,
                "form": name,
                **measure(loss, batch, options.width, device, options.repeats),
            }
            rows.append(row)
            error = f"{row['gradient_error']:16.1e}" if "gradient_error" in row else ""
            print(
                f"{batch:7}  {name:20}{row['extra_mib']:11.1f}{row['seconds'] * 1e3:10.1f}{error}",
                flush=True,
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"torch": torch.__version__, "device": str(device), "rows": rows}, indent=2)
        + "\n"
    )


if __name__ == "__main__":
    main()
