"""The gate: first model, better, worse, within the noise, failed, not comparable, a long decline,
two runs at once; and promotion and rollback by hand.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_plan

from clippo_core import storage
from clippo_core.__main__ import main
from clippo_core.config import GateConfig
from clippo_core.engine.checkpoint import Progress, save_checkpoint
from clippo_core.errors import ConfigError, DataError, NotFoundError
from clippo_core.evaluate.results import write_result
from clippo_core.evaluate.scores import Scores
from clippo_core.run import history, promotion
from clippo_core.run.records import CheckpointInfo, EvalResult, GatePlan, Metric, StagePlan

RECALL = "coco/i2t_recall@1"


def checkpoint(name: str) -> CheckpointInfo:
    """A checkpoint whose weights are called `name`."""
    return CheckpointInfo(f"runs/{name}", 10, 100, 1.0, f"sha-{name}", "c", "k", 1)


NEW = checkpoint("new")


def result(
    value: float, interval: tuple[float, float] = (0.0, 0.0), chance: float | None = None
) -> EvalResult:
    """A retrieval result with one main metric and no scores of single examples."""
    low, high = interval if any(interval) else (value - 2, value + 2)
    metric = Metric(value, low, high, chance, 100)
    return EvalResult(
        "retrieval", "coco", "test", "p", 100, {RECALL: metric}, main_metrics=[RECALL]
    )


@pytest.fixture
def plan(tmp_path: Path) -> GatePlan:
    """A gate whose pointer lies in a fresh folder."""
    gate = GateConfig(margin=4, seed_noise=0)
    return GatePlan(StagePlan("runs/x", 0, "d"), "x", str(tmp_path / "promoted-x.json"), gate=gate)


def test_first_model_is_promoted(plan: GatePlan) -> None:
    verdict = promotion.decide(plan, NEW, [result(40)])
    assert verdict.promoted and verdict.previous_uri == ""
    assert history.promoted_uri(plan.promoted) == "runs/new"
    again = promotion.decide(plan, NEW, [result(40)])
    assert again.reason == "This model is the promoted one already."
    assert again.compared == {}, "it is not held against itself"
    (record,) = history.read(plan.promoted)
    assert (record.number, record.by, record.data_digest) == (1, "the gate of runs/x", "d")
    assert record.metrics == {RECALL: Metric(40, 38, 42, None, 100)}
    assert record.verdict == verdict and record.references == {RECALL: 1}


# Half an interval of 2 is a standard error of 1.02, of a difference 1.44; 1.64 of that is 2.37.
@pytest.mark.parametrize(("now", "promoted"), [(45.0, True), (38.4, True), (38.3, False)])
def test_later_models_must_be_shown_to_lose_no_more_than_the_margin(
    plan: GatePlan, now: float, promoted: bool
) -> None:
    promotion.decide(plan, checkpoint("old"), [result(40)])
    verdict = promotion.decide(plan, NEW, [result(now)])
    assert verdict.promoted is promoted
    one = verdict.compared[RECALL]
    assert (one.before, one.now, one.promotion) == (40.0, now, 1)
    assert one.error == pytest.approx(1.443, abs=1e-3) and "no scores" in one.unpaired
    assert history.promoted_uri(plan.promoted) == ("runs/new" if promoted else "runs/old")
    assert promoted or "changed by -1.70, known to 2.37" in verdict.reason
    assert [one.verdict.promoted for one in history.read(plan.promoted)] == [True, promoted]


def test_seed_noise_and_margin_are_settings(plan: GatePlan) -> None:
    promotion.decide(plan, checkpoint("old"), [result(40)])
    for gate in (GateConfig(margin=4, seed_noise=2), GateConfig(margin=2, seed_noise=0)):
        stricter = dataclasses.replace(plan, gate=gate)
        assert not promotion.decide(stricter, NEW, [result(40)]).promoted
    assert promotion.decide(plan, NEW, [result(40)]).promoted


def test_one_metric_that_falls_far_blocks_though_the_mean_holds(plan: GatePlan) -> None:
    def two(first: float, second: float) -> EvalResult:
        names = ["a/recall", "b/recall"]
        metrics = {
            name: Metric(value, value - 1, value + 1)
            for name, value in zip(names, (first, second), strict=True)
        }
        return EvalResult("retrieval", "a", "t", "p", 9, metrics, main_metrics=names)

    promotion.decide(plan, checkpoint("old"), [two(40, 40)])
    refused = promotion.decide(plan, NEW, [two(50, 32)])
    assert not refused.promoted and refused.reason.startswith(
        "Not promoted: b/recall fell from 40.00 (promotion 1) to 32.00, by more than the margin of"
        " 4 and its noise of 1.41"
    )
    only = dataclasses.replace(plan, promote_metric="a/recall")
    assert promotion.decide(only, NEW, [two(50, 32)]).promoted


def test_models_that_each_lose_a_little_are_held_against_the_best(plan: GatePlan) -> None:
    """With the last promoted model as the reference, all ten would pass."""
    verdicts = [
        promotion.decide(plan, checkpoint(f"week{week}"), [result(40 - week)]) for week in range(10)
    ]
    assert [verdict.promoted for verdict in verdicts] == [True, True] + [False] * 8
    assert {verdict.compared[RECALL].promotion for verdict in verdicts[1:]} == {1}


def test_a_better_model_is_the_new_reference(plan: GatePlan) -> None:
    for name, value in (("first", 40), ("alike", 43), ("better", 45), ("last", 44)):
        assert promotion.decide(plan, checkpoint(name), [result(value)]).promoted
    references = [one.references[RECALL] for one in history.read(plan.promoted)]
    assert references == [1, 1, 3, 3]


def test_a_failed_evaluation_blocks(plan: GatePlan) -> None:
    verdict = promotion.decide(
        plan, NEW, [result(40), EvalResult.failed("vqa", "vqav2", "questions.json: not found")]
    )
    assert not verdict.promoted and "questions.json: not found" in verdict.reason
    assert not storage.exists(plan.promoted)


def test_a_first_model_must_beat_chance_in_the_chosen_metrics(plan: GatePlan) -> None:
    guessing = result(1.2, (0.5, 2.0), chance=1.0)
    assert "not above chance (1.00)" in promotion.decide(plan, NEW, [guessing]).reason
    few_shot = "digits/10shot_top1"
    metric = Metric(30.0, 28.0, 32.0, 10.0, 100)
    other = EvalResult(
        "imagenet", "digits", "v", "p", 9, {few_shot: metric}, main_metrics=[few_shot]
    )
    assert not promotion.decide(plan, NEW, [guessing, other]).promoted
    chosen = dataclasses.replace(plan, gate=GateConfig(floors=(few_shot,)))
    assert promotion.decide(chosen, NEW, [guessing, other]).promoted
    absent = dataclasses.replace(plan, gate=GateConfig(floors=("glue/average",)))
    third = promotion.decide(absent, checkpoint("third"), [guessing, other])
    assert "glue/average, which has to" in third.reason


def test_a_metric_that_disappeared_blocks(plan: GatePlan) -> None:
    promotion.decide(plan, checkpoint("old"), [result(40)])
    name = "vqav2/overall"
    other = EvalResult(
        "vqa", "vqav2", "val", "p", 9, {name: Metric(50.0, n=9)}, main_metrics=[name]
    )
    assert RECALL in promotion.decide(plan, NEW, [other]).reason
    nothing = promotion.decide(plan, NEW, [])
    assert nothing.reason.startswith("Not promoted: no evaluation gave")


@pytest.mark.parametrize(("rival", "promoted"), [(41.0, True), (47.0, False)])
def test_of_two_runs_that_finish_together_one_judges_again(
    plan: GatePlan, monkeypatch: pytest.MonkeyPatch, rival: float, promoted: bool
) -> None:
    promotion.decide(plan, checkpoint("old"), [result(40)])
    append = history.append

    def lose(pointer: str, record: history.Promotion) -> None:
        monkeypatch.undo()
        assert promotion.decide(plan, checkpoint("rival"), [result(rival)]).promoted
        append(pointer, record)

    monkeypatch.setattr(history, "append", lose)
    verdict = promotion.decide(plan, NEW, [result(41)])
    assert verdict.promoted is promoted and verdict.previous_uri == "runs/rival"
    assert history.promoted_uri(plan.promoted) == ("runs/new" if promoted else "runs/rival")
    assert [one.number for one in history.read(plan.promoted)] == [1, 2, 3]


def test_a_pointer_never_goes_back_and_is_moved_on_where_a_run_died(plan: GatePlan) -> None:
    promotion.decide(plan, checkpoint("old"), [result(40)])
    promotion.decide(plan, NEW, [result(41)])
    first, second = history.read(plan.promoted)
    history.point(plan.promoted, first)
    assert history.promoted_uri(plan.promoted) == "runs/new"
    storage.delete(plan.promoted)
    promotion.decide(plan, NEW, [result(41)])
    assert history.promoted_uri(plan.promoted) == "runs/new"
    assert history.read(plan.promoted) == [first, second]


def test_a_bucket_holds_records_and_pointer(plan: GatePlan, s3: str) -> None:
    plan = dataclasses.replace(plan, promoted=f"{s3}/runs/promoted-weekly.json")
    for name in ("old", "new"):
        assert promotion.decide(plan, checkpoint(name), [result(40)]).promoted
    assert history.promoted_uri(plan.promoted) == "runs/new"
    names = [file.uri for file in storage.list_files(f"{s3}/runs/promotions")]
    assert names == [f"{s3}/runs/promotions/weekly/{n:04d}.json" for n in (1, 2)]


def test_a_damaged_record_is_named(plan: GatePlan) -> None:
    promotion.decide(plan, NEW, [result(40)])
    folder = Path(plan.promoted).with_name("promotions") / "x"
    for content, fault in (
        ('{"number": 2}', r"0002\.json: it is no record.*by is missing"),
        ('{"schema_version": 99}', "written by a newer version"),
        ("[" * 100, "nested more than 64 deep"),
    ):
        (folder / "0002.json").write_text(content)
        with pytest.raises(DataError, match=f"(?s){fault}"):
            history.read(plan.promoted)
        verdict = promotion.decide(plan, checkpoint("next"), [result(40)])
        assert not verdict.promoted and "0002.json" in verdict.reason
    assert sorted(path.name for path in folder.iterdir()) == ["0001.json", "0002.json"]


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
    verdict = promotion.decide(plan, NEW, [result(41)])
    assert not verdict.promoted and fault in verdict.reason and plan.promoted in verdict.reason
    with pytest.raises(DataError, match="promoted-x.json"):
        history.promoted_uri(plan.promoted)
    assert storage.read_bytes(plan.promoted) == content


def test_a_damaged_pointer_with_records_behind_it_is_written_anew(plan: GatePlan) -> None:
    promotion.decide(plan, checkpoint("old"), [result(40)])
    storage.write_text(plan.promoted, "[")
    assert promotion.decide(plan, NEW, [result(41)]).promoted
    assert history.promoted_uri(plan.promoted) == "runs/new"


def test_a_named_metric_decides_alone(plan: GatePlan) -> None:
    plan = GatePlan(plan.stage, plan.name, plan.promoted, promote_metric="imagenet/zero_shot_top1")
    assert "is not among" in promotion.decide(plan, NEW, [result(40)]).reason


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
    assert history.promoted_uri(plan.promoted) == "runs/old/checkpoints/step-00000006"
    worse = promotion.decide(plan, NEW, [result(37)])
    assert not worse.promoted and worse.compared[RECALL].before == 40.0
    better = promotion.decide(plan, NEW, [result(41)])
    assert better.promoted and better.previous_uri == "runs/old/checkpoints/step-00000006"
    pointer = json.loads(storage.read_text(plan.promoted))
    assert pointer == {
        "uri": "runs/new",
        "weights_sha256": "sha-new",
        "step": 10,
        "metrics": {RECALL: 41},
        "promotion": 2,
    }
    assert [one.number for one in history.read(plan.promoted)] == [0, 1, 2]


def test_a_main_metric_that_was_not_run_judges_nothing(plan: GatePlan) -> None:
    name = "glue/average"
    lost = EvalResult(
        "glue", "glue", "dev", "p", 9, {name: Metric(why_not="no file")}, main_metrics=[name]
    )
    assert promotion.main_metrics([lost]) == {}
    assert "no evaluation gave" in promotion.decide(plan, NEW, [lost]).reason


# --- example by example ---------------------------------------------------------------------------


def scored(
    folder: Path, name: str, hits: np.ndarray, plan: GatePlan, **changes: Any
) -> tuple[GatePlan, EvalResult]:
    """A result with its scores on disk, as an evaluation leaves it, and the gate's plan with it."""
    scores = Scores()
    scores.add(RECALL, range(len(hits)), (100.0 * hits).tolist())
    value = float(100 * hits.mean())
    at = str(folder / name)
    written = write_result(at, result(value, (value - 4, value + 4)), scores)
    changes = {"benchmarks": {"coco": "same"}} | changes
    return dataclasses.replace(plan, evaluations={"retrieval": at}, **changes), written


