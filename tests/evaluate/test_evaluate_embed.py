"""Features on disk: the tower's own, the same for every batch and chunk size, never stale, never
damaged.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from drawn import noise, phrases, tiny_checkpoint

from clippo_core import storage
from clippo_core.embedder import Clippo
from clippo_core.errors import EvaluationError, ImageError
from clippo_core.evaluate import embed
from clippo_core.evaluate.embed import FeatureStore, Pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Clippo:
    return Clippo.load(tiny_checkpoint(tmp_path_factory.mktemp("tower")), device="cpu")


def pictures(folder: Path, n: int) -> Pictures:
    for i in range(n):
        noise(folder / f"{i:03d}.png", seed=i)
    paths = sorted(folder.glob("*.png"))
    return Pictures([path.name for path in paths], lambda i: paths[i].read_bytes())


def store(model: Clippo, folder: Path, **options) -> FeatureStore:
    return FeatureStore(model, str(folder), progress=False, **options)


def test_features_are_the_embedders(model, tmp_path):
    found = store(model, tmp_path / "f")
    set_ = pictures(tmp_path / "p", 70)
    data = [set_.read(i) for i in range(70)]
    np.testing.assert_allclose(found.pictures(set_).features, model.embed_images(data), atol=1e-6)
    np.testing.assert_allclose(
        found.pictures(set_, "probe").features,
        model.pooled_images(data, preprocess="fewshot"),
        atol=1e-5,
    )
    texts = phrases(130)
    np.testing.assert_allclose(found.texts(texts), model.embed_texts(texts), atol=1e-6)


def test_every_digit_is_equal_for_every_batch_and_chunk_size(model, tmp_path, monkeypatch):
    set_, texts, names = pictures(tmp_path / "p", 150), phrases(150), phrases(40)
    expected = None
    for number, (chunk, batch) in enumerate([(512, 256), (64, 1), (128, 13), (64, 1000)]):
        monkeypatch.setattr(embed, "CHUNK", chunk)
        one = store(model, tmp_path / str(number), batch_size=batch)
        found = [
            one.pictures(set_).features,
            one.pictures(set_, "probe").features,
            one.texts(texts),
        ]
        expected = expected or found
        for got, want in zip(found, expected, strict=True):
            assert got.dtype == np.float32 and np.array_equal(got, want)
    classes = [
        store(model, tmp_path / "c", batch_size=batch).classes(names, ["a {}", "{}", "the {} here"])
        for batch in (1, 99)
    ]
    assert np.array_equal(*classes)


def test_every_forward_pass_has_64_rows_so_more_inputs_change_no_digit_of_the_first(
    model, tmp_path, monkeypatch
):
    sizes = []
    forward = model.tower._trunk
    monkeypatch.setattr(
        model.tower, "_trunk", lambda tokens: sizes.append(len(tokens)) or forward(tokens)
    )
    set_, texts = pictures(tmp_path / "p", 70), phrases(70)
    few = Pictures(set_.names[:3], set_.read)
    one = store(model, tmp_path / "f")
    assert np.array_equal(one.texts(texts)[:3], one.texts(texts[:3]))
    assert np.array_equal(one.pictures(set_).features[:3], one.pictures(few).features)
    assert sizes == [embed.BLOCK] * 6


def test_what_is_on_disk_is_not_computed_again(model, tmp_path):
    set_, texts = pictures(tmp_path / "p", 20), phrases(20)
    first = store(model, tmp_path / "f")
    wanted = [first.pictures(set_).features, first.texts(texts), first.classes(texts, ["{}"])]
    assert first.computed == 60
    again = store(model, tmp_path / "f")
    found = [again.pictures(set_).features, again.texts(texts), again.classes(texts, ["{}"])]
    assert again.computed == 0 and all(map(np.array_equal, found, wanted))


def test_other_inputs_weights_or_templates_are_never_read_from_disk(model, tmp_path):
    set_, texts = pictures(tmp_path / "p", 5), phrases(5)
    first = store(model, tmp_path / "f")
    first.pictures(set_)
    first.texts(texts)
    first.classes(texts, ["{}"])
    changed = store(model, tmp_path / "f")
    noise(tmp_path / "p" / "002.png", seed=99)
    changed.pictures(set_)
    changed.texts([*texts, "more"])
    changed.classes(texts, ["a {}"])
    changed.pictures(set_, "probe")
    assert changed.computed == 5 + 6 + 5 + 5
    other = Clippo.load(tiny_checkpoint(tmp_path, seed=1), device="cpu")
    of_other = store(other, tmp_path / "f")
    assert not np.array_equal(of_other.texts(texts), first.texts(texts)) and of_other.computed == 5


def test_a_damaged_file_is_made_again(model, tmp_path):
    texts = phrases(5)
    wanted = store(model, tmp_path).texts(texts)
    (stat,) = storage.list_files(str(tmp_path))
    whole = Path(stat.uri).read_bytes()
    for damaged in (
        whole[:-7],
        whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
        b"",
        b"x" * 40,
    ):
        Path(stat.uri).write_bytes(damaged)
        again = store(model, tmp_path)
        assert np.array_equal(again.texts(texts), wanted) and again.computed == 5
        assert Path(stat.uri).read_bytes() == whole


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((4, 32), np.float32),
        np.zeros((5, 31), np.float32),
        np.zeros((5, 32), np.float64),
        np.zeros(160, np.float32),
        np.full((5, 32), np.nan, np.float32),
    ],
    ids=str,
)
def test_rows_of_another_shape_under_a_right_digest_are_made_again(model, tmp_path, rows):
    texts, target = phrases(5), io.BytesIO()
    expected = store(model, tmp_path).texts(texts)
    assert expected.shape == (5, 32)
    np.save(target, rows)
    (path,) = tmp_path.glob("texts-*.rows")
    data = target.getvalue()
    path.write_bytes(hashlib.sha256(data).digest() + data)
    again = store(model, tmp_path)
    np.testing.assert_array_equal(again.texts(texts), expected)
    assert again.computed == 5


def test_equal_texts_and_equal_names_get_equal_rows(model, tmp_path):
    texts = [*phrases(100), *phrases(100)]
    found = store(model, tmp_path).texts(texts)
    assert np.array_equal(found[:100], found[100:])
    classes = store(model, tmp_path).classes(["cat", "dog", "cat"], ["a {}", "{}"])
    assert np.array_equal(classes[0], classes[2]) and not np.array_equal(classes[0], classes[1])


def test_class_features_are_the_renormalised_mean_of_unit_prompts(model, tmp_path):
    templates = ["a photo of {}", "{} it is", "{}"]
    found = store(model, tmp_path).classes(["cat", "dog"], templates)
    for row, name in zip(found, ["cat", "dog"], strict=True):
        unit = model.embed_texts([template.replace("{}", name) for template in templates]).astype(
            np.float64
        )
        mean = unit.mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_digests_name_equal_pictures(model, tmp_path):
    set_ = pictures(tmp_path / "p", 3)
    (tmp_path / "p" / "001.png").write_bytes((tmp_path / "p" / "000.png").read_bytes())
    digests = store(model, tmp_path / "f").pictures(set_).digests
    assert digests[0] == digests[1] != digests[2]


def test_bad_pictures_weights_and_empty_sets_are_refused(model, tmp_path):
    set_ = pictures(tmp_path / "p", 3)
    (tmp_path / "p" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(ImageError, match="001.png"):
        store(model, tmp_path / "f").pictures(set_)
    poisoned = Clippo.load(tiny_checkpoint(tmp_path, poison=True), device="cpu")
    with pytest.raises(
        EvaluationError, match="non-finite features for 2 of 2 inputs, the first is 'a'"
    ):
        store(poisoned, tmp_path / "g").texts(["a", "b"])
    assert not (tmp_path / "g").exists(), "nothing non-finite is put on disk"
    with pytest.raises(EvaluationError, match="no texts"):
        store(model, tmp_path / "f").texts([])


def test_features_lie_in_a_bucket_as_well(model, s3):
    texts = phrases(5)
    first = FeatureStore(model, storage.join(s3, "features"), progress=False)
    second = FeatureStore(model, storage.join(s3, "features"), progress=False)
    assert np.array_equal(first.texts(texts), second.texts(texts)) and second.computed == 0
