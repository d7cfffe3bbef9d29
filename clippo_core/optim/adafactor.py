"""big_vision's Adafactor: the second moment of a matrix as the product of its row and column means;
bfloat16 momentum.

    v_ij ~ row_i col_j / mean(row)        u = g / sqrt(v)
    m = 0.9 m + 0.1 u                     p -= multiplier (lr m + weight_decay p)

row and col are running means of g^2 (decay min(0.999, 1 - t^-0.8), t from 1) over the two largest
dimensions of a parameter's *view*, where both are >= `min_dim_size_to_factor`; other dimensions are
so many matrices (attention kernels: one per head). The rest keep v whole. A slice of a parameter
contributes to the sums where it lies, one small all-reduce completes them, and each rank updates
its slice: the same result for whole parameters and for any shards. Not here: update clipping,
learning rates relative to the parameter's size, debiasing; the reference uses none. Source:
big_vision optax.py (scale_by_adafactor) over optax scale_by_factored_rms and ema.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from clippo_core.errors import ConfigError
from clippo_core.optim.factors import Block, factored_dims, inverse_roots, lay_out
from clippo_core.optim.sharded import CACHED_ELEMENTS, Fragment, ShardedOptimizer

EPSILON = 1e-30
DECAY_POWER = 0.8
DECAY_CAP = 0.999


class Adafactor(ShardedOptimizer):
    """See the module. `step(multiplier)`: p -= multiplier * (lr * u + weight_decay * p), the decay
    on `decayed` only.

    `views`: name -> shape in which the gradient is factored, any rank; the two largest dims.
    `momentum_dtype`: of the stored momentum; with bfloat16 the decay is rounded to it too
    (0.8984375), as JAX's weak typing does. `clip_norm`: global norm to which gradients are clipped
    first, 0 = not. `rates`: name -> factor on the whole step.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float,
        weight_decay: float,
        decayed: set[str],
        momentum: float = 0.9,
        momentum_dtype: torch.dtype = torch.bfloat16,
        min_dim_size_to_factor: int = 32,
        views: dict[str, tuple[int, ...]] | None = None,
        *,
        clip_norm: float = 0.0,
        rates: dict[str, float] | None = None,
    ) -> None:
        super().__init__(
            named_parameters, lr, weight_decay, decayed, clip_norm=clip_norm, rates=rates
        )
        self.momentum, self.momentum_dtype = momentum, momentum_dtype
        given = dict(views or {})
        for name, view in given.items():
            if name not in self.shapes or math.prod(view) != math.prod(self.shapes[name]):
                raise ConfigError(
                    f"view {view} of {name!r} does not fit its shape {self.shapes.get(name)}; it"
                    " must hold as many elements."
                )
        self.views = {name: tuple(given.get(name, self.shapes[name])) for name in self.names}
        self._dims = {
            name: factored_dims(self.views[name], min_dim_size_to_factor) for name in self.names
        }
        self._factors = lay_out(self._dims, self.views)
        self._sums_length = sum(f.length for f in self._factors)

    def _allocate(self, like: Tensor) -> None:
        self._state = like.new_zeros(self._sums_length)
        self._means = torch.cat(
            [like.new_empty(0), *(f.inverse_counts(like) for f in self._factors)]
        )
        begin, self._blocks, factored = 0, list[Block](), list[Fragment]()
        for index, factors in enumerate(self._factors):
            for block in factors.blocks(self._fragments, index, together=not self.in_cache):
                bundle = self._bundle(block.fragments, begin)
                block.cut(CACHED_ELEMENTS if self.in_cache else 0)
                self._blocks.append(block)
                self._bundles.append(bundle)
                factored += block.fragments
                begin = bundle.stop
        inside = {id(f) for f in factored}
        self._unfactored = [f for f in self._fragments if id(f) not in inside]
        self._fragments = factored + self._unfactored
        if self._unfactored:
            self._bundles.append(self._bundle(self._unfactored, begin))
        self._split = begin
        n = sum(f.length for f in self._fragments)
        self._v = like.new_zeros(n - self._split)
        # In float64 (tests), nothing may be rounded.
        dtype = (
            like.dtype
            if like.dtype == torch.float64 and self.momentum_dtype == torch.float32
            else self.momentum_dtype
        )
        self._m = torch.zeros(n, dtype=dtype, device=like.device)
        # JAX rounds 0.9 to the accumulator's type before multiplying; for bfloat16 that is
        # 0.8984375.
        self._kept = float(torch.tensor(self.momentum, dtype=dtype))

    def _measure(self, gradients: list[Tensor], sums: Tensor) -> Tensor:
        for block, gradient in zip(self._blocks, gradients[: len(self._blocks)], strict=True):
            block.add_sums(gradient, *self._factors[block.factors].split(sums))
        # A row's sum is of all its squares.
        parts = [factors.split(sums)[0].sum() for factors in self._factors]
        parts += [rest.dot(rest) for rest in gradients[len(self._blocks) :]]
        return torch.stack([sums.new_zeros(()), *parts]).sum()

    def _change(
        self, gradients: list[Tensor], sums: Tensor, clip: Tensor, size: Tensor | float
    ) -> None:
        decay = (1 - self._count.pow(-DECAY_POWER)).clamp_(max=DECAY_CAP)
        fresh = (1 - decay).to(clip.dtype)
        means = sums.mul_(self._means).add_(EPSILON)
        self._unless_skipped(self._state, torch.lerp(self._state, means, fresh))
        kept = self._coefficient(self._kept, 1.0, self._m.dtype)
        # Minus u, so that what is blank is subtracted: m - 0 is m to the bit, where m is -0 too.
        scale = clip * -(1 - self.momentum)
        roots = [inverse_roots(*factors.split(self._state)) for factors in self._factors]
        scaled = [(rows * scale, columns) for rows, columns in roots]
        for place, block in enumerate(self._blocks):
            bundle = self._bundles[place]
            k = len(block.fragments)
            parameters, gradient = self._parameters(bundle), gradients[place].view(k, -1)
            m = self._m[bundle.begin : bundle.stop].view(k, -1)
            for piece in block.pieces:
                part = slice(piece.offset, piece.offset + piece.length)
                minus_u = piece.scaled(gradient[:, part], block, *scaled[block.factors])
                update = self._averaged(m[:, part], minus_u, kept)
                targets = [p[part] for p in parameters]
                self._apply(bundle, targets, update.reshape(-1), size)
        if self._unfactored:
            bundle, rest = self._bundles[-1], gradients[-1] * clip
            self._unless_skipped(self._v, torch.lerp(self._v, rest.square().add_(EPSILON), fresh))
            rest.mul_(self._v.rsqrt()).mul_(-(1 - self.momentum))
            update = self._averaged(self._m[bundle.begin : bundle.stop], rest, kept)
            self._apply(bundle, self._parameters(bundle), update, size)

    def _averaged(self, m: Tensor, minus_u: Tensor, kept: Tensor) -> Tensor:
        """The momentum with u in it, before it is rounded to its dtype, in place of `minus_u`."""
        self._blank(minus_u)
        torch.sub(m.mul_(kept), minus_u, out=minus_u)
        m.copy_(minus_u)
        return minus_u

    def _slots(self) -> dict[str, tuple[list[tuple[Fragment, Tensor]], list[str], torch.dtype]]:
        factored = {name for factors in self._factors for name in factors.names}
        lengths = [f.length for f in self._fragments]
        m = list(zip(self._fragments, self._m.split(lengths), strict=True))
        v = list(
            zip(self._unfactored, self._v.split([f.length for f in self._unfactored]), strict=True)
        )
        return {
            "momentum": (m, self.names, self._m.dtype),
            "v": (v, [name for name in self.names if name not in factored], self._v.dtype),
        }

    def _replicated(self) -> dict[str, Tensor]:
        state = {}
        for factors in self._factors:
            rows, columns = factors.split(self._state)
            for i, name in enumerate(factors.names):
                view, (r, c) = self.views[name], self._dims[name] or (0, 0)
                state[f"{name}/v_row"] = rows[i].view(view[:c] + view[c + 1 :])
                state[f"{name}/v_col"] = columns[i].view(view[:r] + view[r + 1 :])
        return state
