"""What a trial of a fine-tuning leaves in storage, while it runs and when it is finished:
safetensors, with its facts as JSON in the header.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clippo_core import storage
from clippo_core.errors import CheckpointError
from clippo_core.untrusted.json import at, field, load_json, optional
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import printable, refusal
from clippo_core.untrusted.tensors import open_safetensors

REMEDY = "delete it, and its trial starts again"


@dataclass(frozen=True)
class Trial:
    """One learning rate, trained to its end."""

    learning_rate: float
    score: float
    """On `scored`; NaN if undefined or diverged."""
    epoch: int
    """The epoch that is reported, from 1."""
    steps: int
    collapsed: bool
    """Every prediction is the same."""
    diverged: bool
    """The loss became non-finite; the trial ended there."""
    losses: list[float]
    """Mean training loss of each epoch."""


def read_trial(uri: str) -> tuple[Trial, dict[str, np.ndarray]]:
    """A finished trial and its outputs, float32 [n, n_outputs] by set, as `TrialRun.finish` wrote
    them. Raises CheckpointError for anything else.
    """
    tensors, facts = read_tensors(uri)
    numbers: dict[str, type] = {"learning_rate": float, "epoch": int, "steps": int}
    numbers |= {"collapsed": bool, "diverged": bool}
    known: dict[str, Any] = {
        name: field(facts, name, kind, uri, error=CheckpointError) for name, kind in numbers.items()
    }
    score = optional(facts, "score", float, math.nan, uri, error=CheckpointError)
    losses = [
        math.nan if loss is None else at(loss, float, uri, "losses", error=CheckpointError)
        for loss in field(facts, "losses", list[object], uri, error=CheckpointError)
    ]
    outputs = outputs_of(tensors, uri)
    if "scored" not in outputs:
        fault = "its outputs on the scored set are missing"
        raise refusal(CheckpointError, uri, fault, REMEDY)
    return Trial(score=score, losses=losses, **known), outputs


def outputs_of(tensors: dict[str, torch.Tensor], uri: str) -> dict[str, np.ndarray]:
    """Outputs by set. Raises CheckpointError unless each is a float32 table."""
    for name, value in tensors.items():
        if value.dtype != torch.float32 or value.dim() != 2:
            fault = f"its outputs on {printable(name)} are no table of float32"
            raise refusal(CheckpointError, uri, fault, REMEDY)
    return {name: value.numpy() for name, value in tensors.items()}


def write_tensors(uri: str, tensors: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors of any shape, by name, and facts that JSON knows, into one safetensors file."""
    from safetensors.torch import save

    contiguous = {
        name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())
    }
    storage.write_bytes(
        uri, save(contiguous, metadata={"facts": json.dumps(facts, sort_keys=True)})
    )


def read_tensors(uri: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises CheckpointError for anything else, StorageError."""
    found = open_safetensors(io.BytesIO(storage.read_bytes(uri)), uri)
    text = field(found.metadata, "facts", str, uri, error=CheckpointError)
    facts = load_json(
        text, uri, error=CheckpointError, remedy=REMEDY, max_bytes=LIMITS.json_header_bytes
    )
    return found.tensors(), at(facts, dict, uri, error=CheckpointError)
