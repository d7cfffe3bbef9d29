"""One evaluation under way: the model, its features on disk, and the result as it fills.

    evaluate(name, ...) = load the checkpoint ─▶ finished before? return that
                        ─▶ work(session) ─▶ write result.json last

All five evaluations run this way; one on several benchmarks does so per benchmark
(`benchmarks.py`). The result is a function of weights, data, protocol and code; what takes time
goes into timings.json. No protocol stands here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from clippo_core import storage
from clippo_core.embedder import Clippo
from clippo_core.errors import ClippoError, ConfigError, EvaluationError, Preempted
from clippo_core.evaluate import bootstrap, results
from clippo_core.evaluate.embed import FeatureStore
from clippo_core.evaluate.scores import Scores
from clippo_core.run.folder import RESULT, RunFolder
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import EvalResult, EvaluatePlan, Metric

if TYPE_CHECKING:
    import torch


class Session:
    """What an evaluation works with. What it sets and notes here becomes the EvalResult.

    Metrics are named without the data set: `session.score("i2t_recall@1", …)`.
    """

    def __init__(
        self, name: str, plan: EvaluatePlan, model: Clippo, wanted: str, progress: bool
    ) -> None:
        """wanted: digest of everything that the result depends on."""
        self.config = _only_config(plan, name)
        self.plan = plan
        self.model = model
        self.progress = progress
        self.folder = RunFolder(plan.stage.root).evaluation(name)
        self.store = FeatureStore(
            model,
            storage.join(self.folder, "features"),
            batch_size=plan.evaluate.batch_size,
            progress=progress,
        )
        self.unfinished = storage.join(self.folder, f"unfinished-{wanted[:16]}")
        """Folder for what lets a killed evaluation go on; deleted at the end."""
        self.split = ""
        self.protocol = ""
        self.n_examples = 0
        self.is_partial = False
        self.main_metrics: list[str] = []
        """Without the data set."""
        self.metrics: dict[str, Metric] = {}
        self.counts: dict[str, int] = {}
        self.scores = Scores()
        self.examples: list[dict[str, Any]] = []
        self.timings: dict[str, float] = {}

    def named(self, metric: str) -> str:
        """The metric's full name, `set/metric`."""
        return f"{self.config.dataset}/{metric}"

    def put(
        self,
        metric: str,
        value: float,
        *,
        n: int,
        chance: float | None = None,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        """Note a number, its chance and its 95 % interval, all in the metric's unit."""
        low, high = bounds or (None, None)
        self.metrics[self.named(metric)] = Metric(float(value), low, high, chance, n)

    def score(
        self,
        metric: str,
        values: np.ndarray,
        *,
        chance: float,
        groups: np.ndarray | None = None,
        n: int | None = None,
        scale: float = 1.0,
    ) -> None:
        """Note a metric = scale * mean of `values`, its bootstrap interval, chance, and n.

        values: float [n], in the metric's unit divided by `scale`; chance: in the metric's unit;
        groups: [n] labels of what the bootstrap draws; None = single values.
        """
        samples, seed = self.plan.evaluate.bootstrap_samples, self.plan.stage.seed
        labels = None if groups is None else groups.tolist()
        low, high = bootstrap.bootstrap_interval(values, samples, seed, groups=labels)
        self.put(
            metric,
            scale * float(np.mean(values)),
            n=len(values) if n is None else n,
            chance=float(chance),
            bounds=(scale * low, scale * high),
        )

    def not_run(self, metric: str, why: str) -> None:
        """Note why a metric has no number."""
        self.metrics[self.named(metric)] = Metric(why_not=why)

    def flag(self, metric: str, words: str) -> None:
        """Note what a reader of this metric, which has its number, must know."""
        name = self.named(metric)
        self.metrics[name] = dataclasses.replace(self.metrics[name], flag=words)

    def count(self, **counts: int) -> None:
        """Note numbers of images, texts, classes, trials, ... as found."""
        self.counts |= counts

    def check_size(self, n_images: int, where: str, *, limited: bool = False) -> None:
        """Mark the result partial where it has fewer images than the benchmark. Raises
        EvaluationError for more: another split.
        """
        expected = self.config.expect_images
        if n_images > expected:
            raise EvaluationError(
                f"{where} holds {n_images:,} images, but {self.config.dataset} has {expected:,}:"
                " another split, or set expect_images."
            )
        self.is_partial = limited or n_images < expected

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds of the block to timings.json."""
        started = time.monotonic()
        yield
        name = f"{part}_seconds"
        self.timings[name] = self.timings.get(name, 0.0) + time.monotonic() - started

    def _rounded(self) -> str:
        precision = self.plan.evaluate.precision
        return "" if precision == "float32" else f"; embeddings computed in {precision}"

    def result(self, name: str, known: dict[str, Any]) -> EvalResult:
        """What was noted, as a value."""
        return EvalResult(
            name=name,
            dataset=self.config.dataset,
            split=self.split,
            protocol=self.protocol + self._rounded(),
            n_examples=self.n_examples,
            metrics=self.metrics,
            counts=self.counts,
            main_metrics=[self.named(metric) for metric in self.main_metrics],
            is_partial=self.is_partial,
            **known,
        )


def evaluate(
    name: str,
    checkpoint: str,
    plan: EvaluatePlan,
    progress: bool,
    work: Callable[[Session], None],
    device: torch.device | None = None,
) -> EvalResult:
    """Run `work` and write its result below plan.stage.root; one that is finished is returned.

    Which data it reads is stated by plan.stage.data_digest alone: with another one it runs anew.
    Runs in one process, or in every rank of a process group, of which the first writes. Data and
    protocol errors become a result with its `failure`; other errors and Preempted are raised, and
    ConfigError where the evaluation is not configured.
    """
    if getattr(plan.evaluate, name) is None:
        raise not_set(name)
    folder = RunFolder(plan.stage.root).evaluation(name)
    return evaluate_one(
        name, partial(Clippo.load, checkpoint, device=device), plan, progress, work, folder
    )


def evaluate_one(
    name: str,
    load: Callable[[], Clippo],
    plan: EvaluatePlan,
    progress: bool,
    work: Callable[[Session], None],
    folder: str,
    record: str = RESULT,
) -> EvalResult:
    """As `evaluate`, with the model that `load` gives, into `folder`, with `record` written last.

    An evaluation of several benchmarks has exactly one of them in `plan`.
    """
    known: dict[str, Any] = {"is_demo": plan.is_demo}
    started = time.monotonic()
    try:
        model = load()
        model.precision = plan.evaluate.precision
        digests = {
            "weights_sha256": model.weights_sha256,
            "render_digest": model.render_digest,
            "code_digest": code_digest(f"clippo_core.evaluate.{name}.protocol"),
        }
        known |= digests
        wanted = results.inputs_digest(plan, name, **digests)
        finished = results.finished_result(folder, wanted, record)
        if finished is not None:
            return finished
        session = Session(name, plan, model, wanted, progress)
        work(session)
        session.timings["total_seconds"] = time.monotonic() - started
        session.timings["rows_embedded"] = float(session.store.computed)
        result = session.result(name, known | {"inputs_digest": wanted})
        result = results.write_result(
            folder, result, session.scores, session.examples, session.timings, record=record
        )
    except Preempted:
        raise
    except ClippoError as error:
        reason = f"{type(error).__name__}: {error}"
        failed = EvalResult.failed(name, _only_config(plan, name).dataset, reason, **known)
        return results.write_result(folder, failed, record=record)
    if results.is_first_rank():
        storage.delete(session.unfinished)
    return result


def not_set(name: str) -> ConfigError:
    """The error for an evaluation that is not configured."""
    return ConfigError(f"evaluate.{name} is not set; name its data in EvaluateConfig.")


def _only_config(plan: EvaluatePlan, name: str) -> Any:
    """The config of the evaluation `name`: its field, or the one benchmark in it."""
    value = getattr(plan.evaluate, name)
    if isinstance(value, tuple):
        (value,) = value
    return value
