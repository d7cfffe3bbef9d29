"""The loss on one process: the definition against a naive loop, the tiled form against the
definition. Ranks: test_engine_ranks.py.
"""

from __future__ import annotations

import math

import pytest
import torch

from clippo_core import losses
from clippo_core.losses import contrast, contrastive_loss, distributed_contrastive_loss


def pairs(
    n: int, d: int = 16, dtype: torch.dtype = torch.float64, scale: float = 12.0
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(n)
    a, b = (
        torch.nn.functional.normalize(
            torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1
        )
        for _ in range(2)
    )
    return tuple(x.to(dtype).requires_grad_() for x in (a, 0.5 * a + 0.5 * b, torch.tensor(scale)))


def naive(a: torch.Tensor, b: torch.Tensor, scale: float) -> float:
    """Word for word, with python's floats."""
    n, total = len(a), 0.0
    s = [
        [
            scale * sum(x * y for x, y in zip(a[i].tolist(), b[j].tolist(), strict=True))
            for j in range(n)
        ]
        for i in range(n)
    ]
    for i in range(n):
        row = math.log(math.fsum(math.exp(s[i][j]) for j in range(n)))
        column = math.log(math.fsum(math.exp(s[j][i]) for j in range(n)))
        total += (row + column) / 2 - s[i][i]
    return total / n


def test_the_definition_equals_a_naive_loop():
    a, b, scale = pairs(9)
    assert contrastive_loss(a, b, scale).item() == pytest.approx(
        naive(a.detach(), b.detach(), 12.0), rel=1e-12
    )


@pytest.mark.parametrize("tile", [0, 1, 5, 37, 64])
def test_tiles_equal_the_definition_in_float64(tile):
    a, b, scale = pairs(37)
    expected = torch.autograd.grad(3 * contrastive_loss(a, b, scale), (a, b, scale))
    loss = distributed_contrastive_loss(a, b, scale, tile=tile)
    torch.testing.assert_close(loss, contrastive_loss(a, b, scale), atol=1e-12, rtol=1e-12)
    for found, truth in zip(torch.autograd.grad(3 * loss, (a, b, scale)), expected, strict=True):
        torch.testing.assert_close(found, truth, atol=1e-13, rtol=1e-12)


def test_log_sum_exp_is_stable_where_exp_overflows():
    a, b, scale = pairs(20, dtype=torch.float32, scale=3000.0)
    a64, b64, scale64 = (x.detach().double().requires_grad_() for x in (a, b, scale))
    loss = distributed_contrastive_loss(a, b, scale, tile=3)
    assert loss.item() == pytest.approx(
        contrastive_loss(a64, b64, scale64).item(), rel=1e-5, abs=1e-3
    )
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (a, b, scale)))


def test_a_learnt_pair_keeps_its_small_gradient_in_float32():
    a = torch.nn.functional.normalize(
        torch.randn(24, 64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    inputs = [x.requires_grad_() for x in (a, a.clone(), torch.tensor(15.0))]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    loss, truth = distributed_contrastive_loss(*inputs, tile=7), contrastive_loss(*exact)
    assert 1e-6 < truth.item() < 1e-3
    assert loss.item() == pytest.approx(truth.item(), rel=1e-3)
    for found, expected in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(truth, exact), strict=True
    ):
        torch.testing.assert_close(
            found.double(), expected, rtol=0, atol=1e-3 * float(expected.abs().max())
        )


def test_the_sums_are_what_a_log_needs():
    a, b, scale = pairs(23)
    _, (hits, positive, everything) = contrast(a, b, scale, tile=4)
    similarity = (a @ b.T).detach()
    assert hits == (similarity.argmax(1) == torch.arange(23)).sum()
    torch.testing.assert_close(positive, similarity.trace())
    torch.testing.assert_close(everything, similarity.sum())


def test_half_precision_features_are_contrasted_in_float32():
    a, b, scale = (x.detach().bfloat16().requires_grad_() for x in pairs(16))
    loss = distributed_contrastive_loss(a, b, scale)
    loss.backward()
    assert loss.dtype == torch.float32 and a.grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(
        contrastive_loss(a.float(), b.float(), scale.float()).item(), rel=1e-6
    )


def test_autocast_around_it_changes_nothing():
    a, b, scale = pairs(16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            distributed_contrastive_loss(a, b, scale),
            distributed_contrastive_loss(a, b, scale.clone()),
        )
        inside = distributed_contrastive_loss(a, b, scale).item()
    assert inside == distributed_contrastive_loss(a, b, scale).item()


def test_memory_grows_with_the_batch_not_with_its_square(monkeypatch):
    """The largest tensor that either pass makes, seen by a dispatch mode."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return out

    monkeypatch.setattr(losses, "TILE_ELEMENTS", 1 << 12)
    largest = {}
    for n in (256, 1024):
        a, b, scale = pairs(n, d=8, dtype=torch.float32)
        with Largest() as seen:
            distributed_contrastive_loss(a, b, scale).backward()
        largest[n] = seen.elements
    assert largest[1024] <= 9 * 1024 < 1024**2
    assert largest[1024] <= 4 * largest[256]


@pytest.mark.parametrize("shapes", [((3, 4), (2, 4)), ((0, 4), (0, 4)), ((4,), (4,))])
def test_what_are_no_pairs_is_refused(shapes):
    with pytest.raises(ValueError, match="pairs"):
        contrast(*(torch.zeros(s) for s in shapes), torch.tensor(1.0))
