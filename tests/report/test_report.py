"""Decks and report: every foreign text is escaped, nothing loads from elsewhere, no number stands
without n and chance, failures show.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from html_reader import Reader
from PIL import Image

from clippo_core.config import DataConfig, ModelConfig, SourceConfig, presets, replace
from clippo_core.data.shards import shard_list
from clippo_core.data.thumbnails import data_uri
from clippo_core.measure.contact import contact_item, contact_items
from clippo_core.measure.insight import Insight, gather_insight
from clippo_core.measure.lengths import Lengths, measure_lengths
from clippo_core.measure.shard_pairs import read_pairs
from clippo_core.published import Published
from clippo_core.rendering import Renderer
from clippo_core.report import decks
from clippo_core.report.curves import CHARTS
from clippo_core.report.differences import paper_run, recipe_differences
from clippo_core.report.live import training_charts
from clippo_core.report.overview import times
from clippo_core.report.page import Report, RunRecord, report_page, summary_table, write_report
from clippo_core.report.pages import TEMPLATES, fragment, shorten
from clippo_core.report.rows import rows_of
from clippo_core.run.records import (
    CheckpointInfo,
    Comparison,
    EvalResult,
    Expectation,
    LeftOut,
    Manifest,
    Metric,
    ValidationReport,
    Verdict,
)

PROJECT = Path(__file__).resolve().parents[2]

HOSTILE = (
    '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)> {{ 7*7 }} "'
    " ' \u202eabc </title></svg>"
)
RUN = presets.demo()


def paper(metric: str, value: float) -> Published:
    return Published(value, "CLIPPO B/16", "WebLI", metric, "paper", "primary")


def published(metric: str) -> list[Published]:
    values = {"imagenet/zero_shot_top1": 70.25, "glue/sst2_accuracy": 83.0}
    return [paper(metric, values[metric])] if metric in values else []


def made_results() -> list[EvalResult]:
    imagenet = EvalResult(
        "imagenet", "digits", "val", f"zero-shot {HOSTILE}", 360,
        metrics={
            "digits/zero_shot_top1": Metric(94.1667, 91.4, 96.4, 10.0, 360),
            "digits/zero_shot_top5": Metric(100.0, chance=50.0, n=360),
            "digits/10shot_top1": Metric(why_not="one photo per class"),
        },
        main_metrics=["digits/zero_shot_top1"], counts={"images": 360}, is_demo=True,
    )  # fmt: skip
    retrieval = EvalResult(
        "retrieval", "flickr30k", "test", "any caption", 1000,
        metrics={
            "flickr30k/i2t_recall@1": Metric(0.6, 0.3, 0.9, 0.5, 1000, f"ties {HOSTILE}"),
            "flickr30k/t2i_recall@1": Metric(0.4, 0.2, 0.6, 0.1, 5000),
        },
        main_metrics=["flickr30k/i2t_recall@1", "flickr30k/t2i_recall@1"], is_partial=True,
    )  # fmt: skip
    vqa = EvalResult.failed("vqa", "vqav2", f"DataError: questions.json {HOSTILE}")
    glue = EvalResult(
        "glue", "glue", "dev", "p", 872,
        metrics={
            "glue/sst2_accuracy": Metric(71.25, chance=50.9, n=872),
            "glue/mnli_mm_accuracy": Metric(why_not="no such file"),
            "glue/average": Metric(why_not="needs all nine"),
        },
        main_metrics=["glue/sst2_accuracy"],
    )  # fmt: skip
    names = {language: f"numbers/{language}/i2t_recall@1" for language in ("en", "de", "ja", "ar")}
    xm3600 = EvalResult(
        "xm3600", "numbers", "test", "p", 100,
        metrics={"numbers/i2t_recall@1": Metric(50.0, chance=1.0, n=100)}
        | {
            name: Metric(50.0 + place, chance=1.0, n=100)
            for place, name in enumerate(names.values())
        },
        main_metrics=["numbers/i2t_recall@1"], is_partial=True, is_demo=True,
    )  # fmt: skip
    return [imagenet, retrieval, vqa, glue, xm3600]


def made_examples() -> list[dict]:
    picture = data_uri(np.full((32, 32, 3), 99, np.uint8))
    good = [
        {
            "hit": place < 6,
            "pictures": [picture],
            "asked": HOSTILE,
            "predicted": HOSTILE,
            "truth": HOSTILE,
        }
        for place in range(12)
    ]
    return [
        *good,
        {"hit": False, "pictures": ["https://evil.example/y.png", None], "asked": 3},
        "no example",
    ]


def made_run() -> RunRecord:
    random = np.random.default_rng(0)
    photo, drawing = (
        random.integers(0, 255, (48, 64, 3), dtype=np.uint8),
        random.integers(0, 128, (64, 64), dtype=np.uint8),
    )
    contact = [
        contact_item(photo, drawing, HOSTILE, "en"),
        contact_item(None, drawing, "fyra", "sv", HOSTILE),
        contact_item(photo, drawing, "四十二" * 200, "ja"),
    ]
    insight = Insight(
        gap=0.85, matched_cosine=0.3, other_cosine=0.02, separability=0.985,
        photo_points=random.normal(size=(30, 2)), text_points=random.normal(size=(30, 2)),
        explained=np.array([0.4, 0.1]), pairs_from="The pairs are training pairs.",
        components=random.normal(size=(30, 3, 16, 16)), shares=np.full(30, 0.02), n_filters=128,
        contact=contact,
        lengths=[
            Lengths(
                "en", 500, 3, 54.6, 20.0, 14.5,
                {HOSTILE: 13.0, "mT5": 15.5}, {HOSTILE: 0.0, "mT5": 0.0},
            ),
            Lengths(
                HOSTILE, 40, 0, 21.0, 12.0, 6.25,
                {HOSTILE: 1.0, "mT5": 19.0}, {HOSTILE: 0.97, "mT5": 0.0},
            ),
        ],
        lengths_from=f"Training texts. Of {HOSTILE} none fits.",
    )  # fmt: skip
    expectations = [
        Expectation("Every key is unique.", 1200, 0, 0.0, []),
        Expectation(
            "Every image decodes.", 1200, 3, 0.05, [HOSTILE, "b.jpg: truncated", "c.jpg: empty"]
        ),
        Expectation("A text is there.", 1200, 300, 0.05, ["k1: ''"]),
    ]
    cuts = {"en": 0.0, HOSTILE: 0.25}
    validation = ValidationReport(
        1200,
        expectations,
        [LeftOut("truncated", 2, ["a", "b"]), LeftOut(HOSTILE, 1, [HOSTILE])],
        {"numbers": 1.0},
        cuts,
        {"en": 0.0},
        "d" * 64,
    )
    manifest = Manifest(
        "runs/x/shards",
        "e" * 64,
        "runs/x/shards",
        n_pairs=1197,
        n_photo_pairs=1000,
        n_shards=1,
        bytes=1_000_000,
        render_digest="f" * 64,
        data_digest="d" * 64,
        shares_by_source={"numbers": 0.75, HOSTILE: 0.25},
    )
    checkpoint = CheckpointInfo(
        "runs/x/checkpoints/step-00000500",
        500,
        46_000,
        0.25,
        "1" * 64,
        "2" * 64,
        "3" * 64,
        2,
        "runs/x/journal.jsonl",
    )
    steps = [
        {"step": step, "loss": 4.5 / step, "lr": 1e-3, "logit_scale": 10.0,
         "positive_similarity": 0.5, "negative_similarity": 0.0,
         "pairs_per_second": 460.0, "pairs_seen": 92 * step, "skipped": 2}
        for step in range(1, 501)
    ]  # fmt: skip
    verdict = Verdict(
        False,
        f"Not promoted: vqa ({HOSTILE}).",
        checkpoint.uri,
        "",
        {"digits/zero_shot_top1": Comparison(93.0, 94.1667, 1.2, 3, HOSTILE)},
    )
    examples = {"imagenet": made_examples()}
    return RunRecord(
        "runs/x",
        RUN,
        validation,
        manifest,
        checkpoint,
        made_results(),
        verdict,
        steps,
        examples,
        {"imagenet": {"embed": 61.0}},
        insight,
    )


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(made_run(), published, written_at=0)


@pytest.fixture(scope="module")
def all_decks() -> dict[str, str]:
    run = made_run()
    return {
        "plan": decks.plan_deck(RUN, f"runs/{HOSTILE}", [("version", HOSTILE)], ("", 1)),
        "benchmarks": decks.inspection_deck([f"fine {HOSTILE}"], [f"bad {HOSTILE}"]),
        "validation": decks.validation_deck(run.validation),
        "render": decks.render_deck(run.manifest, samples=run.insight.contact),
        "training": decks.training_deck(run.journal),
        **{
            f"evaluation {r.name}": decks.evaluation_deck(r, examples=made_examples())
            for r in run.results
        },
        "gate": decks.gate_deck(run.verdict),
    }


# --- safety --------------------------------------------------------------------------------------


def assert_harmless(html: str) -> Reader:
    reader = Reader(html)
    assert not reader.stack
    for tag, attributes in reader.tags:
        assert tag not in {
            "script",
            "iframe",
            "object",
            "embed",
            "link",
            "form",
            "base",
            "video",
            "audio",
        }, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                is_beside = value in ("training.html", "../index.html", "report.html")
                assert value and (is_beside or value.startswith(("#", "data:image/"))), (
                    tag,
                    name,
                    value,
                )
            assert (
                name == "style"
                or name == "content"
                or "evil.example" not in (value or "")
                or name in ("alt", "aria-label")
            )
        assert "url(" not in (attributes.get("style") or "") or "url(#" in (
            attributes.get("style") or ""
        )
    for style in re.findall(r"<style.*?</style>", html, re.DOTALL):
        assert "@import" not in style and "url(" not in style
    return reader


def test_report_is_harmless_and_needs_no_network(page):
    reader = assert_harmless(page)
    assert "<script>alert(1)</script>" in reader.text, "the hostile caption is shown as text"
    assert (
        "49" not in [word for word in reader.text.split() if word == "49"]
        and "{{ 7*7 }}" in reader.text
    )
    assert page.startswith("<!DOCTYPE html>") and "xmlns" not in page


def test_decks_are_harmless_single_elements(all_decks):
    for name, html in all_decks.items():
        reader = assert_harmless(html)
        assert reader.tags[0][0] == "div" and html.count('<div class="deck') == 1, name
        assert len(html) < 400_000, name
    for name in ("validation", "render", "gate", "evaluation imagenet", "evaluation vqa"):
        assert "<script>alert(1)</script>" in Reader(all_decks[name]).text, name


def test_only_own_markup_is_trusted_in_templates():
    trusted = {
        (path.name, match)
        for path in TEMPLATES.glob("*.jinja")
        for match in re.findall(r"\{\{[^{}]*\|\s*safe[^{}]*\}\}", path.read_text())
    }
    assert trusted == {
        ("evaluated.html.jinja", "{{ css|safe }}"),
        ("parts.html.jinja", "{{ figure.svg|safe }}"),
        ("report.html.jinja", "{{ css|safe }}"),
        ("runs.html.jinja", "{{ css|safe }}"),
    }
    assert "autoescape false" not in "".join(path.read_text() for path in TEMPLATES.glob("*.jinja"))


def test_templates_are_shipped_with_the_package():
    import tomllib

    patterns = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["clippo_core"]
    shipped = {path for pattern in patterns for path in (PROJECT / "clippo_core").glob(pattern)}
    assert set(TEMPLATES.glob("*")) <= shipped


def test_examples_from_a_file_lose_everything_that_is_no_picture(tmp_path):
    (tmp_path / "examples.json").write_text(json.dumps(made_examples()))
    shown = decks.read_examples(str(tmp_path))
    assert len(shown) == 13 and shown[-1] == {
        "hit": False,
        "pictures": [],
        "labels": [],
        "asked": "3",
        "predicted": "",
        "truth": "",
    }
    for damaged in ("[{]", "[" * 100_000, '{"hit": true}', '["\\ud800"]'):
        (tmp_path / "examples.json").write_text(damaged)
        assert decks.read_examples(str(tmp_path)) == []
    (tmp_path / "examples.json").write_text('[{"hit": 1, "pictures": 5}]')
    assert decks.read_examples(str(tmp_path)) == [
        {"hit": True, "pictures": [], "labels": [], "asked": "", "predicted": "", "truth": ""}
    ]
    (tmp_path / "examples.json").write_bytes(b"\xff")
    assert (
        decks.read_examples(str(tmp_path))
        == []
        == decks.read_examples(str(tmp_path / "nowhere"))
        == decks.read_examples("")
    )


def test_a_caption_of_a_megabyte_becomes_one_line():
    assert shorten("a\n b\t" * 300_000, 20) == "a b a b a b a b a b…"
    assert len(str(fragment("heading", title="x" * 10, marks=[], text="ab " * 400_000))) < 2000


# --- truth ---------------------------------------------------------------------------------------


def test_every_number_stands_with_n_and_chance(page):
    rows = {
        row[0].split()[0]: row
        for row in Reader(page).rows
        if row and re.match(r"[\w]+/", row[0]) and len(row) in (4, 6)
    }
    for result in made_results():
        for metric, found in result.metrics.items():
            if found.value is None:
                continue
            name, ours, chance, n, *_ = rows[metric]
            assert ours.startswith(f"{found.value:.1f}"), metric
            assert chance == f"{found.chance:.1f}", metric
            assert n == f"{found.n:,}", metric
            assert ("demo" in name) == result.is_demo and ("partial" in name) == result.is_partial
            if found.bounds:
                assert f"{found.low:.1f} – {found.high:.1f}" in ours


def test_paper_stands_beside_ours_and_says_where_it_differs(page):
    rows = {
        row[0].split()[0]: row
        for row in Reader(page).rows
        if row and "/" in row[0] and len(row) == 6
    }
    assert rows["digits/zero_shot_top1"][4] == "–", "nobody published on a demo's task"
    assert "83.0" in rows["glue/sst2_accuracy"][4] and "task" not in rows["glue/sst2_accuracy"][5]
    assert rows["flickr30k/i2t_recall@1"][4] == "–"
    digits = dataclasses.replace(made_results()[0], is_demo=False)
    row = rows_of(digits, RUN, published)[0]
    assert row.paper[0].value == 70.25 and row.paper_metric == "imagenet/zero_shot_top1"
    assert "task (digits)" in row.differs and "tower" in row.differs


def test_one_published_model_stands_beside_a_block():
    """The one that was scored in most of the main metrics, of the run's kind and size first."""

    def both(metric: str) -> list[Published]:
        found = [Published(19.7, "CLIPPO B/16", "YFCC-100M", metric, "paper", "primary")]
        if metric.endswith("i2t_recall@1"):
            found.insert(0, Published(47.3, "CLIPPO B/16", "WebLI", metric, "paper", "primary"))
        return found

    rows = rows_of(made_results()[1], presets.paper_b16(), both)
    assert [(row.metric, [one.data for one in row.paper]) for row in rows] == [
        ("flickr30k/i2t_recall@1", ["YFCC-100M"]),
        ("flickr30k/t2i_recall@1", ["YFCC-100M"]),
    ]


