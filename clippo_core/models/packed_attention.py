"""Attention within the sequences of a packed tensor, and timm's two attentions over one.

    CUDA, bfloat16 or float16   torch's varlen_attn (flash attention): one kernel for all sequences
    elsewhere                   sequences of equal length, which stand side by side, together

The second is one operator to the compiler, so that no graph depends on how many sequences have
which length, and it reads lengths on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from clippo_core.models.blank_rows import Spans
from clippo_core.models.timm_shim import load_timm

AT_ONCE = 64
"""Sequences of equal length that are taken together: their attention weights fit a cache."""


def attention(q: Tensor, k: Tensor, v: Tensor, asked: Spans, read: Spans) -> Tensor:
    """softmax(q kᵀ / √channels) v within each sequence, without a mask.

    q: [tokens, heads, channels], whose sequences are `asked`; k, v: the same of `read`, which has
    as many sequences, none of them empty. Returns the shape of q.
    """
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        found = varlen_attn(q, k, v, asked.ends, read.ends, asked.longest, read.longest)
        assert isinstance(found, Tensor)
        return found
    return torch.ops.clippo.packed_attention(q, k, v, asked.host_ends, read.host_ends)


class _Run(NamedTuple):
    """Sequences of equal length, one after the other: places in q, in k and v, and how many."""

    asked: slice
    read: slice
    n: int

    def q(self, packed: Tensor) -> Tensor:
        """[n, heads, length, channels] of q, or of what has its shape."""
        return packed[self.asked].unflatten(0, (self.n, -1)).transpose(1, 2)

    def kv(self, packed: Tensor) -> Tensor:
        """The same of k, or of v."""
        return packed[self.read].unflatten(0, (self.n, -1)).transpose(1, 2)


def _runs(q_ends: Tensor, k_ends: Tensor) -> Iterator[_Run]:
    q_at, k_at = q_ends.tolist(), k_ends.tolist()
    n_sequences, first = len(q_at) - 1, 0
    while first < n_sequences:
        after, lengths = first + 1, (q_at[first + 1] - q_at[first], k_at[first + 1] - k_at[first])
        while (
            after < min(n_sequences, first + AT_ONCE)
            and (q_at[after + 1] - q_at[after], k_at[after + 1] - k_at[after]) == lengths
        ):
            after += 1
        yield _Run(slice(q_at[first], q_at[after]), slice(k_at[first], k_at[after]), after - first)
        first = after


def _joined(of_run: Tensor) -> Tensor:
    return of_run.transpose(1, 2).flatten(0, 1)


def _packed_attention(q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor) -> Tensor:
    runs = _runs(q_ends, k_ends)
    return torch.cat(
        [_joined(scaled_dot_product_attention(r.q(q), r.kv(k), r.kv(v))) for r in runs]
    )


def _packed_attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """With p = softmax(s), s = scale q kᵀ, and g what arrives: v gets pᵀ g, and s gets
    p (g vᵀ - Σ p g vᵀ). Weights are computed again rather than kept, in float32 at least.
    """
    scale = q.shape[-1] ** -0.5
    found: tuple[list[Tensor], ...] = ([], [], [])
    for run in _runs(q_ends, k_ends):
        asked, keys, values, arrived = run.q(q), run.kv(k), run.kv(v), run.q(gradient)
        at_least = torch.promote_types(q.dtype, torch.float32)
        p = ((asked * scale) @ keys.mT).softmax(-1, dtype=at_least)
        of_p = (arrived @ values.mT).to(at_least)
        of_s = (p * (of_p - (of_p * p).sum(-1, keepdim=True)) * scale).to(q.dtype)
        parts = of_s @ keys, of_s.mT @ asked, p.to(q.dtype).mT @ arrived
        for into, part in zip(found, parts, strict=True):
            into.append(_joined(part))
    of_q, of_k, of_v = (torch.cat(parts) for parts in found)
    return of_q, of_k, of_v


_FORWARD = torch.library.custom_op(
    "clippo::packed_attention",
    _packed_attention,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor q_ends, Tensor k_ends) -> Tensor",
)
_BACKWARD = torch.library.custom_op(
    "clippo::packed_attention_backward",
    _packed_attention_backward,
    mutates_args=(),
    schema="(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor q_ends, Tensor k_ends)"
    " -> (Tensor, Tensor, Tensor)",
)


@_FORWARD.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor) -> Tensor:
    return q.new_empty(q.shape)


@_BACKWARD.register_fake
def _(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *ends: Tensor) -> tuple[Tensor, ...]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _remember(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.clippo.packed_attention_backward(gradient, *ctx.saved_tensors), None, None


_FORWARD.register_autograd(_gradients, setup_context=_remember)


class _Modules(NamedTuple):
    attention: type[torch.nn.Module]
    pool: type[torch.nn.Module]


@functools.cache
def packed_modules() -> _Modules:
    """timm's `Attention` and `AttentionPoolLatent` with the same parameters, which also read packed
    tokens [tokens, width]: where `attn_mask`, which timm's blocks hand on, is Spans.
    """
    layers: Any = load_timm().layers

    class PackedAttention(layers.Attention):  # type: ignore[misc]
        """Self-attention of each sequence: [tokens, width] -> [tokens, width]."""

        def forward(self, x: Tensor, attn_mask: Any = None, is_causal: bool = False) -> Tensor:
            if not isinstance(attn_mask, Spans):
                return super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
            q, k, v = self.qkv(x).unflatten(1, (3, self.num_heads, -1)).unbind(1)
            return self.proj(attention(q, k, v, attn_mask, attn_mask).flatten(1))

    class PackedPool(layers.AttentionPoolLatent):  # type: ignore[misc]
        """The MAP head of each sequence: [tokens, width] -> [sequences, width]."""

        def forward(self, x: Tensor, attn_mask: Any = None) -> Tensor:
            if not isinstance(attn_mask, Spans):
                return super().forward(x, attn_mask=attn_mask)
            n = len(attn_mask.ends) - 1
            there, here = (
                torch.arange(n + 1, dtype=torch.int32, device=ends.device)
                for ends in (attn_mask.ends, attn_mask.host_ends)
            )
            q = self.q(self.latent[0].expand(n, -1)).unflatten(1, (self.num_heads, -1))
            k, v = self.kv(x).unflatten(1, (2, self.num_heads, -1)).unbind(1)
            x = self.proj(attention(q, k, v, Spans(there, here, 1), attn_mask).flatten(1))
            return x + self.mlp(self.norm(x))

    return _Modules(PackedAttention, PackedPool)
