"""In what a run's settings differ from the paper's: field by field against the preset of the released configuration.

    recipe_differences(presets.demo())[0] -> Difference("model.width", "128", "768", "Width of the transformer.")

Fields marked `Runtime` or `Input` are left out: how a run is carried out and which data go in are no
difference of method. What the paper leaves open is listed in the README.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
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
    cls: type = type(ours)
    meanings = _meanings(cls)
    for field in dataclasses.fields(ours):
        mine, theirs = getattr(ours, field.name), getattr(paper, field.name)
        is_method = not is_marked(cls, field.name, Mark.RUNTIME, Mark.INPUT)
        if not is_method or mine == theirs:
            continue
        setting = f"{path}.{field.name}"
        if dataclasses.is_dataclass(mine) and dataclasses.is_dataclass(theirs):
            found += _differences(setting, mine, theirs)
        elif not dataclasses.is_dataclass(mine) and not dataclasses.is_dataclass(theirs):
            found.append(Difference(setting, _words(mine), _words(theirs), meanings.get(field.name, "")))
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
def _meanings(cls: type) -> dict[str, str]:
    """Field -> the docstring under it in the source of `cls`, as one line."""
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, text in itertools.pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found