def test_the_first_figure_says_what_it_counts_and_what_guessing_gives(page):
    text = Reader(page).text
    assert "94.2 of 100 unseen pictures are named right" in text
    assert "guessing gives 10.0." in text and "95 % interval 91.4 – 96.4, n = 360" in text
    assert text.index("94.2 of 100") < text.index("Read first")
    assert "of 100" not in Reader(report_page(dataclasses.replace(made_run(), results=[]))).text


def test_times_are_bars_and_counts_are_none():
    timings = {"imagenet": {"images": 3.0, "texts": 1.0, "few_shot": 0.1}, "vqa": {"all": 0.2}}
    run = dataclasses.replace(made_run(), journal=[], timings=timings)
    assert [(one.stage, one.seconds, one.share, one.parts) for one in times(run)] == [
        ("imagenet", 4.0, 1.0, "images 3 s, texts 1 s")
    ]


def test_failures_and_what_was_not_run_say_why(page):
    text = Reader(page).text
    assert "failed: DataError: questions.json" in text and "vqa on vqav2 failed" in text
    for metric, reason in (
        ("glue/mnli_mm_accuracy", "no such file"),
        ("digits/10shot_top1", "one photo per class"),
    ):
        assert re.search(
            rf"{re.escape(metric)}[^/]*not run: {reason}", text.replace(" demo ", " ")
        ), metric
    assert "Of 5 evaluations 4 have numbers, 1 failed" in text


