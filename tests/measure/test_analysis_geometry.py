"""Modality gap, separability, patch components and lengths against independent statements of them,
and the paper's numbers as data.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from tower_reference import SMALL

from clippo_core import models, published
from clippo_core.config import ModelConfig, RenderConfig
from clippo_core.embedder import Clippo
from clippo_core.errors import EvaluationError
from clippo_core.measure import geometry, lengths
from clippo_core.rendering import Renderer
from clippo_core.report.lengths import lengths_figure


def clouds(n=200, d=16, shift=0.0, seed=0):
    random = np.random.default_rng(seed)
    images = random.normal(size=(n, d))
    texts = images + 0.3 * random.normal(size=(n, d)) + shift
    return images, texts


def test_gap_by_hand_and_its_invariants():
    images, texts = np.array([[3.0, 0.0], [0.0, 0.1]]), np.array([[-7.0, 0.0], [0.0, -2.0]])
    assert geometry.modality_gap(images, texts) == pytest.approx(np.sqrt(2))
    assert geometry.modality_gap(images, images) == 0
    assert geometry.modality_gap(images[:1], -images[:1]) == pytest.approx(2)
    a, b = clouds(shift=0.5)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))
    scale = np.random.default_rng(2).uniform(0.1, 9, (200, 1))
    assert geometry.modality_gap(scale * a @ rotation, 3 * b @ rotation) == pytest.approx(
        geometry.modality_gap(a, b)
    )


def test_separability_is_a_held_out_linear_classifiers_accuracy():
    from sklearn.linear_model import RidgeClassifier

    for shift in (0.0, 0.3, 3.0):
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in clouds(shift=shift))
        fold_of = np.random.default_rng(0).permutation(200) % 5
        right = 0
        for fold in range(5):
            held = fold_of == fold
            fitted = RidgeClassifier(alpha=1e-3).fit(
                np.concatenate([a[~held], b[~held]]), np.repeat([1, 0], (~held).sum())
            )
            right += (fitted.predict(a[held]) == 1).sum() + (fitted.predict(b[held]) == 0).sum()
        assert geometry.linear_separability(a, b) == pytest.approx(right / 400)
    assert geometry.linear_separability(*clouds(shift=9.0)) > 0.98
    assert 0.3 < geometry.linear_separability(*clouds()) < 0.6


def test_geometry_of_matched_pairs():
    a, b = clouds(shift=1.0)
    found = geometry.geometry(a, b)
    cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    assert found.n_pairs == 200 and found.matched_cosine == pytest.approx(np.mean(cosines))
    others = [
        x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        for i, x in enumerate(a)
        for j, y in enumerate(b)
        if i != j
    ]
    assert found.other_cosine == pytest.approx(np.mean(others))
    assert found.modality_gap == geometry.modality_gap(a, b)
    model = Clippo(models.build_tower(ModelConfig(**SMALL), 32), RenderConfig(), device="cpu")
    images = [
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (40, 30, 3), dtype=np.uint8))
        for n in range(10)
    ]
    untrained = geometry.measure(model, images, [f"number {n}" for n in range(10)])
    # Noise and grey pages lie apart in any tower that was never trained to bring them together.
    assert untrained.linear_separability > 0.7 and 0.5 < untrained.modality_gap < 2


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 4)), np.full((3, 4), np.nan), np.zeros((0, 4)), np.ones(4)]
)
def test_features_without_direction_are_refused(bad):
    with pytest.raises(EvaluationError):
        geometry.modality_gap(bad, np.ones((3, 4)))
    with pytest.raises(EvaluationError, match="not matched"):
        geometry.geometry(np.ones((3, 4)), np.ones((4, 4)))
    with pytest.raises(EvaluationError, match="at least 10 pairs"):
        geometry.linear_separability(np.ones((3, 4)), np.ones((3, 4)))


def test_patch_components_are_pcas():
    from sklearn.decomposition import PCA

    kernel = np.random.default_rng(0).normal(size=(64, 3, 16, 16)) * np.linspace(0.1, 3, 16)
    components, shares = geometry.patch_components(kernel, 30)
    reference = PCA(30, svd_solver="full").fit(kernel.reshape(64, -1))
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, rtol=1e-9)
    cosines = (components.reshape(30, -1) * reference.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-9)
    assert all(tile.flat[np.abs(tile).argmax()] > 0 for tile in components)
    assert geometry.patch_components(kernel[:8])[0].shape == (8, 3, 16, 16)
    with pytest.raises(EvaluationError):
        geometry.patch_components(kernel.reshape(64, -1))


def test_lengths_by_hand(tmp_path):
    tokenizer = models.train_tokenizer(
        [f"a cat and {n} dogs on the mat" for n in range(300)],
        str(tmp_path / "en.model"),
        vocab_size=300,
    )
    renderer = Renderer(224)
    texts = {"en": ["a cat and 7 dogs", "the mat " * 20, "x" * 700], "th": ["แมวสองตัวนั่งบนเสื่อ"]}
    english, thai = lengths.measure_lengths(texts, {"en": tokenizer}, renderer)
    assert (english.n_texts, english.cut_texts) == (2, 1)
    pictures = renderer.render(texts["en"][:2])
    inked = [(picture.reshape(14, 16, 14, 16) == 0).any((1, 3)) for picture in pictures]
    assert english.patches == np.mean([grid.sum() for grid in inked])
    assert english.rows == np.mean([14 * grid.any(1).sum() for grid in inked])
    processor = models.load_tokenizer(tokenizer)
    assert english.tokens["en"] == np.mean(
        [len(processor.encode(text)) for text in texts["en"][:2]]
    )
    assert english.unknown_share["en"] == 0 and english.characters == np.mean(
        [len(text) for text in texts["en"][:2]]
    )
    # Byte fallback: one piece a byte, none unknown.
    assert thai.tokens["en"] > 50 and thai.unknown_share["en"] == 0
    other = dataclasses.replace(thai, rows=100.0, patches=20.0, tokens={"en": 50.0})
    assert lengths.shorter_than([other, thai], "en") == (2, 2) and lengths.shorter_than(
        [other, thai], "en", by="rows"
    ) == (1, 2)
    table = lengths.lengths_table([english, thai])
    assert len(table.splitlines()) == 3 and "th" in table
    figure = lengths_figure([english, thai])
    assert figure.svg.startswith("<svg") and "in 2 of 2" in figure.caption
    alone = lengths_figure(
        [
            dataclasses.replace(one, language="$x_{$", tokens={}, unknown_share={})
            for one in (english, thai)
        ]
    )
    assert "pieces" not in alone.caption and "$x_{$" in alone.svg, "a label is no formula"


def test_a_tokenizer_without_bytes_looks_short_and_is_flagged(tmp_path):
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter([f"a cat and {n} dogs" for n in range(100)]),
        model_prefix=str(tmp_path / "plain"), vocab_size=40, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (thai,) = lengths.measure_lengths(
        {"th": ["แมวสองตัวนั่งบนเสื่อ"]}, {"plain": str(tmp_path / "plain.model")}, Renderer(224)
    )
    assert thai.tokens["plain"] <= 2 and thai.unknown_share["plain"] > 0.9
    assert "100.0%" in lengths.lengths_table([thai])


def test_nothing_that_fits_is_an_error():
    with pytest.raises(EvaluationError, match="xx: none of 1 texts fits"):
        lengths.measure_lengths({"xx": ["x" * 800]}, {}, Renderer(32))


def test_published_numbers_have_sources_and_our_names():
    numbers = published.all_published()
    assert len(numbers) > 90
    assert {number.trust for number in numbers} == {"primary", "secondary"}
    assert all(number.source and number.model and number.data for number in numbers)
    keys = [(number.model, number.data, number.metric, number.trust) for number in numbers]
    assert len(set(keys)) == len(keys)
    tasks = (
        "mnli_m_accuracy",
        "mnli_mm_accuracy",
        "qqp_f1",
        "qnli_accuracy",
        "sst2_accuracy",
        "cola_matthews",
    )
    tasks += ("stsb_spearman", "mrpc_f1", "rte_accuracy")
    for row in {
        (number.model, number.data) for number in published.published("glue/mnli_m_accuracy")
    }:
        values = {number.metric: number.value for number in published.published_of(*row)}
        # The printed mean is that of nine numbers, MNLI counted twice.
        assert values["glue/average"] == pytest.approx(
            np.mean([values[f"glue/{task}"] for task in tasks]), abs=0.06
        )
    first = published.published("imagenet/zero_shot_top1")[0]
    assert (first.model, first.value) == ("CLIPPO B/16", 61.4)
    assert published.published("no/such_metric") == []
    json.dumps([dataclasses.asdict(number) for number in numbers])
