"""In what a run's settings differ from the paper's: field by field against the preset of the
released configuration.

    recipe_differences(presets.demo())[0]
    -> Difference("model.width", "128", "768", "Width of the transformer.")

Paths, names, seeds and the cluster are left out: they say where, not how. What the
paper leaves open is listed in the README.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

from clippo_core.config import RunConfig, presets
from clippo_core.config.hints import Mark, is_marked


@dataclass(frozen=True)
class Difference:
    """One setting in which a run differs from the paper's."""

    setting: str
    ours: str
    paper: str
    meaning: str
    """The field's own description."""


def paper_run(config: RunConfig) -> tuple[str, RunConfig]:
    """The paper's run that `config` is nearest to, and its name: L/16 for a tower as wide, and the
    nearest share of sentence pairs.
    """
    share = min(
        presets.PAPER_STEPS, key=lambda published: abs(published - config.data.text_pair_share)
    )
    is_large = config.model.width >= presets.L16.width
    make = presets.paper_l16 if is_large else presets.paper_b16
    name = f"CLIPPO {'L/16' if is_large else 'B/16'}" + (
        f" with {100 * share:.0f} % C4" if share else ""
    )
    return name, make(share)


def recipe_differences(config: RunConfig, paper: RunConfig | None = None) -> list[Difference]:
    """The settings in which `config` differs from `paper` (None: from `paper_run(config)`), in the
    config's order.
    """
    other = paper_run(config)[1] if paper is None else paper
    found: list[Difference] = []
    for part in ("render", "data", "model", "optim", "train", "evaluate"):
        found += _differences(part, getattr(config, part), getattr(other, part))
    return found


def _differences(path: str, ours: Any, paper: Any) -> list[Difference]:
    found, meanings = [], _meanings(type(ours))
    for field in dataclasses.fields(ours):
        mine, theirs = getattr(ours, field.name), getattr(paper, field.name)
        if mine == theirs or is_marked(type(ours), field.name, Mark.RUNTIME, Mark.INPUT):
            continue
        setting = f"{path}.{field.name}"
        if _is_config(mine) and _is_config(theirs):
            # Of several benchmarks, the first of either run: their protocol is the same.
            mine, theirs = (one[0] if isinstance(one, tuple) else one for one in (mine, theirs))
            found += _differences(setting, mine, theirs)
        elif not _is_config(mine) and not _is_config(theirs):
            meaning = meanings.get(field.name, "")
            found.append(Difference(setting, _words(mine), _words(theirs), meaning))
    return found


def _is_config(value: Any) -> bool:
    """Whether a value is a config, or a tuple of them (several benchmarks of one evaluation)."""
    first = value[0] if isinstance(value, tuple) and value else value
    return dataclasses.is_dataclass(first)


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value) if value != "" else "none"


def _meanings(config: type) -> dict[str, str]:
    """Field -> the docstring under it, as one line."""
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(config)).body
        if isinstance(node, ast.ClassDef)
    )
    found = {}
    for node, after in zip(body, body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            value = after.value if isinstance(after, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[node.target.id] = " ".join(value.value.split())
    return found
