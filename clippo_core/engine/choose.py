"""How the activations of a batch fit into memory: the cheapest of all ways, with the reason.

A plan says what a pass keeps for its backward pass, and in which chunks a rank's pairs pass:

    plain        keep everything                                       1.00 x the time of plain
    recompute    keep matrix products, compute the rest again          1.03, no product twice
    checkpoint   keep only the blocks' inputs, compute blocks again    1.31
    in chunks    cached gradients (`cached.py`): the last chunk goes   + 0.31 x the others' share
                 forward once, the others twice

So the last chunk is as large as fits, and the others are of one size. Bytes: a block keeps 36 d
bytes per token under bfloat16 autocast with an MLP of 4 d (64 d in float32), 24 d under recompute,
4 d under checkpoint; a test compares it with what torch allocates. Beside them lies what
`fixed_bytes` counts, and `USABLE` covers the rest. Time: FLOPs, and the bytes of pointwise work as
the FLOPs that a GPU does meanwhile. The plan follows from the config and the device's memory alone:
a run that goes on has the plan that it had. Plain accumulation is no further way: a loss summed
over micro-batches is another loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import groupby
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
"""Cached chunks below this leave a GPU idle; then recomputing whole blocks in one pass is cheaper.
Above it the largest chunk is a multiple of this, which leaves the estimate some room."""
MODES = ("plain", "recompute", "checkpoint")
"""What a pass keeps; of equally cheap ones the first."""
POINTWISE_BYTES = {"forward": 42, "plain": 160, "recompute": 12}
"""What a block's compiled work other than products reads and writes per token, in d bytes: its
forward pass; forward and backward; what recompute adds. Counted by inductor, B/16 in bfloat16, as
the slope over two batches."""
FLOPS_PER_BYTE = 200
"""What a GPU multiplies while it moves a byte: of an H100's and an H200's rates in products and in
copies (about 240 and 170)."""
GIB = 1 << 30


@dataclass(frozen=True)
class MemoryPlan:
    """How a step's activations fit, and why so."""

    mode: str
    """What a pass keeps: plain, recompute or checkpoint."""
    chunk_pairs: int
    """Pairs per chunk and rank; 0 = all at once."""
    reason: str
    """A sentence for the log."""
    last_pairs: int = 0
    """Pairs of the last chunk, whose graph is kept; 0 = as many as in the others."""
    cost: float = 1.0
    """Counted time over that of plain in one pass."""

    def sizes(self, pairs: int) -> list[int]:
        """Pairs of each chunk of `pairs`, in order; what does not fill a chunk comes first."""
        if not 0 < self.chunk_pairs < pairs:
            return [pairs]
        last = min(self.last_pairs or self.chunk_pairs, pairs)
        whole, rest = divmod(pairs - last, self.chunk_pairs)
        return [*([rest] if rest else []), *[self.chunk_pairs] * whole, last]

    def words(self, pairs: int) -> str:
        """The plan of `pairs` in words: `recompute, chunks of 512 + 768`."""
        sizes = self.sizes(pairs)
        if len(sizes) == 1:
            return f"{self.mode}, one pass"
        runs = [(size, len(list(run))) for size, run in groupby(sizes)]
        parts = " + ".join(f"{n} x {size}" if n > 1 else f"{size}" for size, n in runs)
        return f"{self.mode}, chunks of {parts}"