def test_what_a_reader_must_know_stands_first(page):
    text = Reader(page).text
    head = text[
        : text.index("Numbers Training Languages") if "Numbers Training Languages" in text else 3000
    ]
    for caution in (
        "Not promoted: vqa",
        "Training stopped at step 500 of 730.",
        "Not above chance (the interval reaches it): flickr30k/i2t_recall@1.",
        "flickr30k/i2t_recall@1: ties",
        "“A text is there.” is broken by 300 of 1,200",
        "2 training steps were skipped",
        "This is the demo",
        (
            "Only part of the benchmark was used, so these are not comparable with published"
            " numbers: retrieval on flickr30k, test."
        ),
    ):
        assert caution in head, caution


def test_validation_shows_checked_failed_and_worst_rows(page):
    rows = [row for row in Reader(page).rows if row and row[0].startswith(("Every", "A text"))]
    assert [(row[1], row[2], row[4].split("\xa0")[-1]) for row in rows] == [
        ("1,200", "0", "met"), ("1,200", "3", "tolerated"), ("1,200", "300", "broken"),
    ]  # fmt: skip
    assert "b.jpg: truncated" in rows[1][5] and "<script>" in rows[1][5]


def test_report_has_every_figure_and_its_alternative_text(page):
    reader = Reader(page)
    ids = [attributes["id"] for _, attributes in reader.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for figure in ("comparison", "languages-xm3600-i2t", "modality-gap", "patch-kernel", "lengths"):
        assert figure in ids
    curves = page[page.index('id="training"') : page.index('id="languages"')]
    assert training_charts(made_run().journal, 730) in curves
    assert curves.count("<svg") == 5 and curves.count("not in the journal") == len(CHARTS) - 5
    assert "dashed: guessing, 4.52" in curves, "ln 92: the loss of guessing in a batch of 92 pairs"
    assert "Modality gap 0.850" in reader.text
    for tag, attributes in reader.tags:
        assert tag != "img" or attributes.get("alt")
        assert tag != "svg" or (attributes.get("aria-label") and attributes.get("role") == "img")
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h[1-6]", tag)]
    assert (
        levels[0] == 1
        and levels.count(1) == 1
        and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    )
    for target in (attributes["href"] for tag, attributes in reader.tags if tag == "a"):
        assert target[1:] in ids or target in ("training.html", "../index.html")


def test_report_is_the_same_for_the_same_run(page):
    assert page == report_page(made_run(), published, written_at=0)


def test_a_run_without_extras_is_reported_too():
    run = dataclasses.replace(
        made_run(),
        journal=[],
        examples={},
        timings={},
        results=[EvalResult.skipped("vqa", "not configured")],
    )
    run = dataclasses.replace(
        run, insight=Insight(notes={"Modality gap": f"NotFoundError: {HOSTILE}"})
    )
    text = assert_harmless(report_page(run)).text
    assert (
        "journal has no steps" in text
        and "Modality gap not shown: NotFoundError" in text
        and "not run: not configured" in text
    )


def test_summary_table_has_one_line_a_main_metric():
    lines = summary_table(made_results()).splitlines()
    assert re.split(r"\s{2,}", lines[0]) == [
        "metric",
        "ours",
        "95 % interval",
        "chance or majority",
        "n",
    ]
    found = {re.split(r"\s{2,}", line)[0]: re.split(r"\s{2,}", line)[1:] for line in lines[2:]}
    assert found["digits/zero_shot_top1"] == ["94.2", "91.4 – 96.4", "10.0", "360", "demo"]
    assert found["glue/sst2_accuracy"] == ["71.2", "–", "50.9", "872"]
    assert found["vqav2"][0].startswith("failed: DataError") and found["glue/average"] == [
        "not run: needs all nine"
    ]
    assert "digits/zero_shot_top5" not in found
    assert "digits/zero_shot_top5" in summary_table(made_results(), main_only=False)


def test_many_metrics_that_were_not_run_for_one_reason_are_one_line():
    names = [f"x/l{place:02d}/i2t_recall@1" for place in range(32)]
    metrics = dict.fromkeys(names, Metric(why_not="no captions"))
    result = EvalResult("xm3600", "x", "test", "p", 5, metrics)
    rows = rows_of(result)
    assert (
        len(rows) == 1 and rows[0].metric == "32 metrics, x/l00/i2t_recall@1 to x/l31/i2t_recall@1"
    )


def test_only_seconds_are_shown_as_time(tmp_path):
    timings = {"images_seconds": 61.0, "rows_embedded": 977.0, "broken_seconds": "x"}
    timings |= {"long_seconds": 10**400, "true_seconds": True}
    (tmp_path / "timings.json").write_text(json.dumps(timings))
    assert decks.read_timings(str(tmp_path)) == {"images": 61.0}


def test_shares_that_are_all_zero_take_one_line():
    run = made_run()
    html = str(
        fragment(
            "data",
            data=dataclasses.replace(run.validation, cut_share_by_language={"en": 0.0, "de": 0.0}),
        )
    )
    assert "by language:" in html and "none (2 looked at)" in html and html.count("<table>") == 1


def test_a_shard_is_counted_once(finished):
    facts = dict(decks.manifest_facts(finished.manifest))
    assert facts["shards"] == str(len(shard_list(finished.manifest))) == "5"


def test_what_the_report_measured_itself_stands_with_n_and_something_to_compare_with(page):
    rows = {row[0]: row[1:] for row in Reader(page).rows if len(row) == 5}
    assert rows["modality gap, 0 to 2"] == [
        "0.850",
        "0: equal means",
        "30 pairs",
        "The pairs are training pairs.",
    ]
    assert rows["cosine of a photo and its text"][:3] == [
        "0.300",
        "0.0200: photo and another photo's text",
        "30 pairs",
    ]
    assert rows["photos told from texts, %"][:3] == [
        "98.5",
        "50.0: guessing",
        "60 points",
    ] and "held out" in str(rows)
    assert rows["variance in the patch kernel's first 30 components, %"][:3] == [
        "60.0",
        "23.6: all directions alike",
        "128 filters",
    ]
    assert rows["languages with fewer patches with ink than pieces of mT5"][:3] == [
        "2",
        "of 2",
        "540 texts",
    ]
    assert rows["languages with fewer rows × patches in a row than pieces of mT5"][:3] == [
        "1",
        "of 2",
        "540 texts",
    ]


def test_lengths_stand_by_language_with_n_cut_and_unknown_share(page):
    table = {row[0]: row[1:] for row in Reader(page).rows if len(row) == 8}
    assert table["en"] == [
        "500",
        "3",
        "54.6",
        "14.5",
        "20.0",
        "13.00.0 % unknown",
        "15.50.0 % unknown",
    ]
    foreign = next(cells for name, cells in table.items() if name.startswith("<script>"))
    assert foreign == ["40", "0", "21.0", "6.2", "12.0", "1.097.0 % unknown", "19.00.0 % unknown"]


def test_without_tokenizers_clippos_lengths_stand_alone():
    run = made_run()
    lengths = [
        dataclasses.replace(line, tokens={}, unknown_share={}) for line in run.insight.lengths
    ]
    html = report_page(
        dataclasses.replace(run, insight=dataclasses.replace(run.insight, lengths=lengths))
    )
    assert (
        "No tokenizer is configured" in assert_harmless(html).text
        and "languages with fewer" not in html
        and 'id="lengths"' in html
    )


# --- written from a run's folder -----------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunRecord:
    """A run's folder with real shards (photos and sentence pairs) and a real, untrained tower."""
    from prepared import shards_of

    from clippo_core.embedder import Clippo
    from clippo_core.models import build_tower

    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    entries = []
    for place in range(14):
        Image.fromarray(random.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            folder / f"{place}.png"
        )
        sentences = [
            {"raw": f"number {place}", "language": "en"},
            {"raw": f"Zahl {place}", "language": "de"},
            {"raw": HOSTILE, "language": "xx"},
        ]
        entries.append({"filename": f"{place}.png", "split": "train", "sentences": sentences})
    (folder / "dataset.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    (folder / "sentences.tsv").write_text(
        "".join(f"en\tsv\tone {n}\tett {n}\n" for n in range(9)), encoding="utf-8"
    )
    sources = (
        SourceConfig(
            "karpathy",
            str(folder / "dataset.json"),
            images=str(folder),
            split="train",
            name="photos",
        ),
        SourceConfig("tsv", str(folder / "sentences.tsv"), name="words"),
    )
    model = ModelConfig(width=32, depth=1, num_heads=2, mlp_dim=64, embed_dim=16)
    config = replace(
        RUN,
        root=str(folder),
        model=model,
        data=DataConfig(sources, text_pair_share=0.25, records_per_shard=5),
    )
    root = str(folder / "run")
    manifest = shards_of(root, config.data, config.render, data_digest="d" * 64)
    clippo = Clippo(build_tower(model, config.render.image_px, seed=0), config.render)
    clippo.save(folder / "model.safetensors")
    checkpoint = CheckpointInfo(
        str(folder / "model.safetensors"),
        730,
        67_160,
        0.5,
        clippo.weights_sha256,
        "2" * 64,
        "3" * 64,
        1,
    )
    return dataclasses.replace(
        made_run(), root=root, config=config, manifest=manifest, checkpoint=checkpoint
    )


def write(run: RunRecord, **options) -> Report:
    return write_report(
        run.root,
        run.config,
        run.validation,
        run.manifest,
        run.checkpoint,
        run.results,
        run.verdict,
        **options,
    )


def test_pairs_out_of_shards_are_the_records_that_went_in(finished):
    photos = read_pairs(finished.manifest, 100)
    assert (
        sorted(pair.key for pair in photos) == sorted({pair.key for pair in photos})
        and len(photos) == 14
    )
    for pair in photos:
        number = pair.texts[0].split()[1]
        assert pair.texts == [f"number {number}", f"Zahl {number}", HOSTILE] and pair.languages == [
            "en",
            "de",
            "xx",
        ]
        assert (
            pair.photo == (Path(finished.config.root) / f"{number}.png").read_bytes()
            and pair.first_text == ""
        )
    words = read_pairs(finished.manifest, 100, photos=False)
    assert len(words) == 9 and all(
        p.photo is None
        and p.texts == [p.first_text.replace("one", "ett")]
        and p.languages == ["sv"]
        for p in words
    )
    assert [p.key for p in read_pairs(finished.manifest, 6, seed=3)] == [
        p.key for p in read_pairs(finished.manifest, 6, seed=3)
    ]


def test_contact_sheet_takes_languages_in_turn_and_draws_them_exactly(finished):
    items = contact_items(finished.manifest, finished.config.render, 12)
    assert len(items) == 12 and sum(not item.photo for item in items) == 2
    counts = [sum(item.language == language for item in items) for language in ("en", "de", "xx")]
    assert max(counts) - min(counts) <= 1
    item = next(item for item in items if item.language == "de")
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(item.drawing.partition(",")[2]))))
    np.testing.assert_array_equal(
        pixels, Renderer.from_config(finished.config.render).render([item.text])[0]
    )


