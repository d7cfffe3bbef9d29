"""Figures, live page and pictures: the right numbers in the picture, the same bytes twice, cheap
where it must be.
"""

from __future__ import annotations

import base64
import io
import math
import re
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clippo_core.config import XM3600_LANGUAGES
from clippo_core.data.scripts import SCRIPTS
from clippo_core.data.thumbnails import THUMB_PX, data_uri
from clippo_core.measure import contact
from clippo_core.measure.geometry import principal_plane
from clippo_core.published import Published
from clippo_core.report import curves, digits, live, pictures
from clippo_core.report.figures import (
    FAMILIES,
    comparison_figure,
    modality_gap_figure,
    recall_by_language,
)
from clippo_core.report.rows import Row
from clippo_core.report.style import SERIES, SERIES_DARK
from clippo_core.run.records import EvalResult, Metric


def journal(n: int, batch: int = 92) -> list[dict]:
    """A made-up journal of n steps."""
    noise = np.random.default_rng(0).random(n)
    return [
        {
            "step": step,
            "loss": 4.5 * math.exp(-3 * step / n) + 0.2 * noise[step - 1],
            "lr": 1e-3 * min(1, 10 * step / n, 5 * (1 - step / n)),
            "logit_scale": 10 + 20 * step / n,
            "positive_similarity": 0.2 + 0.5 * step / n,
            "negative_similarity": 0.1 - 0.1 * step / n,
            "accuracy": step / n,
            "grad_norm": 1.5,
            "pairs_per_second": 500.0,
            "pairs_seen": step * batch,
            "skipped": 0,
        }
        for step in range(1, n + 1)
    ]


def languages_result(languages: tuple[str, ...], with_intervals: bool = True) -> EvalResult:
    metrics = {}
    for place, language in enumerate(languages):
        value = 10.0 + 80 * place / len(languages)
        low, high = (value - 3, value + 3) if with_intervals else (None, None)
        metrics[f"set/{language}/i2t_recall@1"] = Metric(value, low, high, 1.0, 100)
    return EvalResult("xm3600", "set", "test", "p", 100, metrics)


def parse(svg: str) -> ElementTree.Element:
    """An inline <svg> as XML; the HTML parser knows the xlink prefix by itself, XML does not."""
    return ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))


# --- curves --------------------------------------------------------------------------------------


def test_buckets_equal_a_naive_mean_and_range():
    x = np.arange(1, 1001, dtype=float)
    y = np.random.default_rng(1).normal(size=1000)
    y[[3, 500, 999]] = np.nan
    found = curves.buckets(x, y)
    keep = np.isfinite(y)
    assert 0 < len(found) <= curves.POINTS
    naive = [
        (xs.mean(), ys.mean(), ys.min(), ys.max())
        for xs, ys in zip(
            np.split(x[keep], np.linspace(0, keep.sum(), curves.POINTS + 1).astype(int)[1:-1]),
            np.split(y[keep], np.linspace(0, keep.sum(), curves.POINTS + 1).astype(int)[1:-1]),
            strict=True,
        )
    ]
    np.testing.assert_allclose(found, naive, atol=1e-12)


def test_every_curve_is_drawn_well_formed_and_names_its_unit():
    charts = live.training_charts(journal(300), 300)
    drawn = [parse(svg) for svg in re.findall(r"<svg.*?</svg>", charts)]
    assert charts == live.training_charts(journal(300), 300) and len(drawn) == len(curves.CHARTS)
    for chart, root in zip(curves.CHARTS, drawn, strict=True):
        assert root.get("role") == "img" and chart.title in root.get("aria-label", "")
        words = "".join(root.itertext())
        assert "step 1" in words and "300" in words and chart.unit in charts
    assert "http" not in charts and "<style" not in charts and "nats" in charts


