"""big_vision's files both ways, pretrained ViTs as a start, positions for another size, and what is
said about a wrong file.
"""

from __future__ import annotations

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from tower_reference import SMALL, flax_arrays, perturbed, reference_embedding

from clippo_core import models
from clippo_core.config import ModelConfig
from clippo_core.errors import CheckpointError, ConfigError, NotFoundError
from clippo_core.models.positions import resample_positions

CONFIG = ModelConfig(**SMALL)


@pytest.fixture
def tower():
    return perturbed(models.build_tower(CONFIG, 48))


@pytest.fixture
def released(tower, tmp_path):
    """A file as the authors' trainer leaves it: parameters, and the optimizer's state with bfloat16
    as void.
    """
    path = tmp_path / "clippo.npz"
    arrays = {
        f"params/{key}": value.astype(np.float32) for key, value in flax_arrays(tower).items()
    }
    momentum = {
        key.replace("params/", "opt/0/1/ema/"): _as_void(value) for key, value in arrays.items()
    }
    np.savez(
        path,
        **arrays,
        **momentum,
        **{"opt/0/0/count": np.array(250_000, np.int32), "extra/step": np.array(3)},
    )
    return path


def _as_void(array):
    """What numpy.save makes of a bfloat16 array: the upper two bytes of each float, of type
    void.
    """
    return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view("V2")


def rewrite(path, **changes):
    """Replace or drop (None) arrays of an .npz; `__` in a name stands for `/`."""
    with np.load(path, allow_pickle=True) as file:
        arrays = {name: file[name] for name in file.files}
    for name, value in changes.items():
        name = name.replace("__", "/")
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value(arrays[name]) if callable(value) else value
    np.savez(path, **arrays)


def test_released_layout_loads_and_round_trips_bit_for_bit(tower, released, tmp_path):
    loaded = models.load_big_vision(released)
    assert loaded.config == CONFIG and loaded.image_px == 48
    for name, value in tower.named_parameters():
        assert torch.equal(value, dict(loaded.named_parameters())[name]), name
    written = tmp_path / "again.npz"
    models.save_big_vision(loaded, written)
    with np.load(released) as before, np.load(written) as after:
        params = {name for name in before.files if name.startswith("params/")}
        assert set(after.files) == params and len(params) == 23 + 16 * 2
        for name in params:
            assert (
                after[name].dtype == np.float32 and after[name].tobytes() == before[name].tobytes()
            ), name
    assert list(tmp_path.glob("*.partial")) == []


