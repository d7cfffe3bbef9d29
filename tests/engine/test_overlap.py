"""Gradients are exchanged while backward computes others: the position of each all-reduce among
backward's matrix products, in two gloo ranks.
"""

from __future__ import annotations

import sys

import pytest
from conftest import PROJECT

from clippo_core.config import ModelConfig

sys.path.insert(0, str(PROJECT / "benchmarks"))
import overlap  # noqa: E402  # benchmarks/ is no package

MODEL = ModelConfig(width=128, num_heads=2, mlp_dim=512, depth=12)
CASES = [
    overlap.Case(stage, compiled, overlap.ANY_SIZE)
    for stage in (0, 1, 2)
    for compiled in ("eager", "blocks")
]


@pytest.mark.slow
def test_an_exchange_at_the_end_would_be_seen() -> None:
    (whole,) = overlap.found_in_ranks([overlap.Case(0, "whole", overlap.ANY_SIZE)], MODEL)
    assert whole[0].at == overlap.half_at(whole) == 1.0


@pytest.mark.parametrize("cases", [CASES[:2], pytest.param(CASES[2:], marks=pytest.mark.slow)])
def test_gradients_are_exchanged_while_backward_runs(cases: list[overlap.Case]) -> None:
    for case, exchanges in zip(cases, overlap.found_in_ranks(cases, MODEL), strict=True):
        assert exchanges[0].at <= 0.1, case
        assert overlap.half_at(exchanges) <= 0.6, case
        assert all(one.at <= other.at for one, other in zip(exchanges, exchanges[1:], strict=False))