def test_guessing_is_a_dashed_line_at_the_log_of_the_batch():
    steps = journal(300, batch=92)
    charts = live.training_charts(steps, 300)
    assert f"dashed: guessing, {math.log(92):.2f}" in charts
    loss = parse(re.search(r"<svg.*?</svg>", charts)[0])
    line = next(e for e in loss.iter("polyline") if e.get("stroke-dasharray") == "4 3")
    left, right = (point.split(",") for point in line.get("points").split())
    assert left[1] == right[1] and float(left[0]) < float(right[0])
    ticks = [
        (float(t.text), float(t.get("y")) - 4) for t in loss.iter("text") if t.get("x") == "40"
    ]
    (low, low_y), (high, high_y) = ticks[0], ticks[-1]
    height = low_y + (math.log(92) - low) / (high - low) * (high_y - low_y)
    assert float(left[1]) == pytest.approx(height, abs=0.2)
    for step in steps:
        del step["pairs_seen"]
    assert "guessing" not in live.training_charts(steps, 300), "the batch is not known"


def test_figures_on_one_page_share_no_id():
    row = Row("x", "x/top1", Metric(60.0, 55.0, 65.0, 10.0, 360))
    figures = [comparison_figure([row]), recall_by_language(languages_result(("en", "de")))]
    ids = [name for figure in figures for name in re.findall(r'\bid="([^"]+)"', figure.svg)]
    assert len(ids) == len(set(ids)) > 0
    for figure in figures:
        for target in re.findall(r'(?:url\(#|href="#)([^")]+)', figure.svg):
            assert target in ids


def test_the_last_line_of_a_step_counts_and_order_does_not_matter():
    lines = [
        {"step": 2, "loss": 2.0},
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 3.0},
        {"event": "resumed"},
    ]
    assert curves.by_step(lines) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 3.0}]


# --- languages, gap, comparison ------------------------------------------------------------------


def test_languages_stand_sorted_with_mean_chance_and_n():
    languages = ("en", "ja", "ar", "de")
    figure = recall_by_language(languages_result(languages))
    assert figure is not None
    words = [text.text for text in parse(figure.svg).iter("text")]
    assert [word for word in words if word in languages] == ["de", "ar", "ja", "en"]
    assert any("unweighted mean 40.0" in (word or "") for word in words) and any(
        "chance 1.0" in (word or "") for word in words
    )
    assert "n = 100" in figure.caption and "95 %" in figure.caption
    metrics = {"glue/average": Metric(1.0, n=3), "glue/en/i2t_recall@1": Metric(why_not="no")}
    assert recall_by_language(EvalResult("glue", "glue", "dev", "p", 3, metrics)) is None


def test_one_language_without_chance_or_interval_is_drawn() -> None:
    metrics = {"set/en/i2t_recall@1": Metric(40.0, n=100)}
    figure = recall_by_language(EvalResult("xm3600", "set", "test", "p", 100, metrics))
    assert figure is not None and figure.caption == "n = 100 queries per language."
    assert "best en 40.0, worst en 40.0, 1 languages" in figure.svg


@pytest.mark.parametrize(
    ("values", "top"),
    [([0.0, 0.0], 100.0), ([0.0, 2.0], 2 * 1.08), ([0.0, 0.5], 1.08), ([99.0, 40.0], 100.0)],
)
def test_recall_axis_ends_above_what_is_drawn_and_at_100_where_every_recall_is_0(values, top):
    """The chance of 1 is drawn, too."""
    metrics = {
        f"set/{language}/i2t_recall@1": Metric(value, value, value, 1.0, 100)
        for language, value in zip(("en", "de"), values, strict=True)
    }
    figure = recall_by_language(EvalResult("xm3600", "set", "test", "p", 100, metrics))
    words = [text.text for text in parse(figure.svg).iter("text")]
    numbers = [float(w) for w in words if re.fullmatch(r"[0-9]+(\.[0-9]+)?", w or "")]
    assert 0.75 * top <= max(numbers) <= top


