"""The search page in a real Chromium: a small tower that has learnt ten numbers in three languages
answers as its evaluation says, and no request leaves this machine.
"""

from __future__ import annotations

import base64
import json
import threading

import numpy as np
import pytest
import torch
from browser import Browser, needs_chromium
from drawn import evaluate_plan
from found import score_rows
from PIL import Image

from clippo_core import models
from clippo_core.cli import main as command_line
from clippo_core.config import ModelConfig, OptimConfig, RenderConfig, Xm3600Config
from clippo_core.data.numbers.scribe import TRAIN_DIGITS, Scribe, load_digits
from clippo_core.data.numbers.tasks import name
from clippo_core.embedder import Clippo
from clippo_core.engine import contrastive_step, make_engine
from clippo_core.evaluate.xm3600 import protocol as xm3600
from clippo_core.search.gallery import Gallery
from clippo_core.search.server import SearchServer

pytestmark = [needs_chromium, pytest.mark.slow]
NUMBERS = list(range(10, 100, 10))
LANGUAGES = ("de", "ja", "ar")
ENTER, DOWN, RIGHT, UP, ESCAPE = "\ue007", "\ue015", "\ue014", "\ue013", "\ue00c"
HITS = "return [...document.querySelectorAll('.hit')]"


def trained() -> Clippo:
    """A tower that reads the names of nine numbers, in three languages."""
    digits, labels = load_digits()
    scribe = Scribe(digits[:TRAIN_DIGITS], labels[:TRAIN_DIGITS], np.random.default_rng(0))
    config = ModelConfig(width=64, depth=2, num_heads=2, mlp_dim=256, embed_dim=32)
    model = Clippo(models.build_tower(config, 64, seed=0), RenderConfig(image_px=64), device="cpu")
    engine = make_engine(
        model.tower,
        OptimConfig(lr=1e-3, warmup_steps=0, cooldown_steps=0),
        decayed=model.tower.decayed,
        views=model.tower.views,
        device="cpu",
    )
    words = {
        language: torch.from_numpy(model.text_encoder([name(n, language) for n in NUMBERS]))
        for language in LANGUAGES
    }
    for step in range(300):
        pixels = np.stack([scribe.picture(number) for number in NUMBERS])
        photos = torch.from_numpy(pixels)[:, None].expand(-1, 3, -1, -1).contiguous()
        texts = words[LANGUAGES[step % 3]]
        contrastive_step(engine, photos, texts[:0], texts)
        engine.update(min(1.0, (step + 1) / 20))
    return Clippo(model.tower, RenderConfig(image_px=64), device="cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tower, held-out handwriting as Crossmodal-3600 files, and an embedded gallery of it."""
    root = tmp_path_factory.mktemp("world")
    trained().save(root / "model.safetensors")
    digits, labels = load_digits()
    scribe = Scribe(digits[TRAIN_DIGITS:], labels[TRAIN_DIGITS:], np.random.default_rng(1))
    (root / "photos").mkdir()
    lines = []
    for number in NUMBERS:
        Image.fromarray(scribe.picture(number)).save(root / "photos" / f"{number}.png")
        captions = {language: {"caption": [name(number, language)]} for language in LANGUAGES}
        lines.append(json.dumps({"image/key": str(number), "image/locale": "de", **captions}))
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["embed", str(root / "model.safetensors"), "--images", str(root / "photos")]
    assert command_line.main([*command, "--out", str(root / "photos.emb")]) == 0
    return root


@pytest.fixture(scope="module")
def evaluated(world):
    """Text -> key of the photo that the evaluation ranks first for it."""
    config = Xm3600Config(
        str(world / "captions.jsonl"), str(world / "photos"), dataset="numbers",
        languages=LANGUAGES, expect_images=len(NUMBERS),
    )  # fmt: skip
    plan = evaluate_plan(world / "run", xm3600=config)
    result = xm3600.run(str(world / "model.safetensors"), plan, progress=False)
    assert not result.failure
    rows = score_rows(result, world / "run")
    return {
        row["query"]: row["retrieved"]
        for language in LANGUAGES
        for row in rows[f"numbers/{language}/t2i_recall@1"]
    }


@pytest.fixture(scope="module")
def server(world):
    with SearchServer(Gallery(str(world / "photos.emb"), device="cpu")) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path) as found:
        yield found


