"""What all ranks must see alike: a decision of rank 0, the most urgent signal of a step, the end.

    rank0(find)   -> what `find` gave on rank 0, or the error that it raised there, on every rank
    urgent(signal) -> the highest signal that any rank has in this step

The ranks speak over gloo, also beside NCCL: no GPU has to wait. Two patience limits: setting up,
loading and the end may take SETUP_SECONDS (another rank may be downloading), a step only the
process group's timeout. It moves no tensors of the model.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from clippo_core.engine import Ranks
from clippo_core.errors import ClippoError, LostRankError

SETUP_SECONDS = 900.0
"""How long ranks wait for one another while loading, saving at the end, or waiting for the run's
lease."""

T = TypeVar("T")


class Signal(enum.IntEnum):
    """What a rank wants to do after a step; the highest wins."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    """SIGTERM came: save and end."""
    FAILED = 3
    """A save failed on rank 0."""


class Agreement:
    """The channel between the ranks. Every rank constructs it, and calls its methods in the same
    order.
    """

    def __init__(self, ranks: Ranks, timeout_seconds: float):
        self.ranks, self._timeout_seconds = ranks, timeout_seconds
        self._patient = self._quick = None
        if ranks.world_size > 1:
            self._patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=SETUP_SECONDS))
            self._quick = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))

    def rank0(self, call: Callable[[], T]) -> T:
        """What `call` returns on rank 0, on every rank; a ClippoError that it raises is raised on
        every rank.
        """
        if self.ranks.world_size == 1:
            return call()
        said: list[Any] = [None, None]
        if self.ranks.rank == 0:
            try:
                said[0] = call()
            except ClippoError as error:
                said[1] = error
        dist.broadcast_object_list(said, src=0, group=self._patient)
        if said[1] is not None:
            raise said[1]
        result: T = said[0]
        return result

    def urgent(self, signal: Signal) -> Signal:
        """The highest signal of all ranks."""
        if self.ranks.world_size == 1:
            return signal
        value = torch.tensor(int(signal))
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self._quick)
        return Signal(int(value))

    def everyone(self, value: T) -> list[T]:
        """The values of all ranks, by rank."""
        values: list[Any] = [value] * self.ranks.world_size
        if self.ranks.world_size > 1:
            dist.all_gather_object(values, value, group=self._patient)
        return values

    def barrier(self) -> None:
        """Return when every rank is here."""
        if self.ranks.world_size > 1:
            dist.barrier(group=self._patient)

    @contextmanager
    def noticing_lost_ranks(self) -> Iterator[None]:
        """Turn a collective that failed or timed out into a LostRankError that says so."""
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            lost = isinstance(error, dist.DistError) or any(
                word in text for word in ("gloo", "NCCL", "Timed out")
            )
            if self.ranks.world_size == 1 or not lost:
                raise
            raise LostRankError(
                f"rank {self.ranks.rank} of {self.ranks.world_size} lost another rank: it died, or"
                f" did not answer within {self._timeout_seconds:g} s (train.timeout_seconds). Start"
                f" again: the run goes on from its checkpoint. ({text[:200]})"
            ) from error
