"""The towers against an independent numpy statement of the reference, finite differences, timm, and
the paper's parameter counts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from tower_reference import SMALL, VOCAB, flax_arrays, pairs_for, perturbed, reference_embedding

from clippo_core import models
from clippo_core.config import ModelConfig
from clippo_core.errors import ConfigError, ImageError
from clippo_core.losses import contrastive_loss
from clippo_core.models.patches import PatchProduct

SIZES = {
    "mu at 32 px": ({"width": 32, "depth": 1, "num_heads": 2, "mlp_dim": 128, "embed_dim": 24}, 32),
    "odd at 48 px": (
        {"width": 60, "depth": 3, "num_heads": 5, "mlp_dim": 100, "embed_dim": 768},
        48,
    ),
    "Ti/16 at 224 px": (
        {"width": 192, "depth": 12, "num_heads": 3, "mlp_dim": 768, "embed_dim": 768},
        224,
    ),
}
KINDS = {
    "clippo": ModelConfig(**SMALL),
    "separate patch embeddings": ModelConfig(**SMALL, separate_patch_embeddings=True),
    "separate heads": ModelConfig(**SMALL, separate_heads=True),
    "separate both": ModelConfig(**SMALL, separate_patch_embeddings=True, separate_heads=True),
    "1T-CLIP, equal lengths": ModelConfig(
        "one_tower_clip", **SMALL, tokenizer="given below", text_tokens=4
    ),
    "1T-CLIP, other lengths": ModelConfig(
        "one_tower_clip", **SMALL, tokenizer="given below", text_tokens=7
    ),
    "CLIP*": ModelConfig("two_tower_clip", **SMALL, tokenizer="given below", text_tokens=7),
}


@pytest.mark.parametrize("size", SIZES)
def test_forward_equals_the_numpy_reference(size):
    sizes, image_px = SIZES[size]
    tower = perturbed(models.build_tower(ModelConfig(**sizes), image_px), scale=0.05)
    images = np.random.default_rng(1).uniform(-1, 1, (2, image_px, image_px, 3))
    ours = tower.embed(torch.from_numpy(images.transpose(0, 3, 1, 2)).float()).detach().numpy()
    np.testing.assert_allclose(
        ours, reference_embedding(flax_arrays(tower), images), rtol=0, atol=1e-5
    )


def test_every_tensor_moves_the_embedding_as_in_the_reference():
    tower = perturbed(models.build_tower(ModelConfig(**SIZES["mu at 32 px"][0]), 32)).double()
    images = np.random.default_rng(1).uniform(-1, 1, (2, 32, 32, 3))
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    before = tower.embed(given).detach().numpy()
    for name, parameter in tower.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter += 0.1 * torch.randn(
                kept.shape, generator=torch.Generator().manual_seed(3), dtype=kept.dtype
            )
        ours = tower.embed(given).detach().numpy()
        np.testing.assert_allclose(
            ours, reference_embedding(flax_arrays(tower), images), rtol=0, atol=1e-12, err_msg=name
        )
        # t scales logits, not embeddings.
        assert (np.abs(ours - before).max() > 1e-5) == (name != "t"), name
        with torch.no_grad():
            parameter.copy_(kept)


def test_gradients_equal_finite_differences():
    tower = perturbed(models.build_tower(KINDS["clippo"], 32)).double()
    photos, first, second = pairs_for(tower, 2, 1)
    photos = models.normalise(photos).double()

    def loss():
        return contrastive_loss(*tower(photos, first, second))

    gradients = torch.autograd.grad(loss(), list(tower.parameters()))
    step = 1e-6
    for (name, parameter), gradient in zip(tower.named_parameters(), gradients, strict=True):
        direction = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64
        )
        direction /= direction.norm()
        with torch.no_grad():
            parameter += step * direction
            above = loss()
            parameter -= 2 * step * direction
            below = loss()
            parameter += step * direction
        assert (gradient * direction).sum().item() == pytest.approx(
            ((above - below) / (2 * step)).item(), abs=2e-8, rel=1e-5
        ), name


@pytest.mark.parametrize(
    ("kind", "large", "expected"),
    [
        ("clippo", False, 93_474_817),
        ("clippo", True, 316_681_985),
        ("one_tower_clip", False, 118_201_345),
        ("one_tower_clip", True, 349_650_689),
        ("two_tower_clip", False, 203_847_937),
    ],
)
def test_parameter_counts_are_the_papers(kind, large, expected):
    sizes = {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096} if large else {}
    config = ModelConfig(kind, **sizes, tokenizer="" if kind == "clippo" else "T5's 32,000 pieces")
    tower = models.build_tower(config, 224, device="meta", vocab_size=32_000)
    assert sum(parameter.numel() for parameter in tower.parameters()) == expected
    published = {"clippo": (93, 316), "one_tower_clip": (118, 349), "two_tower_clip": (203,)}[kind][
        large
    ]
    assert expected // 1_000_000 == published


def test_names_are_timms():
    vit = models.load_timm().models.vision_transformer.VisionTransformer
    config = KINDS["clippo"]
    tower = perturbed(models.build_tower(config, 48))
    theirs = vit(
        48, 16, num_classes=16, global_pool="map", class_token=False, embed_dim=32, depth=2,
        num_heads=2, mlp_ratio=72 / 32, act_layer="gelu_tanh",
        norm_layer=lambda width, **kwargs: torch.nn.LayerNorm(width, eps=1e-6),
    )  # fmt: skip
    theirs.load_state_dict(
        {name: value for name, value in tower.state_dict().items() if name != "t"}
    )
    images = torch.rand(2, 3, 48, 48) * 2 - 1
    torch.testing.assert_close(torch.nn.functional.normalize(theirs(images)), tower.embed(images))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_photos", "n_first"), [(3, 2), (0, 4), (4, 0)])
def test_every_parameter_has_a_gradient_and_recomputation_does_not_change_it(
    kind, n_photos, n_first
):
    tower = perturbed(models.build_tower(KINDS[kind], 32, vocab_size=VOCAB))
    given = pairs_for(tower, n_photos, n_first)
    gradients = {}
    for mode in ("none", "pointwise", "blocks"):
        tower.set_recompute(mode)
        first, second, scale = tower(*given)
        assert first.shape == second.shape == (n_photos + n_first, 16) and scale.shape == ()
        assert first.dtype == torch.float32
        torch.testing.assert_close(first.norm(dim=1), torch.ones(len(first)))
        # Also where a rank has no photo: collectives wait for every tensor on every rank.
        gradients[mode] = torch.autograd.grad(
            contrastive_loss(first, second, scale), list(tower.parameters())
        )
    for mode in ("pointwise", "blocks"):
        for name, plain, again in zip(
            dict(tower.named_parameters()), gradients["none"], gradients[mode], strict=True
        ):
            torch.testing.assert_close(again, plain, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_the_embeddings_in_order(kind):
    tower = perturbed(models.build_tower(KINDS[kind], 32, vocab_size=VOCAB))
    photos, first, second = pairs_for(tower, 3, 2)
    with torch.no_grad():
        a, b, scale = tower(photos, first, second)
        torch.testing.assert_close(a[:3], tower.embed(models.normalise(photos)))
        torch.testing.assert_close(a[3:], tower.embed_encoded_text(first))
        torch.testing.assert_close(b, tower.embed_encoded_text(second))
        assert tower.pooled(photos).shape == (3, 32) and tower.pooled_encoded_text(first).shape == (
            2,
            32,
        )
    assert scale.item() == pytest.approx(tower.t.exp().item())


def test_ablations_read_text_with_their_own_tensors():
    for kind, own in (
        ("separate patch embeddings", "text_patch_embed"),
        ("separate heads", "text_attn_pool"),
    ):
        tower = models.build_tower(KINDS[kind], 32)
        photos, first, _ = pairs_for(tower, 1, 1)
        before = tower.embed(photos), tower.embed_encoded_text(first)
        perturbed(getattr(tower, own))
        assert torch.equal(tower.embed(photos), before[0])
        assert not torch.allclose(tower.embed_encoded_text(first), before[1])


def test_decay_is_on_kernels_only_and_views_are_per_head():
    tower = models.build_tower(KINDS["CLIP*"], 32, vocab_size=VOCAB)
    expected = {
        name
        for name, value in tower.named_parameters()
        if value.ndim > 1 and not name.endswith(("embed", "latent", "embed.weight"))
    }
    assert tower.decayed == expected
    assert {"patch_embed.proj.weight", "text.head.weight", "attn_pool.kv.weight"} <= tower.decayed
    assert tower.views["blocks.1.attn.qkv.weight"] == (3, 2, 16, 32)
    assert tower.views["attn_pool.kv.weight"] == (2, 2, 16, 32)
    assert tower.views["text.blocks.0.attn.proj.weight"] == (32, 2, 16)
    shapes = {name: value.shape for name, value in tower.named_parameters()}
    assert all(math.prod(view) == shapes[name].numel() for name, view in tower.views.items())


def test_a_tower_compiles_without_breaks():
    tower = models.build_tower(KINDS["clippo"], 32)
    given = pairs_for(tower, 3, 2)
    explained = torch._dynamo.explain(tower)(*given)
    assert explained.graph_break_count == 0, explained.break_reasons


def products(call: Callable[[], object]) -> int:
    """Matrix products that `call` computes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    names = [event.name() for event in profile.profiler.kineto_results.events()]
    return sum(name in ("aten::mm", "aten::addmm", "aten::bmm") for name in names)


