"""Each evaluation keeps to its room: another one's code does not move its code digest."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import PROJECT

from clippo_core.evaluate.registry import EVALUATIONS
from clippo_core.run.provenance import module_path, reached_modules

ROOMS: dict[str, set[str]] = {
    "imagenet": {"imagenet", "classification", "few_shot", "labelled", "prompts"},
    "retrieval": {"retrieval"},
    "vqa": {"vqa", "vqa_data", "vqa_files", "vqa_text", "photos"},
    "glue": {"glue", "glue_files", "glue_scores", "glue_tasks"},
    "xm3600": {"xm3600"},
}
"""Evaluation -> the modules that are its own, below clippo_core.evaluate."""

SHARED: dict[str, set[str]] = {
    "of all": {"bootstrap", "checks", "embed", "results", "scores", "session"},
    "of galleries": {"gallery"},
    "of several benchmarks": {"benchmarks"},
    "of rankings": {"ranking"},
    "of fine-tuning": {"finetune", "problem", "trial"},
    "of callers outside": {"metrics", "registry"},
}
"""What several evaluations use, by its subject; `metrics` and `registry` know all of them."""


def full(names: set[str]) -> set[str]:
    """The dotted names."""
    return {f"clippo_core.evaluate.{name}" for name in names}


def test_every_module_has_one_room() -> None:
    assigned = [name for names in (*ROOMS.values(), *SHARED.values()) for name in names]
    there = {path.stem for path in (PROJECT / "clippo_core/evaluate").glob("*.py")} - {"__init__"}
    assert len(assigned) == len(set(assigned)) and set(assigned) == there
    assert list(ROOMS) == list(EVALUATIONS)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_reaches_no_other_ones_room(name: str) -> None:
    reached = reached_modules(EVALUATIONS[name].module)
    assert full(ROOMS[name]) <= reached, "what is in the room is used there"
    assert full(SHARED["of all"]) <= reached
    for other, modules in ROOMS.items():
        assert other == name or not reached & full(modules), other
    assert not reached & full(SHARED["of callers outside"])


def test_the_public_metrics_stay_in_one_place() -> None:
    from clippo_core.evaluate import metrics

    names = "recall_at_k few_shot_ridge zero_shot_accuracy vqa_accuracy glue_score glue_average"
    assert set(names.split()) <= set(metrics.__all__)
    for name in metrics.__all__:
        assert getattr(metrics, name) is not None
    path = module_path("clippo_core.evaluate.metrics")
    assert path is not None and "def " not in Path(path).read_text(), "each one has its own module"
