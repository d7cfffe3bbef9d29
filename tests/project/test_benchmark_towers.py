"""The benchmark of towers as it is run from a shell, on few records: six columns, and a second call
that trains nothing again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT


@pytest.mark.slow
def test_six_runs_fill_the_table_and_are_not_made_twice(tmp_path: Path, slices: Path) -> None:
    few = [
        "--limit",
        "60",
        "--steps",
        "8",
        "--batch-pairs",
        "12",
        "--image-px",
        "32",
        "--vocab",
        "600",
        "--glue-tasks",
        "CoLA",
    ]
    command = [
        sys.executable,
        "benchmarks/towers.py",
        "--data",
        str(slices),
        "--out",
        str(tmp_path),
        *few,
    ]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    journals = {path: path.read_bytes() for path in tmp_path.rglob("journal.jsonl")}
    rows = json.loads((tmp_path / "towers.json").read_text())["rows"]
    assert (
        len(journals) == len(rows) == 6
        and len({(row["tower"], row["sentence_pairs"]) for row in rows}) == 6
    )
    for row in rows:
        assert row["not_run"].keys() == {"glue/average"} and row["pairs_per_second"] > 0
        for name in ("flickr8k/t2i_recall@10", "glue/cola_matthews", "held_out/batch_hit_rate"):
            assert name in row and name in row["chance"] and row["n"][name] > 0
    sizes = {row["tower"]: row["parameters"] for row in rows if not row["sentence_pairs"]}
    assert sizes["clippo"] < sizes["one_tower_clip"] < sizes["two_tower_clip"]
    table = (tmp_path / "towers.md").read_text().splitlines()
    assert all(line.count("|") == 10 for line in table) and any(
        line.startswith("| glue/cola_matthews |") for line in table
    )
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    again = json.loads((tmp_path / "towers.json").read_text())["rows"]
    assert {path: path.read_bytes() for path in journals} == journals
    assert [row["glue/cola_matthews"] for row in again] == [
        row["glue/cola_matthews"] for row in rows
    ]


def test_without_data_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/towers.py"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("not run: --data")