def test_written_report_is_whole_and_the_second_one_needs_no_tower(finished):
    folder = Path(finished.root) / "elsewhere"
    folder.mkdir()
    (folder / "examples.json").write_text(json.dumps(made_examples()))
    written = write(finished, evaluation_folders={"imagenet": str(folder)})
    assert (
        "training.html" in Path(written.path).read_text(encoding="utf-8")
        and "training.html" not in written.html  # in a deck it leads nowhere
        and (Path(finished.config.root) / "index.html").is_file()
        and written.path == f"{finished.root}/report.html"
    )
    reader = assert_harmless(written.html)
    ids = [attributes.get("id") for _, attributes in reader.tags]
    assert (
        "modality-gap" in ids
        and "patch-kernel" in ids
        and "not shown" not in reader.text.replace("Not shown: the journal", "").lower()
    )
    assert sum(tag == "img" for tag, _ in reader.tags) == 12 + 10 + 12, (
        "examples, photos of the contact sheet, drawings"
    )
    assert (
        "Published, on other pairs: 0.0990 (CLIPPO B/16, WebLI + 25% C4); 0.600 (CLIPPO B/16,"
        " WebLI)" in reader.text
    )
    summary = (Path(finished.config.root) / f"{finished.config.name}-summary.txt").read_text(
        encoding="utf-8"
    )
    assert (
        summary == f"{summary_table(finished.results)}\n\n{finished.verdict.reason}\nReport:"
        f" {written.path}\n"
    )

    code = (
        "import sys, pickle; from tests.report.test_report import write;"
        " write(pickle.load(sys.stdin.buffer)); print('torch' in sys.modules)"
    )
    again = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(finished),
        cwd=PROJECT,
        capture_output=True,
        check=True,
    )
    assert again.stdout.decode().strip() == "False"
    assert 'id="modality-gap"' in Path(written.path).read_text(encoding="utf-8")