def first_hit(browser, status):
    """Key of the first photo, once the heading says `status`."""
    browser.wait(
        lambda: status in browser.script("return document.querySelector('#status').textContent")
    )
    return browser.script(HITS + ".map((hit) => hit.querySelector('bdi').title)[0]")


def focused(browser):
    return browser.script(HITS + ".indexOf(document.activeElement)")


def test_it_answers_as_the_evaluation_says(server, browser, evaluated):
    browser.open(server.url)
    first_hit(browser, "The first 9 of 9")
    right = 0
    for number in NUMBERS:
        for language in LANGUAGES:
            text = name(number, language)
            browser.script("text.value = ''; text.dispatchEvent(new Event('input'))")
            first_hit(browser, "The first 9 of 9")
            browser.type("#text", text)
            assert first_hit(browser, "The 9 nearest of 9") == f"{evaluated[text]}.png", text
            right += evaluated[text] == str(number)
            seen = browser.script("return [seen.src, seen.hidden, seen.dataset.kind]")
            assert seen[0].startswith("data:image/png") and seen[1:] == [False, "text"]
    assert [evaluated[text] for text in ("siebzig", "七十", "سبعون")] == ["70"] * 3
    assert right > 20, f"{right} of 27; guessing gives 3"
    sent = browser.requests()
    assert len(sent) > 60 and all(url.startswith(server.url) for url in sent)
    assert browser.complaints() == []


def test_by_photo_by_key_and_by_dropping(server, browser, world):
    browser.open(server.url)
    first_hit(browser, "The first 9 of 9")
    browser.click("li:nth-child(7) .hit")
    assert first_hit(browser, "The 9 nearest of 9") == "70.png"
    kind = "return [seen.dataset.kind, document.querySelector('#read').textContent, location.hash]"
    assert browser.script(kind) == ["photo", "70.png: squashed to 64 × 64 px.", "#row=6"]
    browser.press("/")
    assert browser.script("return document.activeElement.id") == "text"
    browser.press(DOWN)
    assert focused(browser) == 0
    browser.press(RIGHT)
    assert focused(browser) == 1
    second = browser.script(HITS + "[1].dataset.row")
    browser.press(ENTER)
    browser.wait(lambda: browser.script("return location.hash") == f"#row={second}")
    browser.script("history.back()")
    browser.wait(lambda: browser.script("return location.hash") == "#row=6")
    drop = """
        const bytes = Uint8Array.from(atob(arguments[0]), (one) => one.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], arguments[1], { type: "image/png" }));
        dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
    """
    picture = base64.b64encode((world / "photos/40.png").read_bytes()).decode()
    browser.script(drop, picture, "40.png")
    browser.wait(lambda: "The photo:" in browser.script("return read.textContent"))
    assert first_hit(browser, "The 9 nearest of 9") == "40.png"
    browser.script(drop, base64.b64encode(b"no picture").decode(), "x.png")
    first_hit(browser, "it is no readable picture")


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1200, True)])
def test_nothing_runs_out_of_the_page(server, tmp_path, width, dark):
    with Browser(tmp_path, width, 844) as browser:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.command("Emulation.setEmulatedMedia", features=[scheme])
        browser.open(server.url + "#text=" + "%E4%B8%83" * 300)
        first_hit(browser, "The 9 nearest of 9")
        assert "is not seen" in browser.script("return document.querySelector('#read').textContent")
        wide = "return document.documentElement.scrollWidth"
        assert browser.script(wide) == width
        ground = browser.script("return getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
        browser.screenshot(tmp_path / "page.png")
        pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50, "the page is blank"


def test_the_file_without_a_server(world, browser, tmp_path):
    target = tmp_path / "page.html"
    command = ["search", str(world / "photos.emb"), "siebzig", "七十", "--html", str(target)]
    assert command_line.main(command) == 0
    browser.open(target.as_uri())
    assert first_hit(browser, "The 9 nearest of 9") == "70.png"
    assert browser.script("return text.value") == "siebzig"
    browser.click("li:nth-child(2) .hit")
    browser.wait(lambda: browser.script("return seen.dataset.kind") == "photo")
    browser.type("#text", "nobody asked")
    first_hit(browser, "This page holds its questions' answers only")
    assert [url for url in browser.requests() if not url.startswith("file:")] == []
    assert browser.complaints() == []
