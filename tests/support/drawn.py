"""Evaluation data of which the answer is known: a photo that *is* its drawn caption has the
caption's embedding, whatever the weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clippo_core.config import EvaluateConfig, ModelConfig, RenderConfig
from clippo_core.embedder import Clippo
from clippo_core.models import build_tower
from clippo_core.rendering import Renderer
from clippo_core.run.records import EvaluatePlan, StagePlan

PX = 48
MODEL = ModelConfig(width=48, depth=2, num_heads=2, mlp_dim=96, embed_dim=32)
WORDS = (
    "cat",
    "dog",
    "red",
    "box",
    "sun",
    "map",
    "ice",
    "key",
    "oak",
    "jug",
    "fox",
    "hat",
    "bee",
    "pen",
    "web",
)


def tiny_checkpoint(
    folder: Path, seed: int = 0, collapse: bool = False, poison: bool = False
) -> str:
    """A random tower as one .safetensors file; `collapse` makes every embedding the same, `poison`
    makes them NaN.
    """
    tower = build_tower(MODEL, PX, seed=seed)
    with torch.no_grad():
        # Initial weights hardly tell drawings apart; larger ones do.
        tower.patch_embed.proj.weight.mul_(4)
        tower.pos_embed.mul_(4)
        if collapse:
            tower.head.weight.zero_()
            tower.head.bias.fill_(0.5)
        if poison:
            tower.head.bias[0] = float("nan")
    path = folder / f"tower-{seed}{'-collapsed' * collapse}{'-poisoned' * poison}.safetensors"
    Clippo(tower, RenderConfig(image_px=PX), device="cpu").save(path)
    return str(path)


def phrases(n: int, start: int = 0) -> list[str]:
    """n distinct short phrases, all of which fit the page."""
    base = len(WORDS)
    return [f"{WORDS[i % base]} {WORDS[i // base % base]} {i}" for i in range(start, start + n)]


def draw(text: str, path: Path) -> None:
    """Write the drawing of `text` as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(Renderer(PX).render([text])[0]).convert("RGB").save(path)


def noise(path: Path, seed: int, size: tuple[int, int] = (40, 56)) -> None:
    """Write a random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(
        path
    )


def write_karpathy(
    folder: Path, drawn: Sequence[str], captions: Sequence[Sequence[str]], split: str = "test"
) -> dict[str, str]:
    """One photo a text in `drawn`, with its captions: the fields of RetrievalConfig."""
    for i, text in enumerate(drawn):
        draw(text, folder / "images" / f"{i:04d}.png")
    images = [
        {
            "filename": f"{i:04d}.png",
            "split": split,
            "sentences": [{"raw": caption} for caption in texts],
        }
        for i, texts in enumerate(captions)
    ]
    (folder / "dataset.json").write_text(json.dumps({"dataset": "drawn", "images": images}))
    return {"annotations": str(folder / "dataset.json"), "images": str(folder / "images")}


def evaluate_plan(root: Path | str, data_digest: str = "0" * 64, **evaluate: Any) -> EvaluatePlan:
    """A plan for one evaluation below `root`."""
    return EvaluatePlan(StagePlan(str(root), 0, data_digest), EvaluateConfig(**evaluate))