def test_the_same_examples_tell_more_than_two_intervals(plan: GatePlan, tmp_path: Path) -> None:
    plan = dataclasses.replace(plan, gate=GateConfig(margin=2.5, seed_noise=0))
    hits = np.random.default_rng(0).random(1000) < 0.6
    changed = hits.copy()
    changed[np.flatnonzero(hits)[:10]] = False
    first, before = scored(tmp_path, "old", hits, plan)
    assert promotion.decide(first, checkpoint("old"), [before]).promoted
    elsewhere, now = scored(tmp_path, "new", changed, plan, benchmarks={"coco": "others"})
    unpaired = promotion.decide(elsewhere, NEW, [now])
    assert not unpaired.promoted
    assert "files or settings differ" in unpaired.compared[RECALL].unpaired
    second, now = scored(tmp_path, "new", changed, plan)
    paired = promotion.decide(second, NEW, [now])
    one = paired.compared[RECALL]
    assert paired.promoted and one.unpaired == "" and one.now - one.before == pytest.approx(-1)
    # Ten of 1,000 examples differ by 100 points.
    assert one.error == pytest.approx(100 * np.sqrt(0.01 * 0.99 / 999), rel=1e-9)


def test_scores_that_are_gone_or_others_are_compared_by_intervals(
    plan: GatePlan, tmp_path: Path
) -> None:
    hits = np.arange(100) < 60
    first, before = scored(tmp_path, "old", hits, plan)
    promotion.decide(first, checkpoint("old"), [before])
    second, now = scored(tmp_path, "new", hits, plan)
    assert promotion.decide(second, NEW, [now]).compared[RECALL].unpaired == ""
    file = tmp_path / "old" / "predictions.parquet"
    file.write_bytes(file.read_bytes() + b"x")
    reasons = [promotion.decide(second, checkpoint("b"), [now]).compared[RECALL].unpaired]
    file.unlink()
    reasons += [promotion.decide(second, checkpoint("c"), [now]).compared[RECALL].unpaired]
    assert "its sha256 differs" in reasons[0] and str(file) in reasons[1]
    fewer, now = scored(tmp_path, "fewer", hits[:90], plan)
    scored(tmp_path, "old", hits, plan)
    assert "other examples" in promotion.decide(fewer, NEW, [now]).compared[RECALL].unpaired