def test_all_languages_of_xm3600_have_a_script_and_fit():
    scripts = [script for family in FAMILIES.values() for script in family]
    assert set(SCRIPTS) == set(XM3600_LANGUAGES) and set(SCRIPTS.values()) == set(scripts)
    assert len(scripts) == len(set(scripts)) and len(FAMILIES) == len(SERIES)
    figure = recall_by_language(languages_result(XM3600_LANGUAGES))
    assert figure is not None and figure.is_wide
    assert {word.text for word in parse(figure.svg).iter("text")} >= set(XM3600_LANGUAGES)


def test_principal_plane_agrees_with_scikit_learn():
    from sklearn.decomposition import PCA

    random = np.random.default_rng(0)
    images, texts = random.normal(size=(40, 12)) + 2, random.normal(size=(40, 12))
    photo_points, text_points, explained = principal_plane(images, texts)
    reference = PCA(2).fit(np.concatenate([images, texts]))
    expected = reference.transform(np.concatenate([images, texts]))
    np.testing.assert_allclose(
        np.abs(np.concatenate([photo_points, text_points])), np.abs(expected), atol=1e-9
    )
    np.testing.assert_allclose(explained, reference.explained_variance_ratio_, atol=1e-12)


def test_gap_stands_in_the_title_with_n():
    points = np.random.default_rng(0).normal(size=(2, 30, 2))
    figure = modality_gap_figure(points[0], points[1], np.array([0.5, 0.2]), 0.8514)
    assert (
        figure.title == "Modality gap 0.851"
        and "n = 30" in figure.caption
        and "50 % of the variance" in figure.svg
    )


def test_comparison_shows_the_papers_value_only_for_the_same_metric():
    ours = Metric(60.0, 55.0, 65.0, 10.0, 360)
    paper = [Published(70.0, "CLIPPO B/16", "WebLI", "i", "paper", "primary")]
    same, other = (
        Row("imagenet", "imagenet/zero_shot_top1", ours, paper=paper),
        Row("x", "digits/top1", ours, paper=paper, paper_metric="i"),
    )
    with_paper, without = comparison_figure([same]), comparison_figure([other])
    assert with_paper is not None and without is not None
    words = [" ".join(parse(figure.svg).itertext()) for figure in (with_paper, without)]
    assert "published" in words[0] and "published" not in words[1]
    assert "ours, 95 % interval" in words[0] and "chance or majority" in words[0]
    assert "(n = 360)" in with_paper.svg
    assert comparison_figure([Row("vqa", "vqa", Metric(), missing="failed: x")]) is None
    two = comparison_figure([same, replace(same, model="other")])
    assert {"ours, 95 % interval", "other, 95 % interval"} <= set(parse(two.svg).itertext())


# --- pictures ------------------------------------------------------------------------------------


def test_drawings_are_kept_exactly_and_photos_are_thumbnails():
    drawing = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    uri = data_uri(drawing, 64)
    np.testing.assert_array_equal(
        np.array(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))), drawing
    )
    photo = data_uri(np.zeros((300, 900, 3), np.uint8), photo=True)
    assert Image.open(io.BytesIO(base64.b64decode(photo.partition(",")[2]))).size == (THUMB_PX, 53)
    assert contact.safe_picture(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/x.png",
        "data:text/html;base64,PHNjcmlwdD4=",
        'data:image/png;base64,AA" onerror="alert(1)',
        "javascript:alert(1)",
        None,
        3,
    ],
)
def test_nothing_but_picture_data_is_let_into_a_page(uri):
    assert contact.safe_picture(uri) == ""


def test_patch_tiles_show_the_component_scaled_about_grey():
    components = np.zeros((3, 3, 16, 16))
    components[0, 0, 0, 0], components[1] = -2.0, 0.5
    figure = pictures.patch_figure(components, np.array([0.5, 0.3, 0.1]))
    tiles = [
        np.array(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r"base64,([^\"]+)", figure.svg)
    ]
    assert (
        len(tiles) == 3
        and tiles[0][0, 0].tolist() == [0, 128, 128]
        and (tiles[1] == 255).all()
        and (tiles[2] == 128).all()
    )
    assert "1: 50.0 %" in figure.svg and "together 90.0 %" in figure.caption
    parse(figure.svg)


