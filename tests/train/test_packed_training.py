"""Training without blank rows: heights reach the tower from the loader, whatever way a step takes,
and a run goes on bit for bit.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_plan, write_tiny_shards

from clippo_core import storage
from clippo_core.config import AugmentConfig
from clippo_core.engine.recipe import check_same_recipe, recipe
from clippo_core.errors import CheckpointError
from clippo_core.models import tower
from clippo_core.run import journal
from clippo_core.run.records import Manifest, PretrainPlan
from clippo_core.train import loop
from clippo_core.train.step import train_step

PIXELS = AugmentConfig(share=0.8, max_offset_px=9, inversion_share=0.3, noise=0.2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of the tiny data."""
    return write_tiny_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(autouse=True)
def heights_from_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tower looks for blank rows itself."""

    def refuse(masks: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a training step counted rows")

    monkeypatch.setattr(tower, "used_rows", refuse)


def plan_in(root: Path, skip: bool = True, **changes: Any) -> PretrainPlan:
    """On pages of four rows, of which a caption fills one."""
    changes |= {"model__skip_blank_rows": skip, "render__image_px": 64}
    return tiny_plan(str(root), **changes)


def train(plan: PretrainPlan, shards: Manifest) -> list[float]:
    """Losses of a run."""
    loop.pretrain(plan, shards)
    return losses(plan)


def losses(plan: PretrainPlan) -> list[float]:
    return [line["loss"] for line in journal.read(storage.join(plan.stage.root, "journal.jsonl"))]


def test_every_way_of_a_step_gives_one_curve(tmp_path: Path, shards: Manifest) -> None:
    kept = train(plan_in(tmp_path / "plain"), shards)
    for memory in ("recompute", "cached", "checkpoint"):
        changes = {"train__memory": memory, "train__chunk_pairs": 4}
        assert train(plan_in(tmp_path / memory, **changes), shards) == pytest.approx(kept, rel=1e-4)
    whole = train(plan_in(tmp_path / "whole", skip=False), shards)
    assert whole != pytest.approx(kept, rel=1e-4)  # it is another function


@pytest.mark.parametrize("augment", [AugmentConfig(), PIXELS])
def test_a_killed_run_goes_on_bit_for_bit(
    tmp_path: Path, shards: Manifest, monkeypatch: pytest.MonkeyPatch, augment: AugmentConfig
) -> None:
    """With pixels that vary too: which rows are blank was counted before the noise came."""
    curve = train(plan_in(tmp_path / "whole", train__augment=augment), shards)
    killed, counter = plan_in(tmp_path / "killed", train__augment=augment), itertools.count(1)

    def failing(*arguments: Any, **keywords: Any) -> Any:
        if next(counter) == 4:
            raise MemoryError
        return train_step(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", failing)
        with pytest.raises(MemoryError):
            train(killed, shards)
    assert len(losses(killed)) == 3
    assert train(killed, shards) == curve


def test_rows_that_were_rounded_up_are_of_another_function() -> None:
    plan = plan_in(Path("unused"))
    written = recipe(plan)
    check_same_recipe("new", written, plan)
    del written["blank_rows"]
    with pytest.raises(
        CheckpointError, match="old was trained with model.skip_blank_rows of anoth"
    ):
        check_same_recipe("old", written, plan)
    whole = tiny_plan("unused")
    assert "blank_rows" not in recipe(whole)
    check_same_recipe("old", recipe(whole), whole)
