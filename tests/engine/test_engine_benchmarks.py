"""The benchmarks about the engine: the table of memory plans is what choose_memory makes today, and
the contestants of cached gradients compute what they claim.
"""

from __future__ import annotations

import json
import sys

import pytest
import torch
from conftest import PROJECT
from engine_ranks import batch, engine_of, tower

sys.path.insert(0, str(PROJECT / "benchmarks"))
import cached  # noqa: E402  # benchmarks/ is no package
import memory_plans  # noqa: E402


def test_every_preset_on_every_shape_has_the_plan_of_the_table() -> None:
    path = PROJECT / "benchmarks" / "results" / "memory_plans.json"
    (table,) = json.loads(path.read_text())["tables"]
    rows = memory_plans.rows()
    assert list(memory_plans.COLUMNS.items()) == list(table["columns"].items())
    assert json.loads(json.dumps(rows)) == table["rows"], "run python benchmarks/memory_plans.py"
    names = list(memory_plans.COLUMNS)
    for row in rows:
        at = dict(zip(names, row, strict=True))
        assert at["cost"] <= at["its cost"], row
        assert at["fixed GiB"] + at["GiB"] <= 139 * 0.92 or "no limit" in at["plan"], row
    assert {row[1] for row in rows} == memory_plans.SHAPES.keys()


@pytest.mark.parametrize("name", cached.CONTESTANTS)
def test_contestants_of_cached_gradients_compute_what_they_claim(name: str) -> None:
    gradients = {}
    photos, _, texts = batch(0)
    pairs = (photos, texts[:0], texts[: len(photos)])
    for run in (name, "plain, one pass"):
        module = tower(torch.float64)
        cached.CONTESTANTS[run](engine_of(module), cached.cut(pairs, 4))
        found = {key: p.grad for key, p in module.named_parameters()}
        scale = found.pop("t")
        gradients[run] = torch.cat([g.flatten() for g in found.values()]), scale
    (mine, of_scale), (whole, of_whole) = gradients[name], gradients["plain, one pass"]
    if name == cached.BASE:  # the losses of the chunks, each on its own
        assert (mine - whole).abs().max() > 0.1 * whole.abs().max()
        return
    assert (mine - whole).abs().max() <= 1e-13 * whole.abs().max()
    # open_clip's loop adds the logit scale's gradient once for each chunk.
    times = 4 if name.startswith("open_clip") else 1
    assert float(of_scale) == pytest.approx(times * float(of_whole), rel=1e-10)
