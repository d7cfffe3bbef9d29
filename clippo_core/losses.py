"""The contrastive loss: the definition, and the same loss over a batch that is spread over ranks
and too large for one matrix.

    s_ij = logit_scale * a_i · b_j                 all pairs of the global batch, N x N
    loss = mean_i [ lse_j (s_ij - s_ii) + lse_j (s_ji - s_ii) ] / 2
                                                   lse = log-sum-exp, along row i and column i

`contrastive_loss` is that by two cross-entropies. `distributed_contrastive_loss` has only this
rank's n rows of `a` and `b`: it gathers `b` once, walks over s in tiles of rows and keeps nothing
but the 2N log-sum-exps; a column's is put together from the ranks' parts. The backward pass
computes each tile again, so memory is O(N) and the gradient of `b` goes home by one reduce-scatter:

    forward     all-gather of b and s_ii [n, d + 1] -> [N, d + 1]
                all-gather of column parts [N] -> [W, N]
    backward    reduce-scatter of b's gradient [N, d] -> [n, d]

Everything is measured from s_ii, so that a pair that is all but learnt keeps its small loss and
gradient in float32.

Gradients, averaged over the ranks as every data-parallel engine does, equal the definition's, the
logit scale's too. Summing the loss over parts of a batch would leave out the negatives between the
parts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

TILE_ELEMENTS = 1 << 22
"""Similarities in one tile when the caller does not choose: 16 MiB in float32, of which three exist
at once."""


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """The definition, on one process: mean nats over both directions.

    `image_features`, `text_features` [n, d]: unit rows, pair i in row i of both. `logit_scale`:
    exp(t), a 0-d tensor. Source: big_vision utils.bidirectional_contrastive_loss.
    """
    logits = logit_scale * image_features @ text_features.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def distributed_contrastive_loss(
    a_local: Tensor, b_local: Tensor, logit_scale: Tensor, *, tile: int = 0
) -> Tensor:
    """This rank's share of the loss over the global batch; the mean over ranks is
    `contrastive_loss` of the gathered batch.

    `a_local`, `b_local` [n, d]: this rank's unit rows, the same n on every rank, global order by
    rank. `tile`: rows of the similarity matrix at a time, 0 = as many as make `TILE_ELEMENTS`.
    Every rank must call it, forward and backward.
    """
    return contrast(a_local, b_local, logit_scale, tile=tile)[0]


def contrast(
    a_local: Tensor, b_local: Tensor, logit_scale: Tensor, *, tile: int = 0
) -> tuple[Tensor, Tensor]:
    """`distributed_contrastive_loss` and, without gradient, sums over this rank's rows that a
    training log wants: [3], float.

    The sums: rows whose largest similarity is their own pair's; similarities of the pairs;
    similarities of all n x N.
    """
    if a_local.shape != b_local.shape or a_local.dim() != 2 or len(a_local) == 0:
        raise ValueError(
            f"features of shape {tuple(a_local.shape)} and {tuple(b_local.shape)} are no pairs;"
            " both must be [n, d], n >= 1."
        )
    dtype = torch.promote_types(a_local.dtype, torch.float32)
    with torch.autocast(a_local.device.type, enabled=False):
        a_local, b_local, logit_scale = a_local.to(dtype), b_local.to(dtype), logit_scale.to(dtype)
        return _Contrast.apply(a_local, b_local, logit_scale, tile)  # type: ignore[no-untyped-call]


class _Contrast(torch.autograd.Function):
    """s is computed twice, in forward and backward, and never kept."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, tile: int) -> tuple[Tensor, Tensor]:
        own = (a * b).sum(dim=1)
        b_all, own_all = _gather_pairs(b, own)
        start, tile = _rank() * len(a), tile or max(1, TILE_ELEMENTS // len(b_all))
        row_loss, hits = a.new_empty(len(a)), a.new_zeros(())
        column_loss = a.new_full((len(b_all),), -torch.inf)
        for low in range(0, len(a), tile):
            rows = slice(low, low + tile)
            similarity = _similarity(a[rows], b_all, own[rows], start + low)
            diagonal = torch.arange(start + low, start + low + len(similarity), device=a.device)
            hits += (similarity.argmax(dim=1) == diagonal).sum()
            column_loss = torch.logaddexp(
                column_loss, (similarity - own_all).mul_(scale).logsumexp(dim=0)
            )
            row_loss[rows] = similarity.sub_(own[rows, None]).mul_(scale).logsumexp(dim=1)
        if _world_size() > 1:
            column_loss = _all_gather(column_loss[None]).logsumexp(dim=0)
        loss = (row_loss + column_loss[start : start + len(a)]).mean() / 2
        sums = torch.stack([hits, own.sum(), a.sum(dim=0) @ b_all.sum(dim=0)])
        ctx.save_for_backward(a, b_all, scale, own, own_all, row_loss, column_loss)
        ctx.start, ctx.tile = start, tile
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        # Of the *sum* of the ranks' losses: d(sum)/ds_ij = weight * pull_ij, pull = p + q - 2 [i =
        # j], softmax along row and column.
        a, b_all, scale, own, own_all, row_loss, column_loss = ctx.saved_tensors
        weight = grad / (2 * len(a))
        grad_a, grad_b_all, grad_scale = (
            torch.empty_like(a),
            torch.zeros_like(b_all),
            torch.zeros_like(scale),
        )
        for low in range(0, len(a), ctx.tile):
            rows = slice(low, low + ctx.tile)
            similarity = _similarity(a[rows], b_all, own[rows], ctx.start + low)
            pull = (similarity - own[rows, None]).mul_(scale).sub_(row_loss[rows, None]).exp_()
            pull += (similarity - own_all).mul_(scale).sub_(column_loss).exp_()
            diagonal = slice(ctx.start + low, ctx.start + low + len(pull))
            pull.diagonal(ctx.start + low).copy_(
                torch.expm1(-row_loss[rows]) + torch.expm1(-column_loss[diagonal])
            )
            pull *= weight
            grad_scale += (pull * similarity).sum()
            grad_a[rows] = pull @ b_all
            grad_b_all.addmm_(pull.T, a[rows])
        return grad_a.mul_(scale), _reduce_scatter(grad_b_all.mul_(scale)), grad_scale, None


def _gather_pairs(b: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """`b` and `own` of all ranks, [N, d] and [N], by one collective."""
    if _world_size() == 1:
        return b, own
    gathered = _all_gather(torch.cat([b, own[:, None]], dim=1))
    return gathered[:, :-1].contiguous(), gathered[:, -1].clone()


def _similarity(rows: Tensor, b_all: Tensor, own: Tensor, diagonal: int) -> Tensor:
    """a_i · b_j of a tile whose first row's own pair stands in column `diagonal`; those exactly as
    `own` has them.
    """
    similarity = rows @ b_all.T
    similarity.diagonal(diagonal).copy_(own)
    return similarity


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _all_gather(local: Tensor) -> Tensor:
    """Every rank's [n, ...] as [W n, ...], in the order of ranks; no gradient of its own."""
    # torch 2.13 renamed the two collectives; 2.11 has only the older names.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gathered = local.new_empty((_world_size() * len(local), *local.shape[1:]))
    gather(gathered, local.contiguous())
    return gathered


def _reduce_scatter(parts: Tensor) -> Tensor:
    """The sum over ranks of [W n, ...], of which this rank keeps its own [n, ...]."""
    if _world_size() == 1:
        return parts
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    own = parts.new_empty((len(parts) // _world_size(), *parts.shape[1:]))
    scatter(own, parts.contiguous())
    return own
