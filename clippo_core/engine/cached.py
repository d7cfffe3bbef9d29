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

Chunk = tuple[Tensor, ...]
"""What the module takes: photos, first texts, second texts, and of packed texts their rows."""


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

    @classmethod
    def of(cls, report: list[float], pairs: int) -> StepOutput:
        """From `contrastive_backward`'s report, summed over ranks, of a batch of `pairs` in all."""
        total, hits, positive, everything, logit_scale = report
        others = pairs * (pairs - 1)
        return cls(
            loss=total / pairs,
            logit_scale=logit_scale,
            positive_similarity=positive / pairs,
            negative_similarity=(everything - positive) / others if others else 0.0,
            accuracy=hits / pairs,
            finite=all(map(math.isfinite, report)),
        )


def contrastive_step(
    engine: Engine,
    photos: Tensor,
    first_text: Tensor,
    second_text: Tensor,
    *,
    memory: MemoryPlan | None = None,
    text_rows: tuple[Tensor, Tensor] | None = None,
) -> StepOutput:
    """`contrastive_backward`, and what it says; then call `engine.update(multiplier)`. Waits for
    the device.
    """
    report = contrastive_backward(
        engine, photos, first_text, second_text, memory=memory, text_rows=text_rows
    )
    if engine.world_size > 1:
        dist.all_reduce(report)
    return StepOutput.of(report.tolist(), len(second_text) * engine.world_size)


def contrastive_backward(
    engine: Engine,
    photos: Tensor,
    first_text: Tensor,
    second_text: Tensor,
    *,
    memory: MemoryPlan | None = None,
    text_rows: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Forward and backward of one step. This rank's part of its report, [5], for
    `engine.queue_update`; no one waits for it here. A NaN anywhere is a NaN everywhere.

    `photos` [p, ...], `first_text` [m, ...], `second_text` [p + m, ...]: this rank's pairs as the
    module takes them, photos first, on the engine's device, p + m the same on every rank. `memory`:
    only the sizes of its chunks matter here. `text_rows`: what the module takes, beside first and
    second texts, about each of them, [m] and [p + m].
    """
    pairs = len(second_text)
    if len(photos) + len(first_text) != pairs or pairs == 0:
        raise ValueError(
            f"{len(photos)} photos and {len(first_text)} first texts do not make {pairs} pairs with"
            " the second texts."
        )
    chunks = list(_chunks(photos, first_text, second_text, memory, text_rows or ()))
    if len(chunks) > 1:
        loss, scale, sums = _cached(engine, chunks)
    else:
        first, second, scale = engine(*chunks[0])
        loss, sums = contrast(first, second, scale)
        engine.backward(loss)
    return torch.cat(
        [
            loss.detach().reshape(1) * pairs,
            sums,
            scale.detach().reshape(1).to(sums.dtype) / engine.world_size,
        ]
    )


def _chunks(
    photos: Tensor,
    first_text: Tensor,
    second_text: Tensor,
    memory: MemoryPlan | None,
    rows: tuple[Tensor, ...],
) -> Iterator[Chunk]:
    """The pairs low .. high of each chunk, still photos before texts."""
    p, low, pairs = len(photos), 0, len(second_text)
    for size in memory.sizes(pairs) if memory else [pairs]:
        high = low + size
        of_first, of_second = slice(max(low - p, 0), max(high - p, 0)), slice(low, high)
        about = (rows[0][of_first], rows[1][of_second]) if rows else ()
        yield photos[low:high], first_text[of_first], second_text[of_second], *about
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


def rehearse(
    engine: Engine,
    photos: Tensor,
    first_text: Tensor,
    second_text: Tensor,
    *,
    memory: MemoryPlan | None = None,
    text_rows: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Run the module as a step on these pairs would, every shape once, and keep nothing: what is
    compiled at first use is compiled then. No rank waits for another; see `Engine.rehearse`.
    """
    *others, last = _chunks(photos, first_text, second_text, memory, text_rows or ())
    shapes = {tuple(map(len, chunk)): chunk for chunk in others}
    for inputs in shapes.values():
        engine.rehearse(*inputs, with_graph=False)
    for inputs in (shapes | {tuple(map(len, last)): last}).values():
        engine.rehearse(*inputs, with_graph=True)
