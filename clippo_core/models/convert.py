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

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clippo_core.config import ModelConfig
from clippo_core.errors import CheckpointError, ConfigError
from clippo_core.models.correspondence import clippo_rules
from clippo_core.models.initialise import initialise
from clippo_core.models.npz import NpzArrays, finite, open_npz
from clippo_core.models.positions import resample_positions
from clippo_core.models.tower import Tower
from clippo_core.storage import local
from clippo_core.untrusted.names import printable, refusal
from clippo_core.untrusted.tensors import Safetensors, open_safetensors

ARRAYS_PER_BLOCK = 12
"""The fewest arrays or tensors of a whole block: four linear layers and two LayerNorms."""
_VIT = ("patch_embed.", "pos_embed", "blocks.", "norm.")


def load_big_vision(path: str | Path, device: torch.device | str = "cpu") -> Tower:
    """The CLIPPO tower of a big_vision .npz, every size inferred. Raises NotFoundError, or
    CheckpointError naming what is wrong.
    """
    with open_npz(path) as arrays:
        if "img/embedding/kernel" not in arrays.known:
            some = printable(", ".join(sorted(arrays.known)[:3])) or "nothing"
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
    check_fit(tower, {name: tuple(value.shape) for name, value in weights.items()}, source)
    for name, parameter in tower.named_parameters():
        parameter.copy_(weights[name])


