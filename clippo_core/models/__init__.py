"""Towers: CLIPPO, its baselines, and the reference's checkpoints. The sole home of timm."""

from __future__ import annotations

import torch

from clippo_core import storage
from clippo_core.config import ModelConfig
from clippo_core.models.baselines import OneTowerClip, TwoTowerClip
from clippo_core.models.convert import (
    load_big_vision,
    load_image_only,
    load_initial_weights,
    load_weights,
    save_big_vision,
)
from clippo_core.models.initialise import initialise
from clippo_core.models.positions import resize_positions
from clippo_core.models.text import corpus, load_tokenizer, text_encoder, train_tokenizer
from clippo_core.models.timm_shim import load_timm, load_torchvision
from clippo_core.models.tower import Tower, normalise


def build_tower(
    model: ModelConfig,
    image_px: int,
    seed: int = 0,
    device: torch.device | str | None = None,
    *,
    vocab_size: int = 0,
) -> Tower:
    """The tower of `model`, float32, initialised as the reference from `seed`, on `device` (`meta`
    allocates and loads nothing).

    vocab_size: rows of the token embedding; 0 = those of model.tokenizer. Raises ConfigError,
    NotFoundError or CheckpointError.
    """
    device = torch.device(device or "cpu")
    with torch.device("meta"):
        if model.kind == "one_tower_clip" or model.kind == "two_tower_clip":
            vocab_size = vocab_size or load_tokenizer(model.tokenizer).get_piece_size()
            kind = OneTowerClip if model.kind == "one_tower_clip" else TwoTowerClip
            tower: Tower = kind(model, image_px, vocab_size)
        else:
            tower = Tower(model, image_px)
    if device.type == "meta":
        return tower
    tower.to_empty(device=device)
    initialise(tower, seed=seed, initial_logit_scale=model.initial_logit_scale)
    if model.initial_weights:
        load_initial_weights(tower, storage.fetch(model.initial_weights))
    return tower


__all__ = [
    "OneTowerClip",
    "Tower",
    "TwoTowerClip",
    "build_tower",
    "corpus",
    "load_big_vision",
    "load_image_only",
    "load_initial_weights",
    "load_timm",
    "load_tokenizer",
    "load_torchvision",
    "load_weights",
    "normalise",
    "resize_positions",
    "save_big_vision",
    "text_encoder",
    "train_tokenizer",
]
