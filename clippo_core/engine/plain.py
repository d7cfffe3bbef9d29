"""The plain engine: torch alone, every rank with all weights (ZeRO stage 0), gradients averaged in
buckets while backward runs.

    backward:  ... layer 12 ready ▶ bucket 0 ─ all-reduce ┐
               ... layer  9 ready ▶ bucket 1 ─ all-reduce ┤ update: wait, clip, step

Buckets are filled in the reverse order of the parameters and sent in the order of their number, the
same on every rank, also where a parameter had no gradient (zeros). Torch's own
DistributedDataParallel would wrap the module and needs to be told about unused parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clippo_core.engine.buckets import bucket_elements
from clippo_core.engine.interface import Engine, check_fit
from clippo_core.optim import ShardedOptimizer


class PlainEngine(Engine):
    """See the module. One process needs no process group."""

    def __init__(
        self, module: nn.Module, optimizer: ShardedOptimizer, precision: str, device: torch.device
    ) -> None:
        super().__init__(module, optimizer, precision, device)
        self._averager = (
            _Averager([p for p in module.parameters() if p.requires_grad], self.world_size)
            if self.world_size > 1
            else None
        )
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def __call__(self, *inputs: Any) -> Any:
        return self._forward(*inputs)

    def weights(self) -> dict[str, Tensor]:
        return (
            {name: value.detach().cpu().clone() for name, value in self.module.state_dict().items()}
            if self.rank == 0
            else {}
        )

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        state = self.module.state_dict()
        check_fit({name: tuple(value.shape) for name, value in state.items()}, weights)
        for name, value in state.items():
            value.copy_(weights[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        return super().optimizer_state() if self.rank == 0 else {}

    def _backward(self, loss: Tensor) -> None:
        loss.backward()
        if self._averager and not self._coalescing:
            self._averager.send_rest()

    @contextmanager
    def _coalesce(self) -> Iterator[None]:
        if self._averager is None:
            yield
            return
        self._averager.paused = True
        try:
            yield
        finally:
            self._averager.paused = False
        self._averager.send_rest()

    def _update(self, multiplier: float | None) -> None:
        if self._averager:
            self._averager.receive()
        if multiplier is not None:
            self.optimizer.step(multiplier)
        self.module.zero_grad(set_to_none=True)


class _Averager:
    """Means of gradients over ranks, bucket by bucket, overlapping with the backward pass that
    makes them.
    """

    def __init__(self, parameters: list[nn.Parameter], world_size: int) -> None:
        self.world_size, self.paused = world_size, False
        self.buckets: list[list[nn.Parameter]] = []
        most = filled = bucket_elements(sum(p.numel() for p in parameters))
        for parameter in reversed(parameters):
            size = parameter.numel()
            if filled + size > most or self.buckets[-1][0].dtype != parameter.dtype:
                self.buckets.append([])
                filled = 0
            self.buckets[-1].append(parameter)
            filled += size
        self._bucket_of = {id(p): i for i, bucket in enumerate(self.buckets) for p in bucket}
        self._begin()
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._ready)

    def _begin(self) -> None:
        self._missing = [len(bucket) for bucket in self.buckets]
        self._sent: list[tuple[Tensor, Any]] = []

    def _ready(self, parameter: Tensor) -> None:
        if self.paused:
            return
        self._missing[self._bucket_of[id(parameter)]] -= 1
        while len(self._sent) < len(self.buckets) and self._missing[len(self._sent)] == 0:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[len(self._sent)]
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket]
        ).div_(self.world_size)
        self._sent.append((flat, dist.all_reduce(flat, async_op=True)))

    def send_rest(self) -> None:
        """Send the buckets that are not complete: the rest of their gradients is zero."""
        while len(self._sent) < len(self.buckets):
            self._send()

    def receive(self) -> None:
        """Wait for all buckets; the parameters' gradients are then the means."""
        for bucket, (flat, work) in zip(self.buckets, self._sent, strict=True):
            work.wait()
            for parameter, mean in zip(
                bucket, flat.split([p.numel() for p in bucket]), strict=True
            ):
                parameter.grad = mean.view_as(parameter)
        self._begin()
