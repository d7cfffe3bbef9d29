"""Expansion of column masks into pixels on a CUDA device: the same bits as on a CPU."""

from __future__ import annotations

import pytest
import torch
from rendering_texts import generated

from clippo_core.rendering import Renderer
from clippo_core.rendering.draw import expand


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_expansion_on_cuda_has_the_same_bits(dtype):
    compiled = torch.compile(expand, dynamic=True, fullgraph=True)
    for px in (64, 224, 384):
        masks = torch.from_numpy(Renderer(px).masks(generated(2000, seed=px)))
        expected = expand(masks, dtype)
        assert torch.equal(expand(masks.cuda(), dtype).cpu(), expected)
        assert torch.equal(compiled(masks.cuda(), dtype).cpu(), expected)
