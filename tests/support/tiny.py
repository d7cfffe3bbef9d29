"""A pretraining run that a test can afford: 32-px pictures of noise, short texts, a tower of width
32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clippo_core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RenderConfig,
    SourceConfig,
    TrainConfig,
    replace,
)
from clippo_core.run.records import Manifest, PretrainPlan, StagePlan

PHOTOS, SENTENCES = 40, 24
QUICK_DEMO = {
    "train__steps": 6,
    "train__save_every_steps": 2,
    "optim__warmup_steps": 2,
    "optim__cooldown_steps": 2,
    "evaluate__vqa__finetune__max_steps": 2,
    "evaluate__glue__finetune__max_steps": 2,
    "evaluate__glue__tasks": ("SST-2", "STS-B"),
    "evaluate__bootstrap_samples": 100,
}
"""Changes that make the demo a matter of a minute: few steps, and few GLUE tasks."""


def tiny_plan(root: str, data: str = "data", **changes: Any) -> PretrainPlan:
    """6 steps of 8 pairs, a quarter of them sentence pairs; `changes` as in config.replace
    (train__steps=…).
    """
    plan = PretrainPlan(
        stage=StagePlan(root=root, seed=0, data_digest="0" * 64),
        data=DataConfig(
            sources=(
                SourceConfig(kind="karpathy", path=f"{data}/dataset.json", images=f"{data}/images"),
                SourceConfig(kind="tsv", path=f"{data}/sentences.tsv"),
            ),
            text_pair_share=0.25,
        ),
        render=RenderConfig(image_px=32),
        model=ModelConfig(width=32, depth=2, num_heads=2, mlp_dim=64, embed_dim=32),
        optim=OptimConfig(warmup_steps=2, timescale_steps=4, cooldown_steps=2),
        train=TrainConfig(
            steps=6,
            batch_pairs=8,
            zero_stage=0,
            precision="float32",
            memory="plain",
            save_every_steps=2,
            loader_workers=0,
            timeout_seconds=30,
        ),
    )
    changed: PretrainPlan = replace(plan, **changes)
    return changed


def write_tiny_data(folder: Path) -> None:
    """Pictures, captions and sentence pairs under `folder`, in the formats of `tiny_plan`'s
    sources.
    """
    pixels = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images = []
    for number in range(PHOTOS):
        name = f"{number:03d}.png"
        Image.fromarray(pixels.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
            folder / "images" / name
        )
        images.append(
            {
                "filename": name,
                "split": "train",
                "sentences": [{"raw": f"photo {number}"}, {"raw": f"picture {number}"}],
            }
        )
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    (folder / "sentences.tsv").write_text(
        "".join(f"left {n}\tright {n}\n" for n in range(SENTENCES))
    )


def write_tiny_shards(folder: Path) -> Manifest:
    """The data, written and packed as the pipeline does it."""
    from prepared import shards_of

    write_tiny_data(folder / "data")
    plan = tiny_plan(str(folder), str(folder / "data"))
    return shards_of(folder, plan.data, plan.render, data_digest=plan.stage.data_digest)
