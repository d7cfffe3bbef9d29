"""The preset of real photos, trained as it is: CLIPPO reads captions (docs/reading.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepared import validated, written

from clippo_core.config import presets
from clippo_core.evaluate.retrieval import protocol as retrieval
from clippo_core.run.contents import benchmark_digest
from clippo_core.run.records import EvaluatePlan, PretrainPlan, StagePlan
from clippo_core.train.loop import pretrain


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_the_photos_preset_learns_to_read_captions(slices: Path, tmp_path: Path) -> None:
    """Text to image, the lower ends of R@10 on test photos: Flickr8k above 2.5 times chance,
    Flickr30k above 1.25 times. About a quarter of an hour on one core.
    """
    run = presets.photos(str(slices), str(tmp_path / "runs"))
    judged = validated(tmp_path / "data", run.data, run.render, run.evaluate).judged
    manifest = written(tmp_path / "data", run.data, run.render, judged)
    stage = StagePlan(str(tmp_path / "run"), run.seed, manifest.data_digest)
    plan = PretrainPlan(stage, run.data, run.render, run.model, run.optim, run.train)
    checkpoint = pretrain(plan, manifest)
    content = benchmark_digest(run.evaluate, "retrieval")
    stage = StagePlan(str(tmp_path / "evaluated"), run.seed, content)
    result = retrieval.run(checkpoint.uri, EvaluatePlan(stage, run.evaluate), progress=False)
    assert not result.failure
    for name, times_chance in (("flickr8k", 2.5), ("flickr30k", 1.25)):
        found = result.metrics[f"{name}/t2i_recall@10"]
        assert found.low is not None and found.chance is not None
        assert found.low > times_chance * found.chance, (name, found)
