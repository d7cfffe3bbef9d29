"""A world that a tiny tower learns within seconds: pictures of one colour each, captioned with its
name.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clippo_core.config import (
    DataConfig,
    EvaluateConfig,
    GateConfig,
    ImagenetConfig,
    ModelConfig,
    OptimConfig,
    RenderConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
)

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 220),
    "white": (245, 245, 245),
}


def picture(path: Path, colour: str, random: np.random.Generator) -> None:
    """32 px of a colour, with noise."""
    pixels = np.array(COLOURS[colour]) + random.integers(-20, 21, (32, 32, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def write_benchmark(folder: Path, per_class: int = 20) -> None:
    """A folder per colour, and their names in the order of the folders."""
    random = np.random.default_rng(7)
    for colour in COLOURS:
        for number in range(per_class):
            picture(folder / "val" / colour / f"{number:02d}.png", colour, random)
    (folder / "class_names.json").write_text(json.dumps(sorted(COLOURS)))


def write_pairs(folder: Path, n: int, seed: int, wrong: bool = False) -> None:
    """Pictures with their colour and a number as the caption; `wrong`: with the next colour's."""
    random, names, images = np.random.default_rng(seed), list(COLOURS), []
    for number in range(n):
        index = number % len(names)
        name = f"{seed}-{number:03d}.png"
        picture(folder / "images" / name, names[index], random)
        # A number, for a text stands at most once in a batch.
        caption = f"{names[(index + wrong) % len(names)]} {number // len(names)}"
        images.append({"filename": name, "split": "train", "sentences": [{"raw": caption}]})
    (folder / "dataset.json").write_text(json.dumps({"images": images}))


def colours(data: str, root: str, **changes: Any) -> RunConfig:
    """The run on `data`/pairs and `data`/benchmark."""
    config = RunConfig(
        "weekly",
        data=DataConfig(
            (SourceConfig("karpathy", f"{data}/pairs/dataset.json", f"{data}/pairs/images"),),
            text_pair_share=0.0,
        ),
        render=RenderConfig(image_px=32),
        model=ModelConfig(width=32, depth=1, num_heads=2, mlp_dim=64, embed_dim=32),
        optim=OptimConfig(lr=3e-3, warmup_steps=5, timescale_steps=20, cooldown_steps=10),
        train=TrainConfig(
            steps=60,
            batch_pairs=8,
            zero_stage=0,
            precision="float32",
            memory="plain",
            save_every_steps=30,
            loader_workers=0,
            timeout_seconds=30,
        ),
        evaluate=EvaluateConfig(
            imagenet=ImagenetConfig(
                f"{data}/benchmark/val",
                f"{data}/benchmark/class_names.json",
                dataset="colours",
                templates="name",
                n_classes=len(COLOURS),
                expect_images=80,
            ),
            bootstrap_samples=100,
        ),
        gate=GateConfig(margin=15, seed_noise=1, floors=("colours/zero_shot_top1",)),
        root=root,
    )
    return dataclasses.replace(config, **changes)
