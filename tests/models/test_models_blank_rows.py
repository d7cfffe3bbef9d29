"""Leaving blank rows out: grouping by hand, the same embedding whatever the batch, and equal to a
tower whose page is that short.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tower_reference import SMALL, pairs_for, perturbed

from clippo_core import models
from clippo_core.config import ModelConfig, presets, replace
from clippo_core.errors import ConfigError
from clippo_core.losses import contrastive_loss
from clippo_core.models.blank_rows import row_groups
from clippo_core.rendering import Renderer

CONFIG = ModelConfig(**SMALL, skip_blank_rows=True)
TEXTS = [
    "a",
    "",
    "two cats on a mat and a dog that sees them " * 2,
    "x" * 40,
    "another dog",
    "b " * 60,
]


@pytest.fixture(scope="module")
def masks():
    return torch.from_numpy(Renderer(128).masks(TEXTS))


def test_groups_by_hand(masks):
    inked = masks.view(torch.int16).ne(0).any(-1).numpy()
    used = [max(np.flatnonzero(rows), default=0) + 1 for rows in inked]
    assert sorted(set(used)) == [1, 3, 5, 6]
    expected = {
        text: min(height for height in (1, 2, 4, 8) if height >= rows)
        for text, rows in enumerate(used)
    }
    found = {
        int(text): group.rows
        for group in row_groups(masks.view(torch.int16))
        for text in group.places[: group.n_texts]
    }
    assert found == expected
    many = masks[torch.randint(0, 6, (100,), generator=torch.Generator().manual_seed(0))]
    for group in row_groups(many.view(torch.int16)):
        assert len(group.places) % 6 == 0 and len(group.places) - group.n_texts < 6
        assert set(group.places.tolist()) == set(group.places[: group.n_texts].tolist())


def test_a_text_is_read_as_by_a_tower_with_so_short_a_page(masks):
    tower = perturbed(models.build_tower(CONFIG, 128))
    plain = models.build_tower(dataclasses.replace(CONFIG, skip_blank_rows=False), 128)
    plain.load_state_dict(tower.state_dict())
    found = tower.embed_encoded_text(masks)
    for group in row_groups(masks.view(torch.int16)):
        tokens = plain.patch_embed(
            models.tower.expand(masks[group.places[: group.n_texts], : group.rows])
        )
        tokens = tokens + plain.pos_embed[:, : group.rows * 8]
        torch.testing.assert_close(found[group.places[: group.n_texts]], plain._features(tokens))
    torch.testing.assert_close(found[5:], plain.embed_encoded_text(masks[5:]))
    assert not torch.allclose(found[0], plain.embed_encoded_text(masks)[0])


def test_no_embedding_depends_on_the_batch(masks):
    tower = perturbed(models.build_tower(CONFIG, 128))
    alone = torch.cat([tower.embed_encoded_text(masks[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(tower.embed_encoded_text(masks), alone)
    torch.testing.assert_close(tower.embed_encoded_text(masks.flip(0)), alone.flip(0))
    assert tower.pooled_encoded_text(masks).shape == (6, 32)
    photos, _, _ = pairs_for(tower, 4, 0)
    first, second, _ = tower(photos, masks[:2], masks)
    torch.testing.assert_close(first, torch.cat([tower.embed(photos), alone[:2]]))
    torch.testing.assert_close(second, alone)


@pytest.mark.parametrize(("n_photos", "n_first"), [(4, 2), (0, 6), (6, 0)])
def test_every_parameter_has_a_gradient(masks, n_photos, n_first):
    tower = perturbed(models.build_tower(CONFIG, 128))
    photos, _, _ = pairs_for(tower, n_photos, 0)
    loss = contrastive_loss(*tower(photos, masks[:n_first], masks))
    assert all(
        gradient.isfinite().all()
        for gradient in torch.autograd.grad(loss, list(tower.parameters()))
    )


def test_the_experiment_has_no_place_in_released_files(tmp_path):
    with pytest.raises(ConfigError, match="plain CLIPPO"):
        models.save_big_vision(models.build_tower(CONFIG, 32), tmp_path / "x.npz")
    with pytest.raises(ConfigError, match="skip_blank_rows"):
        ModelConfig("two_tower_clip", **SMALL, tokenizer="x", skip_blank_rows=True)
    with pytest.raises(
        ConfigError, match="for training from scratch; released.npz was trained on whole pages"
    ):
        replace(presets.demo(), model__initial_weights="released.npz", model__skip_blank_rows=True)
