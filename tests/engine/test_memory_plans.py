"""The table of memory plans by preset and shape: what choose_memory makes today is what
benchmarks/RESULTS.md says, and nothing got dearer.
"""

from __future__ import annotations

import json
import sys

from conftest import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import memory_plans  # noqa: E402  # benchmarks/ is no package


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
