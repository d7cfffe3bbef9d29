"""The plan for the first half hour on a GPU runs, at a size that a CPU can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

QUICK = ["patch", "copy"]
SLOW = ["sdpa", "optimizer", "loss", "step", "kept", "loop"]


@pytest.mark.parametrize("parts", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_every_part_of_the_plan_runs(parts: list[str], tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--out", str(out), "--parts", *parts]
    path = os.pathsep.join([str(PROJECT), os.environ["PYTHONPATH"]])
    subprocess.run(command, check=True, cwd=PROJECT, env=os.environ | {"PYTHONPATH": path})
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert not [line for line in lines if "failed" in line]
    assert {line["part"].split()[0] for line in lines} == set(parts)
    assert all(len(line) > 3 for line in lines)  # beside part, torch and device