@pytest.mark.parametrize(
    "kind, graphs", [("clippo", 1), ("1T-CLIP, equal lengths", 1), ("CLIP*", 2)]
)
@pytest.mark.parametrize("recompute", ["none", "pointwise", "blocks"])
def test_all_blocks_of_one_shape_are_one_compiled_graph(kind, graphs, recompute):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    found = {}
    for compiled in (False, True):
        tower = perturbed(models.build_tower(KINDS[kind], 32, vocab_size=VOCAB))
        tower.set_recompute(recompute)
        if compiled:
            tower.compile_blocks(counter)
        loss = contrastive_loss(*tower(*pairs_for(tower, 3, 2)))
        found[compiled] = products(loss.backward), [p.grad for p in tower.parameters()]
    assert counter.frame_count == graphs and len(tower.blocks) == 2
    torch.testing.assert_close(found[True][1], found[False][1], atol=1e-5, rtol=1e-4)
    # Eagerly torch looks up the kept products by calling them; compiled, none is there twice.
    assert found[True][0] <= found[False][0]
    assert recompute != "pointwise" or found[True][0] == without_recompute(kind)


@functools.cache
def without_recompute(kind: str) -> int:
    """Matrix products of backward where everything was kept."""
    tower = models.build_tower(KINDS[kind], 32, vocab_size=VOCAB)
    return products(contrastive_loss(*tower(*pairs_for(tower, 3, 2))).backward)