def check_fit(tower: nn.Module, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise CheckpointError unless `tower`, which may be on `meta`, has tensors of just these names
    and shapes.
    """
    own = dict(tower.named_parameters())
    for name, parameter in own.items():
        if name not in shapes:
            raise CheckpointError(
                f"{source}: tensor {name} is missing; the checkpoint is of another tower, or cut."
            )
        _check_shape(source, name, shapes[name], parameter)
    unknown = sorted(set(shapes) - set(own))
    if unknown:
        raise CheckpointError(
            f"{source}: this tower has no tensor {printable(unknown[0])} ({len(unknown)} such); the"
            " checkpoint is of another tower."
        )


@torch.no_grad()
def load_initial_weights(tower: Tower, path: str | Path) -> None:
    """Start `tower`'s image side from a pretrained ViT or CLIPPO: all but head, MAP head and class
    token; positions are resampled.

    path: a big_vision or augreg .npz, or a timm .safetensors, of 16-px patches and the tower's
    width, depth and heads. Raises NotFoundError, or CheckpointError naming the first array that
    does not fit.
    """
    _copy(tower, _vit_values(tower, str(path)))


def load_image_only(
    path: str | Path, image_px: int = 224, seed: int = 0, device: torch.device | str = "cpu"
) -> Tower:
    """A plain ViT (kind `image_only`) from an augreg .npz or a timm .safetensors, with a fresh MAP
    head: the baseline for VQA.
    """
    if str(path).endswith(".safetensors"):
        with _open_timm(str(path)) as tensors:
            config = _infer_timm(tensors)
    else:
        with open_npz(path) as arrays:
            config, _ = _infer(arrays, _prefix(arrays), kind="image_only")
    with torch.device("meta"):
        tower = Tower(config, image_px)
    values = _vit_values(tower, str(path))  # before memory is taken for what they do not fill
    tower.to_empty(device=device)
    initialise(tower, seed=seed, initial_logit_scale=config.initial_logit_scale)
    _copy(tower, values)
    return tower


def _vit_values(tower: Tower, path: str) -> dict[str, np.ndarray]:
    """What a pretrained ViT or CLIPPO gives to a tower, which may be on `meta`: our names, and the
    tower's shapes.
    """
    c, n_patches = tower.config, tower.pos_embed.shape[1]
    rules = [rule for rule in clippo_rules(c, n_patches) if rule.name.startswith(_VIT)]
    own = dict(tower.named_parameters())
    if path.endswith(".safetensors"):
        with _open_timm(path) as tensors:
            depth = _depth(tensors.facts, "blocks.", path)
            values = {rule.name: _timm_value(tensors, rule.name, own[rule.name]) for rule in rules}
    else:
        with open_npz(path) as arrays:
            prefix = _prefix(arrays)
            depth = _depth(arrays.known, f"{prefix}Transformer/encoderblock_", path)
            values = {rule.name: rule.read(_reader(arrays, prefix)) for rule in rules}
    if depth != c.depth:
        raise CheckpointError(f"{path} has {depth} blocks; this tower has {c.depth}.")
    grid = _grid_only(path, values["pos_embed"])
    values["pos_embed"] = resample_positions(grid, n_patches)
    for name, value in values.items():
        _check_shape(path, name, value.shape, own[name])
    return values


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


@torch.no_grad()
def _copy(tower: Tower, values: Mapping[str, np.ndarray]) -> None:
    for name, parameter in tower.named_parameters():
        if name in values:
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values[name])))


def _check_shape(source: str, name: str, found: tuple[int, ...], parameter: Tensor) -> None:
    if found != tuple(parameter.shape):
        raise CheckpointError(
            f"{source}: {name} has shape {found}; this tower needs {tuple(parameter.shape)}."
        )


def _infer(arrays: NpzArrays, prefix: str, kind: Any = "clippo") -> tuple[ModelConfig, int]:
    """Every size of the tower from the shapes of five arrays, and the number of positions."""
    patch = arrays.shape(f"{prefix}embedding/kernel", 4)
    if patch[:3] != (ModelConfig.PATCH_PX, ModelConfig.PATCH_PX, 3):
        raise CheckpointError(
            f"{arrays.path}: {arrays.name(prefix + 'embedding/kernel')} has shape {patch}; expected"
            " (16, 16, 3, width)."
        )
    positions = arrays.shape(f"{prefix}pos_embedding", 3)
    block = f"{prefix}Transformer/encoderblock_"
    attention = f"{block}0/MultiHeadDotProductAttention_0/query/kernel"
    query = arrays.shape(attention, 3)
    if query[0] != patch[3] or query[1] * query[2] != patch[3]:
        raise CheckpointError(
            f"{arrays.path}: block 0's query/kernel has shape {query}; expected ({patch[3]}, heads,"
            f" {patch[3]} / heads)."
        )
    sizes: dict[str, Any] = {
        "width": patch[3],
        "depth": _depth(arrays.known, block, arrays.path),
        "num_heads": query[1],
        "mlp_dim": arrays.shape(f"{block}0/MlpBlock_0/Dense_0/kernel", 2)[1],
    }
    if kind == "clippo":
        n_patches = positions[1]
        if int(n_patches**0.5) ** 2 != n_patches or not n_patches:
            raise CheckpointError(
                f"{arrays.path}: {arrays.name(prefix + 'pos_embedding')} has shape {positions};"
                " expected a square grid."
            )
        sizes["embed_dim"] = arrays.shape(f"{prefix}head/kernel", 2)[1]
    return _config(arrays.path, kind=kind, **sizes), positions[1]


def _config(path: str, **sizes: Any) -> ModelConfig:
    try:
        return ModelConfig(**sizes)
    except ConfigError as error:
        fault = f"the shapes of its arrays are those of no tower ({error})"
        raise refusal(CheckpointError, path, fault, "fetch it again") from error


def _depth(keys: Any, block: str, path: str) -> int:
    """How many blocks there are: numbered from 0 without a gap, and with keys enough for all.

    `block`: what stands before a block's number in its keys. Raises CheckpointError.
    """
    rests = [key.removeprefix(block).replace(".", "/") for key in keys if key.startswith(block)]
    numbers = {rest.partition("/")[0] for rest in rests}
    gap = next((n for n in range(len(numbers)) if str(n) not in numbers), None)
    if gap is not None or len(rests) < ARRAYS_PER_BLOCK * len(numbers):
        fault = f"it has {len(numbers):,} blocks of {len(rests):,} arrays"
        fault += "" if gap is None else f", and none is number {gap}"
        raise refusal(CheckpointError, path, fault, "give a whole ViT")
    return len(numbers)


def _prefix(arrays: NpzArrays) -> str:
    return "img/" if "img/embedding/kernel" in arrays.known else ""


def _reader(arrays: NpzArrays, prefix: str) -> Any:
    """A `get` for rules over a plain ViT's file: other prefix, and positions of any number."""

    def get(key: str, shape: tuple[int, ...]) -> np.ndarray:
        key = prefix + key.removeprefix("img/")
        return arrays.get(key, arrays.shape(key, 3) if key.endswith("pos_embedding") else shape)

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


@contextlib.contextmanager
def _open_timm(path: str) -> Iterator[Safetensors]:
    with local.explained(path, "read"), open(path, "rb") as file:
        yield open_safetensors(file, path)


def _timm_value(tensors: Safetensors, name: str, parameter: Tensor) -> np.ndarray:
    """A weight as float32, checked against the tower's before it is read; positions may be more or
    fewer.
    """
    shape = _timm_shape(tensors, name, parameter.dim())
    if name != "pos_embed":
        _check_shape(tensors.where, name, shape, parameter)
    return finite(tensors.tensor(name).float().numpy(), name, tensors.where)


def _timm_shape(tensors: Safetensors, name: str, n_dimensions: int) -> tuple[int, ...]:
    shape = tensors.facts[name].shape if name in tensors.facts else None
    if shape is None or len(shape) != n_dimensions:
        found = "is missing" if shape is None else f"has shape {shape}"
        raise CheckpointError(
            f"{tensors.where}: tensor {name} {found}; expected timm's ViT with 16-px patches."
        )
    return shape


def _infer_timm(tensors: Safetensors) -> ModelConfig:
    """Sizes from timm's tensors, which do not hold the number of heads: 64 channels each, as in all
    of timm's ViTs with 16-px patches.
    """
    width = _timm_shape(tensors, "norm.weight", 1)[0]
    return _config(
        tensors.where,
        kind="image_only",
        width=width,
        depth=_depth(tensors.facts, "blocks.", tensors.where),
        num_heads=max(1, width // 64),
        mlp_dim=_timm_shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
    )
