"""Leaving blank rows out: the packing by hand, features and gradients equal to texts read in groups
of equal height by a tower whose page is that short, and what a compiler meets.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from tower_reference import SMALL, pairs_for, perturbed

from clippo_core import models
from clippo_core.config import ModelConfig, presets, replace
from clippo_core.errors import ConfigError
from clippo_core.losses import contrastive_loss
from clippo_core.models.blank_rows import Spans, pack
from clippo_core.models.packed_attention import attention
from clippo_core.models.tower import project, unit_rows
from clippo_core.rendering import Renderer
from clippo_core.rendering.draw import expand, used_rows

CONFIG = ModelConfig(**SMALL, skip_blank_rows=True)
PX, PAGE_ROWS = 128, 8
TEXTS = [
    "a",
    "",
    "two cats on a mat and a dog that sees them " * 2,
    "x" * 40,
    "another dog",
    "b " * 60,
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def masks() -> Tensor:
    return torch.from_numpy(Renderer(PX).masks(TEXTS))


def packing_tower(**changes) -> models.Tower:
    return perturbed(models.build_tower(dataclasses.replace(CONFIG, **changes), PX))


def plain_twin(tower: models.Tower) -> models.Tower:
    """The same weights in timm's own modules, reading whole pages."""
    twin = models.build_tower(dataclasses.replace(tower.config, skip_blank_rows=False), PX)
    twin.to(tower.pos_embed.dtype).load_state_dict(tower.state_dict())
    return twin


def grouped_features(twin: models.Tower, masks: Tensor, rows: Tensor) -> Tensor:
    """The definition: texts of equal height together, through a tower whose page is that short."""
    features = masks.new_zeros(len(masks), twin.config.embed_dim, dtype=twin.pos_embed.dtype)
    for height in rows.unique().tolist():
        places = (rows == height).nonzero().flatten()
        tokens = twin._text_tokens(masks.view(torch.int16)[places, :height].view(torch.uint16))
        pooled = twin._text_pool()(twin._trunk(tokens))
        found = unit_rows(project(twin._projection(text=True), pooled))
        features = features.index_put((places,), found)
    return features


def eighths(rows: Tensor) -> Tensor:
    """Heights rounded up to 1/8, 1/4, 1/2 or all of the page."""
    heights = torch.tensor([1, 2, 4, 8])
    return heights[torch.bucketize(rows, heights)]


def test_heights_by_hand(masks):
    inked = masks.view(torch.int16).ne(0).any(-1).numpy()
    by_hand = [max(np.flatnonzero(rows), default=0) + 1 for rows in inked]
    assert sorted(set(by_hand)) == [1, 3, 5, 6]
    assert used_rows(masks).tolist() == by_hand and used_rows(masks[:0]).tolist() == []


def test_packing_by_hand():
    packing = pack(torch.tensor([2, 1, 3]), n_photos=2, page_rows=3, device=CPU)
    assert packing.source.tolist() == [6, 7, 8, 0, 1, 3]
    assert packing.place.tolist() == [1, 2, 0]
    assert packing.texts.ends.tolist() == [0, 9, 15, 18] and packing.texts.longest == 9
    assert packing.images.ends.tolist() == [0, 9, 18, 27, 33, 36]
    assert packing.images.host_ends.equal(packing.images.ends)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("kind", ["", "patch_embeddings", "heads"])
@pytest.mark.parametrize("heights", [used_rows, lambda masks: eighths(used_rows(masks))])
@pytest.mark.parametrize(("n_photos", "n_first"), [(40, 24), (0, 6), (6, 0)])
def test_features_and_gradients_equal_groups_of_equal_height(
    masks, dtype, bound, kind, heights, n_photos, n_first
):
    tower = packing_tower(**({f"separate_{kind}": True} if kind else {})).to(dtype)
    twin = plain_twin(tower)
    photos, _, _ = pairs_for(tower, n_photos, 0)
    stream = torch.Generator().manual_seed(1)
    first, second = (
        masks[torch.randint(0, len(masks), (n,), generator=stream)]
        for n in (n_first, n_photos + n_first)
    )
    rows = heights(first), heights(second)
    packed = tower(photos, first, second, *rows)
    texts = grouped_features(twin, torch.cat([first, second]), torch.cat(rows))
    grouped = (
        torch.cat([twin._photo_features(photos), texts[:n_first]]),
        texts[n_first:],
        twin.logit_scale,
    )
    torch.testing.assert_close(packed, grouped, atol=bound, rtol=0)
    found, expected = (
        dict(zip(dict(module.named_parameters()), gradients, strict=True))
        for module, gradients in (
            (module, torch.autograd.grad(contrastive_loss(*out), list(module.parameters())))
            for module, out in ((tower, packed), (twin, grouped))
        )
    )
    norm = float(torch.cat([gradient.flatten() for gradient in expected.values()]).norm())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, atol=bound * norm, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("mode", ["pointwise", "blocks"])
