"""By which factor is the gradient of each implementation off, for weights and for the logit scale?

    python benchmarks/gradient_factors.py [--ranks 1 2 4] [--out FILE]

A small two-sided tower in float64, gradients averaged over gloo ranks as DDP and ZeRO average them;
truth is one process with the whole batch. `weights` is <g, truth> / <truth, truth>, `direction` the
cosine of the two, `logit scale` the ratio. GradCache and Inf-CL are optional packages (`GradCache`,
`inf-cl` with triton); a row says so where one is not installed. open_clip's accumulation is its
training loop written out again around its own ClipLoss (train.py, --accum-freq).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from clippo_core.engine import MemoryPlan, PlainEngine, contrastive_step
from clippo_core.losses import contrastive_loss
from clippo_core.optim import ShardedOptimizer

PAIRS, CHUNKS = 32, 4


class Tower(nn.Module):
    """The engines' call: photos, first texts, second texts -> both features and the scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 8))
        self.t = nn.Parameter(torch.tensor([2.0]))
        self.double()

    def embed(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(x), dim=1)

    def scale(self) -> Tensor:
        return self.t.exp().reshape(())

    def forward(
        self, photos: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.embed(torch.cat([photos, first])), self.embed(second), self.scale()


class Gradient(ShardedOptimizer):
    """Leaves the averaged gradients in place for a look."""

    def step(self, multiplier: float | None = None) -> None:
        self.seen = {
            name: parameter.grad.clone()
            for name, parameter in self._whole.items()
            if parameter.grad is not None
        }


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(PAIRS, 10, generator=generator, dtype=torch.float64)
    return x, x + 0.5 * torch.randn(PAIRS, 10, generator=generator, dtype=torch.float64)


def local(rank: int, world: int) -> tuple[Tensor, Tensor]:
    n = PAIRS // world
    x, y = batch()
    return x[rank * n : (rank + 1) * n], y[rank * n : (rank + 1) * n]


def ours(rank: int, world: int, chunks: int) -> dict[str, Tensor]:
    tower, (x, y) = Tower(), local(rank, world)
    optimizer = Gradient(tower.named_parameters(), 1.0, 0.0, set())
    engine = PlainEngine(tower, optimizer, "float32", torch.device("cpu"))
    contrastive_step(
        engine,
        x,
        x[:0],
        y,
        memory=MemoryPlan("plain", len(x) // chunks, "") if chunks > 1 else None,
    )
    engine.update(1.0)
    return optimizer.seen


def averaged(tower: Tower, world: int) -> dict[str, Tensor]:
    """What DDP would leave: the mean over ranks."""
    gradients = {}
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None
        gradients[name] = parameter.grad.clone()
        if world > 1:
            dist.all_reduce(gradients[name])
            gradients[name] /= world
    return gradients


def clip_loss(
    local_loss: bool, gather_with_grad: bool
) -> Callable[[int, int], dict[str, Tensor] | str]:
    def run(rank: int, world: int) -> dict[str, Tensor] | str:
        module = _open_clip()
        if module is None:
            return "not installed"
        tower, (x, y) = Tower(), local(rank, world)
        loss = module.ClipLoss(
            local_loss=local_loss, gather_with_grad=gather_with_grad, rank=rank, world_size=world
        )
        loss(tower.embed(x), tower.embed(y), tower.scale()).backward()
        return averaged(tower, world)

    return run


def clip_accumulation(rank: int, world: int) -> dict[str, Tensor] | str:
    """--accum-freq: features of all micro-batches once without a graph, then each again with the
    others' cached ones.
    """
    module = _open_clip()
    if module is None:
        return "not installed"
    tower, (x, y) = Tower(), local(rank, world)
    loss = module.ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world)
    xs, ys = x.chunk(CHUNKS), y.chunk(CHUNKS)
    with torch.no_grad():
        cached = [(tower.embed(a), tower.embed(b)) for a, b in zip(xs, ys, strict=True)]
    for j in range(CHUNKS):
        sides = []
        for side, inputs in enumerate((xs, ys)):
            parts = [c[side] for c in cached]
            sides.append(torch.cat([*parts[:j], tower.embed(inputs[j]), *parts[j + 1 :]]))
        loss(*sides, tower.scale()).backward()
    return averaged(tower, world)


def grad_cache(rank: int, world: int) -> dict[str, Tensor] | str:
    """The package with its own losses, both directions; over ranks its
    DistributedContrastiveLoss.
    """
    try:
        import gradcache

        sys.modules.setdefault(
            "grad_cache", gradcache
        )  # its files import themselves under the repository's name
        from gradcache.grad_cache import GradCache
        from gradcache.loss import DistributedContrastiveLoss, SimpleContrastiveLoss
    except ImportError:
        return "not installed"
    tower, (x, y) = Tower(), local(rank, world)
    one_way = DistributedContrastiveLoss() if world > 1 else SimpleContrastiveLoss()
    side = nn.Module()
    side.forward = lambda x: tower.embed(x)
    cache = GradCache(
        [side, side],
        chunk_sizes=len(x) // CHUNKS,
        loss_fn=lambda a, b: _both(one_way, a, b, tower.scale()),
    )
    cache(x, y)
    return averaged(tower, world)


def _both(one_way: Any, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    return (one_way(scale * a, b) + one_way(scale * b, a)) / 2


def inf_cl(rank: int, world: int) -> dict[str, Tensor] | str:
    """Its README: the ring loss in both directions, mean over ranks' rows."""
    try:
        from inf_cl import cal_ring_loss
    except Exception as error:  # triton missing, or without a driver
        return (
            "not installed"
            if isinstance(error, ImportError)
            else f"not run: {type(error).__name__}"
        )
    if world == 1:
        return "needs ranks"
    tower, (x, y) = Tower(), local(rank, world)
    a, b, scale = tower.embed(x).float(), tower.embed(y).float(), tower.scale().float()
    (
        cal_ring_loss(a, b, scale=scale, head_dim=8).mean()
        + cal_ring_loss(b, a, scale=scale, head_dim=8).mean()
    ).div(2).backward()
    return averaged(tower, world)


ROWS: dict[str, Callable[[int, int], dict[str, Tensor] | str]] = {
    "ours, one pass": lambda rank, world: ours(rank, world, 1),
    "ours, 4 chunks": lambda rank, world: ours(rank, world, CHUNKS),
    "open_clip local_loss gather_with_grad": clip_loss(True, True),
    "open_clip gather_with_grad": clip_loss(False, True),
    "open_clip local_loss": clip_loss(True, False),
    "open_clip neither": clip_loss(False, False),
    "open_clip --accum-freq 4": clip_accumulation,
    "GradCache, 4 chunks": grad_cache,
    "Inf-CL ring": inf_cl,
}


def compared(gradients: dict[str, Tensor]) -> dict[str, float]:
    tower = Tower()
    x, y = batch()
    contrastive_loss(tower.embed(x), tower.embed(y), tower.scale()).backward()
    truth = {name: p.grad for name, p in tower.named_parameters()}
    g, t = (
        torch.cat([d[name].reshape(-1) for name in truth if name != "t"])
        for d in (gradients, truth)
    )
    return {
        "weights": float(g @ t / (t @ t)),
        "direction": float(g @ t / (g.norm() * t.norm())),
        "logit_scale": float(gradients["t"] / truth["t"]),
        "error": max(
            float((gradients[name] - truth[name]).abs().max() / truth[name].abs().max())
            for name in truth
        ),
    }


def work(rank: int, world: int, port: int, path: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    dist.init_process_group("gloo")
    results = {}
    for name, run in ROWS.items():
        found = run(rank, world)
        results[name] = found if isinstance(found, str) else compared(found)
        dist.barrier()
    if rank == 0:
        Path(path).write_text(json.dumps(results))
    dist.destroy_process_group()


def main() -> None:
    """Print one table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/gradient_factors.json"))
    options = parser.parse_args()
    everything = {}
    print(
        f"{'ranks':>5}  {'implementation':40}{'weights':>10}{'direction':>11}"
        f"{'logit scale':>13}{'largest error':>15}"
    )
    for world in options.ranks:
        with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            mp.spawn(work, (world, port, f"{folder}/out.json"), world)
            everything[world] = json.loads(Path(f"{folder}/out.json").read_text())
        for name, row in everything[world].items():
            text = f"{row:>10}" if isinstance(row, str) else ""
            if not text:
                text = (
                    f"{row['weights']:10.5f}{row['direction']:11.5f}{row['logit_scale']:13.5f}"
                    f"{row['error']:15.1e}"
                )
            print(f"{world:5}  {name:40}{text}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(everything, indent=2) + "\n")


def _open_clip() -> Any:
    from loss import open_clip_loss

    instance = open_clip_loss()
    return None if instance is None else sys.modules[type(instance).__module__]


if __name__ == "__main__":
    main()
