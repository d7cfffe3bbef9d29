"""Config of the gate: what a new model has to hold before it is promoted (docs/gate.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from clippo_core.config.check import Checked
from clippo_core.config.hints import Check, Name, NotNegative, Positive


@dataclass(frozen=True)
class GateConfig(Checked, path="gate"):
    """How much worse a new model may be, and how sure the gate has to be."""

    margin: Positive = 1.5
    """Loss that is tolerated, in points of 0..100: of the mean of all main metrics it must be shown
    that no more is lost, and of no single one may it be shown that more is."""
    seed_noise: NotNegative = 0.3
    """Standard deviation of a main metric between trainings that differ in their seed alone, in
    points. Measure it with a few seeds of the run; too low a value refuses equal models."""
    error: Annotated[float, Check(lambda x: 0 < x < 0.5, "use a share between 0 and 0.5")] = 0.05
    """Chance of a wrong decision, of the mean as of all single metrics together."""
    floors: tuple[Name, ...] = ()
    """Metrics that must beat chance, by the lower end of their interval, before there is a model to
    be held against; empty = all main metrics."""