def test_analysis_of_other_weights_or_shards_is_not_taken(finished):
    gathered = gather_insight(
        finished.root, finished.checkpoint, finished.manifest, finished.config.render
    )
    assert (
        gathered.gap is not None
        and 0 <= gathered.gap <= 2
        and gathered.separability is not None
        and gathered.n_filters == 32
    )
    assert gathered.components.shape == (30, 3, 16, 16)
    note = Path(finished.root) / "analysis.json"
    kept = json.loads(note.read_text())
    note.write_text(json.dumps(kept | {"gap": 1.99}))
    assert (
        gather_insight(
            finished.root, finished.checkpoint, finished.manifest, finished.config.render
        ).gap
        == 1.99
    )
    other = dataclasses.replace(finished.checkpoint, weights_sha256="0" * 64)
    assert gather_insight(
        finished.root, other, finished.manifest, finished.config.render
    ).gap == pytest.approx(gathered.gap)
    evil = kept["contact"][0] | {"drawing": "https://evil.example/x.png"}
    note.write_text(json.dumps(kept | {"contact": [evil]}))
    assert (
        gather_insight(
            finished.root, finished.checkpoint, finished.manifest, finished.config.render
        )
        .contact[0]
        .drawing.startswith("data:")
    )


def test_a_lost_shard_or_checkpoint_costs_only_its_figures(finished, tmp_path):
    lost = dataclasses.replace(finished.checkpoint, uri=str(tmp_path / "gone.safetensors"))
    insight = gather_insight(str(tmp_path), lost, finished.manifest, finished.config.render)
    assert set(insight.notes) == {"Modality gap", "Patch kernel"} and len(insight.contact) == 12
    assert not (tmp_path / "analysis.json").exists(), "what failed is tried again"
    no_shards = dataclasses.replace(finished.manifest, uri=str(tmp_path / "gone"))
    insight = gather_insight(str(tmp_path), finished.checkpoint, no_shards, finished.config.render)
    assert (
        set(insight.notes) == {"Contact sheet", "Modality gap", "Text lengths"}
        and len(insight.components) == 30
    )