# --- by hand --------------------------------------------------------------------------------------


def saved(root: Path, seed: int) -> CheckpointInfo:
    """A small checkpoint on disk."""
    weights = {"a": np.random.default_rng(seed).normal(size=9).astype(np.float32)}
    progress = Progress(step=2, pairs_seen=16, loss=1.0, world_size=1, state={})
    folder = str(root / f"run-{seed}" / "checkpoints")
    return save_checkpoint(folder, weights, {}, tiny_plan("runs"), progress)


def test_a_refused_model_is_promoted_by_hand_and_rolled_back(
    plan: GatePlan, tmp_path: Path
) -> None:
    old, new, later = (saved(tmp_path, seed) for seed in range(3))
    promotion.decide(plan, old, [result(40)])
    assert not promotion.decide(plan, new, [result(30)]).promoted
    record = promotion.promote(plan.promoted, "2", "kim", "the captions were cleaned")
    assert record.verdict.promoted and (record.number, record.by) == (3, "kim")
    assert history.promoted_uri(plan.promoted) == new.uri
    # It is the reference now: the next one is held against 30, not 40.
    assert promotion.decide(plan, later, [result(31)]).compared[RECALL].promotion == 3
    back = promotion.rollback(plan.promoted, "kim", "somebody complained")
    assert back.verdict.model_uri == new.uri == history.promoted_uri(plan.promoted)
    assert back.verdict.reason == "somebody complained" and back.references == {RECALL: 5}
    assert promotion.rollback(plan.promoted, "kim", "").verdict.model_uri == old.uri
    assert [one.number for one in history.read(plan.promoted)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ConfigError, match="no earlier promotion"):
        promotion.rollback(plan.promoted, "kim", "")
    with pytest.raises(ConfigError, match="has no record 17"):
        promotion.promote(plan.promoted, "17", "kim", "")


