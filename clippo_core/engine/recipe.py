"""The recipe of a run: everything that its numbers follow from, and so must be the same for a run
to go on from a checkpoint: the `identity` of its configs, its seed and its data.

Memory, ranks, ZeRO stage, workers, timeouts and saving may change between two attempts of one run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clippo_core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RenderConfig,
    TrainConfig,
    decode,
    identity,
)
from clippo_core.data import pairs
from clippo_core.errors import CheckpointError, ConfigError
from clippo_core.models.blank_rows import ROWS_VERSION
from clippo_core.run.records import PretrainPlan, StagePlan

_PARTS: dict[str, type] = {
    "data": DataConfig,
    "render": RenderConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
}


def recipe(plan: PretrainPlan) -> dict[str, Any]:
    """The recipe of `plan` as JSON gives it: dicts, lists, numbers and texts."""
    parts = {name: _identity(getattr(plan, name)) for name in _PARTS}
    about = {"seed": plan.stage.seed, "data_digest": plan.stage.data_digest}
    if plan.model.skip_blank_rows:
        about["blank_rows"] = ROWS_VERSION
    return {**about, "order": pairs.ORDER_VERSION, **parts}


def check_same_recipe(uri: str, saved: dict[str, Any], plan: PretrainPlan) -> None:
    """Raise CheckpointError naming what differs, unless `plan` has the recipe `saved` of the
    checkpoint at `uri`, which an earlier version may have written."""
    try:
        parts = {name: _identity(decode(cls, saved.get(name))) for name, cls in _PARTS.items()}
    except ConfigError as error:
        fault = str(error).splitlines()[0]
        raise CheckpointError(
            f"{uri} has settings that another version of this project wrote and this one cannot "
            f"read: {fault} Go on with that version, or give the new run another folder."
        ) from error
    if saved.get("order") != pairs.ORDER_VERSION:
        raise CheckpointError(
            f"{uri} was trained in another order of batches (version {saved.get('order', 1)}, here"
            f" {pairs.ORDER_VERSION}), in which its run cannot go on. Give the new run another"
            " folder; to start it from these weights, name them in its train.resume_from."
        )
    check_same_rows(uri, saved, plan.model)
    changes = list(_differences("", saved | parts, recipe(plan)))
    if changes:
        raise CheckpointError(
            f"{uri} belongs to a run with other settings "
            f"({'; '.join(changes[:5])}{'; …' if len(changes) > 5 else ''}). "
            "Give the new run another folder; to go on from these weights on purpose, name them "
            "in its train.resume_from."
        )


def check_same_rows(uri: str, saved: dict[str, Any], model: ModelConfig) -> None:
    """Raise CheckpointError where texts without blank rows were read otherwise when the checkpoint
    at `uri`, of the recipe `saved`, was written."""
    there = saved.get("blank_rows", 1)
    if model.skip_blank_rows and there != ROWS_VERSION:
        raise CheckpointError(
            f"{uri} was trained with model.skip_blank_rows of another version ({there}, here"
            f" {ROWS_VERSION}), which read other rows of a text: another function. Begin from"
            " scratch, in another folder."
        )


def plan_of(root: str, saved: dict[str, Any]) -> PretrainPlan:
    """The plan of the run at `root` whose recipe was saved, with default values for what does not
    belong to a recipe. Raises ConfigError.
    """
    parts: dict[str, Any] = {name: decode(cls, saved.get(name)) for name, cls in _PARTS.items()}
    stage = StagePlan(root, int(saved.get("seed", 0)), str(saved.get("data_digest", "")))
    return PretrainPlan(stage, **parts)


def _identity(config: Any) -> Any:
    """The identity of one config, without train.resume_from: where a run once began no longer
    matters when it goes on from a checkpoint of its own."""
    found = identity(config)
    found.pop("resume_from", None)
    return found


def _differences(path: str, there: Any, here: Any) -> Iterator[str]:
    """Sentences "optim.lr is 0.001 there, 0.002 here"."""
    if isinstance(there, dict) and isinstance(here, dict) and there and here:
        for name in sorted(there.keys() | here.keys()):
            inside = f"{path}.{name}" if path else name
            yield from _differences(inside, there.get(name), here.get(name))
    elif there != here:
        yield f"{path} is {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