def test_lengths_are_those_of_the_shards_texts_and_are_kept(finished, tmp_path):
    from clippo_core.models import train_tokenizer

    path = train_tokenizer(
        [f"number {n} is one" for n in range(200)], str(tmp_path / "small.model"), 290
    )
    known = (finished.checkpoint, finished.manifest, finished.config.render)
    insight = gather_insight(str(tmp_path), *known, tokenizers={"small": path})
    texts = {
        "en": [f"number {n}" for n in range(14)] + [f"one {n}" for n in range(9)],
        "de": [f"Zahl {n}" for n in range(14)],
        "sv": [f"ett {n}" for n in range(9)],
    }
    expected = measure_lengths(texts, {"small": path}, Renderer.from_config(finished.config.render))
    assert [line.language for line in insight.lengths] == ["en", "de", "sv"]
    for ours, line in zip(insight.lengths, expected, strict=True):
        assert (ours.n_texts, ours.patches, ours.rows) == (
            line.n_texts,
            pytest.approx(line.patches),
            pytest.approx(line.rows),
        )
        assert (
            ours.tokens == pytest.approx(line.tokens) and ours.unknown_share == line.unknown_share
        )
    assert insight.lengths_from.endswith("Of xx none fits.") and insight.notes == {}
    assert (
        gather_insight(str(tmp_path), *known, tokenizers={"small": path}).lengths == insight.lengths
    )
    train_tokenizer(["zzz yyy xxx " * 20] * 50, path, 270)
    assert (
        gather_insight(str(tmp_path), *known, tokenizers={"small": path}).lengths != insight.lengths
    ), "another file under the same name"
    lost = gather_insight(str(tmp_path), *known, tokenizers={"small": str(tmp_path / "gone.model")})
    assert (
        lost.notes == {}
        and "small is left out" in lost.lengths_from
        and "gone.model: no such" in lost.lengths_from
    )
    assert [line.patches for line in lost.lengths] == pytest.approx(
        [line.patches for line in insight.lengths]
    )
    assert not lost.lengths[0].tokens


