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
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from clippo_core.errors import ConfigError
from clippo_core.optim.sharded import Fragment, ShardedOptimizer

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
        self._factors = _lay_out(self._dims, self.views)
        self._sums_length = sum(f.length for f in self._factors)

    def _allocate(self, like: Tensor) -> None:
        self._state = like.new_zeros(self._sums_length)
        self._means = torch.cat(
            [like.new_empty(0), *(f.inverse_counts(like) for f in self._factors)]
        )
        self._blocks, factored = [], []
        for index, factors in enumerate(self._factors):
            for block in factors.blocks(self._fragments, index):
                self._blocks.append(block)
                factored += block.fragments
        inside = {id(f) for f in factored}
        self._unfactored = [f for f in self._fragments if id(f) not in inside]
        self._fragments = factored + self._unfactored
        self._split = sum(f.length for f in factored)
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

    def _sums(self, direction: Tensor, out: Tensor) -> None:
        begin = 0
        for block in self._blocks:
            length = sum(f.length for f in block.fragments)
            factors = self._factors[block.factors]
            block.add_sums(direction[begin : begin + length], *factors.split(out))
            begin += length

    def _direct(self, direction: Tensor, sums: Tensor) -> None:
        decay = (1 - self._count.pow(-DECAY_POWER)).clamp_(max=DECAY_CAP)
        fresh = (1 - decay).to(direction.dtype)
        means = sums.mul_(self._means).add_(EPSILON)
        self._unless_skipped(self._state, torch.lerp(self._state, means, fresh))
        begin = 0
        roots = [_inverse_roots(*factors.split(self._state)) for factors in self._factors]
        for block in self._blocks:
            length = sum(f.length for f in block.fragments)
            block.scale(direction[begin : begin + length], *roots[block.factors])
            begin += length
        rest = direction[self._split :]
        self._unless_skipped(self._v, torch.lerp(self._v, rest.square().add_(EPSILON), fresh))
        rest.mul_(self._v.rsqrt())
        # Minus u, so that what is blank is subtracted: m - 0 is m to the bit, where m is -0 too.
        self._blank(direction.mul_(-(1 - self.momentum)))
        kept = self._m.mul_(self._coefficient(self._kept, 1.0, self._m.dtype))
        torch.sub(kept, direction, out=direction)
        self._m.copy_(direction)

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


def factored_dims(view: tuple[int, ...], min_dim_size_to_factor: int) -> tuple[int, int] | None:
    """Indices, in order, of the two largest dims; None where the smaller of them is below the
    limit. optax's rule.
    """
    if len(view) < 2:
        return None
    *_, second, first = sorted(range(len(view)), key=lambda i: view[i])
    return (
        (min(first, second), max(first, second)) if view[second] >= min_dim_size_to_factor else None
    )


