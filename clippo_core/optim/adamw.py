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

from clippo_core.optim.sharded import CACHED_ELEMENTS, Fragment, ShardedOptimizer

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
        begin, group = 0, list[Fragment]()
        for fragment in self._fragments:
            group.append(fragment)
            length = sum(f.length for f in group)
            if self.in_cache and length >= CACHED_ELEMENTS:
                self._bundles.append(self._bundle(group, begin))
                begin, group = begin + length, []
        if group:
            self._bundles.append(self._bundle(group, begin))

    def _measure(self, gradients: list[Tensor], sums: Tensor) -> Tensor:
        return torch.stack([self._like().new_zeros(()), *(g.dot(g) for g in gradients)]).sum()

    def _change(
        self, gradients: list[Tensor], sums: Tensor, clip: Tensor, size: Tensor | float
    ) -> None:
        first, second = self.betas
        of_m, of_v = ((1 - torch.pow(beta, self._count)).to(clip.dtype) for beta in self.betas)
        fresh = self._coefficient(1 - first, 0.0, clip.dtype)
        kept = self._coefficient(second, 1.0, clip.dtype)
        for bundle, gradient in zip(self._bundles, gradients, strict=True):
            m, v = (state[bundle.begin : bundle.stop] for state in (self._m, self._v))
            direction = self._blank(gradient * clip)
            m.lerp_(direction, fresh)
            v.mul_(kept).addcmul_(direction, direction, value=1 - second)
            root = (v / of_v).sqrt_().add_(EPSILON)
            torch.div(m, root, out=direction).div_(of_m)
            self._apply(bundle, self._parameters(bundle), direction, size)

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