# --- recipe --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_papers_own_runs_differ_in_nothing(share):
    for make in (presets.paper_b16, presets.paper_l16):
        run = make(share, data="elsewhere", root="anywhere")
        assert recipe_differences(run) == []
        assert paper_run(run)[0].startswith(
            "CLIPPO L/16" if make is presets.paper_l16 else "CLIPPO B/16"
        )


def test_every_changed_setting_is_listed_with_its_meaning():
    changed = replace(
        presets.paper_b16(),
        optim__lr=3e-4,
        model__depth=11,
        render__monospace=True,
        evaluate__vqa__question_place="above",
    )
    found = {line.setting: line for line in recipe_differences(changed)}
    assert set(found) == {
        "optim.lr",
        "model.depth",
        "render.monospace",
        "evaluate.vqa.question_place",
    }
    assert (found["optim.lr"].ours, found["optim.lr"].paper, found["optim.lr"].meaning) == (
        "0.0003",
        "0.001",
        "Peak learning rate.",
    )
    assert found["render.monospace"].ours == "yes"
    assert all(line.meaning for line in recipe_differences(presets.demo()))


# --- looked at -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_chromium_draws_the_report(page, tmp_path):
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    quiet = [
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
    ]
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        *quiet,
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += [
        f"--screenshot={tmp_path / 'page.png'}",
        "--window-size=1100,4000",
        f"file://{tmp_path / 'report.html'}",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.array(Image.open(tmp_path / "page.png").convert("RGB"))
    assert pixels.shape == (4000, 1100, 3)
    for part in np.split(pixels, 4):
        assert len(np.unique(part.reshape(-1, 3), axis=0)) > 50, "a quarter of the page is blank"
    assert (pixels[:, :15] == pixels[0, 0]).all() and (pixels[:, -15:] == pixels[0, 0]).all(), (
        "something runs out of the page"
    )


def test_a_plan_tells_where_it_runs_and_for_how_long() -> None:
    place = [("version", "9bb5ac5-h200x8"), ("cluster", "h200x8, 1 × 8 GPUs")]
    run, h200s = presets.paper_b16(), ("nvidia-h200", 8)
    text = Reader(decks.plan_deck(run, "s3://b/runs/x", place, h200s)).text
    assert "9bb5ac5-h200x8" in text and "1 × 8 GPUs" in text
    assert "about 1 d 22 h, computed" in text  # 250,000 steps of 10,240 at 8 x 1,912 pairs/s
    for other, devices in (
        (RUN, None),
        (run, ("nvidia-t4", 8)),
        (run, ("nvidia-h200", 7)),  # ranks that 10,240 does not divide by
        (presets.one_tower_clip(), h200s),
    ):
        assert "if nothing waits" not in Reader(decks.plan_deck(other, "x", place, devices)).text