# --- live page -----------------------------------------------------------------------------------


def test_live_page_says_where_training_stands():
    page = live.training_page(journal(1000)[:400], "demo <run>", 1000, 7, written_at=0)
    assert (
        '<meta http-equiv="refresh" content="7">' in page
        and "400 of 1,000" in page
        and "1970-01-01 00:00:00 UTC" in page
    )
    assert "demo &lt;run&gt;" in page and "<run>" not in page
    assert page == live.training_page(journal(1000)[:400], "demo <run>", 1000, 7, written_at=0)
    for title in ("Loss", "Similarity", "Logit scale", "Learning rate", "Speed", "skipped steps"):
        assert title in page
    for svg in re.findall(r"<svg.*?</svg>", page):
        parse(svg)
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|<script""", page)


def test_live_page_stops_reloading_at_the_end_and_works_from_the_first_step():
    assert "refresh" not in live.training_page(journal(50), "x", 50)
    assert "No step is done yet" in live.training_page([], "x", 50)
    one = live.training_page(journal(50)[:1], "x", 50)
    assert one.count("<polyline") == 9 and "nan" not in one.lower()


def test_live_page_survives_missing_and_non_finite_numbers():
    records = journal(20)
    records[5]["loss"] = math.nan
    records[6]["loss"] = None
    records[7] = {"step": 8}
    records[-1] |= {"loss": math.inf, "skipped": 3}
    page = live.training_page(records, "x", 100)
    assert (
        "nan" not in page.lower()
        and "inf" not in page.lower()
        and "<dt>skipped steps</dt><dd>3</dd>" in page
    )


def test_time_left_comes_from_recent_speed():
    assert live.seconds_left(journal(100)[:50], 100) == pytest.approx(50 * 92 / 500)
    assert live.seconds_left([{"step": 3, "loss": 1.0}], 100) is None


def test_live_page_of_ten_thousand_steps_is_cheap_and_small():
    records = journal(10_000)
    took = []
    for _ in range(5):
        start = time.process_time()
        page = live.training_page(records, "x", 20_000)
        took.append(time.process_time() - start)
    assert min(took) < 0.1
    assert len(page) < 80_000


def test_ticks_are_round_and_cover_the_range():
    for low, high in [
        (0, 1),
        (0.2, 0.7),
        (4.49, 4.53),
        (9.99, 35),
        (-0.06, 0.73),
        (3, 3),
        (0, 1e-3),
        (0, 0),
        (-5, -5),
    ]:
        ticks = curves._ticks(low, high)
        assert 3 <= len(ticks) <= 6 and ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12


# --- numbers and colours -------------------------------------------------------------------------


def test_numbers_have_sensible_digits():
    numbers = (0.00071234, 12.3456, 1234.5, 0, 1.5e-7, None, math.nan, 2.5e7)
    assert [digits.value(x) for x in numbers] == [
        "0.000712", "12.3", "1,234", "0", "1.50e-7", "–", "–", "2.50e7",
    ]  # fmt: skip
    assert (
        digits.share(74.3219) == "74.3"
        and digits.count(10240) == "10,240"
        and digits.interval([1.04, 2.0]) == "1.0 – 2.0"
    )
    assert [digits.duration(s) for s in (8, 185, 3725, 180_000)] == [
        "8 s",
        "3 min 05 s",
        "1 h 02 min",
        "2 d 02 h",
    ]
    assert [digits.size(b) for b in (12, 6272, 123_456_789)] == ["12 B", "6.27 kB", "123 MB"]


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_series_colours_have_contrast_on_their_ground():
    for colours, ground in ((SERIES, "#ffffff"), (SERIES_DARK, "#15181c")):
        for colour in colours:
            light, dark = sorted((_luminance(colour), _luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3
