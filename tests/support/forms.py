"""One tower in every form that has a name: what loads it, scores it and shows it must not care
which.
"""

from __future__ import annotations

import torch
from drawn import MODEL, PX

from clippo_core import storage
from clippo_core.config import DataConfig, OptimConfig, RenderConfig, SourceConfig, TrainConfig
from clippo_core.embedder import Clippo
from clippo_core.engine.checkpoint import Progress, save_checkpoint
from clippo_core.models import Tower, build_tower, save_big_vision
from clippo_core.run import history
from clippo_core.run.folder import RunFolder
from clippo_core.run.history import Promotion
from clippo_core.run.records import CheckpointInfo, PretrainPlan, StagePlan, Verdict


def drawn_tower(seed: int = 0) -> Tower:
    """A random tower that tells drawings apart."""
    tower = build_tower(MODEL, PX, seed=seed)
    with torch.no_grad():
        tower.patch_embed.proj.weight.mul_(4)
        tower.pos_embed.mul_(4)
    return tower


def save_run(tower: Tower, root: str, step: int = 1) -> CheckpointInfo:
    """A run's folder (local or s3://) with one checkpoint of the tower."""
    optim = OptimConfig(warmup_steps=0, cooldown_steps=0)
    train = TrainConfig(steps=step, batch_pairs=2)
    data = DataConfig((SourceConfig("sentences", "x.txt"),), text_pair_share=1.0)
    render = RenderConfig(image_px=tower.image_px)
    plan = PretrainPlan(StagePlan(root, 0, ""), data, render, tower.config, optim, train)
    weights = {name: value.detach() for name, value in tower.named_parameters()}
    digest = Clippo(tower, render, device="cpu").render_digest
    progress = Progress(step, 2, 0.5, 1, render_digest=digest, finished=True)
    return save_checkpoint(RunFolder(root).checkpoints, weights, {}, plan, progress)


def point_to(pointer: str, info: CheckpointInfo) -> None:
    """Promote a checkpoint under this pointer."""
    record = Promotion(0, "a test", "", Verdict(True, "", info.uri, ""), info.weights_sha256, 1)
    history.append(pointer, record)
    history.point(pointer, record)


def forms_of(tower: Tower, folder: str) -> dict[str, str]:
    """Form -> what names it, all below a local `folder`."""
    info = save_run(tower, storage.join(folder, "runs/small-1a2b3c"))
    pointer = storage.join(folder, "runs/promoted-small.json")
    point_to(pointer, info)
    model = Clippo(tower, RenderConfig(image_px=tower.image_px), device="cpu")
    named = {"big_vision": "model.npz", "exported": "model.safetensors", "hub": "pretrained"}
    paths = {form: storage.join(folder, name) for form, name in named.items()}
    save_big_vision(tower, paths["big_vision"])
    model.save(paths["exported"])
    model.save_pretrained(paths["hub"])
    run = storage.join(folder, "runs/small-1a2b3c")
    return {"step": info.uri, "run": run, "pointer": pointer, **paths}
