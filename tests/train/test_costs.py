"""The cost model against figures worked out by hand, and the page that shows it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import PROJECT

from clippo_core.config import presets
from clippo_core.engine.choose import MemoryPlan
from clippo_core.errors import ConfigError
from clippo_core.train.costs import (
    GPUS,
    forwards_again,
    step_cost,
    tower_seconds,
    training_seconds,
)

TRAIN = replace(presets.paper_b16().train, zero_stage=0)
H100, H200 = GPUS["nvidia-h100"], GPUS["nvidia-h200"]


def test_rates_of_a_gpu_are_those_of_the_page() -> None:
    """docs/performance.md names them."""
    b16, l16 = presets.B16, presets.L16
    assert 1 / tower_seconds(b16, 224, H100, True) == pytest.approx(1750, rel=0.002)
    assert 1 / tower_seconds(b16, 224, H100, False) == pytest.approx(1310, rel=0.003)
    cudnn = replace(H100, attention=280e12)
    assert 1 / tower_seconds(b16, 224, cudnn, True) == pytest.approx(1850, rel=0.002)
    assert 1 / tower_seconds(b16, 224, H200, True) == pytest.approx(1920, rel=0.002)
    assert 1 / tower_seconds(l16, 224, H100, True) == pytest.approx(554, rel=0.002)


def test_parts_of_a_step_on_64_gpus() -> None:
    """Counted for 160 of 10,240 pairs: 31.5 MB of features and as much of their gradients, 2.6 MB
    of column parts at 50 GB/s; 374 MB of gradients hide; 9.2 GB of update at 3 TB/s.
    """
    cost = step_cost(TRAIN, presets.B16, 224, H100, 64)
    assert cost.memory.mode == "plain" and cost.again == 0
    assert cost.tower == pytest.approx(160 / 1750, rel=0.002)
    assert cost.exchanges == pytest.approx(65.6e6 / 50e9 * 63 / 64, rel=0.01)
    assert cost.update == pytest.approx(9.2e9 / 3e12, rel=0.01)
    assert cost.pairs_per_second == pytest.approx(10_240 / cost.seconds)

    sharded = step_cost(replace(TRAIN, zero_stage=1), presets.B16, 224, H100, 64)
    assert sharded.update == pytest.approx(9.2e9 / 3e12 / 64 + 0.374 / 50 * 63 / 64, rel=0.01)
    slow = step_cost(TRAIN, presets.B16, 224, replace(H100, network=5e9), 64)
    hidden = 160 / 1750 * 2 / 3
    assert slow.exchanges == pytest.approx(10 * cost.exchanges + 0.748 / 5 * 63 / 64 - hidden, 0.02)


def test_what_runs_twice_costs_a_forward_pass() -> None:
    one = step_cost(TRAIN, presets.B16, 224, H100, 1)
    assert one.memory.mode == "cached"
    pairs, chunk = TRAIN.batch_pairs, one.memory.chunk_pairs
    assert one.again / one.tower == pytest.approx(forwards_again(one.memory, pairs) / 2.993, 1e-3)
    assert 0.5 <= forwards_again(MemoryPlan("cached", chunk, ""), pairs) <= 1
    assert forwards_again(MemoryPlan("checkpoint", 0, ""), pairs) == 1
    assert forwards_again(MemoryPlan("recompute", 0, ""), pairs) == 0


def test_training_seconds_where_somebody_knows() -> None:
    of = (TRAIN, presets.B16, 224)
    cost = step_cost(TRAIN, presets.B16, 224, H200, 8)
    assert training_seconds(*of, "nvidia-h200", 8) == pytest.approx(250_000 * cost.seconds)
    assert training_seconds(*of, "", 2) == pytest.approx(250_000 * 10_240 * 212e9 / 14e10, 1e-3)
    assert training_seconds(*of, "nvidia-t4", 1) is None
    assert training_seconds(replace(TRAIN, precision="float32"), *of[1:], "nvidia-h100", 1) is None
    assert training_seconds(TRAIN, presets.one_tower_clip().model, 224, "nvidia-h100", 1) is None
    with pytest.raises(ConfigError, match="does not divide by 7 ranks"):
        training_seconds(*of, "nvidia-h200", 7)


def test_the_page_shows_what_the_model_computes() -> None:
    command = [sys.executable, "tools/cost_table.py", "--check"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
