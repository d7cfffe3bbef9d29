"""Packed texts on a CUDA device: torch's variable-length attention against sequences of equal
length together, and a whole step of a tower against float32 on a CPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.functional import cosine_similarity
from tower_reference import pairs_for, perturbed

from clippo_core import models
from clippo_core.config import ModelConfig
from clippo_core.losses import contrastive_loss
from clippo_core.models.blank_rows import Spans, pack
from clippo_core.models.packed_attention import attention
from clippo_core.rendering import Renderer
from clippo_core.rendering.draw import used_rows

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no CUDA device"
)
# Heads of 64 channels, as every tower of the paper has.
MODEL = ModelConfig(
    width=128, depth=2, num_heads=2, mlp_dim=256, embed_dim=32, skip_blank_rows=True
)
TEXTS = ["a", "", "two cats on a mat and a dog that sees them " * 6, "x" * 40, "b " * 300] * 5


def of_attention(inputs: list[Tensor], asked: Spans, read: Spans) -> list[Tensor]:
    """The result and the gradients of q, k and v, float64 on the CPU."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs[:3]]
    found = attention(*leaves, asked, read)
    gradients = torch.autograd.grad(found, leaves, inputs[3].to(found.dtype)[: len(found)])
    return [x.detach().double().cpu() for x in (found, *gradients)]


@pytest.mark.parametrize("pooled", [False, True])
def test_the_kernel_equals_sequences_of_equal_length(pooled):
    """Within bfloat16's rounding: twice the error of the stand-in, in bfloat16 too, against
    float64.
    """
    device, stream = torch.device("cuda"), torch.Generator().manual_seed(0)
    rows = used_rows(torch.from_numpy(Renderer(224).masks(TEXTS)))
    there = pack(rows, 3, 14, device).images
    here = Spans(there.host_ends, there.host_ends, there.longest)
    if pooled:
        ends = torch.arange(len(there.ends), dtype=torch.int32)
        asked_there, asked_here = Spans(ends.to(device), ends, 1), Spans(ends, ends, 1)
    else:
        asked_there, asked_here = there, here
    tokens, queries = int(there.host_ends[-1]), int(asked_here.ends[-1])
    inputs = [
        torch.randn(n, 2, 64, generator=stream).bfloat16()
        for n in (queries, tokens, tokens, queries)
    ]
    exact = of_attention([x.double() for x in inputs], asked_here, here)
    stand_in = of_attention(inputs, asked_here, here)
    kernel = of_attention([x.to(device) for x in inputs], asked_there, there)
    for name, found, usual, truth in zip("oqkv", kernel, stand_in, exact, strict=True):
        error, allowed = (float((x - truth).norm() / truth.norm()) for x in (found, usual))
        assert error <= max(2 * allowed, 0.005), (name, error, allowed)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_equals_the_cpus_and_waits_for_nothing(precision):
    tower = perturbed(models.build_tower(MODEL, 224))
    masks = torch.from_numpy(Renderer(224).masks(TEXTS))
    photos, rows = pairs_for(tower, 20, 0)[0], used_rows(masks)
    given = photos, masks[:5], masks, rows[:5], rows
    expected = tower(*given)
    gradients = torch.autograd.grad(contrastive_loss(*expected), list(tower.parameters()))
    tower.cuda()
    on_device = [x.cuda() for x in given[:3]]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            found = tower(*on_device, *given[3:])
        contrastive_loss(*found).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    low, per_parameter = (0.999, 0.98) if precision == "bfloat16" else (0.999999, 0.9999)
    for side, truth in zip(found[:2], expected[:2], strict=True):
        assert float(cosine_similarity(side.float().cpu(), truth).min()) > low
    whole = [
        torch.cat([x.flatten().cpu() for x in parts])
        for parts in ([p.grad for p in tower.parameters()], gradients)
    ]
    assert float(cosine_similarity(*whole, dim=0)) > per_parameter


def test_ten_batches_are_one_compiled_graph():
    torch._dynamo.reset()
    counters.clear()
    tower = perturbed(models.build_tower(MODEL, 224)).cuda()
    masks = torch.from_numpy(Renderer(224).masks(TEXTS))
    for block in tower.blocks:
        block.compile(dynamic=True, fullgraph=True)
    try:
        for n in range(10):
            chosen = masks[n : n + 12]
            rows, photos = used_rows(chosen), pairs_for(tower, n, 0, device="cuda")[0]
            first, second = chosen[: 12 - n].cuda(), chosen.cuda()
            with torch.autocast("cuda", torch.bfloat16):
                found = tower(photos, first, second, rows[: 12 - n], rows)
            contrastive_loss(*found).backward()
        assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    finally:
        torch._dynamo.reset()
