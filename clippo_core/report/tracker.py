"""A run in the tool that a team already watches: TensorBoard or MLflow, by `train.tracker`.

    journal ─▶ figures by step      results ─▶ one figure per main metric, with its interval
    verdict ─▶ a text               report.html ─▶ an artifact (MLflow)

The journal stays the record; a tracker that cannot be reached is only logged, and its lines are
sent with the next ones. With `none`, the default, nothing here is imported but this file.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from clippo_core import storage
from clippo_core.config import TrainConfig
from clippo_core.errors import ConfigError
from clippo_core.report.watch import Watch
from clippo_core.run.records import EvalResult, PretrainPlan, Verdict
from clippo_core.train.record import Watcher

SEND_SECONDS = 15.0
"""Time between two sendings."""
MOST_FIGURES = 50_000
"""Figures that wait at most, while a tracker is away; older ones are dropped."""
LARGEST_BATCH = 1000
"""Figures in one request to MLflow: its own limit."""
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where figures go."""

    def figures(self, values: dict[str, float], step: int) -> None:
        """Note figures of a step; they may wait until `send`."""

    def text(self, name: str, words: str) -> None:
        """Note a text."""

    def page(self, uri: str) -> None:
        """Keep the page at `uri`, where the tool keeps files."""

    def send(self) -> None:
        """Return when everything noted has arrived. Raises whatever the tool raises."""


def make_tracker(train: TrainConfig, root: str, start: int = 0) -> Tracker | None:
    """The tracker of the run in the folder `root`, which goes on after step `start`; None = `none`.

    Raises ConfigError where the tool is not installed.
    """
    match train.tracker:
        case "tensorboard":
            return _TensorBoard(root, start)
        case "mlflow":
            return _Mlflow(train.tracker_uri, root)
    return None


def watcher(plan: PretrainPlan, start: int, *, also: str = "") -> Watcher:
    """What watches a training run: the page (and a copy at `also`) and the bar, and the tracker
    where one is asked for.
    """
    tracker = make_tracker(plan.train, plan.stage.root, start)
    page = Watch(plan, start, also=also)
    return page if tracker is None else _Tracking(page, tracker)


def track_outcome(
    train: TrainConfig, root: str, step: int, results: list[EvalResult], verdict: Verdict, page: str
) -> None:
    """Send what a finished run came to. page: address of report.html. A tracker that cannot be
    reached is logged; ConfigError where it is not installed.
    """
    tracker = make_tracker(train, root, step)
    if tracker is None:
        return
    values = {}
    for result in results:
        for name in result.main_metrics:
            found = result.metrics[name]
            for part, value in (("", found.value), ("/low", found.low), ("/high", found.high)):
                if value is not None:
                    values[f"{name.replace('@', '_at_')}{part}"] = value
    try:
        tracker.figures(values, step)
        tracker.text("verdict", verdict.reason)
        tracker.page(page)
        tracker.send()
    except Exception as error:
        _log.warning("%s did not take the run's outcome: %s", train.tracker, error)


class _Tracking:
    """A watcher that tells a tracker, too."""

    def __init__(self, page: Watcher, tracker: Tracker):
        self._page, self._tracker = page, tracker
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._sent = time.monotonic()
        self._sending: threading.Thread | None = None

    def step(self, line: dict[str, Any], shown: list[dict[str, Any]]) -> None:
        self._page.step(line, shown)
        with self._lock:
            self._waiting.append(line)
        is_due = time.monotonic() - self._sent >= SEND_SECONDS
        if is_due and not (self._sending and self._sending.is_alive()):
            self._sent = time.monotonic()
            self._sending = threading.Thread(target=self._send, name="tracker", daemon=True)
            self._sending.start()

    def close(self, shown: list[dict[str, Any]]) -> None:
        self._page.close(shown)
        if self._sending:
            self._sending.join()
        self._send()

    def _send(self) -> None:
        with self._lock:
            lines, self._waiting = self._waiting, []
        try:
            for line in lines:
                values = {
                    name: float(value)
                    for name, value in line.items()
                    if name != "step" and isinstance(value, int | float)
                }
                self._tracker.figures(values, line["step"])
            self._tracker.send()
        except Exception as error:  # whatever a tool's client raises: training goes on
            _log.warning("the tracker did not take steps yet: %s", error)


class _TensorBoard:
    """Event files below <root>/tensorboard, written here and stored at each sending."""

    def __init__(self, root: str, start: int):
        module = _installed("torch.utils.tensorboard", "tensorboard")
        self._folder = storage.join(root, "tensorboard")
        self._scratch = tempfile.TemporaryDirectory()
        # What an interrupted run noted of later steps is dropped by TensorBoard.
        self._writer = module.SummaryWriter(self._scratch.name, purge_step=start + 1)

    def figures(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, name: str, words: str) -> None:
        self._writer.add_text(name, words)

    def page(self, uri: str) -> None:
        self._writer.add_text("report", uri)

    def send(self) -> None:
        self._writer.flush()
        for path in Path(self._scratch.name).iterdir():
            storage.write_bytes(storage.join(self._folder, path.name), path.read_bytes())


class _Mlflow:
    """One MLflow run per run folder, found again by its tag."""

    def __init__(self, uri: str, root: str):
        self._mlflow = _installed("mlflow", "mlflow-skinny")
        self._uri, self._root = uri, root
        self._client: Any = None
        self._run = ""
        self._noted: list[tuple[str, float, int]] = []
        self._texts: dict[str, str] = {}
        self._pages: list[str] = []

    def figures(self, values: dict[str, float], step: int) -> None:
        noted = [(name, value, step) for name, value in values.items()]
        self._noted = (self._noted + noted)[-MOST_FIGURES:]

    def text(self, name: str, words: str) -> None:
        self._texts[name] = words

    def page(self, uri: str) -> None:
        self._pages.append(uri)

    def send(self) -> None:
        if not self._run:
            self._open()
        metric, now = self._mlflow.entities.Metric, round(time.time() * 1000)
        while self._noted:
            some = self._noted[:LARGEST_BATCH]
            metrics = [metric(name, value, now, step) for name, value, step in some]
            self._client.log_batch(self._run, metrics=metrics)
            self._noted = self._noted[LARGEST_BATCH:]
        for name, words in self._texts.items():
            self._client.set_tag(self._run, name, words)
        with tempfile.TemporaryDirectory() as scratch:
            for uri in self._pages:
                path = Path(scratch) / uri.rpartition("/")[2]
                path.write_bytes(storage.read_bytes(uri))
                self._client.log_artifact(self._run, str(path))
        self._texts, self._pages = {}, []

    def _open(self) -> None:
        self._client = self._mlflow.MlflowClient(self._uri)
        name = self._root.rstrip("/").rpartition("/")[2]
        found = self._client.get_experiment_by_name("clippo")
        experiment = found.experiment_id if found else self._client.create_experiment("clippo")
        known = self._client.search_runs(
            [experiment], f"tags.folder = '{self._root}'", max_results=1
        )
        run = known[0] if known else self._client.create_run(
            experiment, run_name=name, tags={"folder": self._root}
        )  # fmt: skip
        self._run = run.info.run_id


def _installed(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"train.tracker needs {package}, which is not installed here; pip install {package}, or"
            " set train.tracker to none."
        ) from error
