"""The reference layout and its expansion: no pixel differs from the naive renderer."""

import pickle

import numpy as np
import pytest
import torch
from conftest import OLD_FONT
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_renderer import NaiveRenderer, hex_font
from rendering_texts import generated
from specimen import TRICKY

from clippo_core.config import RenderConfig
from clippo_core.errors import ConfigError, RenderError
from clippo_core.rendering import Renderer
from clippo_core.rendering.draw import expand, expand_numpy
from clippo_core.rendering.font import load_fonts

SMALL = Renderer(64)
PAPER_FONT = [OLD_FONT / "unifont-9.0.06.hex", OLD_FONT / "unifont_upper-9.0.06.hex"]


@pytest.fixture(scope="module")
def shipped_glyph():
    """The shipped font as the naive renderer wants it: pixels, from the column bits."""
    font = load_fonts()
    filled = np.flatnonzero(font.slots[:0x110000])
    cells = font.cells[font.slots[filled]]
    pixels = (cells[:, None, :] >> np.arange(16)[None, :, None] & 1).astype(bool)
    return dict(zip(filled.tolist(), pixels, strict=True)).get


@pytest.mark.parametrize("image_px", [64, 224, 384])
@pytest.mark.parametrize("monospace", [False, True])
def test_no_pixel_differs_from_the_naive_renderer(shipped_glyph, image_px, monospace):
    texts = generated(2000 if not monospace else 300, seed=image_px) + [text for _, text in TRICKY]
    ours = Renderer(image_px, monospace=monospace).render(texts)
    naive = NaiveRenderer(shipped_glyph, image_px, monospace)
    for index, text in enumerate(texts):
        assert np.array_equal(ours[index], naive.render(text)), f"text {index}: {text[:40]!a}"


@pytest.mark.skipif(
    not OLD_FONT.exists(), reason="Unifont 9.0.06 (GPL, not shipped) is not beside the repository"
)
@pytest.mark.parametrize("image_px", [224, 384])
def test_no_pixel_differs_with_the_papers_font(image_px):
    naive = NaiveRenderer(hex_font(*PAPER_FONT), image_px)
    texts = generated(1000, seed=7 + image_px) + [text for _, text in TRICKY]
    ours = Renderer(image_px, fonts=PAPER_FONT).render(texts)
    for index, text in enumerate(texts):
        assert np.array_equal(ours[index], naive.render(text)), f"text {index}: {text[:40]!a}"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=100), max_size=4))
def test_any_str_is_drawn_and_a_batch_is_its_texts(texts):
    batch = SMALL.masks(texts)
    assert batch.shape == (len(texts), 4, 64) and batch.dtype == np.uint16
    for text, masks in zip(texts, batch, strict=True):
        assert np.array_equal(SMALL.masks([text])[0], masks)


def test_ten_thousand_texts_with_empty_ones():
    renderer = Renderer(64)
    texts = (generated(1000, seed=1) + [""]) * 10
    masks = renderer.masks(texts)
    once = np.stack([renderer.masks([text])[0] for text in texts[:1001]])
    assert np.array_equal(masks, np.tile(once, (10, 1, 1)))
    assert not masks[1000].any() and len(masks) == 10_010


def test_a_megabyte_costs_its_first_768_code_points():
    import tracemalloc

    renderer = Renderer()
    text = "日本 dog\u0301 " * 130_000
    assert len(text.encode()) > 1_000_000
    expected = renderer.render([text[:768]])
    tracemalloc.start()
    pixels = renderer.render([text])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(pixels, expected)
    assert peak < 1_500_000, "a megabyte of text must not be copied"
    assert renderer.census([text]).cut_glyphs[0] >= len(text) - 768


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 3])
def test_expansion_in_torch_equals_numpy(dtype, channels):
    masks = Renderer(224).masks(generated(50, seed=2))
    pixels = expand_numpy(masks)
    expected = torch.from_numpy(pixels)
    if dtype != torch.uint8:
        expected = (expected.float() / 255 * 2 - 1).to(dtype)
    image = expand(torch.from_numpy(masks), dtype, channels)
    assert image.dtype == dtype and image.shape == (50, channels, 224, 224)
    assert all(torch.equal(image[:, channel], expected) for channel in range(channels))
    assert np.array_equal(np.unique(pixels), [0, 127])


def test_ink_is_minus_one_and_the_page_as_in_the_reference():
    values = expand(torch.from_numpy(Renderer(32).masks(["a"]))).unique().tolist()
    assert values == [-1.0, float(np.float32(-0.0039215684))]