def test_loaded_file_computes_the_reference(released):
    with np.load(released) as file:
        params = {
            name.removeprefix("params/"): file[name]
            for name in file.files
            if name.startswith("params/")
        }
    images = np.random.default_rng(0).uniform(-1, 1, (2, 48, 48, 3)).astype(np.float32)
    ours = models.load_big_vision(released).embed(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(
        ours.detach().numpy(), reference_embedding(params, images), rtol=0, atol=1e-5
    )


def test_bfloat16_is_widened_bit_for_bit(tower, released):
    rewrite(released, params__img__head__kernel=_as_void)
    expected = tower.head.weight.detach().view(torch.int32) & ~0xFFFF
    assert torch.equal(models.load_big_vision(released).head.weight.view(torch.int32), expected)


WRONG = {
    "missing": ({"params__img__MAPHead_0__probe": None}, "params/img/MAPHead_0/probe is missing"),
    "no clippo": ({"params__img__embedding__kernel": None}, "no params/img/embedding/kernel"),
    "one block cut": (
        {"params__img__Transformer__encoderblock_1__LayerNorm_1__bias": None},
        "encoderblock_1/LayerNorm_1/bias is missing",
    ),
    "unknown": (
        {"params__img__cls": np.zeros((1, 1, 32), np.float32)},
        "params/img/cls has no place",
    ),
    "patch size": (
        {"params__img__embedding__kernel": lambda a: a[:8, :8]},
        r"embedding/kernel has shape \(8, 8, 3, 32\)",
    ),
    "swapped": (
        {"params__img__Transformer__encoderblock_1__MlpBlock_0__Dense_1__kernel": np.transpose},
        r"encoderblock_1/MlpBlock_0/Dense_1/kernel has shape \(32, 72\); expected \(72, 32\)",
    ),
    "heads": (
        {
            "params__img__Transformer__encoderblock_0__"
            "MultiHeadDotProductAttention_0__query__kernel": lambda a: a.reshape(32, 32)
        },
        r"query/kernel has shape \(32, 32\); expected 3 dimensions",
    ),
    "head sizes": (
        {
            "params__img__Transformer__encoderblock_0__"
            "MultiHeadDotProductAttention_0__query__kernel": lambda a: a[:, :, 1:]
        },
        r"query/kernel has shape \(32, 2, 15\); expected \(32, heads, 32 / heads\)",
    ),
    "block numbers": (
        {
            "params__img__Transformer__encoderblock_99999999__LayerNorm_0__bias": np.zeros(
                32, np.float32
            )
        },
        "it has 3 blocks of 33 arrays, and none is number 2; give a whole ViT",
    ),
    "positions": (
        {"params__img__pos_embedding": lambda a: a[:, :8]},
        r"pos_embedding has shape \(1, 8, 32\); expected a square grid",
    ),
    "not finite": (
        {"params__img__head__bias": lambda a: a * math.nan},
        "params/img/head/bias has 16 values that are not finite",
    ),
    "range of t": ({"params__t": np.array([88.0], np.float32)}, "params/t is 88"),
    "integers": (
        {"params__img__head__bias": lambda a: a.astype(np.int64)},
        "params/img/head/bias has type int64",
    ),
    "pickled": (
        {"params__img__head__bias": np.array([{"a": 1}], dtype=object)},
        "array params/img/head/bias: its header is damaged, or that of a pickled",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_a_file_is_named(released, what):
    changes, sentence = WRONG[what]
    rewrite(released, **changes)
    with pytest.raises(CheckpointError, match=sentence):
        models.load_big_vision(released)


def test_files_that_are_no_checkpoint(released, tmp_path):
    with pytest.raises(NotFoundError, match=r"absent\.npz"):
        models.load_big_vision(tmp_path / "absent.npz")
    for name, content in {
        "text.npz": b"hello",
        "empty.npz": b"",
        "half.npz": released.read_bytes()[:20_000],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}: it is no .npz file, or is cut short"):
            models.load_big_vision(tmp_path / name)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match="it is no .npz file"):
        models.load_big_vision(tmp_path / "one.npy")


def test_a_flipped_bit_is_found(released, tmp_path):
    with zipfile.ZipFile(released) as archive:
        info = archive.getinfo("params/img/pos_embedding.npy")
        start = info.header_offset + 300
    content = bytearray(released.read_bytes())
    content[start] ^= 1
    broken = tmp_path / "flipped.npz"
    broken.write_bytes(content)
    with pytest.raises(CheckpointError, match="pos_embedding is damaged"):
        models.load_big_vision(broken)


def test_only_plain_clippo_is_written(tmp_path):
    ablation = models.build_tower(ModelConfig(**SMALL, separate_heads=True), 32)
    with pytest.raises(ConfigError, match="plain CLIPPO"):
        models.save_big_vision(ablation, tmp_path / "x.npz")


def test_weights_of_another_tower_are_refused(tower):
    weights = dict(tower.named_parameters())
    with pytest.raises(CheckpointError, match="the file: tensor blocks.2.norm1.weight is missing"):
        models.load_weights(
            models.build_tower(ModelConfig(**{**SMALL, "depth": 3}), 48), weights, "the file"
        )
    with pytest.raises(CheckpointError, match="no tensor blocks.1"):
        models.load_weights(
            models.build_tower(ModelConfig(**{**SMALL, "depth": 1}), 48), weights, "the file"
        )
    with pytest.raises(
        CheckpointError, match=r"pos_embed has shape \(1, 9, 32\); this tower needs \(1, 4, 32\)"
    ):
        models.load_weights(models.build_tower(CONFIG, 32), weights, "the file")


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (7, 12), (2, 3), (3, 1), (1, 2)])
def test_positions_are_resampled_as_scipy_does_to_the_last_bit(old, new):
    from scipy.ndimage import zoom

    grid = np.random.default_rng(old).normal(size=(old, old, 32)).astype(np.float32)
    found = resample_positions(grid.reshape(1, old * old, 32), new * new)
    expected = zoom(grid, (new / old, new / old, 1), order=1)
    np.testing.assert_array_equal(found.reshape(new, new, 32), expected, strict=True)