def test_recomputed_activations_give_the_same_gradients(masks, mode):
    tower = packing_tower()
    photos, _, _ = pairs_for(tower, 4, 0)

    def gradients() -> tuple[Tensor, ...]:
        loss = contrastive_loss(*tower(photos, masks[:2], masks))
        return torch.autograd.grad(loss, list(tower.parameters()))

    kept = gradients()
    tower.set_recompute(mode)
    torch.testing.assert_close(gradients(), kept)


def test_pointwise_recompute_keeps_what_attention_made(masks):
    tower = packing_tower()
    tower.set_recompute("pointwise")
    found = _Operators()
    with found:
        first, second, _ = tower(*pairs_for(tower, 2, 0)[:1], masks[:0], masks[:2])
        (first.sum() + second.sum()).backward()
    # Two blocks and the texts' MAP head, and none of them again in backward.
    assert found.names.count("clippo.packed_attention.default") == 3


def test_no_embedding_depends_on_the_batch(masks):
    tower = packing_tower()
    alone = torch.cat([tower.embed_encoded_text(masks[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(tower.embed_encoded_text(masks), alone)
    torch.testing.assert_close(tower.embed_encoded_text(masks.flip(0)), alone.flip(0))
    assert tower.pooled_encoded_text(masks).shape == (6, 32)
    assert tower.embed_encoded_text(masks[:0]).shape == (0, 16)
    photos, _, _ = pairs_for(tower, 4, 0)
    first, second, _ = tower(photos, masks[:2], masks)
    torch.testing.assert_close(first, torch.cat([tower.embed(photos), alone[:2]]))
    torch.testing.assert_close(second, alone)
    # A page that is full is read as by a tower of whole pages; no other one is.
    full = torch.from_numpy(Renderer(PX).masks(["b " * 60 * 8, "a"]))
    plain = plain_twin(tower).embed_encoded_text(full)
    torch.testing.assert_close(tower.embed_encoded_text(full)[0], plain[0])
    assert not torch.allclose(alone[0], plain[1])


def test_pixels_are_read_as_far_as_their_masks_reach(masks):
    tower = packing_tower()
    pixels = expand(masks, channels=1)
    photos, _, _ = pairs_for(tower, 4, 0)
    rows = used_rows(masks)
    expected = tower(photos, masks[:2], masks)
    torch.testing.assert_close(tower(photos, pixels[:2], pixels, rows[:2], rows), expected)
    with pytest.raises(ValueError, match="rows of the texts"):
        tower(photos, pixels[:2], pixels)
    with pytest.raises(ValueError, match="5 heights.*8 texts"):
        tower(photos, masks[:2], masks, rows[:2], rows[:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attentions_gradients_are_those_that_autograd_finds(dtype):
    """Of the operator that stands in for the kernel, on sequences of 3, 3, 1 and 5 tokens."""
    ends = torch.tensor([0, 3, 6, 7, 12], dtype=torch.int32)
    stream = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(12, 2, 8, generator=stream).to(dtype) for _ in range(4))
    spans = Spans(ends, ends, 5)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    found = attention(*leaves, spans, spans)
    theirs = [x.double().requires_grad_() for x in (q, k, v)]
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            *(x[a:b].transpose(0, 1) for x in theirs)
        ).transpose(0, 1)
        for a, b in ((0, 3), (3, 6), (6, 7), (7, 12))
    ]
    expected = torch.cat(parts)
    bound = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    torch.testing.assert_close(found.double(), expected, atol=bound, rtol=bound)
    torch.testing.assert_close(
        [x.double() for x in torch.autograd.grad(found, leaves, g)],
        list(torch.autograd.grad(expected, theirs, g.double())),
        atol=bound,
        rtol=bound,
    )


class _Operators(TorchDispatchMode):
    """Names of the operators that are called, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))


def test_no_step_asks_its_device_for_a_number(masks):
    """On tensors without values, heights known: whoever asks one for its value gets an error."""
    tower = models.build_tower(CONFIG, PX, device="meta")
    photos, text = torch.empty(4, 3, PX, PX, dtype=torch.uint8, device="meta"), masks.to("meta")
    pooled = tower._packed(photos, text, used_rows(masks))
    torch.cat(pooled).sum().backward()
    assert [part.shape for part in pooled] == [(4, 32), (6, 32)]
    assert all(
        parameter.grad is not None
        for name, parameter in tower.named_parameters()
        if not name.startswith(("head.", "t"))
    )
    with pytest.raises(NotImplementedError, match="meta"):
        tower._packed(photos, text, None)  # heights unknown: the masks are asked


@pytest.mark.parametrize("mode", ["none", "pointwise", "blocks"])
def test_ten_batches_are_one_graph_and_no_break(mode):
    """Ten different lengths, numbers of photos and of texts; and one graph more where nothing is
    kept for backward, as in the first pass of cached gradients.
    """
    torch._dynamo.reset()
    counters.clear()
    tower = packing_tower()
    tower.set_recompute(mode)
    for block in tower.blocks:
        block.compile(backend="aot_eager", dynamic=True, fullgraph=True)
    draw, lengths = np.random.default_rng(0), set()

    def batch(n: int) -> tuple[Tensor, ...]:
        page = torch.zeros(n + 8, PAGE_ROWS, PX, dtype=torch.uint16)
        rows = torch.from_numpy(draw.choice([1, 2, 3, 8], n + 8))
        lengths.add(int(rows.sum()) + PAGE_ROWS * n // 2)
        photos = torch.zeros(n // 2, 3, PX, PX, dtype=torch.uint8)
        n_first = n + 8 - len(photos)
        return photos, page[:n_first], page, rows[:n_first], rows

    try:
        for n in range(10):
            contrastive_loss(*tower(*batch(2 * n))).backward()
        assert counters["stats"]["unique_graphs"] == 1
        with torch.no_grad():
            for n in range(10):
                tower(*batch(2 * n))
        assert counters["stats"]["unique_graphs"] == 2
        assert len(lengths) >= 18 and not counters["graph_break"]
    finally:
        torch._dynamo.reset()


def test_a_gpu_runs_torchs_kernel_in_half_precision_alone():
    """Traced with tensors of a GPU that is not there."""
    found, ends = _Operators(), torch.tensor([0, 3, 6], dtype=torch.int32)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, found:

        def there(dtype: torch.dtype, *shape: int) -> Tensor:
            empty = torch.empty(shape, dtype=dtype, device="meta")
            return FakeTensor(mode, empty, torch.device("cuda:0"))

        spans = Spans(there(torch.int32, 3), ends, 5)
        for dtype in (torch.bfloat16, torch.float32):
            attention(*(there(dtype, 6, 2, 8) for _ in range(3)), spans, spans)
    ours = [name for name in found.names if name.startswith(("clippo", "torch_attn"))]
    assert ours == ["torch_attn._varlen_attn.default", "clippo.packed_attention.default"]


def test_the_experiment_has_no_place_in_released_files(tmp_path):
    with pytest.raises(ConfigError, match="plain CLIPPO"):
        models.save_big_vision(models.build_tower(CONFIG, 32), tmp_path / "x.npz")
    with pytest.raises(ConfigError, match="skip_blank_rows"):
        ModelConfig("two_tower_clip", **SMALL, tokenizer="x", skip_blank_rows=True)
    with pytest.raises(
        ConfigError, match="for training from scratch; released.npz was trained on whole pages"
    ):
        replace(presets.demo(), model__initial_weights="released.npz", model__skip_blank_rows=True)
