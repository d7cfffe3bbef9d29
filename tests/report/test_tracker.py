"""TensorBoard and MLflow get the journal's figures, results, verdict and report; off imports
nothing; a tool that is away stops no training.

The tools are in no lock: the slow tests install them into an environment of their own, beside this
one's packages, and start a real MLflow server with sqlite on loopback.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest

from clippo_core.config import TrainConfig
from clippo_core.errors import ConfigError
from clippo_core.report import tracker

OUTCOME = """
import sys
from clippo_core.config import TrainConfig
from clippo_core.report.tracker import _Tracking, make_tracker, track_outcome
from clippo_core.run.records import EvalResult, Metric, Verdict

class Page:
    def step(self, line, shown): pass
    def close(self, shown): pass

kind, uri, root = sys.argv[1:]
train = TrainConfig(tracker=kind, tracker_uri=uri)
for start, last in ((0, 3), (2, 5)):  # killed after step 3, resumed from the checkpoint of step 2
    watch = _Tracking(Page(), make_tracker(train, root, start))
    for step in range(start + 1, last + 1):
        watch.step({"step": step, "loss": 5.0 - step, "skipped": None, "note": "x"}, [])
    watch.close([])
open(f"{root}/report.html", "w").write("<p>report</p>")
metric = Metric(68.0, 59.0, 77.0, 1.0, 100)
result = EvalResult("retrieval", "numbers", "test", "p", 100, {"numbers/i2t_recall@1": metric},
                    main_metrics=["numbers/i2t_recall@1"])
verdict = Verdict(True, "Promoted: the first.", f"{root}/checkpoints", "")
track_outcome(train, root, 5, [result], verdict, f"{root}/report.html")
"""


class Page:
    """A page that only counts."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, line: dict, shown: list) -> None:
        self.steps += 1

    def close(self, shown: list) -> None:
        pass


class Away:
    """A tool that cannot be reached."""

    def figures(self, values: dict, step: int) -> None:
        pass

    def text(self, name: str, words: str) -> None:
        pass

    def page(self, uri: str) -> None:
        pass

    def send(self) -> None:
        raise OSError("no route to host")


def test_off_imports_no_tool() -> None:
    program = (
        "import sys; from clippo_core.config import TrainConfig;"
        " from clippo_core.report.tracker import make_tracker;"
        " assert make_tracker(TrainConfig(), 'x') is None;"
        " assert not {'mlflow', 'tensorboard', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_tool_that_is_not_installed_is_named_before_the_first_step(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match="pip install mlflow-skinny, or set train.tracker"):
        tracker.make_tracker(TrainConfig(tracker="mlflow", tracker_uri="http://127.0.0.1:1"), "x")


def test_mlflow_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="tracker_uri is empty"):
        TrainConfig(tracker="mlflow")


def test_a_tool_that_is_away_is_logged_and_training_goes_on(caplog) -> None:
    page = Page()
    watch = tracker._Tracking(page, Away())
    with caplog.at_level(logging.WARNING):
        for step in range(1, 4):
            watch.step({"step": step, "loss": 1.0}, [])
        watch.close([])
    assert page.steps == 3 and "no route to host" in caplog.text


@pytest.fixture(scope="module")
def tools(tmp_path_factory) -> Path:
    """Python of an environment with both tools beside this one's packages."""
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python3*/site-packages")
    (site / "beside.pth").write_text(sysconfig.get_paths()["purelib"])
    asked = [str(python), "-m", "pip", "install", "-q", "mlflow", "tensorboard"]
    installed = subprocess.run(asked, capture_output=True, text=True, timeout=500)
    if installed.returncode:
        pytest.skip(f"mlflow and tensorboard cannot be installed: {installed.stderr[-300:]}")
    return python


def run(python: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_tensorboard_reads_the_figures_of_a_resumed_run_once(tools: Path, tmp_path: Path) -> None:
    run(tools, "-c", OUTCOME, "tensorboard", "", str(tmp_path))
    read = (
        "import sys; from tensorboard.backend.event_processing.event_accumulator import *;"
        "a = EventAccumulator(sys.argv[1]); a.Reload();"
        "print([(e.step, e.value) for e in a.Scalars('loss')]);"
        "print([(e.step, e.value) for e in a.Scalars('numbers/i2t_recall_at_1')])"
    )
    steps, recall = run(tools, "-c", read, str(tmp_path / "tensorboard")).splitlines()
    assert steps == str([(step, 5.0 - step) for step in range(1, 6)])
    assert recall == "[(5, 68.0)]"


@pytest.mark.slow
def test_a_real_mlflow_server_gets_figures_results_verdict_and_report(
    tools: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [
        str(tools), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", store, "--artifacts-destination", str(tmp_path / "artifacts"),
        "--workers", "1",
    ]  # fmt: skip
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        root = tmp_path / "demo-0123"
        root.mkdir()
        run(tools, "-c", OUTCOME, "mlflow", address, str(root))
        read = (
            "import sys; from mlflow import MlflowClient; c = MlflowClient(sys.argv[1]);"
            "e = c.get_experiment_by_name('clippo').experiment_id;"
            "(r,) = c.search_runs([e]);"
            "h = c.get_metric_history(r.info.run_id, 'loss');"
            "print(sorted({(m.step, m.value) for m in h}));"
            "print(r.data.metrics['numbers/i2t_recall_at_1/low'], r.data.tags['verdict']);"
            "print([f.path for f in c.list_artifacts(r.info.run_id)])"
        )
        lines = run(tools, "-c", read, address).splitlines()
    finally:
        server.terminate()
        server.wait(30)
    assert lines == [
        str([(step, 5.0 - step) for step in range(1, 6)]),
        "59.0 Promoted: the first.",
        "['report.html']",
    ]
