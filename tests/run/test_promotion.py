"""The gate: first model, better, worse, within the noise, failed, not comparable, and a pointer
that somebody else moved.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clippo_core import storage
from clippo_core.errors import DataError
from clippo_core.run import promotion
from clippo_core.run.records import CheckpointInfo, EvalResult, GatePlan, Metric, StagePlan

CHECKPOINT = CheckpointInfo("runs/new", 10, 100, 1.0, "sha-new", "c", "k", 1)


def result(
    value: float, interval: tuple[float, float] = (0.0, 0.0), chance: float | None = None
) -> EvalResult:
    """A retrieval result with one main metric."""
    low, high = interval if any(interval) else (value - 2, value + 2)
    name = "coco/i2t_recall@1"
    metric = Metric(value, low, high, chance, 100)
    return EvalResult("retrieval", "coco", "test", "p", 100, {name: metric}, main_metrics=[name])


@pytest.fixture
def plan(tmp_path: Path) -> GatePlan:
    """A gate whose pointer lies in a fresh folder."""
    return GatePlan(StagePlan("runs/x", 0, "d"), "x", str(tmp_path / "promoted-x.json"))


def test_first_model_is_promoted(plan: GatePlan) -> None:
    verdict = promotion.decide(plan, CHECKPOINT, [result(40)])
    assert verdict.promoted and verdict.previous_uri == ""
    assert promotion.promoted_uri(plan.promoted) == "runs/new"
    assert (
        promotion.decide(plan, CHECKPOINT, [result(40)]).reason
        == "This model is the promoted one already."
    )


@pytest.mark.parametrize(("now", "promoted"), [(45.0, True), (39.0, True), (37.0, False)])
def test_later_models_must_hold_up_within_the_noise(
    plan: GatePlan, now: float, promoted: bool
) -> None:
    before = CheckpointInfo("runs/old", 10, 100, 1.0, "sha-old", "c", "k", 1)
    promotion.decide(plan, before, [result(40)])
    verdict = promotion.decide(plan, CHECKPOINT, [result(now)])
    assert verdict.promoted is promoted
    assert verdict.compared == {"coco/i2t_recall@1": [40.0, now]}
    assert promotion.promoted_uri(plan.promoted) == ("runs/new" if promoted else "runs/old")
    assert promoted or "fell from 40.00 to 37.00" in verdict.reason


def test_a_failed_evaluation_blocks(plan: GatePlan) -> None:
    verdict = promotion.decide(
        plan,
        CHECKPOINT,
        [result(40), EvalResult.failed("vqa", "vqav2", "questions.json: not found")],
    )
    assert not verdict.promoted and "questions.json: not found" in verdict.reason
    assert not storage.exists(plan.promoted)


def test_a_model_that_only_guesses_is_not_promoted(plan: GatePlan) -> None:
    guessing = result(1.2, (0.5, 2.0), chance=1.0)
    assert "no main metric is above chance" in promotion.decide(plan, CHECKPOINT, [guessing]).reason
    assert promotion.decide(plan, CHECKPOINT, [result(3.2, (2.0, 4.0), chance=1.0)]).promoted


def test_a_metric_that_disappeared_blocks(plan: GatePlan) -> None:
    promotion.decide(
        plan, CheckpointInfo("runs/old", 1, 1, 1.0, "sha-old", "c", "k", 1), [result(40)]
    )
    name = "vqav2/overall"
    other = EvalResult(
        "vqa", "vqav2", "val", "p", 9, {name: Metric(50.0, n=9)}, main_metrics=[name]
    )
    assert "coco/i2t_recall@1" in promotion.decide(plan, CHECKPOINT, [other]).reason
    assert promotion.decide(plan, CHECKPOINT, []).reason.startswith(
        "Not promoted: no evaluation gave"
    )


def test_two_runs_that_finish_together(plan: GatePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    promotion.decide(
        plan, CheckpointInfo("runs/old", 1, 1, 1.0, "sha-old", "c", "k", 1), [result(40)]
    )
    read = storage.read_with_etag

    def read_then_lose(uri: str) -> tuple[bytes, str]:
        content = read(uri)
        storage.write_text(
            uri, json.dumps({"uri": "runs/rival", "weights_sha256": "", "metrics": {}})
        )
        return content

    monkeypatch.setattr(storage, "read_with_etag", read_then_lose)
    verdict = promotion.decide(plan, CHECKPOINT, [result(41)])
    assert not verdict.promoted and "another run moved" in verdict.reason
    monkeypatch.undo()
    assert promotion.promoted_uri(plan.promoted) == "runs/rival"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "it is not valid json at line 1 column 2"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b"[]", "it is a list, and must be an object"),
        (b'{"uri": 7, "weights_sha256": "", "metrics": {}}', "uri is a whole number"),
        (b'{"uri": "a", "weights_sha256": ""}', "metrics is missing"),
        (b'{"uri": "a", "weights_sha256": "", "metrics": {"b": null}}', "metrics.b is null"),
        (b'{"uri": "a", "uri": "b"}', "the key 'uri' twice"),
        (b"\xff", "it is not UTF-8"),
    ],
)
def test_a_damaged_pointer_is_named_and_kept(plan: GatePlan, content: bytes, fault: str) -> None:
    storage.write_bytes(plan.promoted, content)
    verdict = promotion.decide(plan, CHECKPOINT, [result(41)])
    assert not verdict.promoted and fault in verdict.reason and plan.promoted in verdict.reason
    with pytest.raises(DataError, match="promoted-x.json"):
        promotion.promoted_uri(plan.promoted)
    assert storage.read_bytes(plan.promoted) == content


def test_a_named_metric_decides_alone(plan: GatePlan) -> None:
    plan = GatePlan(plan.stage, plan.name, plan.promoted, promote_metric="imagenet/zero_shot_top1")
    assert "is not among" in promotion.decide(plan, CHECKPOINT, [result(40)]).reason


OLD_POINTER = """{
 "metrics": {
  "coco/i2t_recall@1": 40.0
 },
 "step": 6,
 "uri": "runs/old/checkpoints/step-00000006",
 "weights_sha256": "1d24cdd3f9a97623ac71ee35902ea90e556ed8c15850f7762c9af94272655241"
}
"""
"""A promoted pointer as version 0.1.0 wrote it."""


def test_a_pointer_of_version_0_1_0_is_compared_with_and_replaced(plan: GatePlan) -> None:
    storage.write_text(plan.promoted, OLD_POINTER)
    assert promotion.promoted_uri(plan.promoted) == "runs/old/checkpoints/step-00000006"
    worse = promotion.decide(plan, CHECKPOINT, [result(37)])
    assert not worse.promoted and worse.compared == {"coco/i2t_recall@1": [40.0, 37.0]}
    better = promotion.decide(plan, CHECKPOINT, [result(41)])
    assert better.promoted and better.previous_uri == "runs/old/checkpoints/step-00000006"
    pointer = json.loads(storage.read_text(plan.promoted))
    assert pointer == {
        "uri": "runs/new",
        "weights_sha256": "sha-new",
        "step": 10,
        "metrics": {"coco/i2t_recall@1": 41},
    }


def test_a_main_metric_that_was_not_run_judges_nothing(plan: GatePlan) -> None:
    name = "glue/average"
    lost = EvalResult(
        "glue", "glue", "dev", "p", 9, {name: Metric(why_not="no file")}, main_metrics=[name]
    )
    assert promotion.main_metrics([lost]) == {}
    assert "no evaluation gave" in promotion.decide(plan, CHECKPOINT, [lost]).reason
