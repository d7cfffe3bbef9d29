"""One line of a results table: a metric with everything a reader needs in order to believe it, or the reason why it has no number.

    metric | ours, 95 % interval | chance or majority | paper | n | differs in

A number never stands without its n; partial, demo, flags, failures and what was not run come along. It is neither a metric (those stand
in `evaluate/metrics.py`) nor a decision (that is the gate's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clippo_core.analysis import digits
from clippo_core.config import RunConfig
from clippo_core.records import EvalResult

PAPER_WIDTH_DEPTH = (768, 12)
"""The paper's B/16 tower, with which most published numbers were made."""

BENCHMARKS: dict[str, str] = {"imagenet": "imagenet", "retrieval": "coco", "vqa": "vqav2", "glue": "glue", "xm3600": "xm3600"}
"""Evaluation -> the benchmark whose published numbers stand beside a dataset that nobody else has published on."""

PublishedLookup = Callable[[str], list[Any]]
"""Metric name -> published values; each has value, model, data, source, trust (see `analysis.paper.published`)."""


@dataclass(frozen=True)
class Row:
    """One metric of one evaluation."""

    evaluation: str
    metric: str
    ours: float | None
    """None: there is no number, and `missing` says why."""
    bounds: list[float] | None
    """The bootstrap's 95 % interval."""
    chance: float | None
    """What guessing or the majority class gives."""
    n: int
    """Examples behind the number."""
    is_main: bool
    marks: list[str] = field(default_factory=list)
    """`demo`, `partial`."""
    flag: str = ""
    missing: str = ""
    """`not run: reason` or `failed: reason`."""
    paper: list[Any] = field(default_factory=list)
    """Published values of this metric, or of `paper_metric`."""
    paper_metric: str = ""
    """The benchmark's metric that `paper` is about, where it is not this one."""
    differs: str = ""
    """In what this run differs from the published ones; empty where there are none."""

    @property
    def is_above_chance(self) -> bool | None:
        """Whether the interval's lower end lies above chance; None where either is unknown."""
        return None if self.bounds is None or self.chance is None else self.bounds[0] > self.chance


def rows_of(result: EvalResult, config: RunConfig | None = None, published: PublishedLookup | None = None) -> list[Row]:
    """The lines of one result: main metrics first, then the others by name, then what was not run. A failed result has one line."""
    marks = [name for name, holds in (("demo", result.is_demo), ("partial", result.is_partial)) if holds]
    if result.failure:
        return [Row(result.name, result.dataset or result.name, None, None, None, 0, True, marks, missing=f"failed: {result.failure}")]
    order = [name for name in result.main_metrics if name in result.metrics]
    order += sorted(name for name in result.metrics if name not in order)
    rows = []
    for metric in order:
        paper, paper_metric = _published(result.name, metric, published, config)
        rows.append(
            Row(
                evaluation=result.name,
                metric=metric,
                ours=result.metrics[metric],
                bounds=result.confidence.get(metric),
                chance=result.chance.get(metric),
                n=result.n_by_metric.get(metric, result.n_examples),
                is_main=metric in result.main_metrics or not result.main_metrics,
                marks=marks,
                flag=result.flags.get(metric, ""),
                paper=paper,
                paper_metric=paper_metric,
                differs=differences(result, config, paper_metric) if paper else "",
            )
        )
    return rows + _not_run(result, marks, published, config)


def differences(result: EvalResult, config: RunConfig | None, paper_metric: str = "") -> str:
    """In what a result differs from the paper's CLIPPO B/16 on the whole benchmark, in a few words; `recipe.py` has every setting."""
    words = []
    if paper_metric:
        words.append(f"task ({result.dataset})")
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


def _not_run(result: EvalResult, marks: list[str], published: PublishedLookup | None, config: RunConfig | None) -> list[Row]:
    """One line for each metric that was not run, or for all those of one reason where they are more than four."""
    by_reason: dict[str, list[str]] = {}
    for metric, reason in sorted(result.not_run.items()):
        by_reason.setdefault(reason, []).append(metric)
    rows = []
    for reason, metrics in by_reason.items():
        names = metrics if len(metrics) <= 4 else [f"{len(metrics)} metrics, {metrics[0]} to {metrics[-1]}"]
        for name in names:
            paper, paper_metric = _published(result.name, name, published, config)
            missing = f"not run: {reason}"
            rows.append(Row(result.name, name, None, None, None, 0, True, marks, missing=missing, paper=paper, paper_metric=paper_metric))
    return rows


def _published(evaluation: str, metric: str, published: PublishedLookup | None, config: RunConfig | None) -> tuple[list[Any], str]:
    """Published values of `metric`, the nearest model first; else those on the evaluation's benchmark, with that metric's name."""
    if published is None:
        return [], ""
    exact = published(metric)
    if exact or evaluation not in BENCHMARKS:
        return nearest(exact, config), ""
    _, _, rest = metric.partition("/")
    other = f"{BENCHMARKS[evaluation]}/{rest}"
    found = published(other) if rest and other != metric else []
    return nearest(found, config), other if found else ""


def nearest(values: list[Any], config: RunConfig | None) -> list[Any]:
    """Published values, those of our kind and size of model first, then of our share of sentence pairs; otherwise in their order."""
    if config is None:
        return values
    kinds = {"clippo": "CLIPPO", "one_tower_clip": "1T-CLIP", "two_tower_clip": "CLIP*"}
    model = f"{kinds.get(config.model.kind, '')} {'L/16' if config.model.width >= 1024 else 'B/16'}"
    share = f"{100 * config.data.text_pair_share:.0f}% C4"

    def distance(value: Any) -> tuple[bool, bool]:
        is_same_share = share in value.data if config.data.text_pair_share else "C4" not in value.data
        return value.model != model, not is_same_share

    return sorted(values, key=distance)


def summary_table(results: list[EvalResult], main_only: bool = True) -> str:
    """A plain table for the terminal: metric, ours, 95 % interval, chance or majority, n; what failed or was not run says why."""
    lines = [row for result in results for row in rows_of(result) if row.is_main or not main_only]
    head = ("metric", "ours", "95 % interval", "chance or majority", "n", "")
    cells = [
        (
            row.metric,
            digits.share(row.ours),
            digits.interval(row.bounds),
            digits.share(row.chance),
            digits.count(row.n),
            ", ".join([*row.marks, *([row.flag] if row.flag else [])]),
        )
        for row in lines
    ]
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(5)]

    def put(line: tuple[str, ...]) -> str:
        numbers = "  ".join(text.rjust(width) for text, width in zip(line[1:5], widths[1:], strict=True))
        return f"{line[0]:<{widths[0]}}  {numbers}  {line[5]}".rstrip()

    body = [f"{row.metric:<{widths[0]}}  {row.missing}" if row.missing else put(line) for row, line in zip(lines, cells, strict=True)]
    return "\n".join([put(head), "-" * len(put(head)), *body])
