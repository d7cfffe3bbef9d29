"""Each evaluation keeps to its room: another one's code does not move its code digest."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import PROJECT

from clippo_core.evaluate.registry import EVALUATIONS
from clippo_core.run.provenance import module_path, reached_modules

FOLDER = PROJECT / "clippo_core/evaluate"
OF_ALL = {"bootstrap", "checks", "embed", "results", "scores", "harness"}
"""What every evaluation uses."""
OF_SOME = {"gallery", "benchmarks", "ranking", "finetune"}
"""What several use: galleries, several benchmarks, rankings, fine-tuning."""
OF_CALLERS = {"metrics", "registry", "paired"}
"""What knows all of them, or compares their results, and no evaluation reaches."""


def full(names: set[str]) -> set[str]:
    """The dotted names."""
    return {f"clippo_core.evaluate.{name}" for name in names}


def room(name: str) -> set[str]:
    """The modules of an evaluation's room."""
    return full({f"{name}.{path.stem}" for path in (FOLDER / name).glob("[a-z]*.py")})


def test_every_module_has_one_room() -> None:
    there = {path.stem for path in FOLDER.iterdir()} - {"__init__", "__pycache__"}
    assert there == {*EVALUATIONS, *OF_ALL, *OF_SOME, *OF_CALLERS}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_reaches_no_other_ones_room(name: str) -> None:
    reached = reached_modules(EVALUATIONS[name].module)
    assert room(name) <= reached, "what is in the room is used there"
    assert full(OF_ALL) <= reached
    for other in EVALUATIONS:
        assert other == name or not reached & room(other), other
    assert not reached & full(OF_CALLERS)


def test_the_public_metrics_stay_in_one_place() -> None:
    from clippo_core.evaluate import metrics

    names = "recall_at_k few_shot_ridge zero_shot_accuracy vqa_accuracy glue_score glue_average"
    assert set(names.split()) <= set(metrics.__all__)
    for name in metrics.__all__:
        assert getattr(metrics, name) is not None
    path = module_path("clippo_core.evaluate.metrics")
    assert path is not None and "def " not in Path(path).read_text(), "each one has its own module"
