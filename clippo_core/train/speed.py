"""How fast training is, in the field's terms: pairs per second, model FLOP/s, and their share of
what a matrix product reaches here.

    training FLOPs of a pair = 2 images * 3 * forward of one image,
                               less the gradient with respect to pixels, which nobody computes

Model FLOPs: recomputation, normalisation and pointwise work do not count, so a faster way to the
same result looks faster.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clippo_core.config import ModelConfig
from clippo_core.engine import Ranks
from clippo_core.run.records import PretrainPlan


def forward_flops(model: ModelConfig, image_px: int) -> int:
    """Multiply-adds count two; one image through patch embedding, blocks, MAP head and
    projection.
    """
    return forward_flops_of(model, (image_px // model.PATCH_PX) ** 2)


def forward_flops_of(model: ModelConfig, tokens: int) -> int:
    """The same of an image of `tokens` patches, a text without its blank rows for instance."""
    d, mlp, patch = model.width, model.mlp_dim, 3 * model.PATCH_PX**2
    block = tokens * (8 * d * d + 4 * tokens * d + 4 * d * mlp)
    map_head = tokens * 4 * d * d + 4 * d * d + 4 * tokens * d + 4 * d * mlp
    return 2 * tokens * patch * d + model.depth * block + map_head + 2 * d * model.embed_dim


def training_flops_per_pair(model: ModelConfig, image_px: int) -> int | None:
    """Of forward and backward of a photo/text pair of CLIPPO; None for towers that do not read text
    as an image of one size.
    """
    if model.kind != "clippo" or model.skip_blank_rows:
        return None
    pixels = 2 * (image_px // model.PATCH_PX) ** 2 * 3 * model.PATCH_PX**2 * model.width
    return 2 * (3 * forward_flops(model, image_px) - pixels)


def matmul_flops_per_second(device: torch.device, precision: str) -> float:
    """The best of a few square matrix products on this device, now: the ceiling that MFU is a share
    of.

    Of random numbers: products of ones switch fewer transistors, run at higher clocks and flatter
    the ceiling.
    """
    size, dtype = (
        (8192, getattr(torch, precision)) if device.type == "cuda" else (1024, torch.float32)
    )
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        _finish(device)
        started = time.perf_counter()
        torch.mm(a, b)
        _finish(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_memory_gib(device: torch.device) -> float:
    """The most that this process has held so far: GPU memory allocated by torch, or the process's
    memory on a CPU.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Meter:
    """Times the steps of one rank; ranks wait for each other in every step, so any rank's time is
    the world's.
    """

    def __init__(self, plan: PretrainPlan, ranks: Ranks):
        self._device, self._batch_pairs = ranks.device, plan.train.batch_pairs
        per_pair = training_flops_per_pair(plan.model, plan.render.image_px)
        self._flops = per_pair * self._batch_pairs / ranks.world_size if per_pair else None
        # A CPU is shared: its ceiling moves with whoever computes beside us, and a share of it says
        # nothing.
        self._ceiling = (
            matmul_flops_per_second(ranks.device, plan.train.precision)
            if self._flops and ranks.device.type == "cuda"
            else 0.0
        )
        self._waited, self._last = 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within it as waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    def step(self) -> dict[str, float]:
        """Fields of the journal for the time since the last call: one step. `mfu` on a GPU only."""
        now = time.perf_counter()
        seconds, waited = now - self._last, self._waited
        self._last, self._waited = now, 0.0
        fields = {
            "seconds": seconds,
            "pairs_per_second": self._batch_pairs / seconds,
            "data_wait_share": min(waited / seconds, 1.0),
            "peak_memory_gib": peak_memory_gib(self._device),
        }
        if self._flops:
            per_second = self._flops / seconds
            fields["tflops_per_second"] = per_second / 1e12
            if self._ceiling:
                fields["mfu"] = per_second / self._ceiling
        return fields


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
