"""What names a model: every form leads to the same tower, near misses are told, and of a folder
only what matters is looked at.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forms import drawn_tower, forms_of, point_to, save_run
from PIL import Image

from clippo_core import storage
from clippo_core.config import RenderConfig
from clippo_core.embedder import Clippo
from clippo_core.errors import (
    CheckpointError,
    ClippoError,
    ConfigError,
    DataError,
    ImageError,
    NotFoundError,
)
from clippo_core.opening import find_model, model_info
from clippo_core.run import planned

TEXTS = ["a dog", "zwei Hunde"]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One tower in all its forms."""
    return forms_of(drawn_tower(), str(tmp_path_factory.mktemp("forms")))


def test_every_form_is_the_same_tower(forms: dict[str, str]) -> None:
    found = {}
    for form, name in forms.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = Clippo.load(name, "cpu")
        found[form] = model.embed_texts(TEXTS)
        info = model_info(name)
        assert info.weights_sha256 == model.weights_sha256, form
        assert info.step == (1 if form in ("step", "run", "pointer") else 0)
        np.testing.assert_array_equal(Clippo.load(info.uri, "cpu").embed_texts(TEXTS), found[form])
    for form, rows in found.items():
        np.testing.assert_array_equal(rows, found["step"], form)


def test_a_pointer_leads_there_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    info = save_run(drawn_tower(), "runs/small-1a2b3c")
    assert not info.uri.startswith("/")
    point_to("runs/promoted-small.json", info)
    expected = Clippo.load("runs/promoted-small.json", "cpu").embed_texts(TEXTS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for pointer in (str(tmp_path / "runs/promoted-small.json"), "../runs/promoted-small.json"):
        np.testing.assert_array_equal(Clippo.load(pointer, "cpu").embed_texts(TEXTS), expected)
    shutil.move(str(tmp_path / "runs"), str(tmp_path / "moved"))
    moved = Clippo.load(tmp_path / "moved/promoted-small.json", "cpu")
    np.testing.assert_array_equal(moved.embed_texts(TEXTS), expected)
    shutil.rmtree(tmp_path / "moved/small-1a2b3c")
    with pytest.raises(NotFoundError, match=r"promoted-small.json: the model that it .* is gone"):
        Clippo.load(tmp_path / "moved/promoted-small.json")


def test_a_run_that_was_trained_in_an_earlier_ones_folder_leads_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_run(drawn_tower(), "runs/small-1a2b3c")
    expected = Clippo.load("runs/small-1a2b3c", "cpu").embed_texts(TEXTS)
    note = planned.Planned("other", "now", {"pretrain": "runs/small-1a2b3c"})
    planned.write("runs/other-4d5e6f", note)
    np.testing.assert_array_equal(
        Clippo.load("runs/other-4d5e6f/", "cpu").embed_texts(TEXTS), expected
    )
    monkeypatch.chdir("/")
    found = Clippo.load(tmp_path / "runs/other-4d5e6f", "cpu").embed_texts(TEXTS)
    np.testing.assert_array_equal(found, expected)


def test_a_bucket_has_the_same_forms(s3: str, tmp_path: Path) -> None:
    tower = drawn_tower()
    info = save_run(tower, f"{s3}/runs/small-1a2b3c")
    point_to(f"{s3}/runs/promoted-small.json", info)
    model = Clippo(tower, RenderConfig(), device="cpu")
    model.save_pretrained(f"{s3}/pretrained/")
    for name in ("runs/promoted-small.json", "runs/small-1a2b3c", "pretrained"):
        found = Clippo.load(f"{s3}/{name}", "cpu").embed_texts(TEXTS)
        np.testing.assert_array_equal(found, model.embed_texts(TEXTS))


def test_a_folder_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "many/step-other").mkdir(parents=True)
    for number in range(50):
        (tmp_path / "many" / str(number)).mkdir()
    seen: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(str(path)) or scandir(path))
    with pytest.raises(NotFoundError, match="there is no model in it"):
        Clippo.load(tmp_path / "many")
    assert 0 < len(seen) <= 3  # the folder, and step-other


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("clippo_b16_yfcc", NotFoundError, "did you mean clippo_b16_yfcc100m"),
        ("openai/clip-vit-base-patch16", NotFoundError, "hf-hub:openai/clip-vit-base-patch16"),
        ("model.pt", CheckpointError, "pickles, which can run programs"),
        ("hf-hub:one", ConfigError, "write hf-hub:ORG/NAME@REVISION"),
        ("gone.json", NotFoundError, "gone.json"),
        ("gone/", NotFoundError, "promoted-NAME.json, or hf-hub:ORG/NAME"),
    ],
)
def test_a_name_of_nothing_is_a_sentence(
    name: str, error: type[ClippoError], sentence: str, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=sentence) as caught:
        find_model(name)
    assert "\n" not in str(caught.value)


