"""What is fine-tuned: a tower with a new two-layer head, and the problem that it learns.

    outputs = W2 act(W1 pooled + b1) + b2
    pooled  = the tower's features before its contrastive head

VQA and GLUE are a `Problem` each: inputs, per-example loss, score. `trial.py` trains it. Nothing
here knows of questions, sentences or metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import nn

from clippo_core.models import Tower

CACHE_BYTES = 2**30
"""Encoded texts up to this size are kept in memory: 170,000 rendered texts at 224 px."""


@dataclass(frozen=True)
class Inputs:
    """A set of examples as the tower reads them."""

    n: int
    batch: Callable[[np.ndarray], torch.Tensor]
    """indices int64 [b] -> uint8 images [b, 3, H, W] or encoded texts [b, ...]."""


@dataclass(frozen=True)
class Problem:
    """What is learnt and how it is judged."""

    name: str
    reads: Literal["images", "texts"]
    n_outputs: int
    activation: Literal["tanh", "gelu"]
    train: Inputs
    loss: Callable[[torch.Tensor, np.ndarray], torch.Tensor]
    """(outputs [b, n_outputs], indices [b] into `train`) -> one loss per example, [b]."""
    scored: Inputs
    score: Callable[[np.ndarray], float]
    """Outputs float32 [n, n_outputs] on `scored` -> higher is better; NaN = undefined, as a
    correlation with a constant."""
    constant: Callable[[np.ndarray], bool]
    """Whether the outputs on `scored` amount to one and the same prediction: a collapsed trial."""
    others: Mapping[str, Inputs] = field(default_factory=dict)
    """Further sets that the reported epoch predicts, unseen by the choice of trial or epoch."""


class FineTuned(nn.Module):
    """A tower's pooled features (before its contrastive head) and a two-layer head on top; hidden
    width = the tower's width.
    """

    def __init__(self, tower: Tower, problem: Problem, seed: int) -> None:
        super().__init__()
        width = tower.config.width
        self.tower = tower
        self.reads = problem.reads
        hidden, last = nn.Linear(width, width), nn.Linear(width, problem.n_outputs)
        self.head = nn.Sequential(
            hidden, nn.Tanh() if problem.activation == "tanh" else nn.GELU(), last
        )
        generator = torch.Generator().manual_seed(seed)
        for layer in (hidden, last):  # BERT's initialisation of new layers
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)
        kernels = {"head.0.weight", "head.2.weight"}
        self.decayed: set[str] = {f"tower.{name}" for name in tower.decayed} | kernels
        """Names of the parameters that weight decay applies to."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """uint8 images [b, 3, H, W], or encoded texts [b, ...] -> float [b, n_outputs]."""
        features = (
            self.tower.pooled(inputs)
            if self.reads == "images"
            else self.tower.pooled_encoded_text(inputs)
        )
        return self.head(features)


def freeze_unused(module: FineTuned, problem: Problem) -> None:
    """Leave alone what the outputs do not depend on (contrastive head, logit scale, the other
    modality's parts): no decay, no state.
    """
    device = next(module.tower.parameters()).device
    module.to(device)(problem.train.batch(np.zeros(1, dtype=np.int64)).to(device)).sum().backward()
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def text_inputs(encode: Callable[[list[str]], np.ndarray], texts: Sequence[str]) -> Inputs:
    """Texts as the tower reads them (`models.text_encoder`): encoded once where they fit into
    CACHE_BYTES, else batch by batch.
    """
    texts = list(texts)
    if texts and len(texts) * encode(texts[:1]).nbytes <= CACHE_BYTES:
        encoded = torch.from_numpy(encode(texts))
        return Inputs(len(texts), lambda indices: encoded[torch.from_numpy(indices)])
    return Inputs(len(texts), lambda indices: torch.from_numpy(encode([texts[i] for i in indices])))
