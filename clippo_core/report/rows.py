"""One line of a results table: a metric with everything a reader needs in order to believe it, or
the reason why it has no number.

    metric | ours, 95 % interval | chance or majority | paper | n | differs in

The terminal's table, the report, the decks and the comparison with published numbers all show these
rows. A number never stands without its n; partial, demo, flags, failures and what was not run come
along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from clippo_core.config import DataConfig, ModelConfig, RenderConfig, TrainConfig
from clippo_core.evaluate.registry import EVALUATIONS
from clippo_core.published import Published
from clippo_core.report import digits
from clippo_core.run.records import EvalResult, Metric

PAPER_WIDTH_DEPTH = (768, 12)
"""The paper's B/16 tower, with which most published numbers were made."""


class Trained(Protocol):
    """What a model was made by, as a RunConfig and a PretrainPlan say it."""

    @property
    def model(self) -> ModelConfig: ...
    @property
    def render(self) -> RenderConfig: ...
    @property
    def train(self) -> TrainConfig: ...
    @property
    def data(self) -> DataConfig: ...


PublishedLookup = Callable[[str], list[Published]]
"""Metric name -> published values (see `clippo_core.published.published`)."""


@dataclass(frozen=True)
class Row:
    """One metric of one evaluation of one model."""

    evaluation: str
    metric: str
    found: Metric
    """Our number with its interval, chance and n, or why there is none."""
    is_main: bool = True
    marks: tuple[str, ...] = ()
    """`demo`, `partial`."""
    missing: str = ""
    """`not run: reason` or `failed: reason`; empty = there is a number."""
    paper: list[Published] = field(default_factory=list)
    """Published values of this metric, or of `paper_metric`."""
    paper_metric: str = ""
    """The benchmark's metric that `paper` is about, where it is not this one."""
    differs: str = ""
    """In what this run differs from the published ones; empty where there are none."""
    model: str = "ours"

    @property
    def is_above_chance(self) -> bool | None:
        """Whether the interval's lower end lies above chance; None where either is unknown."""
        if self.found.low is None or self.found.chance is None:
            return None
        return self.found.low > self.found.chance

    @property
    def notes(self) -> list[str]:
        """What a reader must know: marks, the flag, why there is no number."""
        return [note for note in (*self.marks, self.found.flag, self.missing) if note]


def row_of(result: EvalResult, metric: str, **more: Any) -> Row:
    """The row of one of the result's metrics; `more` are further fields of the row."""
    found = result.metrics[metric]
    missing = f"not run: {found.why_not}" if found.value is None else ""
    is_main = bool(missing) or metric in result.main_metrics or not result.main_metrics
    return Row(result.name, metric, found, is_main, marks_of(result), missing, **more)


def failed_row(result: EvalResult, metric: str, **more: Any) -> Row:
    """The one row of a result that failed."""
    missing = f"failed: {result.failure}"
    return Row(result.name, metric, Metric(), marks=marks_of(result), missing=missing, **more)


def marks_of(result: EvalResult) -> tuple[str, ...]:
    """The marks that follow a result's numbers into every table."""
    marks = (("demo", result.is_demo), ("partial", result.is_partial))
    return tuple(name for name, holds in marks if holds)


def rows_of(
    result: EvalResult, config: Trained | None = None, published: PublishedLookup | None = None
) -> list[Row]:
    """The lines of one result: that it failed, main metrics, the others by name, what was not run.

    A result that failed has numbers too where only some of its benchmarks failed.
    """
    rows = [failed_row(result, result.dataset or result.name)] if result.failure else []
    lookup = None if result.is_demo else published  # nobody published on a demo's task
    chosen = _one_model(result, config, lookup)

    def beside(metric: str) -> tuple[list[Published], str]:
        paper, paper_metric = _published(result.name, metric, lookup, config)
        model = chosen.get(metric.partition("/")[0])
        paper = [one for one in paper if (one.model, one.data) == model]
        return paper, paper_metric if paper else ""

    numbers = {name for name, metric in result.metrics.items() if metric.value is not None}
    order = [name for name in result.main_metrics if name in numbers]
    order += sorted(numbers - set(order))
    for metric in order:
        paper, paper_metric = beside(metric)
        differs = differences(result, config, metric if paper_metric else "") if paper else ""
        rows.append(row_of(result, metric, paper=paper, paper_metric=paper_metric, differs=differs))
    return rows + _not_run(result, beside)