def test_all_65536_masks_expand():
    masks = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256)
    pixels = expand_numpy(masks)
    for y in (0, 7, 8, 15):
        assert np.array_equal(
            pixels[0].reshape(256, 16, 256)[:, y] == 0, (masks[0] >> y & 1).astype(bool)
        )
    assert np.array_equal(expand(torch.from_numpy(masks), torch.uint8)[0, 0].numpy(), pixels[0])


def test_census():
    renderer = Renderer(32)
    census = renderer.census(["", "ab", "m" * 20, "a\ue000", "b" * 800])
    assert census.rows[:2].tolist() == [0, 1] and census.drawn_rows.tolist() == [0, 1, 2, 1, 2]
    assert census.cut.tolist() == [False, False, True, False, True]
    assert census.missing_glyphs.tolist() == [0, 0, 0, 1, 0] and census.missing.tolist() == [
        False,
        False,
        False,
        True,
        False,
    ]
    drawn = renderer.masks(["m" * (20 - int(census.cut_glyphs[2]))])
    assert np.array_equal(drawn, renderer.masks(["m" * 20])), (
        "what is counted as cut is not on the page, and nothing else"
    )
    assert census.cut_glyphs[4] >= 32


def test_census_equals_the_naive_count(shipped_glyph):
    texts = generated(300, seed=4)
    census = Renderer(64).census(texts)
    tall = Renderer(1536 * 16).census(
        texts
    )  # never cut: rows differ only through the width, so compare what does not
    assert np.array_equal(census.missing_glyphs, tall.missing_glyphs)
    for text, missing in zip(texts, census.missing_glyphs, strict=True):
        points = [0xFFFD if 0xD800 <= ord(c) < 0xE000 else ord(c) for c in text[:768]]
        assert missing == sum(shipped_glyph(point) is None for point in points)


@pytest.mark.parametrize(
    ("texts", "position"),
    [(["a", None], 1), ([b"a"], 0), ([["a"]], 0), (["a", "b", 3.0], 2), (["a", {}], 1)],
)
def test_what_is_no_str_is_named_by_position(texts, position):
    for method in ("masks", "render", "census"):
        with pytest.raises(RenderError, match=f"text {position} is a "):
            getattr(Renderer(32), method)(texts)


def test_one_str_is_not_a_list_of_texts():
    with pytest.raises(RenderError, match="one str"):
        Renderer(32).render("abc")


@pytest.mark.parametrize("image_px", [0, 16, 40, 225, -32])
def test_page_sizes_are_multiples_of_16_from_32(image_px):
    with pytest.raises(ConfigError, match="multiple of 16"):
        Renderer(image_px)


def test_pickle_config_and_digest():
    renderer = Renderer(64, monospace=True)
    again = pickle.loads(pickle.dumps(renderer))  # noqa: S301  our own bytes
    assert (
        again.config == renderer.config
        and again.digest == renderer.digest
        and len(pickle.dumps(renderer)) < 1000
    )
    assert Renderer.from_config(RenderConfig(64, monospace=True)).digest == renderer.digest
    digests = {
        Renderer(64).digest,
        renderer.digest,
        Renderer(80).digest,
        Renderer(64, layout="shaped").digest,
    }
    assert len(digests) == 4
    assert Renderer(64, strict_font=True).digest == Renderer(64).digest, (
        "strict_font changes no pixel"
    )


def test_any_iterable_of_texts():
    texts = ["a", "", "b" * 900]
    for method in ("masks", "render"):
        assert np.array_equal(getattr(SMALL, method)(iter(texts)), getattr(SMALL, method)(texts))
    assert SMALL.census(iter(texts)).cut_glyphs.tolist() == SMALL.census(texts).cut_glyphs.tolist()
    assert np.array_equal(SMALL.render(np.array(texts)), SMALL.render(tuple(texts)))


def test_pixels_go_into_a_given_array():
    pages = np.full((2, 64, 64), 9, np.uint8)
    assert SMALL.render(["a", ""], pages) is pages and np.array_equal(
        pages, SMALL.render(["a", ""])
    )
    for wrong in (
        np.zeros((3, 64, 64), np.uint8),
        np.zeros((2, 64, 64)),
        np.zeros((2, 32, 64), np.uint8),
        np.zeros((2, 64, 128), np.uint8)[:, :, ::2],
    ):
        with pytest.raises(RenderError, match="out "):
            SMALL.render(["a", ""], wrong)


def test_no_text_at_all():
    assert Renderer(32).render([]).shape == (0, 32, 32) and Renderer(32).masks([]).shape == (
        0,
        2,
        32,
    )
    assert Renderer(32).census([]).rows.shape == (0,)
