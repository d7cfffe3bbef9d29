"""Is a model at least as good as the reference? The rule of the gate, on numbers alone.

    s(m)   = sqrt(error(m)^2 + 2 seed_noise^2)         of the difference in one main metric
    s(all) = the same of the mean; metrics of one data set may err together
    pass  <=>  mean difference - z(error) s(all)     > -margin      shown to lose no more
          and  difference(m) + z(error / n) s(m)    >= -margin      no metric shown to lose more

The first is a test of non-inferiority: where the benchmarks cannot tell, the model is refused. The
second would refuse nearly every model in that form, because one small benchmark cannot show a
difference of a point; so it refuses what is shown to be worse, and the error is shared over the n
metrics. Rates of error: docs/gate.md. No file is read here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist

from clippo_core.config import GateConfig
from clippo_core.run.records import Comparison, Metric

WEEKS = 52
"""Models per year that may each become the reference by luck."""


def faults(config: GateConfig, compared: Mapping[str, Comparison]) -> list[str]:
    """What speaks against the model, a sentence per fault; empty = nothing. compared: by metric."""
    if not compared:
        return []
    found = []
    z = _z(config.error / len(compared))
    for name, one in sorted(compared.items()):
        allowed = config.margin + z * _spread(config, one.error)
        if one.now - one.before < -allowed:
            found.append(
                f"{name} fell from {one.before:.2f} (promotion {one.promotion}) to {one.now:.2f},"
                f" by more than the margin of {config.margin:g} and its noise of"
                f" {allowed - config.margin:.2f}"
            )
    change = math.fsum(one.now - one.before for one in compared.values()) / len(compared)
    noise = _z(config.error) * _spread(config, _error_of_mean(compared))
    if change - noise <= -config.margin:
        what = f"the mean of {len(compared)} main metrics" if len(compared) > 1 else min(compared)
        found.append(
            f"{what} changed by {change:+.2f}, known to {noise:.2f}, which does not rule out a loss"
            f" of more than the margin of {config.margin:g}"
        )
    return found


def below_floor(chosen: Iterable[str], now: Mapping[str, Metric], unknown: set[str]) -> list[str]:
    """What speaks against a model that has nothing to be held against in the metrics `unknown`.

    chosen: the metrics that have to beat chance, by the lower end of their interval.
    """
    found = []
    for name in sorted(chosen):
        if name not in now:
            found.append(f"{name}, which has to beat chance, is not among {', '.join(sorted(now))}")
            continue
        metric = now[name]
        low = metric.value if metric.low is None else metric.low
        if low is None or metric.chance is None or name not in unknown:
            continue
        if low <= metric.chance:
            found.append(
                f"{name} is not above chance ({metric.chance:.2f}): it is {metric.value:.2f}, and"
                f" its interval begins at {low:.2f}"
            )
    return found


def is_better(config: GateConfig, one: Comparison, n_metrics: int) -> bool:
    """Whether the model is shown to be better in a metric, so that the next is held against it.

    The error is shared over metrics and a year: a lucky model would stay the reference for good.
    """
    z = _z(config.error / n_metrics / WEEKS)
    return one.now - one.before > z * _spread(config, one.error)


def drifted(error: float, compared: Mapping[str, Comparison]) -> list[str]:
    """A sentence for each metric of one model that differs from an earlier evaluation of it by more
    than the examples explain; error: chance of any where nothing changed.
    """
    z = _z(error / 2 / max(1, len(compared)))
    return [
        f"{name} was {one.before:.2f} and is {one.now:.2f}, beyond its noise of {z * one.error:.2f}"
        for name, one in sorted(compared.items())
        if abs(one.now - one.before) > z * one.error
    ]


def _z(error: float) -> float:
    return NormalDist().inv_cdf(1 - error)


def _spread(config: GateConfig, error: float) -> float:
    """Standard deviation of a difference between two trainings: of the examples and the seeds."""
    return math.sqrt(error**2 + 2 * config.seed_noise**2)


def _error_of_mean(compared: Mapping[str, Comparison]) -> float:
    """Standard error of the mean difference: linear within a data set, quadratic between them."""
    by_set: dict[str, float] = {}
    for name, one in compared.items():
        of = name.rpartition("/")[0]
        by_set[of] = by_set.get(of, 0.0) + one.error
    return math.sqrt(math.fsum(error**2 for error in by_set.values())) / len(compared)
