"""One step of pretraining: a batch on the device, forward and backward over the full global batch,
update, or skip for good reason.

    shards ─▶ batch ─▶ on_device ─▶ with_varied_text (only with train.augment) ─▶ train_step

    finite loss, finite gradient norm   ->  the optimizer steps
    anything else                       ->  no weight and no moment changes, on any rank;
                                            the step counts, and its keys are kept

Which of the two it was is decided on the device. The host queues a step, waits for none of its
numbers, and reads them later (`ledger.py`). Which chunks a batch is cut into is the engine's
business; how often to save, the loop's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clippo_core.config import TrainConfig
from clippo_core.data.loader import Batch
from clippo_core.engine import Engine, MemoryPlan, StepOutput, contrastive_backward
from clippo_core.rendering.augment import (
    LAYOUT_NUMBERS,
    augmented_pixels,
    noise_of_step,
    numbers_of_step,
)

BLOCK_TEXTS = 512
"""Texts that are varied at a time, so that what lies between masks and pixels takes little memory
beside a tower's activations."""


@dataclass(frozen=True)
class StepNumbers:
    """What a step did; the same on every rank."""

    output: StepOutput
    grad_norm: float
    """Global norm before clipping; NaN where the loss was not finite."""
    skipped: bool


@dataclass(frozen=True)
class StepResult:
    """A queued step, whose numbers are on their way from the device."""

    _outcome: Tensor
    """As `Engine.queue_update` gives it, on the host once `_arrived`."""
    _arrived: torch.cuda.Event | None
    _pairs: int

    def is_here(self) -> bool:
        """Whether `read` need not wait."""
        return self._arrived is None or self._arrived.query()

    def read(self) -> StepNumbers:
        """The numbers; waits until the device has done the step."""
        if self._arrived is not None:
            self._arrived.synchronize()
        *report, norm = self._outcome.tolist()
        output = StepOutput.of(report, self._pairs)
        norm = norm if output.finite else math.nan
        return StepNumbers(output, norm, skipped=not math.isfinite(norm))


def train_step(engine: Engine, batch: Batch, multiplier: float, memory: MemoryPlan) -> StepResult:
    """Queue the training on `batch` (on the engine's device), the update times `multiplier`."""
    report = contrastive_backward(
        engine,
        batch.photos,
        batch.first_text,
        batch.second_text,
        memory=memory,
        text_rows=batch.text_rows,
    )
    outcome = engine.queue_update(multiplier, report)
    pairs = len(batch.second_text) * engine.world_size
    if outcome.device.type != "cuda":
        return StepResult(outcome, None, pairs)
    on_host, arrived = outcome.to("cpu", non_blocking=True), torch.cuda.Event()  # pinned memory
    arrived.record(torch.cuda.current_stream(outcome.device))
    return StepResult(on_host, arrived, pairs)


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, copied to `device`; to a GPU one batch ahead, on a stream of its own, while the
    step before it computes. A step waits for its own batch alone.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    ahead: tuple[Batch, torch.cuda.Event] | None = None
    for pinned in batches:
        with torch.cuda.stream(stream):
            following = _copied(pinned, device), stream.record_event()
        if ahead is not None:
            yield _ready(*ahead, device)
        ahead = following
    if ahead is not None:
        yield _ready(*ahead, device)


def with_varied_text(
    batches: Iterator[Batch], train: TrainConfig, seed: int, image_px: int
) -> Iterator[Batch]:
    """The batches with their texts as pixels [..., 1, image_px, image_px], varied as train.augment
    says; else as they are.

    Once per batch and before it is cut into chunks, so that both passes of cached gradients read
    the same pixels: they lie beside the memory plan, 2 or 4 bytes per pixel of every text of this
    rank, and their time counts as waiting for data.
    """
    augment = train.augment
    if not augment.varies_pixels:
        yield from batches
        return
    dtype = torch.bfloat16 if train.precision == "bfloat16" else torch.float32
    for batch in batches:
        masks, n_photos = torch.cat([batch.first_text, batch.second_text]), len(batch.photos)
        numbers = numbers_of_step(seed, batch.step, train.batch_pairs, augment.share)[
            batch.places, :, LAYOUT_NUMBERS:
        ]
        chosen = _moved(np.concatenate([numbers[n_photos:, 0], numbers[:, 1]]), masks.device)
        noise = (
            _moved(noise_of_step(seed, batch.step, image_px), masks.device)
            if augment.noise
            else None
        )
        blocks = zip(masks.split(BLOCK_TEXTS), chosen.split(BLOCK_TEXTS), strict=True)
        pixels = torch.cat(
            [augmented_pixels(block, augment, mine, noise, dtype) for block, mine in blocks]
        )
        n_first = len(batch.first_text)
        yield replace(batch, first_text=pixels[:n_first], second_text=pixels[n_first:])


def _moved(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on `device`; from pinned memory, or the host would wait for all that is queued."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _copied(batch: Batch, device: torch.device) -> Batch:
    photos, first, second = (
        x.to(device, non_blocking=True) for x in (batch.photos, batch.first_text, batch.second_text)
    )
    return replace(batch, photos=photos, first_text=first, second_text=second)


def _ready(batch: Batch, copied: torch.cuda.Event, device: torch.device) -> Batch:
    """Let the computing stream wait for the copy, and tell the allocator who uses the memory."""
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)
    for tensor in (batch.photos, batch.first_text, batch.second_text):
        tensor.record_stream(current)
    return batch
