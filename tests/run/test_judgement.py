"""The gate's rule, and its rates of error on simulated predictions of the benchmarks' sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT

from clippo_core.config import GateConfig
from clippo_core.evaluate.glue.scores import matthews
from clippo_core.evaluate.paired import Column, difference, read_columns
from clippo_core.evaluate.scores import Scores
from clippo_core.run import judgement
from clippo_core.run.records import Comparison

CONFIG = GateConfig(margin=1.0, seed_noise=0.0, error=0.05)


def compared(*changes: float, error: float = 0.1) -> dict[str, Comparison]:
    """Metrics of data sets of their own that changed from 50 by `changes`."""
    return {f"{n}/m": Comparison(50, 50 + change, error, 1) for n, change in enumerate(changes)}


def test_the_mean_must_be_shown_to_lose_no_more_than_the_margin() -> None:
    # error of the mean of four: 0.1 / 2; 1.645 of that is 0.0822
    assert judgement.faults(CONFIG, compared(-0.91, -0.91, -0.91, -0.91)) == []
    (fault,) = judgement.faults(CONFIG, compared(-0.92, -0.92, -0.92, -0.92))
    assert fault == (
        "the mean of 4 main metrics changed by -0.92, known to 0.08, which does not rule out a loss"
        " of more than the margin of 1"
    )


def test_the_error_is_shared_over_the_metrics() -> None:
    # z(0.05) = 1.645 for one metric, z(0.05 / 4) = 2.241 for four
    assert judgement.faults(CONFIG, compared(-1.22, 9, 9, 9)) == []
    assert "0/m fell" in judgement.faults(CONFIG, compared(-1.23, 9, 9, 9))[0]


def test_metrics_of_one_data_set_may_err_together() -> None:
    apart = compared(0, 0, error=0.8)
    together = {"d/a": apart["0/m"], "d/b": apart["1/m"]}
    assert judgement.faults(CONFIG, apart) == []  # 1.645 * 0.8 / sqrt(2) = 0.93
    assert "known to 1.32" in judgement.faults(CONFIG, together)[0]


def test_the_noise_between_seeds_does_not_average_out() -> None:
    config = GateConfig(margin=1.0, seed_noise=0.5)
    assert "known to 1.16" in judgement.faults(config, compared(*[0] * 100, error=0))[0]


def test_only_what_is_clearly_better_is_a_reference() -> None:
    # z(0.05 / 4 / 52) = 3.49
    assert judgement.is_better(CONFIG, Comparison(50, 50.36, 0.1, 1), 4)
    assert not judgement.is_better(CONFIG, Comparison(50, 50.34, 0.1, 1), 4)


# --- differences on the same examples -------------------------------------------------------------


def column(scores: np.ndarray, groups: np.ndarray | None = None) -> Column:
    """Rows of a mean."""
    names = np.arange(len(scores))
    return Column(names, names if groups is None else groups, scores.astype(float), None)


def test_the_error_of_a_mean_sums_groups_first() -> None:
    gains = np.random.default_rng(0).normal(size=(400, 5))
    groups = np.repeat(np.arange(400), 5)
    zero = {"d/m": column(np.zeros(2000), groups)}
    found = difference("d/m", {"d/m": column(gains.ravel(), groups)}, zero)
    assert found is not None and found.value == pytest.approx(gains.mean())
    assert found.error == pytest.approx(gains.mean(axis=1).std(ddof=1) / 20)


def test_a_mean_over_languages_keeps_what_their_photos_share() -> None:
    random = np.random.default_rng(1)
    by_photo = random.normal(size=300)
    languages = {f"xm/{n}/r@1": by_photo + random.normal(0, 0.1, 300) for n in range(9)}
    now = {name: column(scores) for name, scores in languages.items()}
    before = {name: column(np.zeros(300)) for name in languages}
    found = difference("xm/r@1", now, before)
    assert found is not None
    mean = np.mean(list(languages.values()), axis=0)
    assert found == pytest.approx((mean.mean(), mean.std(ddof=1) / np.sqrt(300)))


def test_the_error_of_a_statistic_is_that_of_many_samples() -> None:
    """Matthews of two models on samples of 500 from one population: how much the difference varies
    from sample to sample, and what the gate says from a single one.
    """

    def sample(random: np.random.Generator) -> dict[str, Column]:
        truth = (random.random(500) < 0.6).astype(float)
        hard = random.random(500) < 0.5
        made = {}
        for name, share in (("now", 0.3), ("before", 0.35)):
            wrong = hard & (random.random(500) < share)
            scores = np.where(wrong, 1 - truth, truth)
            made[name] = Column(np.arange(500), np.arange(500), scores, truth)
        return made

    random = np.random.default_rng(2)
    told, values = [], []
    for _ in range(60):
        models = list(sample(random).values())
        found = difference("glue/cola_matthews", *({"glue/cola_matthews": c} for c in models))
        assert found is not None
        rows = [np.stack([c.scores, c.targets], axis=1) for c in models]
        one, two = (matthews(pairs, np.ones(500, dtype=np.int64)) for pairs in rows)
        assert found.value == pytest.approx(100 * (one - two))
        told.append(found.error)
        values.append(found.value)
    assert np.mean(told) == pytest.approx(np.std(values), rel=0.25)


def test_the_mean_of_glue_is_that_of_its_tasks() -> None:
    scores = Scores()
    truth = np.tile([0.0, 1.0], 100)
    for name in ("rte_accuracy", "cola_matthews", "mrpc_f1"):
        scores.add(f"glue/{name}", range(200), truth.tolist(), targets=truth.tolist())
    now = read_columns(scores.to_parquet(), "now")
    wrong = Scores()
    for name in ("rte_accuracy", "cola_matthews", "mrpc_f1"):
        wrong.add(f"glue/{name}", range(200), (1 - truth).tolist(), targets=truth.tolist())
    found = difference("glue/average", now, read_columns(wrong.to_parquet(), "before"))
    assert found == pytest.approx(((100 + 200 + 100) / 3, 0.0))


def test_other_examples_or_truths_are_not_paired() -> None:
    now = {"d/m": column(np.ones(5))}
    assert difference("d/m", now, {}) is None and difference("d/other", now, now) is None
    assert difference("d/m", now, {"d/m": column(np.ones(4))}) is None
    unknown = column(np.array([1, 1, np.nan, 1, 1]))
    assert difference("d/m", now, {"d/m": unknown}) is None
    truth = Column(np.arange(5), np.arange(5), np.ones(5), np.ones(5))
    other = Column(np.arange(5), np.arange(5), np.ones(5), np.zeros(5))
    name = "glue/rte_accuracy"
    assert difference(name, {name: truth}, {name: other}) is None


# --- rates of error -------------------------------------------------------------------------------


@pytest.mark.slow
def test_equal_weeks_pass_and_a_decline_is_refused_by_the_third(tmp_path: Path) -> None:
    """200 chains of 20 equal weeks, and ten steadily worse ones, by the command of docs/gate.md."""
    out = tmp_path / "gate.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/gate.py", "--out", str(out)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["equal weeks that pass, %"] >= 90
    assert found["equal weeks that pass in the last quarter, %"] >= 90
    assert found["declining: latest week of the first refusal"] <= 3
    assert found["declining: latest week that passed"] <= 3
    documented = (PROJECT / "docs" / "gate.md").read_text()
    for name, number in found.items():
        assert f"| {name} | {number:.1f} |" in documented, f"docs/gate.md has another {name}"
