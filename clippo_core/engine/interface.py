"""What every engine does: it owns module and optimizer, and turns a backward pass into one exact
step of the whole world.

    outputs = engine(*inputs)
    engine.backward(loss)
    norm = engine.update(multiplier)        # or engine.discard()

Gradients are averaged over ranks, clipped to the global norm, applied once. Weights and optimizer
state go out and come in whole, by parameter name, whatever the ZeRO stage and the number of ranks.
An engine knows no loss: the contrastive step is `cached.py`'s.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clippo_core.errors import CheckpointError, ConfigError
from clippo_core.optim import ShardedOptimizer


class Engine(abc.ABC):
    """A module, its optimizer and the ranks it trains on. Subclasses call `_forward`, not
    `module`.
    """

    def __init__(
        self, module: nn.Module, optimizer: ShardedOptimizer, precision: str, device: torch.device
    ) -> None:
        self.module, self.optimizer, self.device = module, optimizer, device
        self._forward = _InBfloat16(module, device.type) if precision == "bfloat16" else module
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._pending, self._coalescing = False, False

    @abc.abstractmethod
    def __call__(self, *inputs: Any) -> Any:
        """The module's outputs, under autocast if the precision is bfloat16."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, averaged over ranks. A second call before `update` or `discard` is
        refused unless `coalesced`.
        """
        if self._pending and not self._coalescing:
            raise ConfigError(
                "gradients of an earlier backward() still wait for update() or discard()."
                " Accumulating over micro-batches is refused: a contrastive loss per micro-batch"
                " leaves out the negatives between them, so it is another loss. Use memory='cached'"
                " (cached gradients, exact), or `with engine.coalesced():` for a loss that is a sum"
                " over examples."
            )
        self._pending = True
        self._backward(loss)

    @contextmanager
    def coalesced(self) -> Iterator[None]:
        """Backward passes within this block add up, and their gradients are exchanged once, at its
        end.
        """
        if self._pending:
            raise ConfigError(
                "gradients of an earlier backward() still wait for update() or discard();"
                " coalesced() begins a step."
            )
        self._coalescing = True
        try:
            with self._coalesce():
                yield
        finally:
            self._coalescing = False

    def update(self, multiplier: float) -> float:
        """One optimizer step times `multiplier`; the global gradient norm before clipping, for
        which it waits. If that is not finite, nothing changed.
        """
        return float(self.queue_update(multiplier)[-1])

    def queue_update(self, multiplier: float, report: Tensor | None = None) -> Tensor:
        """`update` without waiting for the device: [k + 1], the report's sums over ranks, then the
        norm. Unless all of them are finite, nothing changed.

        `report` [k]: numbers of this rank, summed over ranks on the way; k may be 0 (None).
        """
        if not self._pending:
            raise ConfigError("update() without a backward() before it.")
        self._pending = False
        self.optimizer.report, self.optimizer.outcome = report, None
        self._update(multiplier)
        assert self.optimizer.outcome is not None
        return self.optimizer.outcome

    def rehearse(self, *inputs: Any, with_graph: bool) -> None:
        """The module's forward pass, `with_graph` its backward pass as well, outside of the
        exchange with other ranks: no gradient, weight or random number differs afterwards.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.set_grad_enabled(with_graph):
            outputs = self._forward(*inputs)
            if with_graph:
                total = torch.stack([output.float().sum() for output in outputs]).sum()
                trained = [p for p in self.module.parameters() if p.requires_grad]
                torch.autograd.grad(total, trained, allow_unused=True)

    def discard(self) -> None:
        """Drop the gradients of a step that is skipped; weights and optimizer state stay. All ranks
        must do the same.
        """
        if self._pending:
            self._pending = False
            self._update(None)

    @abc.abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The module's whole state_dict as CPU copies, on rank 0; an empty dict elsewhere. Every
        rank must call it.
        """

    @abc.abstractmethod
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Replace the module's weights; every rank passes all of them. Raises CheckpointError where
        they do not fit.
        """

    def optimizer_state(self) -> dict[str, Tensor]:
        """The whole optimizer state as CPU copies, `<parameter>/<slot>` and `optimizer/step`, on
        rank 0; an empty dict elsewhere.
        """
        return self.optimizer.full_state()

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `optimizer_state` gave under any stage and number of ranks; every rank
        passes all of it.
        """
        self.optimizer.load_full_state(state)

    @abc.abstractmethod
    def _backward(self, loss: Tensor) -> None: ...

    @abc.abstractmethod
    def _coalesce(self) -> Any: ...

    @abc.abstractmethod
    def _update(self, multiplier: float | None) -> None:
        """Step with `multiplier`, or with None only drop the gradients."""


class _InBfloat16(nn.Module):
    """`module` under autocast; weights, gradients and their reduction stay float32.

    A module rather than a block around the call, because DeepSpeed switches autocast off around
    the module that it is given unless its own autocast is on.
    """

    def __init__(self, module: nn.Module, device_type: str) -> None:
        super().__init__()
        self.module, self._device_type = module, device_type

    def forward(self, *inputs: Any) -> Any:
        with torch.autocast(self._device_type, dtype=torch.bfloat16):
            return self.module(*inputs)


def check_fit(expected: dict[str, tuple[int, ...]], weights: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless `weights` has exactly the expected names and shapes."""
    for what, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has an unknown", weights.keys() - expected.keys()),
    ):
        if names:
            raise CheckpointError(
                f"the checkpoint {what} {min(names)!r} ({len(names)} in all); it is of another"
                " tower."
            )
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{name} has shape {tuple(weights[name].shape)} in the checkpoint, not {shape}; it"
                " is of another tower."
            )