@dataclass
class _Factors:
    """Row and column means of all parameters of one view, which is seen as [before, R, between, C,
    after]; in `sums` from `begin`.
    """

    view: tuple[int, int, int, int, int]
    names: list[str]
    begin: int = 0

    @property
    def length(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes())

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        b, r, m, c, t = self.view
        return (len(self.names), b, r, m, 1, t), (len(self.names), b, 1, m, c, t)

    def split(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """This view's rows [k, b, R, m, 1, t] and columns [k, b, 1, m, C, t] within a tensor of all
        views' sums.
        """
        rows, columns = self.shapes()
        part = sums[self.begin : self.begin + self.length].split(
            [math.prod(rows), math.prod(columns)]
        )
        return part[0].view(rows), part[1].view(columns)

    def inverse_counts(self, like: Tensor) -> Tensor:
        """What makes means of the sums: 1/C for rows, 1/R for columns."""
        rows, columns = self.shapes()
        return torch.cat(
            [
                like.new_full((math.prod(s),), 1 / n)
                for s, n in ((rows, self.view[3]), (columns, self.view[1]))
            ]
        )

    def blocks(self, fragments: list[Fragment], index: int) -> list[_Block]:
        """The fragments of this view, neighbours of equal position together."""
        place = {name: i for i, name in enumerate(self.names)}
        mine = sorted(
            (f for f in fragments if f.name in place),
            key=lambda f: (f.start, f.length, place[f.name]),
        )
        blocks: list[_Block] = []
        for fragment in mine:
            last = blocks[-1] if blocks else None
            at = place[fragment.name]
            if (
                last
                and (last.fragments[0].start, last.fragments[0].length)
                == (fragment.start, fragment.length)
                and last.stop == at
            ):
                last.fragments.append(fragment)
            else:
                blocks.append(_Block(index, self.view, at, [fragment]))
        return blocks


@dataclass
class _Block:
    """Slices at the same position of consecutive parameters of one view: handled as one tensor [k,
    b', R', m, C, t].

    A slice that does not begin and end with a row is padded with zeros until it does (or, when it
    spans several matrices, until their ends): zeros add nothing to sums of squares, and the update
    of padding is thrown away.
    """

    factors: int
    view: tuple[int, int, int, int, int]
    first: int
    fragments: list[Fragment]

    @property
    def stop(self) -> int:
        return self.first + len(self.fragments)

    def __post_init__(self) -> None:
        _, r, m, c, t = self.view
        row = m * c * t
        start, end = self.fragments[0].start, self.fragments[0].start + self.fragments[0].length
        low, high = start // row, -(-end // row)
        self.matrices = slice(low // r, -(-high // r))
        if self.matrices.stop - self.matrices.start == 1:
            self.rows = slice(low % r, low % r + high - low)
        else:
            low, high, self.rows = self.matrices.start * r, self.matrices.stop * r, slice(0, r)
        self.padding = (start - low * row, high * row - end)
        self.shape = (
            self.matrices.stop - self.matrices.start,
            self.rows.stop - self.rows.start,
            m,
            c,
            t,
        )

    def add_sums(self, flat: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Sums of squares of the k slices in `flat`, into their places of `rows` and `columns`."""
        squares = self._padded(flat).square()
        torch.sum(
            squares, dim=4, keepdim=True, out=rows[self.first : self.stop, self.matrices, self.rows]
        )
        torch.sum(squares, dim=2, keepdim=True, out=columns[self.first : self.stop, self.matrices])

    def scale(self, flat: Tensor, row_roots: Tensor, column_roots: Tensor) -> None:
        """`flat` times both inverse roots, in place."""
        wide = self._padded(flat)
        wide.mul_(row_roots[self.first : self.stop, self.matrices, self.rows])
        wide.mul_(column_roots[self.first : self.stop, self.matrices])
        if any(self.padding):
            n = self.fragments[0].length
            flat.view(-1, n).copy_(
                wide.view(len(self.fragments), -1)[:, self.padding[0] : self.padding[0] + n]
            )

    def _padded(self, flat: Tensor) -> Tensor:
        flat = flat.view(len(self.fragments), -1)
        if any(self.padding):
            flat = torch.nn.functional.pad(flat, self.padding)
        return flat.view(len(self.fragments), *self.shape)


def _lay_out(
    dims: dict[str, tuple[int, int] | None], views: dict[str, tuple[int, ...]]
) -> list[_Factors]:
    """One _Factors for each different factored view, in the order of the parameters: the same on
    every rank.
    """
    found: dict[tuple[int, ...], _Factors] = {}
    for name, pair in dims.items():
        if pair is not None:
            v, (i, j) = views[name], pair
            key = (math.prod(v[:i]), v[i], math.prod(v[i + 1 : j]), v[j], math.prod(v[j + 1 :]))
            found.setdefault(key, _Factors(key, [])).names.append(name)
    begin = 0
    for factors in found.values():
        factors.begin, begin = begin, begin + factors.length
    return list(found.values())


def _inverse_roots(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors whose product is 1 / sqrt(v)."""
    return rows.rsqrt(), columns.rsqrt() * rows.mean(dim=2, keepdim=True).sqrt()
