"""The authors' checkpoints, both ways: big_vision's .npz and our tensors under timm's names.

    clippo_b16_yfcc100m.npz         ── load_big_vision ──▶  Tower
    Tower                           ── save_big_vision ──▶  what the authors' code reads
    augreg .npz, timm .safetensors  ── load_initial_weights, load_image_only ──▶  a tower's ViT:
                                       all but head, MAP head and class token

Every size is inferred from the arrays; only `params/` is read (the released files also hold the
optimizer's state); nothing is unpickled; the first key, shape or range that is wrong is named. The
names are in `correspondence.py`, the bytes in `npz.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clippo_core.config import ModelConfig
from clippo_core.errors import CheckpointError, ConfigError, NotFoundError
from clippo_core.models.correspondence import clippo_rules
from clippo_core.models.initialise import initialise
from clippo_core.models.npz import NpzArrays, open_npz
from clippo_core.models.positions import resample_positions
from clippo_core.models.tower import Tower

_VIT = ("patch_embed.", "pos_embed", "blocks.", "norm.")


def load_big_vision(path: str | Path, device: torch.device | str = "cpu") -> Tower:
    """The CLIPPO tower of a big_vision .npz, every size inferred. Raises NotFoundError, or
    CheckpointError naming what is wrong.
    """
    with open_npz(path) as arrays:
        if "img/embedding/kernel" not in arrays.known:
            some = ", ".join(sorted(arrays.known)[:3]) or "nothing"
            raise CheckpointError(
                f"{path} has no params/img/embedding/kernel, so it is no CLIPPO checkpoint of"
                f" big_vision; it has {some}."
            )
        config, n_patches = _infer(arrays, "img/")
        rules = clippo_rules(config, n_patches)
        unknown = sorted(arrays.known - {key for rule in rules for key in rule.keys})
        if unknown:
            raise CheckpointError(
                f"{path}: {arrays.name(unknown[0])} has no place in a CLIPPO tower ({len(unknown)}"
                " such arrays)."
            )
        weights = {rule.name: torch.from_numpy(rule.read(arrays.get)) for rule in rules}
    scale = float(weights["t"].exp())
    if not 1e-2 < scale < 1e4:
        raise CheckpointError(
            f"{path}: params/t is {float(weights['t']):.4g}, a logit scale of {scale:.4g}; expected"
            " about 1 to 1000."
        )
    return _fill(config, int(n_patches**0.5) * ModelConfig.PATCH_PX, weights, str(path), device)


def save_big_vision(tower: Tower, path: str | Path) -> None:
    """Write a CLIPPO tower as the .npz that the authors' code reads (float32 under `params/`),
    atomically. Raises ConfigError.
    """
    c = tower.config
    if c.kind != "clippo" or c.separate_heads or c.separate_patch_embeddings or c.skip_blank_rows:
        raise ConfigError(
            f"big_vision's one_tower is plain CLIPPO; a tower of kind {c.kind}, or an ablation, has"
            " no place in its files."
        )
    state = {name: value.detach().cpu().float().numpy() for name, value in tower.named_parameters()}
    arrays = {
        f"params/{key}": array
        for rule in clippo_rules(c, tower.pos_embed.shape[1])
        for key, array in rule.write(state[rule.name])
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes **arrays for options
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)


@torch.no_grad()
def load_weights(tower: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into `tower` by name. Raises CheckpointError naming the first that is missing,
    unknown or of another shape.
    """
    own = dict(tower.named_parameters())
    for name, parameter in own.items():
        if name not in weights:
            raise CheckpointError(
                f"{source}: tensor {name} is missing; the checkpoint is of another tower, or cut."
            )
        if weights[name].shape != parameter.shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(weights[name].shape)}; this tower needs"
                f" {tuple(parameter.shape)}."
            )
    unknown = sorted(set(weights) - set(own))
    if unknown:
        raise CheckpointError(
            f"{source}: this tower has no tensor {unknown[0]} ({len(unknown)} such); the checkpoint"
            " is of another tower."
        )
    for name, parameter in own.items():
        parameter.copy_(weights[name])


@torch.no_grad()
def load_initial_weights(tower: Tower, path: str | Path) -> None:
    """Start `tower`'s image side from a pretrained ViT or CLIPPO: all but head, MAP head and class
    token; positions are resampled.

    path: a big_vision or augreg .npz, or a timm .safetensors, of 16-px patches and the tower's
    width, depth and heads. Raises NotFoundError, or CheckpointError naming the first array that
    does not fit.
    """
    c = tower.config
    rules = [
        rule for rule in clippo_rules(c, tower.pos_embed.shape[1]) if rule.name.startswith(_VIT)
    ]
    if str(path).endswith(".safetensors"):
        tensors = _open_timm(path)
        values = {rule.name: _timm_value(str(path), tensors, rule.name) for rule in rules}
        depth = _depth(tensors, "blocks.")
    else:
        with open_npz(path) as arrays:
            prefix = _prefix(arrays)
            values = {rule.name: rule.read(_reader(arrays, prefix)) for rule in rules}
            depth = _depth(arrays.known, f"{prefix}Transformer/encoderblock_")
    if depth != c.depth:
        raise CheckpointError(f"{path} has {depth} blocks; this tower has {c.depth}.")
    values["pos_embed"] = resample_positions(
        _grid_only(str(path), values["pos_embed"]), tower.pos_embed.shape[1]
    )
    own = dict(tower.named_parameters())
    for name, value in values.items():
        if tuple(own[name].shape) != value.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {value.shape}; this tower needs"
                f" {tuple(own[name].shape)}."
            )
        own[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))


