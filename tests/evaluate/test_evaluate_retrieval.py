"""Retrieval through the real tower, renderer and files: known answers, resumption, bad input, true
formats.
"""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from drawn import draw, evaluate_plan, phrases, tiny_checkpoint, write_karpathy
from found import recomputed, score_rows

from clippo_core import storage
from clippo_core.config import EvaluateConfig, GateConfig, RetrievalConfig, presets
from clippo_core.errors import ConfigError
from clippo_core.evaluate import embed, gallery, metrics, results
from clippo_core.evaluate.retrieval import protocol as retrieval
from clippo_core.published import published
from clippo_core.report.decks import evaluation_deck
from clippo_core.report.rows import rows_of, summary_table
from clippo_core.run import promotion
from clippo_core.run.contents import benchmark_digest
from clippo_core.run.records import CheckpointInfo, EvaluatePlan, GatePlan, StagePlan

PROJECT = Path(__file__).resolve().parents[2]
FILES = ("result.json", "predictions.parquet", "examples.json")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("tower"))


def config(
    folder: Path, n: int = 60, shuffle: bool = False, expect: int = 60, **changes
) -> RetrievalConfig:
    """n photos, each the drawing of its first caption; with `shuffle`, of another photo's."""
    first, second = phrases(n), phrases(n, start=1000)
    drawn = [first[i] for i in np.random.default_rng(5).permutation(n)] if shuffle else first
    return RetrievalConfig(
        **write_karpathy(folder, drawn, list(zip(first, second, strict=True))),
        dataset="drawn",
        expect_images=expect,
        **changes,
    )


def test_a_tower_that_is_given_the_answer_scores_100(tmp_path, checkpoint):
    result = retrieval.run(
        checkpoint, evaluate_plan(tmp_path / "run", retrieval=(config(tmp_path),)), progress=False
    )
    assert result.failure == "" and not result.is_partial
    assert result.metrics["drawn/i2t_recall@1"].value == 100.0
    assert result.metrics["drawn/i2t_recall@1"].bounds == (100.0, 100.0)
    assert (
        result.metrics["drawn/t2i_recall@1"].value >= 50.0
    )  # the first captions; the second ones are strangers to their photo
    assert (
        result.metrics["drawn/i2t_recall@1"].n == 60
        and result.metrics["drawn/t2i_recall@1"].n == 120
    )
    assert result.counts == {
        "images": 60,
        "texts": 120,
        "fewest_texts_an_image": 2,
        "most_texts_an_image": 2,
    }
    assert result.metrics["drawn/i2t_recall@1"].chance == pytest.approx(100 * 2 / 120)
    assert result.metrics["drawn/i2t_recall@5"].chance == pytest.approx(
        100 * metrics.chance_recall(120, [2], 5)
    )
    assert result.metrics["drawn/t2i_recall@10"].chance == pytest.approx(100 * 10 / 60)


def test_shuffled_pairs_are_at_chance_and_a_collapsed_tower_scores_0(tmp_path, checkpoint):
    shuffled = config(tmp_path, n=300, shuffle=True, expect=300)
    result = retrieval.run(
        checkpoint, evaluate_plan(tmp_path / "a", retrieval=(shuffled,)), progress=False
    )
    for metric in ("i2t_recall@1", "i2t_recall@10", "t2i_recall@1", "t2i_recall@10"):
        chance = result.metrics[f"drawn/{metric}"].chance
        sigma = np.sqrt(chance * (100 - chance) / 300)
        assert abs(result.metrics[f"drawn/{metric}"].value - chance) <= 3 * sigma, metric
    collapsed = tiny_checkpoint(tmp_path, collapse=True)
    result = retrieval.run(
        collapsed, evaluate_plan(tmp_path / "b", retrieval=(shuffled,)), progress=False
    )
    for direction in ("i2t", "t2i"):
        assert [result.metrics[f"drawn/{direction}_recall@{k}"].value for k in (1, 5, 10)] == [
            0.0,
            0.0,
            0.0,
        ]
        assert result.metrics[f"drawn/{direction}_tie_share"].value == 100.0
        assert "ties rank last" in result.metrics[f"drawn/{direction}_recall@1"].flag


