"""One training step of the contrastive loss over the full global batch, in one pass or in chunks
with cached gradients.

    plain    features = engine(all pairs);  loss;  backward
    cached   1. features of every chunk, without a graph
             2. loss over all of them, and its gradient g with respect to the features
             3. every chunk again, with a graph:  backward of  sum(features * g);
                gradients are exchanged once, after the last chunk

By the chain rule both give the same gradient (GradCache, Gao et al. 2021); the second needs the
activations of one chunk only and one more forward pass. The logit scale's gradient comes from step
2 and is added once. Unlike in gradient accumulation, the loss is never taken over a part of the
batch.
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
    only its `chunk_pairs` matters here; 0 is one pass. `text_rows`: what the module takes, beside
    first and second texts, about each of them, [m] and [p + m].
    """
    pairs = len(second_text)
    if len(photos) + len(first_text) != pairs or pairs == 0:
        raise ValueError(
            f"{len(photos)} photos and {len(first_text)} first texts do not make {pairs} pairs with"
            " the second texts."
        )
    chunk = memory.chunk_pairs if memory else 0
    if 0 < chunk < pairs:
        chunks = list(_chunks(photos, first_text, second_text, chunk, text_rows or ()))
        loss, scale, sums = _cached(engine, chunks)
    else:
        first, second, scale = engine(photos, first_text, second_text, *(text_rows or ()))
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
    photos: Tensor, first_text: Tensor, second_text: Tensor, size: int, rows: tuple[Tensor, ...]
) -> Iterator[tuple[Tensor, ...]]:
    """The pairs low .. high of each chunk, still photos before texts."""
    p = len(photos)
    for low in range(0, len(second_text), size):
        high = min(low + size, len(second_text))
        of_first, of_second = slice(max(low - p, 0), max(high - p, 0)), slice(low, high)
        about = (rows[0][of_first], rows[1][of_second]) if rows else ()
        yield photos[low:high], first_text[of_first], second_text[of_second], *about


def _cached(engine: Engine, chunks: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        outputs = [engine(*chunk) for chunk in chunks]
    first = torch.cat([output[0] for output in outputs]).requires_grad_()
    second = torch.cat([output[1] for output in outputs]).requires_grad_()
    scale = outputs[0][2].clone().requires_grad_()
    loss, sums = contrast(first, second, scale)
    grad_first, grad_second, grad_scale = torch.autograd.grad(loss, (first, second, scale))
    low = 0
    with engine.coalesced():
        for chunk in chunks:
            high = low + len(chunk[2])
            again_first, again_second, again_scale = engine(*chunk)
            surrogate = (again_first * grad_first[low:high]).sum() + (
                again_second * grad_second[low:high]
            ).sum()
            if low == 0:
                surrogate = surrogate + again_scale * grad_scale
            engine.backward(surrogate)
            low = high
    return loss, scale, sums


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
    pairs, chunk = len(second_text), memory.chunk_pairs if memory else 0
    is_cached = 0 < chunk < pairs
    size = chunk if is_cached else pairs
    chunks = _chunks(photos, first_text, second_text, size, text_rows or ())
    shapes = {tuple(map(len, chunk)): chunk for chunk in chunks}
    for with_graph in (False, True) if is_cached else (True,):
        for inputs in shapes.values():
            engine.rehearse(*inputs, with_graph=with_graph)