def _one_model(
    result: EvalResult, config: Trained | None, published: PublishedLookup | None
) -> dict[str, tuple[str, str]]:
    """Data set -> (model, data) of the published numbers beside it, so that a block of rows never
    mixes two: of our kind and size, the one that was scored in most of the main metrics.
    """
    found: dict[str, dict[tuple[str, str], int]] = {}
    for metric in result.main_metrics or result.metrics:
        scored = found.setdefault(metric.partition("/")[0], {})
        numbers = _published(result.name, metric, published, config)[0]
        for one in dict.fromkeys((number.model, number.data) for number in numbers):
            scored[one] = scored.get(one, 0) + 1
    chosen = {}
    for dataset, scored in found.items():
        model = next(iter(scored), ("", ""))[0]  # the nearest comes first
        alike = [one for one in scored if one[0] == model]
        if alike:
            chosen[dataset] = max(alike, key=scored.__getitem__)
    return chosen


def differences(result: EvalResult, config: Trained | None, other_task: str = "") -> str:
    """In what a result differs from the paper's CLIPPO B/16 on the whole benchmark, in a few words.

    other_task: the metric, where the published number is of another dataset. `recipe.py` has every
    setting.
    """
    words = []
    if other_task:
        words.append(f"task ({other_task.partition('/')[0]})")
    elif result.is_partial:
        words.append("part of the benchmark")
    words.append("training data")
    if config is not None:
        model, train = config.model, config.train
        paper_steps, paper_pairs = 250_000, 10_240
        found = {
            "model": model.kind != "clippo",
            "tower": (model.width, model.depth) != PAPER_WIDTH_DEPTH,
            f"{config.render.image_px} px": config.render.image_px != 224,
            "steps": train.steps < paper_steps,
            "batch": train.batch_pairs != paper_pairs,
        }
        words += [word for word, holds in found.items() if holds]
    return ", ".join(words)


def _not_run(result: EvalResult, beside: Callable[[str], tuple[list[Published], str]]) -> list[Row]:
    """One line for each metric that was not run, or for all those of one reason where they are more
    than four. beside: metric -> published values, and the metric that they are of.
    """
    by_reason: dict[str, list[Row]] = {}
    for name, metric in sorted(result.metrics.items()):
        if metric.value is None:
            paper, paper_metric = beside(name)
            row = row_of(result, name, paper=paper, paper_metric=paper_metric)
            by_reason.setdefault(metric.why_not, []).append(row)
    rows: list[Row] = []
    for alike in by_reason.values():
        if len(alike) > 4:
            name = f"{len(alike)} metrics, {alike[0].metric} to {alike[-1].metric}"
            alike = [replace(alike[0], metric=name, paper=[], paper_metric="")]
        rows += alike
    return rows


def _published(
    evaluation: str, metric: str, published: PublishedLookup | None, config: Trained | None
) -> tuple[list[Published], str]:
    """Published values of `metric`, the nearest model first; else those on the evaluation's
    benchmark, with that metric's name.
    """
    if published is None:
        return [], ""
    exact = published(metric)
    if exact or evaluation not in EVALUATIONS:
        return nearest(exact, config), ""
    _, _, rest = metric.partition("/")
    other = f"{EVALUATIONS[evaluation].benchmark}/{rest}"
    found = published(other) if rest and other != metric else []
    return nearest(found, config), other if found else ""


def nearest(values: list[Published], config: Trained | None) -> list[Published]:
    """Published values, those of our kind and size of model first, then of our share of sentence
    pairs; otherwise in their order.
    """
    if config is None:
        return values
    kinds = {"clippo": "CLIPPO", "one_tower_clip": "1T-CLIP", "two_tower_clip": "CLIP*"}
    model = f"{kinds.get(config.model.kind, '')} {'L/16' if config.model.width >= 1024 else 'B/16'}"
    share = f"{100 * config.data.text_pair_share:.0f}% C4"

    def distance(value: Published) -> tuple[bool, bool]:
        is_same_share = (
            share in value.data if config.data.text_pair_share else "C4" not in value.data
        )
        return value.model != model, not is_same_share

    return sorted(values, key=distance)


def summary_table(results: list[EvalResult], main_only: bool = True) -> str:
    """A plain table for the terminal: metric, ours, 95 % interval, chance or majority, n; what
    failed or was not run says why.
    """
    lines = [row for result in results for row in rows_of(result) if row.is_main or not main_only]
    head = ("metric", "ours", "95 % interval", "chance or majority", "n", "")
    cells = [
        (
            row.metric,
            digits.share(row.found.value),
            digits.interval(row.found.bounds),
            digits.share(row.found.chance),
            digits.count(row.found.n),
            ", ".join(row.notes),
        )
        for row in lines
    ]
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(5)]

    def put(line: tuple[str, ...]) -> str:
        numbers = "  ".join(
            text.rjust(width) for text, width in zip(line[1:5], widths[1:], strict=True)
        )
        return f"{line[0]:<{widths[0]}}  {numbers}  {line[5]}".rstrip()

    body = [
        f"{row.metric:<{widths[0]}}  {row.missing}" if row.missing else put(line)
        for row, line in zip(lines, cells, strict=True)
    ]
    return "\n".join([put(head), "-" * len(put(head)), *body])