def test_a_pointer_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "promoted-x.json"
    path.write_text(json.dumps({"uri": 7}))
    with pytest.raises(DataError, match="promoted-x.json"):
        Clippo.load(path)


@pytest.fixture(scope="module")
def model() -> Clippo:
    """A small model."""
    return Clippo(drawn_tower(), RenderConfig(), device="cpu")


def test_pictures_in_any_form(model: Clippo, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    given = [str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, tensor, pixels[:, ::-1]]
    found = model.embed_images(given)
    np.testing.assert_array_equal(found[:4], np.repeat(found[:1], 4, axis=0))
    assert np.abs(found[4] - found[0]).max() > 1e-4
    one_by_one = (image for image in given)
    np.testing.assert_allclose(model.embed_images(one_by_one, batch_size=2), found, atol=1e-6)
    for many in (np.stack([pixels] * 2), torch.stack([tensor] * 2)):
        np.testing.assert_allclose(model.embed_images(many), found[:2], atol=1e-6)
    texts = model.embed_texts(text for text in TEXTS)
    np.testing.assert_array_equal(texts, model.embed_texts(TEXTS))
    assert model.embed_images(iter(())).shape == (0, 32)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([None], "image 0 is NoneType; give a path"),
        ([np.zeros((3, 8, 8), np.uint8)], r"image 0 is an array uint8 \[3, 8, 8\]"),
        ([np.zeros((8, 8, 3))], r"an array float64 \[8, 8, 3\]; an array of a picture is uint8"),
        ([np.zeros((8, 8), np.uint8)], r"uint8 \[h, w, 3\]"),
        ([np.zeros((0, 8, 3), np.uint8)], r"\[0, 8, 3\]"),
        ([torch.zeros(3, 8, 8)], r"tensor torch.float32 \[3, 8, 8\]; a tensor of a picture"),
        (["https://example.org/a.png"], r"^https://example.org/a.png: it is a web address"),
        (Image.new("RGB", (8, 8)), "images is one Image; pass a list"),
        (np.zeros((8, 8, 3), np.uint8), "images is one ndarray; pass a list"),
        (None, "images is NoneType; pass a list"),
    ],
)
def test_what_is_no_picture_is_named(model: Clippo, images: Any, sentence: str) -> None:
    with pytest.raises((ImageError, ConfigError), match=sentence):
        model.embed_images(images)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta", 1.5])
def test_a_device_that_is_not_here_is_named(forms: dict[str, str], device: Any) -> None:
    with pytest.raises(ConfigError, match=f"device {device} cannot be used .*machine has cpu"):
        Clippo.load(forms["exported"], device)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_has_rows(model: Clippo, batch_size: Any) -> None:
    for embed in (model.embed_texts, model.embed_images):
        with pytest.raises(ConfigError, match="batch_size"):
            embed([], batch_size=batch_size)


def test_one_template_is_told(model: Clippo) -> None:
    with pytest.raises(ConfigError, match=r"templates is one str; pass a list: \['a {}'\]"):
        model.classify([], ["dog"], "a {}")  # type: ignore[arg-type]


def test_saving_says_what_it_writes(model: Clippo, tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("m.pt", "folder/", "m", "folder.safetensors"):
        with pytest.raises(ConfigError, match="ends in .safetensors; save_pretrained"):
            model.save(f"{tmp_path}/{name}")
    with pytest.raises(ConfigError, match="writes a folder"):
        model.save_pretrained(tmp_path / "m.safetensors")
    assert storage.exists(str(tmp_path)) and not (tmp_path / "folder").exists()


def test_tensors_in_features_out(model: Clippo) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 20, 3), np.uint8))
    batch = torch.stack([model.preprocess(image)] * 2)
    assert batch.dtype == torch.float32 and batch.abs().max() <= 1
    with torch.no_grad():
        images, texts = model.encode_image(batch), model.encode_text(model.draw(TEXTS))
    np.testing.assert_allclose(images, model.embed_images([image, image]), atol=1e-6)
    np.testing.assert_allclose(texts, model.embed_texts(TEXTS), atol=1e-6)
    assert model.draw("a dog").shape == (1, 3, 48)
    assert model.encode_image(batch).requires_grad
    for encode in (model.encode_image, model.encode_text):
        with pytest.raises(ConfigError, match="takes a tensor, as"):
            encode(["a dog"])  # type: ignore[arg-type]
