"""The recipe of a run: everything that its numbers follow from, and so must be the same for a run to
go on from a checkpoint.

Runtime fields (memory, ZeRO stage, workers, timeouts, saving) and ranks may change between two
attempts of one run; `config/hints.py` says how a field is marked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clippo_core.config import identity
from clippo_core.errors import CheckpointError
from clippo_core.records import PretrainPlan


def recipe(plan: PretrainPlan) -> dict[str, Any]:
    """The recipe of `plan` as JSON gives it: dicts, lists, numbers and texts."""
    # What is off has no entry, so that checkpoints from before an option existed still go on.
    train = {name: value for name, value in identity(plan.train).items() if value not in ("", {})}
    parts = {name: identity(getattr(plan, name)) for name in ("data", "render", "model", "optim")}
    values = {
        "seed": plan.stage.seed,
        "data_digest": plan.stage.data_digest,
        "train": train,
        **parts,
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def check_same_recipe(uri: str, saved: dict[str, Any], plan: PretrainPlan) -> None:
    """Raise CheckpointError naming what differs, unless `plan` has the recipe `saved` of the checkpoint at `uri`."""
    changes = list(_differences("", saved, recipe(plan)))
    if changes:
        raise CheckpointError(
            f"{uri} belongs to a run with other settings ({'; '.join(changes[:5])}{'; …' if len(changes) > 5 else ''}). "
            "Give the new run another folder; to go on from these weights on purpose, name them in its train.resume_from."
        )


def _differences(path: str, there: Any, here: Any) -> Iterator[str]:
    """Sentences "optim.lr is 0.001 there, 0.002 here"."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            yield from _differences(f"{path}.{name}" if path else name, there.get(name), here.get(name))
    elif there != here:
        yield f"{path} is {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