def test_bad_input_is_named():
    tower = models.build_tower(KINDS["clippo"], 32)
    with pytest.raises(ImageError, match=r"range from 0 to 255.*-1\.\.1.*normalise"):
        tower.embed(torch.tensor([0.0, 255.0]).repeat(1, 3, 32, 16))
    with pytest.raises(ImageError, match=r"range from nan"):
        tower.embed(torch.full((1, 3, 32, 32), math.nan))
    with pytest.raises(ImageError, match=r"\(1, 3, 28, 28\).*\[n, 3, 32, 32\].*resize_positions"):
        tower.embed(torch.zeros(1, 3, 28, 28))
    with pytest.raises(ImageError, match=r"\(2, 32, 32, 3\)"):
        tower(torch.zeros(2, 32, 32, 3), *pairs_for(tower, 2, 0)[1:])
    with pytest.raises(
        ValueError, match="2 photos and 0 first texts need as many second texts; there are 3"
    ):
        tower(pairs_for(tower, 2, 0)[0], *pairs_for(tower, 3, 0)[1:])
    with pytest.raises(ConfigError, match="image_px is 40"):
        models.build_tower(KINDS["clippo"], 40)
    with pytest.raises(ConfigError, match="recompute mode"):
        tower.set_recompute("some")
    plain = models.build_tower(ModelConfig("image_only", **SMALL), 32)
    with pytest.raises(ConfigError, match="image_only has no embedding head"):
        plain.embed(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ConfigError, match="no contrastive head"):
        plain(*pairs_for(tower, 1, 0))


def test_autocast_keeps_features_in_float32():
    tower = perturbed(models.build_tower(KINDS["clippo"], 32))
    given = pairs_for(tower, 3, 2)
    exact = tower(*given)
    with torch.autocast("cpu", torch.bfloat16):
        first, second, scale = tower(*given)
    assert first.dtype == second.dtype == scale.dtype == torch.float32
    assert (first * exact[0]).sum(1).min() > 0.999


@pytest.mark.parametrize("shape", [(2, 3, 48, 32), (0, 3, 32, 32), (3, 3, 16, 64)])
def test_the_patch_embedding_is_the_convolution(shape):
    product = PatchProduct(3, 40, 16).double()
    images = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(images, product.weight, product.bias, stride=16)
    found = product(images)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    weights = torch.randn(found.shape, dtype=torch.float64)
    asked = (images, product.weight, product.bias)
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), asked),
        torch.autograd.grad((expected * weights).sum(), asked),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