def test_a_model_that_is_gone_or_another_is_not_promoted(plan: GatePlan, tmp_path: Path) -> None:
    old, new = (saved(tmp_path, seed) for seed in range(2))
    promotion.decide(plan, old, [result(40)])
    promotion.decide(plan, new, [result(40)])
    shutil.rmtree(old.uri)
    with pytest.raises(NotFoundError, match="no checkpoint"):
        promotion.rollback(plan.promoted, "kim", "")
    shutil.copytree(new.uri, old.uri)
    with pytest.raises(ConfigError, match="no longer holds the weights of record 1"):
        promotion.rollback(plan.promoted, "kim", "")
    assert history.promoted_uri(plan.promoted) == new.uri


def test_a_checkpoint_of_its_own_is_promoted_and_the_next_model_judged_as_a_first(
    plan: GatePlan, tmp_path: Path
) -> None:
    other = saved(tmp_path, 7)
    promotion.promote(plan.promoted, str(tmp_path / "run-7" / "checkpoints"), "kim", "elsewhere")
    assert history.promoted_uri(plan.promoted) == other.uri
    guessing = result(1.2, (0.5, 2.0), chance=1.0)
    assert "chance" in promotion.decide(plan, NEW, [guessing]).reason
    assert promotion.decide(plan, NEW, [result(40, chance=1.0)]).promoted