def test_no_digit_depends_on_batch_or_chunk_and_predictions_explain_the_score(
    tmp_path, checkpoint, monkeypatch
):
    setting = config(tmp_path, n=150, shuffle=True, expect=200)
    reference = retrieval.run(
        checkpoint, evaluate_plan(tmp_path / "0", retrieval=(setting,)), progress=False
    )
    assert reference.is_partial
    for number, (batch, chunk) in enumerate([(1, 64), (7, 128), (1000, 512)], start=1):
        monkeypatch.setattr(embed, "CHUNK", chunk)
        plan = evaluate_plan(tmp_path / str(number), retrieval=(setting,), batch_size=batch)
        assert retrieval.run(checkpoint, plan, progress=False) == reference
        for name in FILES:
            assert read(tmp_path / str(number), name) == read(tmp_path / "0", name), name
    rows = score_rows(reference, tmp_path / "0")
    again = recomputed(reference, tmp_path / "0")
    assert again == {name: reference.metrics[name].value for name in reference.main_metrics}
    captions = [row["example"] for row in rows["drawn/t2i_recall@1"]]
    assert captions[:3] == ["0000#0", "0000#1", "0001#0"]
    for direction in ("i2t", "t2i"):
        ranks = [row["rank"] for row in rows[f"drawn/{direction}_recall@1"]]
        for k in (1, 5, 10):
            assert 100 * np.mean(np.array(ranks) <= k) == pytest.approx(
                reference.metrics[f"drawn/{direction}_recall@{k}"].value
            )


def folder(root: Path) -> Path:
    return root / "evaluations" / "retrieval"


def read(root: Path, name: str) -> bytes:
    return (folder(root) / name).read_bytes()


class Killed(BaseException):
    """Stands for a kill that no handler sees."""


