"""AdamW with the decay of this project: p -= multiplier * rate * (lr * u + weight_decay * p), u =
m_hat / (sqrt(v_hat) + 1e-8).

torch's AdamW with weight_decay `w` at learning rate `lr` is this one with weight_decay `lr * w`.
Elementwise, so a shard needs nothing from other ranks but the gradient's norm.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from clippo_core.optim.sharded import Fragment, ShardedOptimizer

EPSILON = 1e-8


class AdamW(ShardedOptimizer):
    """See the module. Both moments are kept in the parameters' dtype."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float,
        weight_decay: float,
        decayed: set[str],
        betas: tuple[float, float] = (0.9, 0.95),
        *,
        clip_norm: float = 0.0,
        rates: dict[str, float] | None = None,
    ) -> None:
        super().__init__(
            named_parameters, lr, weight_decay, decayed, clip_norm=clip_norm, rates=rates
        )
        self.betas = betas

    def _allocate(self, like: Tensor) -> None:
        n = sum(f.length for f in self._fragments)
        self._m, self._v = like.new_zeros(n), like.new_zeros(n)

    def _direct(self, direction: Tensor, sums: Tensor) -> None:
        first, second = self.betas
        dtype = direction.dtype
        self._blank(direction)
        self._m.lerp_(direction, self._coefficient(1 - first, 0.0, dtype))
        self._v.mul_(self._coefficient(second, 1.0, dtype))
        self._v.addcmul_(direction, direction, value=1 - second)
        of_m, of_v = ((1 - torch.pow(beta, self._count)).to(dtype) for beta in self.betas)
        root = (self._v / of_v).sqrt_().add_(EPSILON)
        torch.div(self._m, root, out=direction).div_(of_m)

    def _slots(self) -> dict[str, tuple[list[tuple[Fragment, Tensor]], list[str], torch.dtype]]:
        lengths = [f.length for f in self._fragments]
        return {
            slot: (
                list(zip(self._fragments, flat.split(lengths), strict=True)),
                self.names,
                flat.dtype,
            )
            for slot, flat in (("exp_avg", self._m), ("exp_avg_sq", self._v))
        }