def test_the_commands_show_and_do_it(
    plan: GatePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (saved(tmp_path, seed) for seed in range(2))
    promotion.decide(plan, old, [result(40)])
    promotion.decide(plan, new, [result(30)])
    by_kim = ["--by", "kim", "--why", "cleaned"]
    assert main(["promote", plan.promoted, "2", *by_kim]) == 0
    assert f"promoted {new.uri} (record 3); before: {old.uri}" in capsys.readouterr().out
    assert main(["rollback", plan.promoted, *by_kim]) == 0
    capsys.readouterr()
    assert main(["promotions", plan.promoted]) == 0
    told = capsys.readouterr().out
    assert told.count(" kim\n        cleaned") == 2 and "*    4" in told
    assert "the gate of runs/x" in told and "does not rule out" in told
    assert main(["promote", plan.promoted, "9", *by_kim]) == 2
    assert "has no record 9" in capsys.readouterr().err


# --- night after night ----------------------------------------------------------------------------


def test_drift_of_the_promoted_model_is_told_and_nothing_else(plan: GatePlan) -> None:
    def tonight(value: float, weights: str = NEW.weights_sha256) -> list[EvalResult]:
        return [dataclasses.replace(result(value), weights_sha256=weights)]

    assert promotion.drift(plan.promoted, tonight(40)) == []  # nothing is promoted yet
    promotion.decide(plan, NEW, tonight(40))
    # Both intervals are 2 wide to each side: a standard error of 1.44, 1.96 of it are 2.83.
    assert promotion.drift(plan.promoted, tonight(42.8)) == []
    assert promotion.drift(plan.promoted, tonight(42.9)) == [
        "coco/i2t_recall@1 was 40.00 and is 42.90, beyond its noise of 2.83"
    ]
    assert promotion.drift(plan.promoted, tonight(37.1)) != []
    assert promotion.drift(plan.promoted, tonight(37.1, "of another model")) == []
    name = "vqav2/overall"
    (one,) = tonight(40)
    only = dataclasses.replace(one, metrics={name: Metric(9.0)}, main_metrics=[name])
    assert promotion.drift(plan.promoted, [only]) == ["coco/i2t_recall@1 is no longer given"]
