"""An optimizer over slices of parameters: whole parameters on one process, or the flat shard that
ZeRO leaves to a rank.

    parameter "w", [4, 6]   ████████▓▓▓▓▓▓▓▓▒▒▒▒▒▒▒▒
    rank 1's flat shard             ▓▓▓▓▓▓▓▓    Fragment("w", start=8, length=8, offset=...)

Every step is   p -= multiplier * rate * (lr * u + weight_decay * p)   on each fragment, u being the
subclass's direction, the decay on `decayed` only. Before that the gradient is clipped to a global
norm; the square of the norm travels in the same single all-reduce as whatever sums over shards the
subclass needs, and as the caller's `report`. Whether a step counts is decided on the device, where
the numbers are, so that nobody waits for them: a step that does not count is computed all the same,
and leaves every weight and every moment as it was. (On a CPU there is nothing to wait for, and such
a step ends there.)

Fragments are handled in bundles. On a GPU these are few and large, and parameters are updated by
foreach kernels, so that the number of launches does not grow with the number of parameters; on a
CPU they are small enough to stay in its cache from one pass to the next. The state is exported
whole, by parameter name, and can be taken back by any other division into shards. The engines
average the gradients before they come here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from clippo_core.errors import CheckpointError, ConfigError

STEP_KEY = "optimizer/step"
"""Name of the number of steps done in the exported state; the others are `<parameter>/<slot>`."""
CACHED_ELEMENTS = 1 << 18
"""Elements that a CPU handles at a time: with what belongs to them, a few MB. Four times more or
fewer take 10 % longer on a core with 1 MiB of its own cache."""


@dataclass(frozen=True)
class Fragment:
    """Elements start .. start + length of a flattened parameter, which lie at `offset` in this
    rank's flat shard.
    """

    name: str
    start: int
    length: int
    offset: int = 0


class Bundle:
    """Fragments that follow each other in the state, from its element `begin`, and are updated
    together. `decayed`, `by_rate`: which of them, by their places in it.
    """

    def __init__(
        self,
        fragments: Sequence[Fragment],
        begin: int,
        decayed: frozenset[str],
        rates: dict[str, float],
    ) -> None:
        self.fragments, self.begin = list(fragments), begin
        self.lengths = [f.length for f in fragments]
        self.stop = begin + sum(self.lengths)
        self.decayed = [i for i, f in enumerate(fragments) if f.name in decayed]
        self.by_rate: dict[float, list[int]] = {}
        for i, fragment in enumerate(fragments):
            self.by_rate.setdefault(rates.get(fragment.name, 1.0), []).append(i)


class ShardedOptimizer(torch.optim.Optimizer):
    """See the module. Subclasses: `_allocate`, `_measure`, `_change`, `_slots`."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float,
        weight_decay: float,
        decayed: set[str],
        *,
        clip_norm: float = 0.0,
        rates: dict[str, float] | None = None,
    ) -> None:
        named = [(name, p) for name, p in named_parameters if p.requires_grad]
        if not named:
            raise ConfigError("the optimizer was given no parameter that requires a gradient.")
        super().__init__([p for _, p in named], {"lr": lr})
        self.names = [name for name, _ in named]
        self.shapes = {name: tuple(p.shape) for name, p in named}
        self.decayed, self.rates = frozenset(decayed), dict(rates or {})
        for given, what in ((self.decayed, "decayed"), (self.rates, "rates")):
            unknown = sorted(set(given) - set(self.names))
            if unknown:
                raise ConfigError(
                    f"`{what}` names parameters that the optimizer does not have:"
                    f" {', '.join(unknown[:3])}."
                )
        if lr <= 0:
            raise ConfigError(
                f"the learning rate is {lr}; it must be positive (a multiplier of 0 stops the"
                " updates)."
            )
        self.lr, self.weight_decay, self.clip_norm = lr, weight_decay, clip_norm
        self.report: Tensor | None = None
        """[k], this rank's numbers of the next step: their sums over ranks travel with the step's,
        and unless they are finite the step does not count. None for none."""
        self.outcome: Tensor | None = None
        """[k + 1] of the last step: the report's sums, and the global norm of the gradient before
        clipping."""
        self.multiplier: float | None = 1.0
        """Of the next `step()` without an argument; None makes it do nothing (for engines that call
        `step` themselves)."""
        self._whole = dict(named)
        self._shard: Tensor | None = None
        self._fragments: list[Fragment] = []
        self._bundles: list[Bundle] = []
        self._placed = self._compiled = False
        self.in_cache = named[0][1].device.type == "cpu"
        """Whether little is handled at a time, as suits a CPU, and whether a step counts is known
        before it changes anything; set before the first step."""

    def place(self, shard: Tensor, fragments: Sequence[Fragment]) -> None:
        """Update `shard`, 1-D with its gradient in `.grad`, instead of whole parameters: the
        `fragments` that this rank holds in it.
        """
        if self._placed:
            raise ConfigError(
                "the optimizer has its state already; place it on a shard before its first step."
            )
        if len({f.name for f in fragments}) < len(fragments):
            raise ConfigError(
                "a parameter has two fragments in one shard; one rank's slice of a parameter must"
                " be contiguous."
            )
        self._shard, self._fragments = shard, [f for f in fragments if f.length]

    @property
    def count(self) -> int:
        """Steps that counted. Waits for the device."""
        self._ready()
        return int(self._count)

    @property
    def grad_norm(self) -> float:
        """Global norm of the last step's gradient, before clipping; inf before the first. Waits for
        the device."""
        return float("inf") if self.outcome is None else float(self.outcome[-1])

    @torch.no_grad()
    def step(self, multiplier: float | None = None) -> None:  # type: ignore[override]  # torch's takes a closure
        """One update, which waits for nothing. Where the gradient's norm or the report is not
        finite nothing changes; `outcome` tells.
        """
        multiplier = self.multiplier if multiplier is None else multiplier
        if multiplier is None:
            return
        self._ready()
        gradients = self._gathered()
        k = 0 if self.report is None else self.report.numel()
        numbers = self._like().new_zeros(k + 1 + self._sums_length)
        if self.report is not None:
            numbers[:k] = self.report
        squares, sums = numbers[k], numbers[k + 1 :]
        squares.copy_(self._measure(gradients, sums))
        _sum_over_ranks(numbers if self._is_shard() else numbers[:k])
        norm = squares.sqrt()
        self.outcome = torch.cat([numbers[:k], norm.reshape(1)])
        self._counts = self.outcome.isfinite().all()
        if self.in_cache and not self._counts:
            return
        clip = torch.ones_like(norm, dtype=torch.float64)
        if self.clip_norm > 0:
            clip = clip.mul_(self.clip_norm).div_(norm.double()).clamp_(max=1.0)
            sums.mul_((clip * clip).to(sums.dtype))  # they are of squares
        self._count += self._counts
        # A tensor where it is compiled, or each step's number would be compiled anew.
        size: Tensor | float = -multiplier * self.lr
        if self._compiled:
            size = torch.full_like(norm, -multiplier * self.lr)
        self._change(gradients, sums, clip.to(norm.dtype), size)

    def compile(self) -> None:
        """Let torch.compile fuse the update; before the first step. The same mathematics, to
        rounding."""
        self.in_cache, self._compiled = False, True
        # Or the momentum would not be rounded to bfloat16 where the reference rounds it.
        exactly = {"emulate_precision_casts": True}
        measure, change = self._measure, self._change
        self._measure = torch.compile(measure, dynamic=False, options=exactly)  # type: ignore
        self._change = torch.compile(change, dynamic=False, options=exactly)  # type: ignore

    def skip(self) -> None:
        """Instead of `step`, on all ranks: the gradient is known not to be finite."""
        report = self._like().new_empty(0) if self.report is None else self.report.clone()
        _sum_over_ranks(report)
        self.outcome = torch.cat([report, report.new_full((1,), torch.inf)])

    def full_state(self) -> dict[str, Tensor]:
        """The whole state as CPU tensors, on rank 0; an empty dict elsewhere. All ranks of a
        sharded optimizer must call it.
        """
        self._ready()
        leads = not self._is_shard() or dist.get_rank() == 0
        state = {STEP_KEY: self._count.long().reshape(1).cpu()} if leads else {}
        for slot, (pieces, names, dtype) in self._slots().items():
            by_name: dict[str, list[tuple[Fragment, Tensor]]] = {}
            for fragment, piece in pieces:
                by_name.setdefault(fragment.name, []).append((fragment, piece))
            for name in names:
                whole = torch.zeros(
                    _numel(self.shapes[name]), dtype=dtype, device=self._like().device
                )
                for fragment, piece in by_name.get(name, []):
                    whole[fragment.start : fragment.start + fragment.length] = piece
                if self._is_shard() and dist.get_world_size() > 1:
                    dist.reduce(whole, 0)
                if leads:
                    state[f"{name}/{slot}"] = whole.view(self.shapes[name]).cpu()
        if leads:
            state.update({key: value.cpu().clone() for key, value in self._replicated().items()})
        return state

    def load_full_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `full_state` gave, under any division into shards; every rank passes all
        of it. Raises CheckpointError.
        """
        self._ready()
        self._count.fill_(int(_take(state, STEP_KEY, (1,))))
        for slot, (pieces, _, _) in self._slots().items():
            for fragment, piece in pieces:
                whole = _take(state, f"{fragment.name}/{slot}", self.shapes[fragment.name]).reshape(
                    -1
                )
                piece.copy_(whole[fragment.start : fragment.start + fragment.length])
        for key, value in self._replicated().items():
            value.copy_(_take(state, key, tuple(value.shape)))

    # What a subclass adds. `gradients`: of each bundle, flat and not to be changed.

    _sums_length = 0

    def _allocate(self, like: Tensor) -> None:
        """Make the state, bring `_fragments` into the order that suits it, and fill `_bundles`."""
        raise NotImplementedError

    def _measure(self, gradients: list[Tensor], sums: Tensor) -> Tensor:
        """The sum of all squares on this rank, 0-d; other sums of squares over this rank's
        fragments are written into the zeros of `sums`, and summed over ranks.
        """
        raise NotImplementedError

    def _change(
        self, gradients: list[Tensor], sums: Tensor, clip: Tensor, size: Tensor | float
    ) -> None:
        """Change state and parameters: the update of gradients times `clip` (0-d), `_apply`
        `size` times. In a step that does not count nothing in `gradients`, `sums` and `clip` can be
        relied on, and the state must stay; see `_blank`, `_unless_skipped`.
        """
        raise NotImplementedError

    def _slots(self) -> dict[str, tuple[list[tuple[Fragment, Tensor]], list[str], torch.dtype]]:
        """Slot -> its slices on this rank, all parameters that have it, dtype: state with one value
        an element.
        """
        raise NotImplementedError

    def _replicated(self) -> dict[str, Tensor]:
        """State that every rank has whole."""
        return {}

    # For subclasses, within `_change`.

    def _blank(self, tensor: Tensor) -> Tensor:
        """Zeros in place of `tensor` in a step that does not count."""
        return tensor if self.in_cache else tensor.masked_fill_(~self._counts, 0.0)

    def _unless_skipped(self, state: Tensor, new: Tensor) -> None:
        """Replace `state`, which is small, by `new` in a step that counts."""
        state.copy_(torch.where(self._counts, new, state))

    def _coefficient(self, value: float, skipped: float, dtype: torch.dtype) -> Tensor:
        """`value` in a step that counts, else `skipped`; 0-d."""
        whole = torch.full((), value, dtype=dtype, device=self._counts.device)
        return whole.masked_fill_(~self._counts, skipped)

    # In calling order.

    def _is_shard(self) -> bool:
        return self._shard is not None

    def _like(self) -> Tensor:
        """A tensor of the parameters' device and dtype."""
        return self._whole[self.names[0]].data if self._shard is None else self._shard

    def _ready(self) -> None:
        if not self._placed:
            if self._shard is None:
                self._fragments = [
                    Fragment(name, 0, _numel(self.shapes[name])) for name in self.names
                ]
            like = self._like()
            # Of the steps that counted: known on the device only. Double, for powers of it.
            self._count = torch.zeros((), dtype=torch.float64, device=like.device)
            self._allocate(like)
            self._placed = True

    def _bundle(self, fragments: Sequence[Fragment], begin: int) -> Bundle:
        return Bundle(fragments, begin, self.decayed, self.rates)

    def _gathered(self) -> list[Tensor]:
        """The gradients of each bundle, flat; where there is none, zeros."""
        if self._shard is None:
            whole = [self._whole[f.name] for f in self._fragments]
            found = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in whole]
        else:
            flat = torch.zeros_like(self._shard) if self._shard.grad is None else self._shard.grad
            found = [flat[f.offset : f.offset + f.length] for f in self._fragments]
        if not self.in_cache:
            lengths = [bundle.stop - bundle.begin for bundle in self._bundles]
            return list(torch.cat(found).split(lengths)) if found else []
        gradients, place = [], 0
        for bundle in self._bundles:
            mine = found[place : place + len(bundle.fragments)]
            gradients.append(mine[0] if len(mine) == 1 else torch.cat(mine))
            place += len(mine)
        return gradients

    def _parameters(self, bundle: Bundle) -> list[Tensor]:
        """The fragments of a bundle, each flat, to be changed in place."""
        if self._shard is None:
            return [self._whole[f.name].data.view(-1) for f in bundle.fragments]
        shard = self._shard.data
        return [shard[f.offset : f.offset + f.length] for f in bundle.fragments]

    def _apply(
        self, bundle: Bundle, parameters: list[Tensor], update: Tensor, size: Tensor | float
    ) -> None:
        """parameters += size * rate * (update + weight_decay / lr * parameters), all flat; `update`
        is used up.
        """
        updates = list(update.split([p.numel() for p in parameters]))
        if self.weight_decay and bundle.decayed:
            # Together with u, where it is not lost in p's rounding.
            torch._foreach_add_(
                [updates[i] for i in bundle.decayed],
                [parameters[i] for i in bundle.decayed],
                alpha=self.weight_decay / self.lr,
            )
        self._blank(update)
        for rate, members in bundle.by_rate.items():
            mine, theirs = [parameters[i] for i in members], [updates[i] for i in members]
            if isinstance(size, Tensor):
                theirs, scale = [u * (size * rate) for u in theirs], 1.0
            else:
                scale = size * rate
            torch._foreach_add_(mine, theirs, alpha=scale)


def _sum_over_ranks(numbers: Tensor) -> None:
    if numbers.numel() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(numbers)


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _take(state: dict[str, Tensor], key: str, shape: tuple[int, ...]) -> Any:
    """A tensor of the exported state, or CheckpointError that says what does not fit."""
    if key not in state:
        raise CheckpointError(
            f"the optimizer state has no {key!r}; it is of another tower or optimizer. Load the"
            " weights alone."
        )
    if tuple(state[key].shape) != shape:
        raise CheckpointError(
            f"{key} of the optimizer state has shape {tuple(state[key].shape)}, not {shape}; it is"
            " of another tower."
        )
    return state[key]