def load_image_only(
    path: str | Path, image_px: int = 224, seed: int = 0, device: torch.device | str = "cpu"
) -> Tower:
    """A plain ViT (kind `image_only`) from an augreg .npz or a timm .safetensors, with a fresh MAP
    head: the baseline for VQA.
    """
    if str(path).endswith(".safetensors"):
        config = _infer_timm(str(path))
    else:
        with open_npz(path) as arrays:
            config, _ = _infer(arrays, _prefix(arrays), kind="image_only")
    with torch.device("meta"):
        tower = Tower(config, image_px)
    tower.to_empty(device=device)
    initialise(tower, seed=seed, initial_logit_scale=config.initial_logit_scale)
    load_initial_weights(tower, path)
    return tower


def _fill(
    config: ModelConfig,
    image_px: int,
    weights: Mapping[str, Tensor],
    source: str,
    device: torch.device | str,
) -> Tower:
    with torch.device("meta"):
        tower = Tower(config, image_px)
    tower.to_empty(device=device)
    load_weights(tower, weights, source)
    return tower


def _infer(arrays: NpzArrays, prefix: str, kind: Any = "clippo") -> tuple[ModelConfig, int]:
    """Every size of the tower from the shapes of five arrays, and the number of positions."""
    patch = arrays.get(f"{prefix}embedding/kernel").shape
    if len(patch) != 4 or patch[:3] != (ModelConfig.PATCH_PX, ModelConfig.PATCH_PX, 3):
        raise CheckpointError(
            f"{arrays.path}: {arrays.name(prefix + 'embedding/kernel')} has shape {patch}; expected"
            " (16, 16, 3, width)."
        )
    positions = arrays.get(f"{prefix}pos_embedding").shape
    block = f"{prefix}Transformer/encoderblock_"
    query = arrays.get(f"{block}0/MultiHeadDotProductAttention_0/query/kernel").shape
    mlp = arrays.get(f"{block}0/MlpBlock_0/Dense_0/kernel").shape
    if len(query) != 3 or query[0] != patch[3] or query[1] * query[2] != patch[3]:
        raise CheckpointError(
            f"{arrays.path}: block 0's query/kernel has shape {query}; expected ({patch[3]}, heads,"
            f" {patch[3]} / heads)."
        )
    sizes: dict[str, Any] = {
        "width": patch[3],
        "depth": _depth(arrays.known, block),
        "num_heads": query[1],
        "mlp_dim": mlp[-1],
    }
    if kind == "clippo":
        n_patches = positions[1] if len(positions) == 3 else 0
        if int(n_patches**0.5) ** 2 != n_patches or not n_patches:
            raise CheckpointError(
                f"{arrays.path}: {arrays.name(prefix + 'pos_embedding')} has shape {positions};"
                " expected a square grid."
            )
        sizes["embed_dim"] = arrays.get(f"{prefix}head/kernel").shape[-1]
    return ModelConfig(kind=kind, **sizes), positions[1]


def _depth(keys: Any, block: str) -> int:
    """One more than the highest block number among keys that start with `block`."""
    numbers = {
        key.removeprefix(block).replace(".", "/").split("/")[0]
        for key in keys
        if key.startswith(block)
    }
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def _prefix(arrays: NpzArrays) -> str:
    return "img/" if "img/embedding/kernel" in arrays.known else ""


def _reader(arrays: NpzArrays, prefix: str) -> Any:
    """A `get` for rules over a plain ViT's file: other prefix, and positions of any number."""

    def get(key: str, shape: tuple[int, ...]) -> np.ndarray:
        key = prefix + key.removeprefix("img/")
        return arrays.get(key, None if key.endswith("pos_embedding") else shape)

    return get


def _grid_only(path: str, positions: np.ndarray) -> np.ndarray:
    """Positions of the patch grid, without a class token's in front of them."""
    n = positions.shape[1]
    root = int(round(n**0.5))
    if root * root == n:
        return positions
    root = int((n - 1) ** 0.5)
    if root * root != n - 1:
        raise CheckpointError(
            f"{path}: {n} position embeddings are neither a square grid nor one with a class token."
        )
    return positions[:, 1:]


def _open_timm(path: str | Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise NotFoundError(f"{path}: no such file.")
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file, or is cut ({error}); fetch it again."
        ) from error


def _timm_value(path: str, tensors: dict[str, Tensor], name: str) -> np.ndarray:
    if name not in tensors:
        raise CheckpointError(
            f"{path}: tensor {name} is missing; expected timm's ViT with 16-px patches."
        )
    value = tensors[name].float().numpy()
    if not np.isfinite(value).all():
        raise CheckpointError(f"{path}: {name} has values that are not finite.")
    return value


def _infer_timm(path: str) -> ModelConfig:
    """Sizes from timm's tensors, which do not hold the number of heads: 64 channels each, as in all
    of timm's ViTs with 16-px patches.
    """
    tensors = _open_timm(path)
    width = _timm_value(path, tensors, "norm.weight").shape[0]
    mlp_dim = _timm_value(path, tensors, "blocks.0.mlp.fc1.weight").shape[0]
    return ModelConfig(
        kind="image_only",
        width=width,
        depth=_depth(tensors, "blocks."),
        num_heads=max(1, width // 64),
        mlp_dim=mlp_dim,
    )
