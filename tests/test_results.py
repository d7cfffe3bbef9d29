"""Evaluation results on disk, intervals and tables."""

import json
import math

import numpy as np
import pyarrow.parquet
import pytest

from clippo_core import storage
from clippo_core.config import EvaluateConfig, GlueConfig, replace
from clippo_core.errors import DataError, EvaluationError, NotFoundError, Preempted
from clippo_core.evaluate import results, tables
from clippo_core.evaluate.results import bootstrap_interval
from clippo_core.records import EvalResult, EvaluatePlan, StagePlan


def result(**fields):
    values = {
        "name": "glue",
        "dataset": "glue",
        "split": "dev",
        "protocol": "BERT's",
        "n_examples": 277,
        "metrics": {"glue/rte_accuracy": 61.5},
        "confidence": {"glue/rte_accuracy": [55.0, 67.0]},
        "chance": {"glue/rte_accuracy": 52.7},
        "weights_sha256": "a" * 64,
        "inputs_digest": "d1",
    }
    return EvalResult(**{**values, **fields})


def plan(root="/nowhere", **changes):
    evaluate = replace(EvaluateConfig(glue=GlueConfig("/data/glue")), **changes)
    return EvaluatePlan(StagePlan(root=str(root), seed=0, data_digest="data", generation=""), evaluate)


def digest_of(a_plan, weights="w"):
    return results.inputs_digest(a_plan, "glue", weights_sha256=weights, render_digest="r", code_digest="c")


def test_round_trip_and_same_bytes_again(tmp_path):
    folder = str(tmp_path / "evaluations" / "glue")
    examples = [{"hit": True, "pictures": [results.picture(np.zeros((2, 3, 3), np.uint8))], "asked": "?", "predicted": "a", "truth": "a"}]
    predictions = {"key": ["x", "y"], "score": [0.5, 1.0]}
    results.write_result(folder, result(), predictions, examples, {"fine-tuning": 1.25})
    assert results.read_result(folder) == result()
    assert pyarrow.parquet.read_table(f"{folder}/predictions.parquet").to_pydict() == predictions
    assert json.loads((tmp_path / "evaluations/glue/timings.json").read_text()) == {"fine-tuning": 1.25}
    assert json.loads((tmp_path / "evaluations/glue/examples.json").read_text()) == examples
    first = {path.name: path.read_bytes() for path in (tmp_path / "evaluations/glue").iterdir()}
    results.write_result(folder, result(), predictions, examples, {"fine-tuning": 9.0})
    second = {path.name: path.read_bytes() for path in (tmp_path / "evaluations/glue").iterdir()}
    assert [name for name in first if first[name] != second[name]] == ["timings.json"]


def test_result_is_the_last_file_written(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(storage, "write_text", lambda uri, data, **_: written.append(uri))
    monkeypatch.setattr(storage, "write_bytes", lambda uri, data, **_: written.append(uri))
    results.write_result(str(tmp_path), result(), {"a": [1]})
    assert written[-1].endswith("result.json") and len(written) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["metrics", "chance"])
def test_non_finite_numbers_are_refused(tmp_path, field, value):
    with pytest.raises(EvaluationError, match="not_run"):
        results.write_result(str(tmp_path), result(**{field: {"glue/stsb_spearman": value}}))
    assert not list(tmp_path.iterdir())


def test_columns_of_unequal_length_and_bad_intervals_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="differ in length"):
        results.write_result(str(tmp_path), result(), {"a": [1, 2], "b": [1]})
    with pytest.raises(EvaluationError, match="two finite numbers"):
        results.write_result(str(tmp_path), result(confidence={"glue/rte_accuracy": [1.0, math.nan]}))


def test_skips_only_what_was_made_from_the_same_inputs_and_did_not_fail(tmp_path):
    folder = str(tmp_path / "glue")
    assert results.finished_result(folder, "d1") is None
    results.write_result(folder, result())
    assert results.finished_result(folder, "d1") == result()
    assert results.finished_result(folder, "d2") is None
    results.write_result(folder, result(failure="no such file"))
    assert results.finished_result(folder, "d1") is None
    (tmp_path / "glue" / "result.json").write_text("{cut")
    assert results.finished_result(folder, "d1") is None
    with pytest.raises(EvaluationError, match="delete it"):
        results.read_result(folder)


def test_inputs_digest_knows_what_changes_a_result():
    base = digest_of(plan())
    assert digest_of(plan("/elsewhere")) == base
    assert digest_of(plan(batch_size=7)) == base
    different = [plan(glue__separator="|"), plan(bootstrap_samples=10), plan(glue__finetune__epochs=9)]
    assert len({base, digest_of(plan(), weights="v"), *map(digest_of, different)}) == 5


def test_read_results_finds_every_folder_and_sorts(tmp_path):
    for run, weights in (("b", "b" * 64), ("a", "a" * 64)):
        for name in ("vqa", "glue"):
            folder = str(tmp_path / run / "evaluations" / name)
            results.write_result(folder, result(name=name, weights_sha256=weights))
    found = results.read_results(str(tmp_path))
    assert [(r.weights_sha256[0], r.name) for r in found] == [("a", "glue"), ("a", "vqa"), ("b", "glue"), ("b", "vqa")]
    with pytest.raises(NotFoundError):
        results.read_results(str(tmp_path / "nothing"))


