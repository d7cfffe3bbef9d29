"""Evaluation results on disk, intervals and tables."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from conftest import PROJECT
from drawn import tiny_checkpoint
from found import score_rows

from clippo_core import storage
from clippo_core.config import EvaluateConfig, GlueConfig, replace
from clippo_core.data.thumbnails import data_uri
from clippo_core.embedder import Clippo
from clippo_core.errors import DataError, EvaluationError, NotFoundError, Preempted
from clippo_core.evaluate import results
from clippo_core.evaluate.bootstrap import bootstrap_interval
from clippo_core.evaluate.harness import evaluate
from clippo_core.evaluate.scores import Scores
from clippo_core.run.records import EvalResult, EvaluatePlan, Metric, StagePlan


def result(**fields):
    values = {
        "name": "glue",
        "dataset": "glue",
        "split": "dev",
        "protocol": "BERT's",
        "n_examples": 277,
        "metrics": {"glue/rte_accuracy": Metric(61.5, 55.0, 67.0, 52.7, 277)},
        "weights_sha256": "a" * 64,
        "inputs_digest": "d1",
    }
    return EvalResult(**{**values, **fields})


def plan(root="/nowhere", **changes):
    evaluate = replace(EvaluateConfig(glue=GlueConfig("/data/glue")), **changes)
    return EvaluatePlan(
        StagePlan(root=str(root), seed=0, data_digest="data", generation=""), evaluate
    )


def digest_of(a_plan, weights="w"):
    return results.inputs_digest(
        a_plan, "glue", weights_sha256=weights, render_digest="r", code_digest="c"
    )


def some_scores(values=(0.5, 1.0)):
    scores = Scores()
    scores.add("glue/rte_accuracy", ["x", "y"], list(values), targets=[0.0, 1.0], text=["a", "b"])
    return scores


def test_round_trip_and_same_bytes_again(tmp_path):
    folder = str(tmp_path / "evaluations" / "glue")
    picture = data_uri(np.zeros((2, 3, 3), np.uint8))
    examples = [{"hit": True, "pictures": [picture], "asked": "?", "predicted": "a", "truth": "a"}]
    written = results.write_result(folder, result(), some_scores(), examples, {"fine-tuning": 1.25})
    assert results.read_result(folder) == written
    assert written == replace(
        result(), scores="predictions.parquet", scores_sha256=written.scores_sha256
    )
    assert [row["score"] for row in score_rows(written, tmp_path)["glue/rte_accuracy"]] == [0.5, 1]
    assert json.loads((tmp_path / "evaluations/glue/timings.json").read_text()) == {
        "fine-tuning": 1.25
    }
    assert json.loads((tmp_path / "evaluations/glue/examples.json").read_text()) == examples
    first = {path.name: path.read_bytes() for path in (tmp_path / "evaluations/glue").iterdir()}
    results.write_result(folder, result(), some_scores(), examples, {"fine-tuning": 9.0})
    second = {path.name: path.read_bytes() for path in (tmp_path / "evaluations/glue").iterdir()}
    assert [name for name in first if first[name] != second[name]] == ["timings.json"]


def test_scores_of_several_metrics_are_one_table_and_equal_scores_equal_bytes():
    scores = some_scores()
    scores.add("set/recall@1", [7], [100.0], groups=["photo"], rank=[1])
    table = pyarrow.parquet.read_table(io.BytesIO(scores.to_parquet()))
    assert table.schema.names == [
        "metric", "example", "group", "score", "target", "text", "rank",
    ]  # fmt: skip
    assert [str(field.type) for field in table.schema][:5] == ["string"] * 3 + ["double"] * 2
    assert table.to_pylist()[1:] == [
        {"metric": "glue/rte_accuracy", "example": "y", "group": "y", "score": 1.0, "target": 1.0,
         "text": "b", "rank": None},
        {"metric": "set/recall@1", "example": "7", "group": "photo", "score": 100.0,
         "target": None, "text": None, "rank": 1},
    ]  # fmt: skip
    assert some_scores().to_parquet() == some_scores().to_parquet()
    assert some_scores().to_parquet() != some_scores((0.5, 0.0)).to_parquet()


def test_lost_scores_make_the_evaluation_run_again(tmp_path):
    written = results.write_result(str(tmp_path), result(), some_scores())
    assert results.finished_result(str(tmp_path), "d1") == written
    (tmp_path / written.scores).unlink()
    assert results.finished_result(str(tmp_path), "d1") is None


def test_only_the_first_rank_writes_and_every_rank_has_the_result(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    other = results.write_result(str(tmp_path), result(), some_scores())
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    assert results.write_result(str(tmp_path), result(), some_scores()) == other


def test_a_result_of_schema_1_is_read_without_scores(tmp_path):
    """The file was written by version 0.1.0, which had one dict per property of a metric."""
    old = (PROJECT / "tests/golden/result-schema-1.json").read_text()
    (tmp_path / "result.json").write_text(old)
    found = results.read_result(str(tmp_path))
    assert found.metrics == {
        "numbers_vqa/number": Metric(0.0, 0.0, 0.0, 10.5, 400),
        "numbers_vqa/other": Metric(why_not="no such question among the scored"),
        "numbers_vqa/overall": Metric(
            25.25,
            22.309375,
            28.000000000000004,
            30.5,
            800,
            "degenerate: every answer is 'no'; 1 of 1 trials collapsed",
        ),
        "numbers_vqa/question_type/is it": Metric(50.5, 44.61875, 56.00000000000001, 50.5, 400),
        "numbers_vqa/question_type/none of the above": Metric(0.0, 0.0, 0.0, 10.5, 400),
        "numbers_vqa/yes_no": Metric(50.5, 44.61875, 56.00000000000001, 50.5, 400),
    }
    assert (found.schema_version, found.scores, found.scores_sha256) == (2, "", "")
    same = json.loads(old)
    for name in ("counts", "main_metrics", "protocol", "n_examples", "inputs_digest", "is_demo"):
        assert getattr(found, name) == same[name]
    assert found.weights_sha256 == same["weights_sha256"] and found.is_partial is False
    without_n = {**same, "n_by_metric": {}}
    (tmp_path / "result.json").write_text(json.dumps(without_n))
    assert results.read_result(str(tmp_path)).metrics["numbers_vqa/number"].n == 800
    (tmp_path / "result.json").write_text(json.dumps({**same, "schema_version": 3}))
    with pytest.raises(EvaluationError, match="schema 3, and this version reads up to 2"):
        results.read_result(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ("[]", "it is a list, and must be an object"),
        ("{}", "schema_version is missing"),
        ('{"schema_version": true}', "schema_version is true or false"),
        ('{"schema_version": 0}', "it has schema 0"),
        ('{"schema_version": 2, "n_examples": 1e400}', "beyond every number"),
        ('{"schema_version": 1, "metrics": 3}', "it is no evaluation result"),
        ('{"schema_version": 1, "metrics": {"a": 1}, "confidence": {"a": [1]}}', "no evaluation"),
        ('{"schema_version": 2, "name": "glue"}', "it is no evaluation result"),
        (b"\xff", "it is not UTF-8"),
    ],
)
def test_a_result_from_outside_is_refused_in_one_sentence(tmp_path, content, words):
    path = tmp_path / "result.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EvaluationError, match=words) as caught:
        results.read_result(str(tmp_path))
    assert str(caught.value).startswith(str(path)) and str(caught.value).isprintable()
    assert results.finished_result(str(tmp_path), "d1") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": "../../etc/passwd"}, "its scores are said to be in"),
        ({"scores": "s3://bucket/x"}, "its scores are said to be in"),
        ({"metrics": {"a/b": {"value": 1.0, "low": 0.5}}}, "one end of an interval"),
        ({"metrics": {"a/b": {}}}, "either a value or the reason"),
        ({"metrics": {"a/b": {"value": "1"}}}, "no evaluation result"),
    ],
)
def test_a_result_says_only_what_is_written_here(tmp_path, changes, words):
    results.write_result(str(tmp_path), result(), some_scores())
    written = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps(written | changes))
    with pytest.raises(EvaluationError, match=words):
        results.read_result(str(tmp_path))


def test_scores_come_back_as_they_were_and_damaged_ones_are_refused():
    scores = Scores()
    scores.add("a/b", [1, 2], [0.5, None], targets=[1.0, 2.0], text=["x", None], n=[3, None])
    scores.add("a/c", ["é"], [1], hit=[True], empty=[None])
    table = scores.to_parquet()
    again = Scores()
    again.add_parquet(table, "s3://b/x")
    assert again.columns == scores.columns and again.to_parquet() == table
    for damaged in (table[:-9], b"", table[:300] + b"\0" * 50 + table[350:]):
        with pytest.raises(EvaluationError, match="s3://b/x: "):
            Scores().add_parquet(damaged, "s3://b/x")


def test_result_is_the_last_file_written(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(storage, "write_text", lambda uri, data, **_: written.append(uri))
    monkeypatch.setattr(storage, "write_bytes", lambda uri, data, **_: written.append(uri))
    results.write_result(str(tmp_path), result(), some_scores())
    assert written[-1].endswith("result.json") and len(written) == 4


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric(math.nan, n=3), "value nan; put the reason into why_not"),
        (Metric(math.inf, n=3), "value inf"),
        (Metric(1.0, chance=math.nan), "chance nan"),
        (Metric(1.0, 0.5, math.nan), "high nan"),
        (Metric(1.0, 0.5), "one end of an interval"),
        (Metric(), "either a value or the reason"),
        (Metric(1.0, why_not="lost"), "either a value or the reason"),
    ],
)
def test_a_metric_is_a_finite_number_or_says_why_it_is_none(tmp_path, metric, words):
    with pytest.raises(EvaluationError, match=words):
        results.write_result(str(tmp_path), result(metrics={"glue/stsb_spearman": metric}))
    assert not list(tmp_path.iterdir())


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(EvaluationError, match="differ in length"):
        Scores().add("a/b", [1, 2], [1.0])


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
    different = [
        plan(glue__separator="|"),
        plan(bootstrap_samples=10),
        plan(glue__finetune__epochs=9),
    ]
    assert len({base, digest_of(plan(), weights="v"), *map(digest_of, different)}) == 5


def test_read_results_finds_every_folder_and_sorts(tmp_path):
    for run, weights in (("b", "b" * 64), ("a", "a" * 64)):
        for name in ("vqa", "glue"):
            folder = str(tmp_path / run / "evaluations" / name)
            results.write_result(folder, result(name=name, weights_sha256=weights))
    found = results.read_results(str(tmp_path))
    assert [(r.weights_sha256[0], r.name) for r in found] == [
        ("a", "glue"),
        ("a", "vqa"),
        ("b", "glue"),
        ("b", "vqa"),
    ]
    with pytest.raises(NotFoundError):
        results.read_results(str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tower"))


def harness(checkpoint, root, work, data_digest="data"):
    stage = StagePlan(root=str(root), seed=0, data_digest=data_digest)
    return evaluate("glue", checkpoint, replace(plan(root), stage=stage), False, work)


def test_expected_failures_become_results_and_others_stay_errors(tmp_path, checkpoint):
    def raises(error):
        def work(session):
            session.not_run("rte_accuracy", "noted before the failure")
            raise error

        return work

    folder = tmp_path / "evaluations" / "glue"
    gone = DataError("annotations.json: not there; give its path.")
    failed = harness(checkpoint, tmp_path, raises(gone))
    assert failed.failure == "DataError: annotations.json: not there; give its path."
    assert failed.metrics == {} and failed.inputs_digest == ""
    assert failed.weights_sha256 == Clippo.load(checkpoint).weights_sha256
    assert failed.render_digest and failed.code_digest
    assert results.read_result(str(folder)) == failed
    unreadable = harness(str(tmp_path / "none.safetensors"), tmp_path, raises(gone))
    assert unreadable.failure.startswith("NotFoundError") and unreadable.weights_sha256 == ""
    before = (folder / "result.json").read_bytes()
    for error in (Preempted("asked to stop"), TypeError("a bug")):
        with pytest.raises(type(error)):
            harness(checkpoint, tmp_path, raises(error))
    assert (folder / "result.json").read_bytes() == before, "nothing was written"


def test_the_harness_runs_once_per_content_and_again_after_a_failure(tmp_path, checkpoint):
    calls = []

    def work(session):
        calls.append(session.unfinished)
        storage.write_text(f"{session.unfinished}/half", "done")
        if len(calls) == 1:
            raise EvaluationError("not today")
        session.score("rte_accuracy", np.array([0.0, 100.0, 100.0]), chance=50.0)
        session.flag("rte_accuracy", "small")
        session.not_run("average", "eight are missing")
        session.count(rows=3)
        session.main_metrics = ["rte_accuracy"]
        session.scores.add("glue/rte_accuracy", [1, 2, 3], [0.0, 100.0, 100.0])

    assert harness(checkpoint, tmp_path, work).failure
    assert Path(calls[0]).exists(), "what a killed or failed run left is there for the next one"
    found = harness(checkpoint, tmp_path, work)
    assert calls[0] == calls[1] and not Path(calls[1]).exists()
    rte = found.metrics["glue/rte_accuracy"]
    assert rte == Metric(pytest.approx(200 / 3), 0.0, 100.0, 50.0, 3, "small")
    assert found.metrics["glue/average"] == Metric(why_not="eight are missing")
    assert found.main_metrics == ["glue/rte_accuracy"] and found.counts == {"rows": 3}
    assert harness(checkpoint, tmp_path, work) == found and len(calls) == 2
    other = harness(checkpoint, tmp_path, work, data_digest="changed")
    assert len(calls) == 3 and other.inputs_digest != found.inputs_digest


def test_interval_covers_the_mean_and_ignores_order():
    random = np.random.default_rng(3)
    values = random.binomial(1, 0.3, 400).astype(float)
    low, high = bootstrap_interval(values, 2000, seed=1)
    error = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / len(values))
    assert low == pytest.approx(values.mean() - error, abs=0.006) and high == pytest.approx(
        values.mean() + error, abs=0.006
    )
    assert bootstrap_interval(random.permutation(values), 2000, seed=1) == [low, high]
    assert bootstrap_interval(values, 2000, seed=2) != [low, high]
    assert bootstrap_interval([1.0] * 9) == [1.0, 1.0]


def test_interval_equals_plain_resampling_in_distribution():
    random = np.random.default_rng(0)
    values = random.normal(size=60)
    naive = [random.choice(values, len(values)).mean() for _ in range(20_000)]
    assert bootstrap_interval(values, 20_000) == pytest.approx(
        np.quantile(naive, [0.025, 0.975]), abs=0.01
    )


def test_interval_of_a_statistic_and_over_groups():
    values = np.array([0.0, 1.0, 1.0, 0.0] * 25)
    groups = np.repeat(np.arange(50), 2)
    assert bootstrap_interval(values, 500, groups=np.arange(100)) == pytest.approx(
        bootstrap_interval(values, 500), abs=0.02
    )
    clustered = np.repeat([0.0, 1.0], 50)
    wide, narrow = (
        bootstrap_interval(clustered, 500, groups=np.repeat(np.arange(10), 10)),
        bootstrap_interval(clustered, 500),
    )
    assert wide[1] - wide[0] > 2 * (
        narrow[1] - narrow[0]
    )  # ten photos are ten observations, not a hundred

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
    assert (
        chosen
        == results.hits_and_misses(correct, seed=5)
        != results.hits_and_misses(correct, seed=6)
    )
    assert [bool(correct[i]) for i in chosen] == [True] * 6 + [False] * 6
    assert len(results.hits_and_misses([True, True])) == 2
