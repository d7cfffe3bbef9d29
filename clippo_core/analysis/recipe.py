"""In what a run's settings differ from the paper's: field by field against the preset of the released configuration.

    recipe_differences(presets.demo())[0] -> Difference("model.width", "128", "768", "Width of the transformer.")

Paths, names, seeds and the cluster are left out: they say where, not how. It is not a list of what the paper leaves open; that is
the README's.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from dataclasses import dataclass
from typing import Any

from clippo_core import config as config_module
from clippo_core.config import RunConfig, presets

WHERE_NOT_HOW = {
    "annotations",
    "class_names",
    "captions",
    "batch_size@evaluate",
    "chunk_pairs",
    "compile",
    "dataset",
    "expect_images",
    "expect_questions",
    "images",
    "keep_checkpoints",
    "loader_workers",
    "memory",
    "memory_gib",
    "n_classes",
    "questions",
    "records_per_shard",
    "resume_from",
    "root",
    "save_every_steps",
    "sources",
    "store_drawings",
    "timeout_seconds",
    "train_annotations",
    "train_images",
    "train_questions",
    "vocabulary_annotations",
    "zero_stage",
}
"""Fields that do not change the method; how memory is saved is one, for the loss stays the same to rounding."""


@dataclass(frozen=True)
class Difference:
    """One setting in which a run differs from the paper's."""

    setting: str
    ours: str
    paper: str
    meaning: str
    """The field's own description."""


def paper_run(config: RunConfig) -> tuple[str, RunConfig]:
    """The paper's run that `config` is nearest to, and its name: L/16 for a tower as wide, and the nearest share of sentence pairs."""
    share = min(presets.PAPER_STEPS, key=lambda published: abs(published - config.data.text_pair_share))
    is_large = config.model.width >= presets.L16.width
    make = presets.paper_l16 if is_large else presets.paper_b16
    name = f"CLIPPO {'L/16' if is_large else 'B/16'}" + (f" with {100 * share:.0f} % C4" if share else "")
    return name, make(share)


def recipe_differences(config: RunConfig, paper: RunConfig | None = None) -> list[Difference]:
    """The settings in which `config` differs from `paper` (None: from `paper_run(config)`), in the config's order."""
    other = paper_run(config)[1] if paper is None else paper
    found: list[Difference] = []
    for part in ("render", "data", "model", "optim", "train", "evaluate"):
        found += _differences(part, getattr(config, part), getattr(other, part))
    return found


def _differences(path: str, ours: Any, paper: Any) -> list[Difference]:
    found = []
    for field in dataclasses.fields(ours):
        mine, theirs = getattr(ours, field.name), getattr(paper, field.name)
        if field.name in WHERE_NOT_HOW or f"{field.name}@{path}" in WHERE_NOT_HOW or mine == theirs:
            continue
        setting = f"{path}.{field.name}"
        if dataclasses.is_dataclass(mine) and dataclasses.is_dataclass(theirs):
            found += _differences(setting, mine, theirs)
        elif not dataclasses.is_dataclass(mine) and not dataclasses.is_dataclass(theirs):
            found.append(Difference(setting, _words(mine), _words(theirs), _meanings(type(ours).__name__).get(field.name, "")))
    return found


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value) if value != "" else "none"


@functools.cache
def _meanings(name: str) -> dict[str, str]:
    """Field -> the docstring under it in config.py, as one line."""
    tree = ast.parse(inspect.getsource(config_module))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = {}
    for node, after in zip(body, body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_text:
            found[node.target.id] = " ".join(after.value.value.split())  # type: ignore[attr-defined]  # is_text looked
    return found
