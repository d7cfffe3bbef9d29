"""What a training step should take on GPUs, and what of it: computed from counts, since none of it
was measured on a GPU yet (docs/performance.md).

    tower       matrix products + attention + pointwise work that reads and writes memory
    again       forward passes of chunks or blocks that run twice, as the memory plan says
    loss        8 b B e FLOPs in float32, for b pairs of B on each GPU and e dimensions
    exchanges   features and their gradients; gradients of weights beyond what backward hides
    update      the optimizer's pass over weights and state; weights gathered under ZeRO

It leaves out launches, waiting for data, checkpoints, and nodes that disturb each other. The plan's
expected duration and the table of docs/performance.md come from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clippo_core.config import ModelConfig, TrainConfig
from clippo_core.engine.choose import USABLE, MemoryPlan, _parameter_count, choose_memory
from clippo_core.train.speed import forward_flops, training_flops_per_pair

PRODUCTS = 0.78
"""Share of the largest product's rate that a tower's products reach, assumed."""
MEMORY = 0.85
"""Share of the memory rate that fused pointwise kernels reach, assumed."""
ATTENTION_BACKWARD = 2.5
"""Backward's FLOPs over forward's: flash attention computes the scores again."""
POINTWISE_BYTES = {True: 126, False: 260}
"""Bytes that pointwise work of forward and backward moves, per token, block and dimension: compiled
or not. Counted from what a block reads and writes."""
UPDATE_BYTES = 98
"""Bytes that Adafactor's update with clipping moves, per parameter."""
GPUS_OF_A_NODE = 8
CPU_FLOPS = 7e10
"""Model FLOP/s of a CPU of two cores (benchmarks/RESULTS.md, train step)."""


@dataclass(frozen=True)
class Gpu:
    """What a GPU's parts reach: of its data sheet about 81 % in products and 90 % in memory, as
    others report for Hopper; assumed to hold for A100."""

    sheet: float
    """Dense bfloat16 FLOP/s of the data sheet."""
    products: float
    """FLOP/s of one large product of random numbers."""
    attention: float
    """FLOP/s of flash attention 2 at 196 tokens of 64 dimensions a head, assumed; A100's in the
    proportion of the peaks that its paper gives (230 and 335)."""
    float32: float
    """FLOP/s of the loss's products."""
    memory: float
    """Bytes/s."""
    gib: float
    """Memory that the device reports."""
    node: float
    """Bytes/s to the GPUs of a node, one way."""
    network: float
    """Bytes/s to other nodes, for each GPU: 400 Gb/s, A100 200."""


GPUS = {
    "nvidia-a100-80gb": Gpu(312e12, 252e12, 103e12, 14.6e12, 1.83e12, 79.0, 300e9, 25e9),
    "nvidia-h100": Gpu(989e12, 798e12, 150e12, 50e12, 3.0e12, 79.0, 450e9, 50e9),
    "nvidia-h200": Gpu(989e12, 790e12, 150e12, 50e12, 4.3e12, 139.0, 450e9, 50e9),
}
"""By the label that Flyte gives the accelerator."""


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step, by part, and how its activations fit."""

    batch_pairs: int
    memory: MemoryPlan
    tower: float
    again: float
    loss: float
    exchanges: float
    update: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.tower + self.again + self.loss + self.exchanges + self.update

    @property
    def pairs_per_second(self) -> float:
        """Of all GPUs together."""
        return self.batch_pairs / self.seconds


def step_cost(
    train: TrainConfig, model: ModelConfig, image_px: int, gpu: Gpu, gpus: int
) -> StepCost:
    """Of a CLIPPO tower in bfloat16 on so many GPUs. Raises ConfigError where the batch does not
    divide or not one pair fits.
    """
    pairs = train.pairs_per_rank(gpus)
    limited = replace(train, memory_gib=train.memory_gib or gpu.gib * USABLE)
    plan = choose_memory(limited, model, image_px, pairs, gpus)
    per_pair = tower_seconds(model, image_px, gpu, train.compile)
    flops = training_flops_per_pair(model, image_px) or 0
    forward = 2 * forward_flops(model, image_px) / flops
    link = gpu.node if gpus <= GPUS_OF_A_NODE else gpu.network
    others = (gpus - 1) / gpus
    weights = 4 * _parameter_count(model, image_px)
    features = 4 * train.batch_pairs * (2 * model.embed_dim + gpus) * others / link
    last_backward = (plan.chunk_pairs or pairs) * per_pair * (1 - forward)
    gradients = max(0.0, 2 * weights * others / link - last_backward)
    shards = gpus if train.zero_stage else 1
    update = UPDATE_BYTES / 4 * weights / shards / gpu.memory
    return StepCost(
        train.batch_pairs,
        plan,
        tower=pairs * per_pair,
        again=pairs * per_pair * forward * forwards_again(plan, pairs),
        loss=8 * pairs * train.batch_pairs * model.embed_dim / gpu.float32,
        exchanges=features + gradients,
        update=update + (weights * others / link if train.zero_stage else 0.0),
    )


def tower_seconds(model: ModelConfig, image_px: int, gpu: Gpu, compiled: bool) -> float:
    """Of forward and backward of a pair, nothing computed twice."""
    tokens = (image_px // model.PATCH_PX) ** 2
    attention = 2 * model.depth * 4 * tokens**2 * model.width  # forward, both images
    products = (training_flops_per_pair(model, image_px) or 0) - 3 * attention
    moved = POINTWISE_BYTES[compiled] * 2 * tokens * model.depth * model.width
    return (
        products / (PRODUCTS * gpu.products)
        + (1 + ATTENTION_BACKWARD) * attention / gpu.attention
        + moved / (MEMORY * gpu.memory)
    )


def forwards_again(plan: MemoryPlan, pairs: int) -> float:
    """Forward passes of a step beyond the first, as a share of one."""
    return 1.0 if plan.mode in ("cached", "checkpoint") else 0.0


def training_seconds(
    train: TrainConfig, model: ModelConfig, image_px: int, device: str, count: int
) -> float | None:
    """Expected seconds of all steps, if nothing waits.

    device: a key of GPUS, or empty for CPU nodes; count: of GPUs, or nodes. None where nobody
    knows: another tower, another GPU, a GPU in float32. Raises ConfigError as `step_cost`.
    """
    flops = training_flops_per_pair(model, image_px)
    if flops is None:
        return None
    if not device:
        return train.steps * train.batch_pairs * flops / (CPU_FLOPS * count)
    if device not in GPUS or train.precision != "bfloat16":
        return None
    return train.steps * step_cost(train, model, image_px, GPUS[device], count).seconds
