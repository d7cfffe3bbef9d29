"""A pretraining plan that a test can afford."""

from __future__ import annotations

from typing import Any

from clippo_core.config import DataConfig, ModelConfig, OptimConfig, RenderConfig, SourceConfig, TrainConfig, replace
from clippo_core.records import PretrainPlan, StagePlan


def tiny_plan(root: str, **changes: Any) -> PretrainPlan:
    """6 steps of 8 pairs at 32 px, a tower of width 32; `changes` as in config.replace (train__steps=…)."""
    plan = PretrainPlan(
        stage=StagePlan(root=root, seed=0, data_digest="0" * 64),
        data=DataConfig(sources=(SourceConfig(kind="karpathy", path="dataset.json", images="images"),)),
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
