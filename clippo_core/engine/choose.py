"""How the activations of a batch fit into memory: the cheapest of four ways, with the reason.

    plain        keep everything                                       1.00 x the time of plain
    recompute    keep matrix products, compute the rest again          about 1.0, no product twice
    cached       cached gradients, in chunks that fit                  1.33, one more forward pass
    checkpoint   keep only the blocks' inputs, compute blocks again    1.33

The estimate counts what a block keeps for its backward pass: 36 d bytes per token under bfloat16
autocast with an MLP of 4 d (64 d in float32), 24 d under recompute, 4 d under checkpoint; a test
compares it with what torch allocates. ZeRO's buffers are counted (`buckets.py`); what a device
needs beside is covered by planning with `USABLE` of it. Plain accumulation is no fifth way: a loss
summed over micro-batches is another loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clippo_core.config import ModelConfig, TrainConfig
from clippo_core.engine.buckets import buffer_bytes
from clippo_core.errors import ConfigError

USABLE = 0.92
"""Share of a device's memory that is planned with."""
STATE_BYTES_PER_PARAMETER = 24
"""Weights, gradients, momentum, the optimizer's flat gradient and its squares in float32,
autocast's copies: no stage needs more."""
SMALLEST_CHUNK_PAIRS = 32
"""Cached chunks below this leave a GPU idle; then recomputing whole blocks in one pass is
cheaper."""
GIB = 1 << 30


@dataclass(frozen=True)
class MemoryPlan:
    """How a step's activations fit, and why so."""

    mode: str
    """plain, recompute, cached or checkpoint."""
    chunk_pairs: int
    """Pairs per chunk and rank; 0 = all at once."""
    reason: str
    """A sentence for the log."""


def choose_memory(
    train: TrainConfig,
    model: ModelConfig,
    image_px: int,
    pairs_per_rank: int,
    world_size: int = 1,
    device: torch.device | None = None,
) -> MemoryPlan:
    """The plan that `train.memory` asks for; with "auto" the cheapest that fits. Raises ConfigError
    where nothing does.
    """
    limit = train.memory_gib * GIB
    if not limit and device is not None and device.type == "cuda":
        limit = torch.cuda.get_device_properties(device).total_memory * USABLE
    modes = ("plain", "recompute", "checkpoint")
    per_pair = {
        mode: activation_bytes_per_pair(model, image_px, mode, train.precision) for mode in modes
    }
    parameters = _parameter_count(model, image_px)
    room = limit - STATE_BYTES_PER_PARAMETER * parameters
    room -= buffer_bytes(train.zero_stage, parameters)
    fits = int(room // per_pair["plain"]) if limit else pairs_per_rank
    chunk = min(train.chunk_pairs, pairs_per_rank) or _even_chunk(pairs_per_rank, fits)
    has = (
        f"{room / GIB:.1f} GiB for activations of {pairs_per_rank} pairs per rank"
        if limit
        else "no memory limit"
    )

    if train.memory != "auto":
        if train.memory == "cached" and chunk < 1:
            raise ConfigError(
                f"train.memory is 'cached', but not one pair fits: {has}. Raise train.memory_gib or"
                " take a smaller tower."
            )
        return MemoryPlan(
            train.memory,
            chunk if train.memory == "cached" else 0,
            f"{train.memory}, as train.memory says; {has}.",
        )
    if not limit:
        return MemoryPlan(
            "plain", 0, "plain: no memory limit is stated or known (train.memory_gib)."
        )
    need = {mode: per_pair[mode] * pairs_per_rank for mode in modes}
    return _cheapest(need, room, chunk, has)


def _cheapest(need: dict[str, float], room: float, chunk: int, has: str) -> MemoryPlan:
    """The cheapest way that fits. need: mode -> bytes; room: bytes; chunk: pairs that fit for
    cached gradients; has: the room in words. Raises ConfigError where nothing fits.
    """
    for mode in ("plain", "recompute"):
        if need[mode] <= room:
            return MemoryPlan(mode, 0, f"{mode}: needs {need[mode] / GIB:.1f} GiB; {has}.")
    refused = (
        f"plain needs {need['plain'] / GIB:.1f}, recompute {need['recompute'] / GIB:.1f} GiB; {has}"
    )
    if chunk >= SMALLEST_CHUNK_PAIRS or (chunk >= 1 and need["checkpoint"] > room):
        return MemoryPlan(
            "cached", chunk, f"cached gradients in chunks of {chunk} pairs: {refused}."
        )
    if need["checkpoint"] <= room:
        return MemoryPlan(
            "checkpoint",
            0,
            f"checkpoint: chunks of only {chunk} pairs would fit for cached gradients; {refused}.",
        )
    raise ConfigError(
        f"not one pair fits: {refused}. Raise train.memory_gib, use more ranks or a smaller tower."
    )


def _even_chunk(pairs: int, fits: int) -> int:
    """The largest chunk of at most `fits` pairs that divides `pairs`, so that all chunks have one
    shape; or nearly, where none is near.
    """
    if fits < 1:
        return 0
    fewest = -(-pairs // fits)
    parts = next((n for n in range(fewest, 2 * fewest) if pairs % n == 0), fewest)
    return -(-pairs // parts)


def activation_bytes_per_pair(
    model: ModelConfig, image_px: int, mode: str, precision: str
) -> float:
    """Bytes that are alive at the peak of a backward pass, for each pair (two images), by estimate;
    `mode` but `cached`.
    """
    size = 2 if precision == "bfloat16" else 4
    tokens, d, mlp, patch = (
        (image_px // model.PATCH_PX) ** 2,
        model.width,
        model.mlp_dim,
        3 * model.PATCH_PX**2,
    )
    # Of one token. A block keeps the residual stream twice, in float32 (under autocast too), and
    # the inputs of its matrix products.
    inputs = size * (
        6 * d + 2 * mlp
    )  # both LayerNorms' results, q, k, v, attention's; before and behind GELU
    outputs = size * (6 * d + mlp)  # what "recompute" keeps instead: results of the products
    block = {"plain": inputs + 8 * d, "recompute": outputs + 4 * d, "checkpoint": 4 * d}[mode]
    # While a block runs backward, what it had dropped is there again.
    again = inputs + 8 * d - block
    around = size * (3 * d + patch) + 4 * (
        patch + d
    )  # pixels, patches, last LayerNorm, the MAP head's keys and values
    return 2 * tokens * (model.depth * block + again + around)


def apply_memory(module: nn.Module, plan: MemoryPlan) -> None:
    """Make the tower recompute as the plan says. Before `make_engine`."""
    mode = {"recompute": "pointwise", "checkpoint": "blocks"}.get(plan.mode, "none")
    set_recompute: Any = getattr(module, "set_recompute", None)
    if set_recompute is not None:
        set_recompute(mode)
    elif mode != "none":
        raise ConfigError(
            f"train.memory {plan.mode!r} needs a module with `set_recompute`;"
            f" {type(module).__name__} has none."
        )


def _parameter_count(model: ModelConfig, image_px: int) -> int:
    """Of the CLIPPO tower of this config, MAP head included; other kinds add their token
    embeddings.
    """
    d, mlp, patch = model.width, model.mlp_dim, 3 * model.PATCH_PX**2
    block = 4 * d * d + 2 * d * mlp + 9 * d + mlp
    tokens = math.prod(2 * [image_px // model.PATCH_PX])
    # MAP head: a block with one LayerNorm less, and a probe.
    return (
        (model.depth + 1) * block
        - d
        + patch * d
        + d
        + tokens * d
        + 2 * d
        + (d + 1) * model.embed_dim
        + 1
    )
