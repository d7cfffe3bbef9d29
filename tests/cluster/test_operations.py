"""Every command of docs/operations.md, typed in its order on a checkout of the project, against the
doubles of Flyte and moto's S3.

Not shown: `make images` (there is no docker here; tests/cluster/test_images.py builds both), and
that what is launched does its work (tests/cluster/test_whole_run.py).
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster
from conftest import PROJECT
from registered import Checkout, said, worked
from tiny import tiny_plan

from clippo_core.config import GateConfig
from clippo_core.engine.checkpoint import Progress, save_checkpoint
from clippo_core.evaluate.results import write_result
from clippo_core.run import promotion
from clippo_core.run.records import EvalResult, GatePlan, Metric, StagePlan

DOCUMENT = PROJECT / "docs" / "operations.md"
ROOT = "s3://clippo/runs"
ELSEWHERE = {"make images": "tests/cluster/test_images.py"}
"""Command -> the test that shows it."""


def sections() -> dict[str, list[str]]:
    """Title -> the commands below it: every line that stands indented, as code does."""
    found: dict[str, list[str]] = {}
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            found[line[3:]] = []
        elif line.startswith("    ") and line.strip():
            found[list(found)[-1]].append(line.strip())
    return found


def test_the_runbook_has_every_part() -> None:
    found = sections()
    wordy = {"Alert", "Capacity"}
    assert list(found) == [
        "Register", "Preflight", "One run", "Activate", "Watch", "Alert", "Roll back",
        "Resume, and stop", "Clean up", "Upgrade", "Capacity",
    ]  # fmt: skip
    assert {title for title, commands in found.items() if not commands} == wordy
    targets = set(re.findall(r"^([a-z-]+):.*## ", (PROJECT / "Makefile").read_text(), re.M))
    for command in sum(found.values(), []):
        program, word = shlex.split(command)[:2]
        assert program == ".venv/bin/python" or program == "make" and word in targets, command
    assert all((PROJECT / test).exists() for test in ELSEWHERE.values())


class Place:
    """Where the commands are typed: a checkout, a cluster that has what they speak of."""

    def __init__(self, cluster: Cluster, checkout: Checkout, folder: Path) -> None:
        self.cluster, self.checkout, self.root = cluster, checkout, cluster.store.uri("runs")
        (folder / "bin").mkdir()
        (folder / "bin/python").symlink_to(sys.executable)
        self.home = folder

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """A command of the document, with the names that this cluster has."""
        for name, ours in self._names().items():
            command = command.replace(name, ours)
        if command.startswith("make "):
            # Only the preflight waits for a pod.
            propeller = self.cluster.admin.propeller
            if not command.startswith("make preflight"):
                self.cluster.admin.propeller = None
            try:
                return self.checkout.make(*shlex.split(command)[1:])
            finally:
                self.cluster.admin.propeller = propeller
        assert command.startswith(".venv/bin/python ")
        command = command.replace(".venv/bin/python", shlex.quote(sys.executable), 1)
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.checkout.folder,
            env=os.environ | {"PYTHONPATH": str(self.checkout.folder), "LOGNAME": "kim"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def _names(self) -> dict[str, str]:
        executions = list(self.cluster.admin.executions) or ["none"]
        version = self.checkout.version()
        return {ROOT: self.root, "f2c9a1b0": executions[-1], "9bb5ac51c0de-h200x8": version}


@pytest.fixture
def place(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with Cluster(s3_server, tmp_path) as cluster:
        checkout = Checkout(tmp_path, cluster.configuration(tmp_path))
        cluster.pods.image = checkout.folder
        cluster.pods.secrets = {("clippo", "webhook"): "https://hook"}
        yield Place(cluster, checkout, tmp_path)


def promoted_twice(root: str) -> list[str]:
    """Addresses of two models, of which the second was promoted after the first."""
    uris = []
    plan = GatePlan(
        StagePlan(f"{root}/x", 0, "d"), "weekly", f"{root}/promoted-weekly.json",
        gate=GateConfig(margin=4, seed_noise=0),
    )  # fmt: skip
    for number, value in enumerate((40.0, 41.0)):
        name = "coco/i2t_recall@1"
        metrics = {name: Metric(value, value - 2, value + 2, 0.1, 100)}
        result = EvalResult("retrieval", "coco", "test", "p", 100, metrics, main_metrics=[name])
        weights = {"a": np.full(9, number, np.float32)}
        folder = f"{root}/run-{number}/checkpoints"
        progress = Progress(6, 48, 1.0, 1, finished=True, state={})
        info = save_checkpoint(folder, weights, {}, tiny_plan("runs"), progress)
        result = dataclasses.replace(result, weights_sha256=info.weights_sha256)
        write_result(f"{root}/run-{number}/evaluations/retrieval", result)
        assert promotion.decide(plan, info, [result]).promoted
        uris.append(info.uri)
    return uris


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_does_what_the_runbook_says(place: Place) -> None:
    first, second = promoted_twice(place.root)
    for title, commands in sections().items():
        for command in commands:
            if command in ELSEWHERE:
                continue
            done = place.type(command)
            assert done.returncode == 0, f"{title}: {command}\n{said(done)}"
            shown = done.stdout
            if "rollback" in command:
                assert f"promoted {first} " in shown
            elif " promote " in command:
                assert f"promoted {second} " in shown
            elif "preflight" in command:
                assert "Nothing is missing in clippo/production" in shown
            elif "abort" in command:
                (last,) = list(place.cluster.admin.executions.values())[-1:]
                assert last.phase_name == "ABORTED"
            elif "relaunch" in command:
                *_, stopped, last = place.cluster.admin.executions.values()
                assert last.phase_name == "QUEUED" and last.plan == stopped.plan
                assert last.inputs == stopped.inputs
    active = {name[-1]: version for name, version in place.cluster.admin.active.items()}
    assert set(active) == {"weekly_retraining", "weekly_retention"}
    assert set(active.values()) == {place.checkout.version()}
    assert len(place.cluster.admin.executions) == 7  # the preflight's, two demos and four runs


@pytest.mark.slow
def test_a_command_that_fails_is_noticed(place: Place) -> None:
    done = place.type("make activate PLAN=no_such_plan")
    assert done.returncode != 0
    with pytest.raises(AssertionError):
        worked(done)
