"""One step of pretraining: a batch on the device, forward and backward over the full global batch,
update, or skip for good reason.

    shards ─▶ batch ─▶ on_device ─▶ with_varied_text (only with train.augment) ─▶ train_step

    finite loss, finite gradient norm   ->  the optimizer steps
    anything else                       ->  no weight and no moment changes, on any rank;
                                            the step counts, and its keys are kept

Which chunks a batch is cut into is the engine's business; how often to save, the loop's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from clippo_core.config import TrainConfig
from clippo_core.data.loader import Batch
from clippo_core.engine import Engine, MemoryPlan, StepOutput, contrastive_step
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
class StepResult:
    """What a step did; the same on every rank."""

    output: StepOutput
    grad_norm: float
    """Global norm before clipping; NaN where the loss was not finite."""
    skipped: bool


def train_step(engine: Engine, batch: Batch, multiplier: float, memory: MemoryPlan) -> StepResult:
    """Train on `batch` (on the engine's device), the update times `multiplier`."""
    output = contrastive_step(
        engine,
        batch.photos,
        batch.first_text,
        batch.second_text,
        memory=memory,
        text_rows=batch.text_rows,
    )
    if not output.finite:
        engine.discard()
        return StepResult(output, math.nan, skipped=True)
    grad_norm = engine.update(multiplier)
    return StepResult(output, grad_norm, skipped=not math.isfinite(grad_norm))


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, copied to `device`; to a GPU one batch ahead, on a stream of its own, while the
    step before it computes.
    """
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
        chosen = torch.from_numpy(np.concatenate([numbers[n_photos:, 0], numbers[:, 1]])).to(
            masks.device
        )
        noise = (
            torch.from_numpy(noise_of_step(seed, batch.step, image_px)).to(masks.device)
            if augment.noise
            else None
        )
        blocks = zip(masks.split(BLOCK_TEXTS), chosen.split(BLOCK_TEXTS), strict=True)
        pixels = torch.cat(
            [augmented_pixels(block, augment, mine, noise, dtype) for block, mine in blocks]
        )
        n_first = len(batch.first_text)
        yield replace(batch, first_text=pixels[:n_first], second_text=pixels[n_first:])


def _copied(batch: Batch, device: torch.device) -> Batch:
    photos, first, second = (
        x.to(device, non_blocking=True) for x in (batch.photos, batch.first_text, batch.second_text)
    )
    return replace(batch, photos=photos, first_text=first, second_text=second)


def _ready(batch: Batch, stream: torch.cuda.Stream, device: torch.device) -> Batch:
    """Let the computing stream wait for the copy, and tell the allocator who uses the memory."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for tensor in (batch.photos, batch.first_text, batch.second_text):
        tensor.record_stream(current)
    return batch