def test_expected_failures_become_results_and_others_stay_errors(tmp_path):
    def fails():
        raise DataError("annotations.json: not there; give its path.")

    failed = results.guarded("vqa", "vqav2", str(tmp_path / "vqa"), fails, {"weights_sha256": "w"})
    assert failed.failure == "DataError: annotations.json: not there; give its path." and not failed.metrics
    assert failed.weights_sha256 == "w"
    assert results.read_result(str(tmp_path / "vqa")) == failed

    def broken():
        raise TypeError("a bug")

    def stopped():
        raise Preempted("asked to stop")

    with pytest.raises(Preempted):
        results.guarded("vqa", "vqav2", str(tmp_path / "stop"), stopped)
    with pytest.raises(TypeError):
        results.guarded("vqa", "vqav2", str(tmp_path / "bug"), broken)


def test_interval_covers_the_mean_and_ignores_order():
    random = np.random.default_rng(3)
    values = random.binomial(1, 0.3, 400).astype(float)
    low, high = bootstrap_interval(values, 2000, seed=1)
    error = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / len(values))
    assert low == pytest.approx(values.mean() - error, abs=0.006) and high == pytest.approx(values.mean() + error, abs=0.006)
    assert bootstrap_interval(random.permutation(values), 2000, seed=1) == [low, high]
    assert bootstrap_interval(values, 2000, seed=2) != [low, high]
    assert bootstrap_interval([1.0] * 9) == [1.0, 1.0]


def test_interval_equals_plain_resampling_in_distribution():
    random = np.random.default_rng(0)
    values = random.normal(size=60)
    naive = [random.choice(values, len(values)).mean() for _ in range(20_000)]
    assert bootstrap_interval(values, 20_000) == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.01)


def test_interval_of_a_statistic_and_over_groups():
    values = np.array([0.0, 1.0, 1.0, 0.0] * 25)
    groups = np.repeat(np.arange(50), 2)
    assert bootstrap_interval(values, 500, groups=np.arange(100)) == pytest.approx(bootstrap_interval(values, 500), abs=0.02)
    clustered = np.repeat([0.0, 1.0], 50)
    wide, narrow = bootstrap_interval(clustered, 500, groups=np.repeat(np.arange(10), 10)), bootstrap_interval(clustered, 500)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])  # ten photos are ten observations, not a hundred

    def maximum(rows, counts):
        return float(rows[counts > 0].max())

    assert bootstrap_interval(values, 100, statistic=maximum) == [1.0, 1.0]
    with pytest.raises(EvaluationError, match="leave out"):
        bootstrap_interval(values, groups=groups, statistic=maximum)
    with pytest.raises(EvaluationError, match="group labels"):
        bootstrap_interval(values, groups=[1])


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_interval_refuses_nothing_and_nan(values):
    with pytest.raises(EvaluationError, match="finite"):
        bootstrap_interval(values)


def test_hits_and_misses_are_drawn_by_seed():
    correct = np.arange(100) % 3 == 0
    chosen = results.hits_and_misses(correct, seed=5)
    assert chosen == results.hits_and_misses(correct, seed=5) != results.hits_and_misses(correct, seed=6)
    assert [bool(correct[i]) for i in chosen] == [True] * 6 + [False] * 6
    assert len(results.hits_and_misses([True, True])) == 2


def test_tables_keep_everything_that_a_reader_must_know(tmp_path):
    many = [
        result(is_partial=True, flags={"glue/rte_accuracy": "one class | only"}, not_run={"glue/mnli_mm_accuracy": "no file"}),
        result(weights_sha256="b" * 64, metrics={"glue/rte_accuracy": 70.25}, chance={}),
        EvalResult.failed("vqa", "vqav2", "DataError: gone", weights_sha256="b" * 64),
    ]
    rows = tables.table(many, {"a" * 64: "ours"})
    assert [(row["model"], row["metric"]) for row in rows] == [
        ("ours", "glue/rte_accuracy"),
        ("ours", "glue/mnli_mm_accuracy"),
        ("bbbbbbbb", "glue/rte_accuracy"),
        ("bbbbbbbb", "vqav2/*"),
    ]
    assert rows[0]["status"] == "partial; one class | only" and rows[1]["status"] == "partial; not run: no file"
    text = tables.to_markdown(many, {"a" * 64: "ours"})
    assert "| glue/rte_accuracy | 52.7 | 277 | 61.5 [55.0, 67.0] (1) | 70.2 [55.0, 67.0] |" in text
    assert "not run (2)" in text and "failed (3)" in text and "3. failed: DataError: gone" in text and "one class \\| only" in text
    lines = tables.to_csv(many).splitlines()
    assert lines[0].split(",")[:5] == ["model", "evaluation", "dataset", "split", "metric"] and len(lines) == 5
    assert [storage.exists(uri) for uri in tables.write_tables(str(tmp_path), many)] == [True, True]
