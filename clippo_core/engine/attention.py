"""Which kernel computes attention: torch's own choice, one that was named, or on a Hopper GPU the
faster of two by a probe of about a second.

    train.attention   flash, cudnn, efficient, math ─▶ that one
                      auto ─▶ what the run's checkpoint says ─▶ else, on a GPU of compute capability
                              9.0 or above, flash or cuDNN, whichever took less time in the probe

All compute the same function and differ in rounding. So rank 0 decides for all, and the choice is
kept with the run: a probe that came out otherwise would end a resumed run's equality to the bit.
The named kernel is preferred; where it cannot compute a shape the others follow in torch's order.
On a CPU `auto` is torch's own choice, and nothing is probed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from clippo_core.config import ModelConfig

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
PROBED = ("flash", "cudnn")
MARGIN = 0.02
"""cuDNN must save this share of flash's time: a smaller difference is noise."""
PROBE_TOKENS = 100_000
"""In the probe's batch: some hundred images, enough to fill a GPU."""
PROBE_ROUNDS = 20


def choose_attention(
    wanted: str, kept: str, device: torch.device, seconds: Callable[[str], float]
) -> str:
    """The kernel by name; empty is torch's own choice. wanted: train.attention; kept: what the
    checkpoint that the run goes on from says; seconds: how long a kernel takes, inf where it
    cannot run.
    """
    if wanted != "auto":
        return wanted
    if kept:
        return kept
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return ""
    flash, cudnn = (seconds(name) for name in PROBED)
    return "cudnn" if cudnn < flash * (1 - MARGIN) else "flash"


def probe_seconds(
    name: str, model: ModelConfig, image_px: int, precision: str, device: torch.device
) -> float:
    """Seconds of one block's attention, forward and backward, the median of some; inf where the
    kernel cannot compute it.
    """
    tokens = (image_px // model.PATCH_PX) ** 2
    shape = (max(1, PROBE_TOKENS // tokens), tokens, 3, model.num_heads)
    stream = torch.Generator(device).manual_seed(0)  # the run's own numbers stay as they are
    qkv = torch.randn(*shape, model.width // model.num_heads, generator=stream, device=device)
    qkv = qkv.to(getattr(torch, precision)).requires_grad_()
    times = []
    try:
        with sdpa_kernel(KERNELS[name]):
            for _ in range(PROBE_ROUNDS + 3):
                started = _now(device)
                query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
                F.scaled_dot_product_attention(query, key, value).sum().backward()
                times.append(_now(device) - started)
    except RuntimeError:  # no such kernel for this type or shape
        return float("inf")
    return sorted(times[3:])[PROBE_ROUNDS // 2]


@contextmanager
def using_attention(name: str) -> Iterator[None]:
    """Within it attention is computed by the kernel `name` where it can; empty = torch's choice."""
    if not name:
        yield
        return
    # `math` can compute everything, and on a CPU a priority is not looked at.
    others = [kernel for other, kernel in KERNELS.items() if name not in ("math", other)]
    with sdpa_kernel([KERNELS[name], *others], set_priority=True):
        yield


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
