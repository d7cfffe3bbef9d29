"""One training step of the contrastive loss over the full global batch, in one pass or in chunks
with cached gradients.

    plain    features = engine(all pairs);  loss;  backward
    cached   1. features of every chunk but the last without a graph, of the last with one
             2. loss over all of them, and its gradient g with respect to the features
             3. backward of  sum(features * g):  of the last chunk from the graph that was kept,
                then of every other chunk, which goes forward again for it;
                gradients are exchanged once, at the end

By the chain rule both give the same gradient. In the definition (GradCache, Gao et al. 2021) every
chunk goes forward twice. Keeping the last chunk's graph is the same sum in another order: no more
than one chunk's activations are alive at a time, as there, and K chunks take 2 K - 1 forward
passes instead of 2 K. The logit scale's gradient comes from step 2 and is added once. Unlike in
gradient accumulation, the loss is never taken over a part of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from clippo_core.engine.choose import MemoryPlan
from clippo_core.engine.interface import Engine
from clippo_core.losses import contrast

Chunk = tuple[Tensor, Tensor, Tensor]
"""What the module takes: photos, first texts, second texts."""


@dataclass(frozen=True)
class StepOutput:
    """What a step's forward pass says, over the global batch, the same on every rank. Its gradients
    wait in the engine.
    """

    loss: float
    """Mean nats of both directions."""
    logit_scale: float
    """exp(t)."""
    positive_similarity: float
    """Mean cosine of the pairs."""
    negative_similarity: float
    """Mean cosine of everything else; 0 for a batch of one pair."""
    accuracy: float
    """Share of first sides whose nearest second side is their own, 0..1."""
    finite: bool
    """Whether loss and logit scale are finite; if not, call `engine.discard()` instead of
    `engine.update()`."""


def contrastive_step(
    engine: Engine,
    photos: Tensor,
    first_text: Tensor,
    second_text: Tensor,
    *,
    memory: MemoryPlan | None = None,
) -> StepOutput:
    """Forward and backward of one step; then call `engine.update(multiplier)`.

    `photos` [p, ...], `first_text` [m, ...], `second_text` [p + m, ...]: this rank's pairs as the
    module takes them, photos first, on the engine's device, p + m the same on every rank. `memory`:
    only the sizes of its chunks matter here.
    """
    pairs = len(second_text)
    if len(photos) + len(first_text) != pairs or pairs == 0:
        raise ValueError(
            f"{len(photos)} photos and {len(first_text)} first texts do not make {pairs} pairs with"
            " the second texts."
        )
    if memory and len(memory.sizes(pairs)) > 1:
        loss, scale, sums = _cached(engine, list(_chunks(photos, first_text, second_text, memory)))
    else:
        first, second, scale = engine(photos, first_text, second_text)
        loss, sums = contrast(first, second, scale)
        engine.backward(loss)
    return _report(engine.world_size, pairs, loss, scale, sums)


def _chunks(
    photos: Tensor, first_text: Tensor, second_text: Tensor, memory: MemoryPlan
) -> Iterator[Chunk]:
    """The pairs low .. high of each chunk, still photos before texts."""
    p, low = len(photos), 0
    for size in memory.sizes(len(second_text)):
        high = low + size
        yield (
            photos[low:high],
            first_text[max(low - p, 0) : max(high - p, 0)],
            second_text[low:high],
        )
        low = high


def _cached(engine: Engine, chunks: list[Chunk]) -> tuple[Tensor, Tensor, Tensor]:
    *others, last = chunks
    with torch.no_grad():
        outputs = [engine(*chunk) for chunk in others]
    kept = engine(*last)
    outputs.append(kept)
    first, second = (
        torch.cat([output[side].detach() for output in outputs]).requires_grad_() for side in (0, 1)
    )
    scale = kept[2].detach().clone().requires_grad_()
    loss, sums = contrast(first, second, scale)
    *of_features, of_scale = torch.autograd.grad(loss, (first, second, scale))
    gradients = list(zip(*(g.split([len(c[2]) for c in chunks]) for g in of_features), strict=True))
    with engine.coalesced():
        engine.backward(_surrogate(kept, gradients.pop()) + kept[2] * of_scale)
        for chunk, gradient in zip(others, gradients, strict=True):
            engine.backward(_surrogate(engine(*chunk), gradient))
    return loss, scale, sums


def _surrogate(features: tuple[Tensor, ...], gradient: tuple[Tensor, ...]) -> Tensor:
    """A scalar whose gradient with respect to both sides' features is the given one."""
    return (features[0] * gradient[0]).sum() + (features[1] * gradient[1]).sum()


def _report(world_size: int, pairs: int, loss: Tensor, scale: Tensor, sums: Tensor) -> StepOutput:
    """Means over the global batch by one all-reduce; a NaN anywhere is a NaN everywhere."""
    values = torch.cat(
        [
            loss.detach().reshape(1) * pairs,
            sums,
            scale.detach().reshape(1).to(sums.dtype) / world_size,
        ]
    )
    if world_size > 1:
        dist.all_reduce(values)
    total, hits, positive, everything, logit_scale = numbers = values.tolist()
    n = pairs * world_size
    return StepOutput(
        loss=total / n,
        logit_scale=logit_scale,
        positive_similarity=positive / n,
        negative_similarity=(everything - positive) / (n * (n - 1)) if n > 1 else 0.0,
        accuracy=hits / n,
        finite=all(map(math.isfinite, numbers)),
    )
