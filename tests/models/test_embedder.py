"""`Clippo`: every kind of source, exact preprocessing, and clear words for what cannot be
embedded.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tower_reference import SMALL, perturbed

from clippo_core import models
from clippo_core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RenderConfig,
    SourceConfig,
    TrainConfig,
)
from clippo_core.data.images import fewshot_crop, squash
from clippo_core.embedder import Clippo
from clippo_core.engine.checkpoint import Progress, open_checkpoint, save_checkpoint
from clippo_core.errors import CheckpointError, ConfigError, ImageError, NotFoundError, RenderError
from clippo_core.rendering import Renderer
from clippo_core.run.records import PretrainPlan, StagePlan

TEXTS = ["a dog", "two cats on a mat", "", "ein Hund"]
SENTENCES = [
    f"{who} {what} the {where} number {n}"
    for who in ("a dog", "she")
    for what in ("sees", "eats")
    for where in "abc"
    for n in range(40)
]


@pytest.fixture
def tower():
    return perturbed(models.build_tower(ModelConfig(**SMALL), 48))


@pytest.fixture
def model(tower):
    return Clippo(tower, RenderConfig(), device="cpu")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return models.train_tokenizer(
        SENTENCES, str(tmp_path_factory.mktemp("tokenizer") / "small.model"), vocab_size=300
    )


def picture(width, height, seed=0):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def test_texts_and_images_are_the_towers(model, tower, tmp_path):
    drawn = torch.from_numpy(Renderer(48).render(TEXTS))[:, None].expand(-1, 3, -1, -1)
    expected = tower.embed(models.normalise(drawn.clone()))
    np.testing.assert_allclose(model.embed_texts(TEXTS), expected.detach(), atol=1e-6)
    image = picture(70, 50)
    image.save(tmp_path / "a.png")
    for preprocess, resize in (("squash", squash), ("fewshot", fewshot_crop)):
        pixels = torch.from_numpy(resize(np.asarray(image), 48).transpose(2, 0, 1)[None])
        given = [
            image,
            tmp_path / "a.png",
            str(tmp_path / "a.png"),
            (tmp_path / "a.png").read_bytes(),
        ]
        found = model.embed_images(given, preprocess=preprocess)
        np.testing.assert_allclose(
            found, tower.embed(models.normalise(pixels)).detach().repeat(4, 1), atol=1e-6
        )
        pooled = model.pooled_images(given, preprocess=preprocess)
        np.testing.assert_allclose(
            pooled, tower.pooled(models.normalise(pixels)).detach().repeat(4, 1), atol=1e-5
        )
    assert model.pooled_texts(TEXTS).shape == (4, 32)
    assert found.dtype == pooled.dtype == np.float32
    assert model.embed_texts([]).shape == model.embed_images([]).shape == (0, 16)


def test_the_batch_size_changes_nothing_that_matters(model):
    images = [picture(20 + n, 30, n) for n in range(7)]
    np.testing.assert_allclose(
        model.embed_images(images, batch_size=3), model.embed_images(images), atol=1e-6
    )
    np.testing.assert_allclose(
        model.embed_texts(TEXTS, batch_size=1), model.embed_texts(TEXTS, batch_size=3), atol=1e-6
    )


def test_classify_is_the_softmax_over_mean_prompts(model):
    images, names, templates = (
        [picture(48, 48, n) for n in range(3)],
        ["dog", "cat", "7"],
        ["a {}.", "{}"],
    )
    classes = np.stack(
        [
            model.embed_texts([template.format(name) for template in templates]).mean(0)
            for name in names
        ]
    )
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    logits = 10 * model.embed_images(images) @ classes.T
    found = model.classify(images, names, templates)
    assert found.dtype == np.float32
    model.tower.t.data.fill_(np.log(10.0))
    expected = torch.softmax(torch.from_numpy(logits), 1)
    np.testing.assert_allclose(model.classify(images, names, templates), expected, atol=1e-5)
    for names, templates, sentence in (
        ([], ["{}"], "at least one class"),
        (["a"], ["no place"], "no {} where"),
        (["a"], [], "no template"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            model.classify(images, names, templates)


def checkpoint_of(tower, root, digest=None, **render):
    data = DataConfig((SourceConfig("sentences", "x.txt"),), text_pair_share=1.0)
    optim, train = (
        OptimConfig(warmup_steps=0, cooldown_steps=0),
        TrainConfig(steps=1, batch_pairs=2),
    )
    render_config = RenderConfig(image_px=tower.image_px, **render)
    digest = models.text_encoder(tower.config, render_config).digest if digest is None else digest
    plan = PretrainPlan(StagePlan(root, 0, ""), data, render_config, tower.config, optim, train)
    weights = {name: value.detach() for name, value in tower.named_parameters()}
    return save_checkpoint(root, weights, {}, plan, Progress(1, 2, 0.5, 1, render_digest=digest))


def test_every_source_gives_the_same_embeddings(model, tower, tmp_path):
    images = [picture(70, 50), picture(48, 90)]
    info = checkpoint_of(tower, str(tmp_path / "run" / "checkpoints"))
    models.save_big_vision(tower, tmp_path / "model.npz")
    model.save(tmp_path / "model.safetensors")
    expected = model.embed_texts(TEXTS), model.embed_images(images)
    for source in (
        info.uri,
        tmp_path / "run" / "checkpoints",
        tmp_path / "run",
        tmp_path / "model.npz",
        tmp_path / "model.safetensors",
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = Clippo.load(source, device="cpu")
            assert loaded.image_px == 48 and loaded.tower.config == tower.config
            np.testing.assert_array_equal(loaded.embed_texts(TEXTS), expected[0])
            np.testing.assert_array_equal(loaded.embed_images(images), expected[1])
        assert loaded.render_digest == model.render_digest == Renderer(48).digest
    assert Clippo.load(info.uri).weights_sha256 == info.weights_sha256
    assert Clippo.load(tmp_path / "model.safetensors").weights_sha256 == model.weights_sha256
    again = tmp_path / "again.safetensors"
    Clippo.load(tmp_path / "model.safetensors").save(again)
    assert again.read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_the_render_config_travels(tower, tmp_path):
    wide = Clippo(tower, RenderConfig(monospace=True), device="cpu")
    wide.save(tmp_path / "wide.safetensors")
    loaded = Clippo.load(tmp_path / "wide.safetensors", device="cpu")
    assert loaded.renderer.monospace and loaded.render.image_px == 48
    np.testing.assert_array_equal(loaded.embed_texts(TEXTS), wide.embed_texts(TEXTS))


def test_another_size_and_another_font(tower, tmp_path):
    info = checkpoint_of(tower, str(tmp_path / "run"))
    larger = Clippo.load(info.uri, image_px=80)
    assert larger.image_px == larger.renderer.image_px == 80
    assert (
        larger.embed_images([picture(50, 50)]).shape == larger.embed_texts(["a"]).shape == (1, 16)
    )
    hexes = tmp_path / "small.hex"
    hexes.write_text("0061:" + "FF" * 16 + "\n", encoding="ascii")
    other = Clippo.load(info.uri, fonts=[str(hexes)])
    assert other.render_digest != Renderer(48).digest
    model = Clippo(tower, RenderConfig(fonts=(str(hexes),)), device="cpu")
    model.save(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="with fonts of its own .*small.hex.*name them again"):
        Clippo.load(tmp_path / "other.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = Clippo.load(tmp_path / "other.safetensors", fonts=[str(hexes)])
    assert again.render_digest == model.render_digest
    hexes.write_text("0061:" + "0F" * 16 + "\n", encoding="ascii")
    with pytest.warns(UserWarning, match="fonts, layout rules or tokenizer differ"):
        Clippo.load(tmp_path / "other.safetensors", fonts=[str(hexes)])


def test_released_weights_warn_at_a_changed_glyph(tower, tmp_path):
    models.save_big_vision(tower, tmp_path / "model.npz")
    with pytest.warns(UserWarning, match=r"9\.0\.06"):
        Clippo.load(tmp_path / "model.npz").embed_texts(["20 °"])
    with pytest.raises(RenderError, match=r"9\.0\.06"):
        Clippo.load(tmp_path / "model.npz", strict_font=True).embed_texts(["20 °"])


@pytest.mark.parametrize("kind", ["one_tower_clip", "two_tower_clip"])
def test_token_towers_carry_their_tokenizer(kind, tokenizer, tmp_path):
    config = ModelConfig(kind, **SMALL, tokenizer=tokenizer, text_tokens=9)
    model = Clippo(perturbed(models.build_tower(config, 48)), RenderConfig(), device="cpu")
    expected = model.embed_texts(TEXTS)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    model.save(tmp_path / "model.safetensors")
    moved = models.train_tokenizer(SENTENCES[:50], str(tmp_path / "moved.model"), vocab_size=290)
    assert moved != tokenizer
    loaded = Clippo.load(tmp_path / "model.safetensors", device="cpu")
    np.testing.assert_array_equal(loaded.embed_texts(TEXTS), expected)
    assert loaded.render_digest == model.render_digest != Renderer(48).digest
    info = checkpoint_of(model.tower, str(tmp_path / "run"))
    np.testing.assert_array_equal(Clippo.load(info.uri).embed_texts(TEXTS), expected)


def test_a_changed_tokenizer_is_noticed(tokenizer, tmp_path):
    moved = str(tmp_path / "moved.model")
    Path(moved).write_bytes(Path(tokenizer).read_bytes())
    config = ModelConfig("one_tower_clip", **SMALL, tokenizer=moved, text_tokens=9)
    tower = models.build_tower(config, 48)
    info = checkpoint_of(tower, str(tmp_path / "run"))
    older = checkpoint_of(tower, str(tmp_path / "older run"), digest="")
    assert Clippo.load(info.uri).render_digest == open_checkpoint(info.uri).progress.render_digest
    models.train_tokenizer(SENTENCES[:50], moved, vocab_size=290)
    with pytest.warns(UserWarning, match="fonts, layout rules or tokenizer differ"):
        Clippo.load(info.uri)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Clippo.load(older.uri)


def test_image_only_has_features_but_no_embedding(tmp_path):
    model = Clippo(
        models.build_tower(ModelConfig("image_only", **SMALL), 48), RenderConfig(), device="cpu"
    )
    model.save(tmp_path / "vit.safetensors")
    loaded = Clippo.load(tmp_path / "vit.safetensors")
    images = [picture(30, 30)]
    np.testing.assert_array_equal(loaded.pooled_images(images), model.pooled_images(images))
    with pytest.raises(ConfigError, match="no embedding head"):
        loaded.embed_images(images)


def test_bad_input_is_named(model, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not much")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        model.embed_images([picture(9, 9), tmp_path / "broken.jpg"])
    with pytest.raises(ImageError, match="image 1"):
        model.embed_images([picture(9, 9), b""])
    with pytest.raises(RenderError, match="text 1|position 1|number 1"):
        model.embed_texts(["a", 7])
    with pytest.raises(RenderError, match="pass a list"):
        model.embed_texts("a dog")
    with pytest.raises(ConfigError, match="pass a list"):
        model.embed_images("dog.jpg")
    with pytest.raises(ConfigError, match="preprocess"):
        model.embed_images([], preprocess="crop")
    with pytest.raises(ConfigError, match="precision"):
        Clippo(model.tower, RenderConfig(), precision="float16")
    with pytest.raises(NotFoundError, match="no_such_run"):
        Clippo.load(str(tmp_path / "no_such_run"))
    with pytest.raises(NotFoundError, match=r"absent\.npz"):
        Clippo.load(tmp_path / "absent.npz")


def test_single_files_that_are_wrong(model, tmp_path):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model.safetensors"
    model.save(path)
    weights = load_file(path)
    save_file(weights, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not written by Clippo.save.*convert"):
        Clippo.load(tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="its tensors end at byte"):
        Clippo.load(tmp_path / "cut.safetensors")
    deeper = Clippo(
        models.build_tower(dataclasses.replace(model.tower.config, depth=1), 48),
        RenderConfig(),
        device="cpu",
    )
    deeper.save(tmp_path / "one.safetensors")
    header = (
        (tmp_path / "one.safetensors").read_bytes().replace(b'\\"depth\\": 1', b'\\"depth\\": 2')
    )
    (tmp_path / "two.safetensors").write_bytes(header)
    with pytest.raises(
        CheckpointError, match="two.safetensors: tensor blocks.1.norm1.weight is missing"
    ):
        Clippo.load(tmp_path / "two.safetensors")


def test_bfloat16_is_close(model, tower):
    fast = Clippo(tower, RenderConfig(), device="cpu", precision="bfloat16")
    found = fast.embed_texts(TEXTS)
    assert found.dtype == np.float32 and (found * model.embed_texts(TEXTS)).sum(1).min() > 0.999