def test_killed_at_every_write_it_resumes_to_the_same_bytes(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(embed, "CHUNK", 64)
    setting = config(tmp_path, n=150, expect=150)
    retrieval.run(
        checkpoint, evaluate_plan(tmp_path / "whole", retrieval=(setting,)), progress=False
    )
    write, left = storage.write_bytes, [0]

    def dying_write(uri, data, **conditions):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return write(uri, data, **conditions)

    plan = evaluate_plan(tmp_path / "killed", retrieval=(setting,))
    monkeypatch.setattr(storage, "write_bytes", dying_write)
    attempts = 0
    while not (folder(tmp_path / "killed") / "result.json").exists():
        left[0] = (
            attempts // 2
        )  # an attempt lives for a few writes; what it wrote is there for the next one
        attempts += 1
        try:
            retrieval.run(checkpoint, plan, progress=False)
        except Killed:
            continue
    assert attempts >= 6
    for name in FILES:
        assert read(tmp_path / "killed", name) == read(tmp_path / "whole", name), name


CHILD = """
import sys
sys.path[:0] = [{project!r}, {tests!r}]
from drawn import evaluate_plan
from clippo_core.config import RetrievalConfig
from clippo_core.evaluate import embed
from clippo_core.evaluate.retrieval import protocol as retrieval
embed.CHUNK = 64
config = RetrievalConfig({annotations!r}, {images!r}, dataset="drawn", expect_images=600)
retrieval.run({checkpoint!r}, evaluate_plan({root!r}, retrieval=(config,)), progress=False)
"""


@pytest.mark.slow
def test_killed_at_random_five_times_the_result_is_byte_identical(tmp_path, checkpoint):
    setting = config(tmp_path, n=600, shuffle=True, expect=600)
    retrieval.run(
        checkpoint, evaluate_plan(tmp_path / "whole", retrieval=(setting,)), progress=False
    )
    fields = {
        "annotations": setting.annotations,
        "images": setting.images,
        "checkpoint": checkpoint,
        "root": str(tmp_path / "killed"),
    }
    code = CHILD.format(project=str(PROJECT), tests=str(PROJECT / "tests"), **fields)
    generator = random.Random(0)
    seen = []
    for kill in range(5):
        child = subprocess.Popen([sys.executable, "-c", code])
        wanted = 5 * kill + generator.randint(1, 5)  # of 29 files of features
        while child.poll() is None and finished_chunks(tmp_path / "killed") < wanted:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        child.wait()
        seen.append(finished_chunks(tmp_path / "killed"))
    assert (
        seen[0] > 0
        and seen == sorted(seen)
        and not (folder(tmp_path / "killed") / "result.json").exists()
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in FILES:
        assert read(tmp_path / "killed", name) == read(tmp_path / "whole", name), name


def finished_chunks(root: Path) -> int:
    return len(list((folder(root) / "features").glob("*.rows")))


def planned(root: Path, *settings: RetrievalConfig) -> EvaluatePlan:
    """The plan below `root`, with the digests of the files as planning makes them."""
    stages = {one.dataset: StagePlan(str(root), 0, data_digest(one)) for one in settings}
    plan = evaluate_plan(root, data_digest(*settings), retrieval=settings)
    return dataclasses.replace(plan, benchmarks=stages)


def data_digest(*settings: RetrievalConfig) -> str:
    return benchmark_digest(EvaluateConfig(retrieval=settings), "retrieval")


def put(setting: RetrievalConfig, change: Callable[[dict], None]) -> None:
    """Change the file of captions."""
    content = json.loads(Path(setting.annotations).read_text())
    change(content)
    Path(setting.annotations).write_text(json.dumps(content))


def another_caption(content: dict) -> None:
    content["images"][0]["sentences"][0]["raw"] = "something else"


def test_a_finished_result_is_not_computed_again_and_another_input_is(tmp_path, checkpoint):
    setting = config(tmp_path)
    plan = evaluate_plan(tmp_path / "run", data_digest(setting), retrieval=(setting,))
    first = retrieval.run(checkpoint, plan, progress=False)
    stamp = (folder(tmp_path / "run") / "result.json").stat().st_mtime_ns
    assert retrieval.run(checkpoint, plan, progress=False) == first
    assert (folder(tmp_path / "run") / "result.json").stat().st_mtime_ns == stamp
    put(setting, another_caption)
    changed = evaluate_plan(tmp_path / "run", data_digest(setting), retrieval=(setting,))
    assert changed.stage.data_digest != plan.stage.data_digest
    second = retrieval.run(checkpoint, changed, progress=False)
    assert second.inputs_digest != first.inputs_digest
    assert second.metrics["drawn/i2t_recall@1"].value < 100


def two(tmp_path: Path) -> tuple[RetrievalConfig, RetrievalConfig]:
    """Two benchmarks: 60 photos that are their captions, 40 that are another photo's."""
    left = config(tmp_path / "left")
    right = config(tmp_path / "right", n=40, shuffle=True, expect=50)
    return left, dataclasses.replace(right, dataset="Flickr 30k/ü")


def stamps(root: Path) -> dict[str, int]:
    """Part -> when it was written."""
    parts = folder(root).glob("benchmark-*/part.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in parts}


def test_several_benchmarks_give_one_result_with_the_numbers_of_each(tmp_path, checkpoint):
    left, right = two(tmp_path)
    alone = [
        retrieval.run(checkpoint, planned(tmp_path / one.dataset[:5], one), progress=False)
        for one in (left, right)
    ]
    both = retrieval.run(checkpoint, planned(tmp_path / "both", left, right), progress=False)
    assert both.metrics == alone[0].metrics | alone[1].metrics
    assert (both.dataset, both.split) == ("drawn, Flickr 30k/ü", "test")
    assert both.protocol == alone[0].protocol == alone[1].protocol
    assert both.n_examples == 100 and both.failure == ""
    assert [one.is_partial for one in (*alone, both)] == [False, True, True]
    assert not {"", alone[0].inputs_digest, alone[1].inputs_digest} & {both.inputs_digest}
    assert both.main_metrics == [
        "drawn/i2t_recall@1",
        "drawn/t2i_recall@1",
        "Flickr 30k/ü/i2t_recall@1",
        "Flickr 30k/ü/t2i_recall@1",
    ]
    assert both.counts == {
        f"{one.dataset}_{name}": n for one in alone for name, n in one.counts.items()
    }
    rows = score_rows(both, tmp_path / "both")
    expected = {}
    for one in alone:
        expected |= score_rows(one, tmp_path / one.dataset[:5])
    assert rows == expected and len(rows) == 4
    assert recomputed(both, tmp_path / "both") == {
        name: both.metrics[name].value for name in both.main_metrics
    }
    examples = json.loads(read(tmp_path / "both", "examples.json"))
    assert {example["asked"].partition(")")[0] for example in examples} == {
        "(drawn",
        "(Flickr 30k/ü",
    }
    assert [one["hit"] for one in examples] == sorted(
        (one["hit"] for one in examples), reverse=True
    )
    found = results.read_results(str(tmp_path / "both"))
    assert found == [both], "a part is no result of its own"


def test_a_new_benchmark_beside_a_finished_one_does_not_run_it_again(tmp_path, checkpoint):
    left, right = two(tmp_path)
    root = tmp_path / "run"
    single = retrieval.run(checkpoint, planned(root, left), progress=False)
    before = stamps(root)
    both = retrieval.run(checkpoint, planned(root, left, right), progress=False)
    after = stamps(root)
    assert len(after) == 2 and before.items() <= after.items()
    assert both.inputs_digest != single.inputs_digest
    assert both.metrics.items() > single.metrics.items()
    put(right, another_caption)
    third = retrieval.run(checkpoint, planned(root, left, right), progress=False)
    assert third.inputs_digest != both.inputs_digest
    assert {name for name in after if stamps(root)[name] != after[name]} == set(after) - set(before)
    again = retrieval.run(checkpoint, planned(root, left), progress=False)
    assert again == single and stamps(root).items() >= before.items()
    next(folder(root).glob("benchmark-drawn/predictions.parquet")).write_bytes(b"damaged")
    assert retrieval.run(checkpoint, planned(root, left, right), progress=False) == third
    assert stamps(root)["benchmark-drawn"] != before["benchmark-drawn"], "damaged, so made again"


def test_a_benchmark_that_stands_in_an_earlier_run_is_taken_from_there(tmp_path, checkpoint):
    left, right = two(tmp_path)
    early = retrieval.run(checkpoint, planned(tmp_path / "early", left), progress=False)
    plan = planned(tmp_path / "late", left, right)
    there = StagePlan(str(tmp_path / "early"), 0, data_digest(left))
    plan = dataclasses.replace(plan, benchmarks={**plan.benchmarks, left.dataset: there})
    before = stamps(tmp_path / "early")
    late = retrieval.run(checkpoint, plan, progress=False)
    assert late.metrics.items() > early.metrics.items()
    assert stamps(tmp_path / "early") == before and len(stamps(tmp_path / "late")) == 1


def test_one_digest_for_all_runs_all_again(tmp_path, checkpoint):
    left, right = two(tmp_path)
    first = retrieval.run(
        checkpoint, evaluate_plan(tmp_path, "1", retrieval=(left, right)), progress=False
    )
    before = stamps(tmp_path)
    second = retrieval.run(
        checkpoint, evaluate_plan(tmp_path, "2", retrieval=(left, right)), progress=False
    )
    assert second.inputs_digest != first.inputs_digest and second.metrics == first.metrics
    assert all(stamps(tmp_path)[name] != before[name] for name in before)


def test_a_killed_run_keeps_the_benchmark_that_it_had_finished(tmp_path, checkpoint, monkeypatch):
    left, right = two(tmp_path)
    root = tmp_path / "run"
    whole = retrieval.run(checkpoint, planned(tmp_path / "whole", left, right), progress=False)
    read_file = gallery.read_image_bytes

    def dying(address):
        if address.startswith(right.images):
            raise Killed
        return read_file(address)

    with monkeypatch.context() as patch:
        patch.setattr(gallery, "read_image_bytes", dying)
        with pytest.raises(Killed):
            retrieval.run(checkpoint, planned(root, left, right), progress=False)
    before = stamps(root)
    assert list(before) == ["benchmark-drawn"] and not (folder(root) / "result.json").exists()
    assert retrieval.run(checkpoint, planned(root, left, right), progress=False) == whole
    assert stamps(root)["benchmark-drawn"] == before["benchmark-drawn"]
    for name in FILES:
        assert read(root, name) == read(tmp_path / "whole", name), name


def test_a_benchmark_that_fails_is_named_beside_the_numbers_of_the_other(tmp_path, checkpoint):
    left, right = two(tmp_path)
    root = tmp_path / "run"
    Path(right.annotations).rename(tmp_path / "away.json")
    plan = planned(root, left, right)
    assert plan.stage.data_digest.startswith("missing: ")
    failed = retrieval.run(checkpoint, plan, progress=False)
    assert failed.failure.startswith("Flickr 30k/ü: DataError: ")
    assert right.annotations in failed.failure and "drawn:" not in failed.failure
    assert failed.metrics["drawn/i2t_recall@1"].value == 100.0
    assert failed.main_metrics == ["drawn/i2t_recall@1", "drawn/t2i_recall@1"]
    assert results.read_result(str(folder(root))) == failed
    floors = GateConfig(floors=("drawn/i2t_recall@1",))
    pointer = str(tmp_path / "promoted.json")
    gate = GatePlan(StagePlan(str(root), 0, "d"), "x", pointer, gate=floors)
    weights = CheckpointInfo(checkpoint, 1, 1, 1.0, failed.weights_sha256, "c", "k", 1)
    verdict = promotion.decide(gate, weights, [failed])
    assert not verdict.promoted and "Flickr 30k/ü: DataError" in verdict.reason
    table = summary_table([failed])
    assert "failed: Flickr 30k/ü: DataError" in table and "drawn/i2t_recall@1" in table
    before = stamps(root)["benchmark-drawn"]
    (tmp_path / "away.json").rename(right.annotations)
    mended = retrieval.run(checkpoint, planned(root, left, right), progress=False)
    assert mended.failure == "" and len(mended.main_metrics) == 4
    assert stamps(root)["benchmark-drawn"] == before
    assert promotion.decide(gate, weights, [mended]).promoted


def test_table_deck_and_gate_show_both_benchmarks(tmp_path, checkpoint):
    left, right = two(tmp_path)
    left, right = (
        dataclasses.replace(one, dataset=name)
        for one, name in ((left, "flickr30k"), (right, "little"))
    )
    result = retrieval.run(checkpoint, planned(tmp_path, left, right), progress=False)
    names = [f"{one}/{way}_recall@1" for one in ("flickr30k", "little") for way in ("i2t", "t2i")]
    assert result.main_metrics == names
    table = summary_table([result])
    deck = evaluation_deck(result, str(folder(tmp_path))).replace("<wbr>", "")
    assert all(name in table and name in deck for name in names)
    assert "retrieval on flickr30k, little, test" in deck
    rows = {row.metric: row for row in rows_of(result, presets.paper_b16(), published)}
    own, other = rows["flickr30k/i2t_recall@1"], rows["little/i2t_recall@1"]
    assert own.paper_metric == "" and {one.metric for one in own.paper} == {own.metric}
    assert other.paper_metric == "coco/i2t_recall@1" and "task (little)" in other.differs
    assert {one.metric for one in other.paper} == {other.paper_metric}
    floors = GateConfig(floors=("flickr30k/i2t_recall@1",))
    pointer = str(tmp_path / "promoted.json")
    gate = GatePlan(StagePlan(str(tmp_path), 0, "d"), "x", pointer, gate=floors)
    weights = CheckpointInfo(checkpoint, 1, 1, 1.0, result.weights_sha256, "c", "k", 1)
    assert promotion.decide(gate, weights, [result]).promoted
    assert set(json.loads(Path(gate.promoted).read_text())["metrics"]) == set(names)
    newer = dataclasses.replace(weights, weights_sha256="new")
    assert set(promotion.decide(gate, newer, [result]).compared) == set(names)


def test_the_presets_ask_for_both_of_karpathys_benchmarks():
    coco, flickr30k = presets.benchmarks("d").retrieval
    assert (coco.dataset, coco.expect_images, coco.split) == ("coco", 5000, "test")
    assert (flickr30k.dataset, flickr30k.expect_images, flickr30k.split) == (
        "flickr30k",
        1000,
        "test",
    )
    assert flickr30k.annotations == "d/flickr30k/dataset_flickr30k.json"
    assert flickr30k.images == "d/flickr30k/images" and coco.images == "d/coco/images"
    assert all(published(f"{one.dataset}/i2t_recall@1") for one in (coco, flickr30k))


def test_wrong_splits_and_broken_files_become_results_that_say_why(tmp_path, checkpoint):
    setting = config(tmp_path, n=10, expect=10)

    def failure(**changes) -> str:
        fields = {
            "annotations": setting.annotations,
            "images": setting.images,
            "dataset": "drawn",
            "expect_images": 10,
        } | changes
        result = retrieval.run(
            checkpoint,
            evaluate_plan(tmp_path / "run", retrieval=(RetrievalConfig(**fields),)),
            progress=False,
        )
        assert not result.metrics
        written = json.loads(read(tmp_path / "run", "result.json"))
        assert written["failure"] == result.failure
        return result.failure

    assert "holds 10 images, but drawn has 5: another split" in failure(expect_images=5)
    assert "has no split 'val'; it has test" in failure(split="val")
    assert "missing.json" in failure(annotations=str(tmp_path / "missing.json"))
    (tmp_path / "images" / "0003.png").write_bytes(b"not a picture")
    assert "0003.png" in failure()
    (tmp_path / "images" / "0003.png").unlink()
    assert "0003.png" in failure()
    draw("again", tmp_path / "images" / "0003.png")
    content = json.loads(Path(setting.annotations).read_text())
    content["images"].append(content["images"][0])
    Path(setting.annotations).write_text(json.dumps(content))
    assert "0000 is listed 2 times" in failure(expect_images=11)
    content["images"][-1] = {"filename": "0009.png", "split": "test", "sentences": []}
    content["images"].pop(9)
    Path(setting.annotations).write_text(json.dumps(content))
    assert "has no caption" in failure()
    Path(setting.annotations).write_text("[1, 2]")
    assert "neither Karpathy's json nor COCO's" in failure()
    with pytest.raises(ConfigError, match="evaluate.retrieval is not set"):
        retrieval.run(checkpoint, evaluate_plan(tmp_path / "run"), progress=False)


def test_a_diverged_tower_is_refused(tmp_path):
    poisoned = tiny_checkpoint(tmp_path, poison=True)
    result = retrieval.run(
        poisoned,
        evaluate_plan(tmp_path / "run", retrieval=(config(tmp_path, n=10, expect=10),)),
        progress=False,
    )
    assert "non-finite features" in result.failure and result.weights_sha256


def test_a_limit_makes_the_result_partial(tmp_path, checkpoint):
    plan = evaluate_plan(tmp_path / "run", retrieval=(config(tmp_path, n=10, expect=10, limit=10),))
    assert retrieval.run(checkpoint, plan, progress=False).is_partial


def test_examples_show_hits_first_with_pictures(tmp_path, checkpoint):
    plan = evaluate_plan(tmp_path / "run", retrieval=(config(tmp_path),))
    retrieval.run(checkpoint, plan, progress=False)
    examples = json.loads(read(tmp_path / "run", "examples.json"))
    assert 6 <= len(examples) <= 12
    assert [example["hit"] for example in examples] == sorted(
        (example["hit"] for example in examples), reverse=True
    )
    for example in examples:
        assert set(example) - {"labels"} == {"hit", "pictures", "asked", "predicted", "truth"}
        assert all(picture.startswith("data:image/png;base64,") for picture in example["pictures"])
        if example["asked"].startswith("Which picture"):
            assert len(example["pictures"]) == (1 if example["hit"] else 2)
            assert len(example["labels"]) == len(example["pictures"])


def test_cocos_own_json_is_read(tmp_path, checkpoint, slices):
    setting = RetrievalConfig(
        str(slices / "coco_captions/annotations/captions_val2017.json"),
        str(slices / "coco_captions/val2017"),
        expect_images=5000,
    )
    result = retrieval.run(
        checkpoint, evaluate_plan(tmp_path, retrieval=(setting,)), progress=False
    )
    assert result.failure == "" and result.is_partial
    assert result.counts["images"] == 63 and result.counts["texts"] >= 63 * 5


def test_flickr30k_in_karpathys_json(tmp_path, checkpoint, slices):
    pack = slices / "flickr30k_multi30k"
    setting = RetrievalConfig(
        str(pack / "dataset_flickr30k.json"),
        str(pack / "flickr30k-images"),
        "flickr30k",
        expect_images=1000,
    )
    result = retrieval.run(
        checkpoint, evaluate_plan(tmp_path, retrieval=(setting,)), progress=False
    )
    assert result.failure == "" and result.is_partial
    assert result.counts == {
        "images": 163,
        "texts": 815,
        "fewest_texts_an_image": 5,
        "most_texts_an_image": 5,
    }
    assert all(metric.n for metric in result.metrics.values())
    assert all((m.bounds is None) == (m.chance is None) for m in result.metrics.values())