def test_positions_are_resampled_by_the_reference_rule(tower):
    grid = tower.pos_embed.detach().numpy().reshape(3, 3, 32)
    resampled = resample_positions(tower.pos_embed.detach().numpy(), 25).reshape(5, 5, 32)
    # End points onto end points: every second of five falls on one of three, the others half-way
    # between two.
    np.testing.assert_allclose(resampled[::2, ::2], grid, atol=1e-6)
    np.testing.assert_allclose(resampled[1, 0], (grid[0, 0] + grid[1, 0]) / 2, atol=1e-6)
    np.testing.assert_allclose(resampled[3, 1], (grid[1:3, 0:2]).mean((0, 1)), atol=1e-6)
    wide = models.resize_positions(tower, 80)
    assert (
        wide is tower
        and wide.image_px == 80
        and wide.embed(torch.zeros(1, 3, 80, 80)).shape == (1, 16)
    )
    assert resample_positions(grid.reshape(1, 9, 32), 9) is not None
    with pytest.raises(ConfigError, match="square"):
        resample_positions(grid.reshape(1, 9, 32), 24)
    with pytest.raises(ConfigError, match="multiple of 16"):
        models.resize_positions(tower, 90)


def augreg_file(tower, path):
    """The same ViT as the files of `augreg` name it, with a class token in front of the positions
    and a head of its own.
    """
    arrays = {}
    for key, value in flax_arrays(tower).items():
        if key.startswith("img/") and not key.startswith(("img/MAPHead", "img/head")):
            key = key.removeprefix("img/").replace(
                "MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"
            )
            key = key.replace("LayerNorm_1", "LayerNorm_2").replace("MlpBlock_0", "MlpBlock_3")
            arrays[key.replace("pos_embedding", "Transformer/posembed_input/pos_embedding")] = (
                value.astype(np.float32)
            )
    name = "Transformer/posembed_input/pos_embedding"
    arrays[name] = np.concatenate([np.full((1, 1, 32), 9.0, np.float32), arrays[name]], axis=1)
    np.savez(
        path,
        cls=np.full((1, 1, 32), 9.0),
        **arrays,
        **{"head/kernel": np.zeros((32, 21843)), "head/bias": np.zeros(21843)},
    )


@pytest.mark.parametrize("form", ["big_vision", "augreg", "timm"])
def test_pretrained_vits_start_a_tower(tower, tmp_path, form):
    path = tmp_path / ("vit.safetensors" if form == "timm" else "vit.npz")
    if form == "big_vision":
        models.save_big_vision(tower, path)
    elif form == "augreg":
        augreg_file(tower, path)
    else:
        from safetensors.torch import save_file

        state = {
            name: value.detach()
            for name, value in tower.named_parameters()
            if name.startswith(("patch", "blocks", "norm"))
        }
        state["pos_embed"] = torch.cat([torch.full((1, 1, 32), 9.0), tower.pos_embed.detach()], 1)
        save_file(
            {**state, "cls_token": torch.zeros(1, 1, 32), "head.weight": torch.zeros(1000, 32)},
            path,
        )
    fresh = models.build_tower(CONFIG, 48, seed=5)
    started = models.build_tower(ModelConfig(**SMALL, initial_weights=str(path)), 48, seed=5)
    for name, value in started.named_parameters():
        taken = name.startswith(("patch_embed", "pos_embed", "blocks", "norm"))
        assert torch.equal(value, dict((tower if taken else fresh).named_parameters())[name]), name
    wider = models.build_tower(ModelConfig(**SMALL, initial_weights=str(path)), 80)
    np.testing.assert_array_equal(
        wider.pos_embed.detach(), resample_positions(tower.pos_embed.detach().numpy(), 25)
    )
    with pytest.raises(CheckpointError, match="has 2 blocks; this tower has 1"):
        models.build_tower(ModelConfig(**{**SMALL, "depth": 1}, initial_weights=str(path)), 48)
    with pytest.raises(
        CheckpointError, match=r"expected \(16, 16, 3, 64\)|this tower needs \(64, 3, 16, 16\)"
    ):
        models.build_tower(ModelConfig(**{**SMALL, "width": 64}, initial_weights=str(path)), 48)
    plain = models.load_image_only(path, 48)
    assert plain.config.kind == "image_only" and (
        plain.config.width,
        plain.config.depth,
        plain.config.mlp_dim,
    ) == (32, 2, 72)
    assert plain.pooled(torch.zeros(2, 3, 48, 48)).shape == (2, 32)
    assert torch.equal(plain.blocks[1].mlp.fc1.weight, tower.blocks[1].mlp.fc1.weight)


def test_initial_weights_that_are_no_vit(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(CheckpointError, match="embedding/kernel is missing"):
        models.build_tower(ModelConfig(**SMALL, initial_weights=str(path)), 48)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(io.BytesIO(b"\x10\0\0\0\0\0\0\0{").getvalue())
    with pytest.raises(CheckpointError, match="it is no safetensors file, or is cut short"):
        models.build_tower(ModelConfig(**SMALL, initial_weights=str(torn)), 48)