def choose_memory(
    train: TrainConfig,
    model: ModelConfig,
    image_px: int,
    pairs_per_rank: int,
    world_size: int = 1,
    device_bytes: int = 0,
    parameters: int = 0,
) -> MemoryPlan:
    """The plan that `train.memory` asks for; with "auto" the cheapest that fits.

    device_bytes: memory of the smallest device, 0 = none known; parameters: of the module, 0 =
    those of a CLIPPO tower. Raises ConfigError where nothing fits.
    """
    limit = train.memory_gib * GIB or device_bytes * USABLE
    if not limit:
        return _without_limit(train, pairs_per_rank)
    room = limit - fixed_bytes(train, model, image_px, pairs_per_rank, parameters)
    per_pair = {m: activation_bytes_per_pair(model, image_px, m, train.precision) for m in MODES}
    has = (
        f"{room / GIB:.1f} GiB for activations of {pairs_per_rank} pairs per rank, where plain"
        f" needs {per_pair['plain'] * pairs_per_rank / GIB:.1f}"
    )
    if train.memory in MODES:
        return MemoryPlan(train.memory, 0, f"{train.memory}, as train.memory says; {has}.")
    plans = []
    for mode, cost in time_over_plain(model, image_px).items():
        cut = _cut(train, mode, int(room // per_pair[mode]), pairs_per_rank)
        if cut:
            plan = MemoryPlan(mode, cut[0], "", cut[1])
            again = 1 - plan.sizes(pairs_per_rank)[-1] / pairs_per_rank
            plans.append(replace(plan, cost=cost + again * forward_share(model, image_px)))
    if not plans:
        raise ConfigError(
            f"not one pair fits: {has}. Raise train.memory_gib, use more ranks or a smaller tower."
        )
    enough = min(SMALLEST_CHUNK_PAIRS, pairs_per_rank)
    filling = [p for p in plans if p.sizes(pairs_per_rank)[-1] >= enough]
    best = min(filling or plans, key=lambda plan: plan.cost)
    alive = per_pair[best.mode] * max(best.sizes(pairs_per_rank))
    return replace(
        best,
        reason=f"{best.words(pairs_per_rank)}: {alive / GIB:.1f} GiB, {best.cost:.2f} x the time of"
        f" plain; {has}.",
    )


def _without_limit(train: TrainConfig, pairs: int) -> MemoryPlan:
    """The plan where the memory is not known."""
    if train.memory == "auto":
        return MemoryPlan(
            "plain", 0, "plain: no memory limit is stated or known (train.memory_gib)."
        )
    chunk = min(train.chunk_pairs, pairs) if train.memory == "cached" else 0
    mode = "plain" if train.memory == "cached" else train.memory
    return MemoryPlan(mode, chunk, f"{train.memory}, as train.memory says; no memory limit.")


def _cut(train: TrainConfig, mode: str, fits: int, pairs: int) -> tuple[int, int] | None:
    """Pairs of the chunks and of the last one, where `fits` pairs fit under `mode`: (0, 0) is one
    pass, (n, 0) chunks of n; None where train.memory or the room allows nothing.
    """
    told = min(train.chunk_pairs, pairs)
    if train.memory == "cached" and told:  # obeyed, whatever the estimate says
        return (told, 0) if told <= fits or mode == "checkpoint" else None
    if fits >= pairs:
        return (0, 0) if train.memory == "auto" or mode == "plain" else None
    if told:
        return (told, 0) if told <= fits else None
    fits -= fits % SMALLEST_CHUNK_PAIRS if fits > SMALLEST_CHUNK_PAIRS else 0
    if fits < 1:
        return None
    rest = pairs - fits
    chunks = -(-rest // fits)
    size = -(-rest // chunks)
    return size, pairs - chunks * size


def fixed_bytes(
    train: TrainConfig, model: ModelConfig, image_px: int, pairs_per_rank: int, parameters: int = 0
) -> int:
    """Bytes of a device that no plan changes: the state of weights and optimizer, ZeRO's buffers,
    and the pairs of the step and of the one after it.
    """
    parameters = parameters or _parameter_count(model, image_px)
    state = STATE_BYTES_PER_PARAMETER * parameters + buffer_bytes(train.zero_stage, parameters)
    photo, text = 3 * image_px**2, image_px**2 // 8
    return state + 2 * pairs_per_rank * (photo + text)


def device_bytes(device: torch.device) -> int:
    """Memory of a GPU in whole GiB, so that drivers which reserve a little more or less lead to one
    plan; 0 for a CPU.
    """
    if device.type != "cuda":
        return 0
    return torch.cuda.get_device_properties(device).total_memory // GIB * GIB


def time_over_plain(model: ModelConfig, image_px: int) -> dict[str, float]:
    """Mode -> counted time of forward and backward in one pass over that of plain."""
    flops, byte = _block(model, image_px)
    plain = 3 * flops + POINTWISE_BYTES["plain"] * byte
    return {
        "plain": 1.0,
        "recompute": 1 + POINTWISE_BYTES["recompute"] * byte / plain,
        "checkpoint": 1 + forward_share(model, image_px),
    }


def forward_share(model: ModelConfig, image_px: int) -> float:
    """Counted time of a forward pass over that of forward and backward."""
    flops, byte = _block(model, image_px)
    return (flops + POINTWISE_BYTES["forward"] * byte) / (
        3 * flops + POINTWISE_BYTES["plain"] * byte
    )


def _block(model: ModelConfig, image_px: int) -> tuple[int, int]:
    """FLOPs of a block's products for one token, forward (backward has twice as many), and what d
    bytes are worth in FLOPs.
    """
    d, tokens = model.width, (image_px // model.PATCH_PX) ** 2
    return 8 * d * d + 4 * d * model.mlp_dim + 4 * tokens * d, FLOPS_PER_BYTE * d


def activation_bytes_per_pair(
    model: ModelConfig, image_px: int, mode: str, precision: str
) -> float:
    """Bytes that are alive at the peak of a backward pass, for each pair (two images), by
    estimate.
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
