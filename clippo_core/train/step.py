"""One step of pretraining: a batch on the device, forward and backward over the full global batch, update, or skip for good reason.

    finite loss, finite gradient norm   ->  the optimizer steps
    anything else                       ->  no weight and no moment changes, on any rank; the step counts, and its keys are kept

Which chunks a batch is cut into is the engine's business; how often to save, the loop's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clippo_core.data.loader import Batch
from clippo_core.engine import Engine, MemoryPlan, StepOutput, contrastive_step


@dataclass(frozen=True)
class StepResult:
    """What a step did; the same on every rank."""

    output: StepOutput
    grad_norm: float
    """Global norm before clipping; NaN where the loss was not finite."""
    skipped: bool


def train_step(engine: Engine, batch: Batch, multiplier: float, memory: MemoryPlan) -> StepResult:
    """Train on `batch` (on the engine's device), the update times `multiplier`."""
    output = contrastive_step(engine, batch.photos, batch.first_text, batch.second_text, memory=memory)
    if not output.finite:
        engine.discard()
        return StepResult(output, math.nan, skipped=True)
    grad_norm = engine.update(multiplier)
    return StepResult(output, grad_norm, skipped=not math.isfinite(grad_norm))


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, copied to `device`; to a GPU one batch ahead, on a stream of its own, while the step before it computes."""
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    ahead: tuple[Batch, Batch] | None = None
    for pinned in batches:
        with torch.cuda.stream(stream):
            following = pinned, _copied(pinned, device)
        if ahead is not None:
            yield _ready(ahead[1], stream, device)
        ahead = following
    if ahead is not None:
        yield _ready(ahead[1], stream, device)


def _copied(batch: Batch, device: torch.device) -> Batch:
    photos, first, second = (x.to(device, non_blocking=True) for x in (batch.photos, batch.first_text, batch.second_text))
    return Batch(photos, first, second, batch.keys, batch.step)


def _ready(batch: Batch, stream: torch.cuda.Stream, device: torch.device) -> Batch:
    """Let the computing stream wait for the copy, and tell the allocator who uses the memory."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for tensor in (batch.photos, batch.first_text, batch.second_text):
        tensor.record_stream(current)
    return batch
