"""XM3600: languages on their own, unweighted means, missing captions, and the true line schema in
36 languages.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drawn import draw, evaluate_plan, phrases, tiny_checkpoint
from found import recomputed, score_rows, values, whys

from clippo_core.config import XM3600_LANGUAGES, Xm3600Config
from clippo_core.data.sources.photos import xm3600_records
from clippo_core.errors import DataError
from clippo_core.evaluate import metrics
from clippo_core.evaluate.gallery import usable
from clippo_core.evaluate.xm3600 import protocol as xm3600

N = 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("tower"))


def captions(folder: Path, gap: bool = False) -> dict[str, str]:
    """40 photos, each the drawing of its first English caption. English answers; German has another
    photo's text; Thai has one strange caption a photo. `gap`: five photos have no Thai.
    """
    english, other, strange = phrases(N), phrases(N, 500), phrases(N, 900)
    lines = []
    for i, text in enumerate(english):
        draw(text, folder / "images" / f"{i:016x}.png")
        line = {
            "image/key": f"{i:016x}",
            "image/locale": "en",
            "en": {"caption": [text, other[i]]},
            "de": {"caption": [english[i - 1]]},
        }
        if not gap or i >= 5:
            line["th"] = {"caption": [strange[i]]}
        lines.append(json.dumps(line))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "captions": str(folder / "captions.jsonl"),
        "images": str(folder / "images"),
        "dataset": "xm",
    }


def run(checkpoint: str, root: Path, config: Xm3600Config):
    return xm3600.run(checkpoint, evaluate_plan(root, xm3600=config), progress=False)


def test_per_language_and_unweighted_means(tmp_path, checkpoint):
    config = Xm3600Config(**captions(tmp_path), languages=("en", "de", "th"), expect_images=N)
    result = run(checkpoint, tmp_path / "run", config)
    assert result.failure == "" and result.is_partial, "three languages are not 36"
    m = values(result)
    assert m["xm/en/i2t_recall@1"] == 100.0 and m["xm/de/i2t_recall@1"] == 0.0
    for direction in ("i2t", "t2i"):
        per_language = [m[f"xm/{language}/{direction}_recall@1"] for language in ("en", "de", "th")]
        assert m[f"xm/{direction}_recall@1"] == pytest.approx(np.mean(per_language))
        assert m[f"xm/script/Latin/{direction}_recall@1"] == pytest.approx(
            np.mean(per_language[:2])
        )
        assert m[f"xm/script/Thai/{direction}_recall@1"] == pytest.approx(per_language[2])
        low, high = result.metrics[f"xm/{direction}_recall@1"].bounds
        assert low <= m[f"xm/{direction}_recall@1"] <= high
    assert (
        result.metrics["xm/en/i2t_recall@1"].n == N
        and result.metrics["xm/en/t2i_recall@1"].n == 2 * N
    )
    assert result.counts == {"images": N, "languages": 3, "texts": 4 * N}
    assert result.metrics["xm/i2t_recall@1"].chance == pytest.approx(100 / N)
    assert result.metrics["xm/i2t_recall@5"].chance == pytest.approx(
        100 * (metrics.chance_recall(2 * N, [2], 5) + 2 * 5 / N) / 3
    )
    assert result.main_metrics == ["xm/i2t_recall@1", "xm/t2i_recall@1"]
    examples = json.loads((tmp_path / "run/evaluations/xm3600/examples.json").read_text())
    assert {example["asked"][:4] for example in examples} == {"(en)", "(de)", "(th)"}
    assert 3 <= len(examples) <= 6 and examples[0]["hit"] and not examples[-1]["hit"]


def test_recalls_follow_from_the_predictions(tmp_path, checkpoint):
    config = Xm3600Config(
        **captions(tmp_path, gap=True), languages=("en", "de", "th"), expect_images=N
    )
    result = run(checkpoint, tmp_path / "run", config)
    rows, again = score_rows(result, tmp_path / "run"), recomputed(result, tmp_path / "run")
    languages = ("en", "de", "th")
    assert list(rows) == [
        f"xm/{language}/{way}_recall@1" for language in languages for way in ("i2t", "t2i")
    ]
    for metric, of_metric in rows.items():
        share = 100 * np.mean([row["rank"] == 1 for row in of_metric])
        assert result.metrics[metric].value == pytest.approx(share) == again[metric]
        assert result.metrics[metric].n == len(of_metric)
    for main in result.main_metrics:
        mean = np.mean([again[main.replace("xm/", f"xm/{language}/")] for language in languages])
        assert result.metrics[main].value == pytest.approx(mean)
    assert "35 of 40 images have a caption" in result.metrics["xm/th/i2t_recall@1"].flag
    assert result.metrics["xm/th/t2i_recall@1"].chance == pytest.approx(100 / 35), (
        "photos without Thai are no candidates in Thai"
    )


def test_first_captions_only_is_another_protocol(tmp_path, checkpoint):
    fields = captions(tmp_path)
    both = run(
        checkpoint, tmp_path / "a", Xm3600Config(**fields, languages=("en",), expect_images=N)
    )
    first = run(
        checkpoint,
        tmp_path / "b",
        Xm3600Config(**fields, languages=("en",), expect_images=N, which_captions="first"),
    )
    assert both.counts["texts"] == 2 * N and first.counts["texts"] == N
    assert first.metrics["xm/t2i_recall@1"].value == 100.0 > both.metrics["xm/t2i_recall@1"].value
    assert "all captions" in both.protocol and "only the first caption" in first.protocol


def test_a_collapsed_tower_scores_0_in_every_language(tmp_path):
    config = Xm3600Config(**captions(tmp_path), languages=("en", "de"), expect_images=N)
    result = run(tiny_checkpoint(tmp_path, collapse=True), tmp_path / "run", config)
    recalls = {name: value for name, value in values(result).items() if "recall" in name}
    assert set(recalls.values()) == {0.0}
    assert (
        result.metrics["xm/i2t_tie_share"].value
        == result.metrics["xm/t2i_tie_share"].value
        == 100.0
    )
    assert result.metrics["xm/i2t_recall@1"].flag.startswith("100.00 %")


def test_absent_languages_and_bad_files(tmp_path, checkpoint):
    fields = captions(tmp_path)
    result = run(
        checkpoint, tmp_path / "a", Xm3600Config(**fields, languages=("en", "fr"), expect_images=N)
    )
    assert "no caption in 'fr'" in result.metrics["xm/fr/i2t_recall@1"].why_not
    assert result.counts["languages"] == 1
    assert result.is_partial
    failure = run(
        checkpoint, tmp_path / "b", Xm3600Config(**fields, languages=("fr",), expect_images=N)
    ).failure
    assert "has no image" in failure
    assert (
        "holds 40 images, but xm has 39"
        in run(checkpoint, tmp_path / "c", Xm3600Config(**fields, expect_images=39)).failure
    )
    missing = Xm3600Config(str(tmp_path / "nothing.jsonl"), fields["images"])
    assert "nothing.jsonl" in run(checkpoint, tmp_path / "d", missing).failure
    with open(fields["captions"], "a") as file:
        file.write("{broken\n")
    assert (
        "line 41"
        in run(checkpoint, tmp_path / "e", Xm3600Config(**fields, expect_images=41)).failure
    )


def test_pictures_are_embedded_once(tmp_path, checkpoint):
    config = Xm3600Config(**captions(tmp_path), languages=("en", "de", "th"), expect_images=N)
    run(checkpoint, tmp_path / "run", config)
    timings = json.loads((tmp_path / "run/evaluations/xm3600/timings.json").read_text())
    assert timings["rows_embedded"] == N + 2 * N + N + N


@pytest.mark.slow
def test_36_languages_in_xm3600s_line_schema(tmp_path, checkpoint, slices):
    pack = slices / "emoji36"
    result = run(
        checkpoint,
        tmp_path,
        Xm3600Config(str(pack / "captions.jsonl"), str(pack / "images"), "emoji36"),
    )
    assert result.failure == "" and result.is_partial and not whys(result)
    assert result.counts["languages"] == 36 and result.counts["images"] == 1603
    for direction in ("i2t", "t2i"):
        values = [
            result.metrics[f"emoji36/{language}/{direction}_recall@1"].value
            for language in XM3600_LANGUAGES
        ]
        assert result.metrics[f"emoji36/{direction}_recall@1"].value == pytest.approx(
            np.mean(values)
        )


def test_multi30k_captions_in_xm3600s_line_schema(tmp_path, checkpoint, slices):
    pack = slices / "flickr30k_multi30k"
    config = Xm3600Config(
        str(pack / "captions_xm3600_format.jsonl"),
        str(pack / "flickr30k-images"),
        "m30k",
        ("en", "de", "fr", "cs"),
        limit=100,
    )
    result = run(checkpoint, tmp_path, config)
    assert result.failure == "" and result.counts == {"images": 100, "languages": 4, "texts": 1200}


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ('"a dog"', "en.caption is a text, 'a dog', and must be a list"),
        ('["a dog", 1]', r"image k\[1\] is a whole number, and must be a text"),
        ('["\\ud800"]', "holds a lone surrogate"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("[]", "image k has no caption"),
    ],
)
def test_captions_that_are_no_list_of_texts_are_refused(tmp_path, caption, words):
    path = tmp_path / "captions.jsonl"
    path.write_text(f'{{"image/key": "k", "en": {{"caption": {caption}}}}}\n')
    with pytest.raises(DataError, match=words):
        usable(list(xm3600_records(str(path), str(tmp_path), ("en",))), str(path))
