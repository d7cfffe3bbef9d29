"""The layout of words: equal words are equal patches, wherever they stand."""

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from naive_renderer import trimmed
from rendering_texts import generated
from specimen import TRICKY

from clippo_core.config import AugmentConfig, RenderConfig
from clippo_core.rendering import Renderer
from clippo_core.rendering.augment import AugmentedRenderer
from clippo_core.rendering.font import load_fonts
from clippo_core.rendering.shaped.wrapping import BLANKS, NEWLINES

PX = 96
WORDS = Renderer(PX, layout="words")
TALL = Renderer(768 * 16, layout="words")
SPACES = set(BLANKS + NEWLINES + "\r") - set("\u00a0\u2007\u202f")
WORD = st.text(st.characters(exclude_characters="".join(SPACES)), min_size=1, max_size=12)


def patches(text, renderer=WORDS):
    """uint16 [patches, 16] of one text, in reading order."""
    return renderer.masks([text]).reshape(-1, 16)


def naive(text, image_px, monospace=False):
    """The definition, word by word: masks [rows, px], and the glyphs that are not on the page."""
    font = load_fonts()
    parts: list[list[str]] = [[]]
    for character in text[:768]:
        if character in SPACES:
            parts.append([])
        else:
            parts[-1].append(character)
    line = np.zeros(image_px // 16 * image_px, np.uint16)
    x = 0
    for word in parts:
        begin = x
        for character in word:
            code = ord(character.lower() if character.isascii() else character)
            cell = font.cells[font.slots[code]]
            pixels = (cell[None, :] >> np.arange(16)[:, None] & 1).astype(bool)
            width = trimmed(pixels, monospace).shape[1]
            first = max(int(np.argmax(cell != 0)) - 1, 0) if cell.any() and not monospace else 0
            if x + width <= len(line):
                line[x : x + width] = cell[first : first + width]
            x += width
        if word:
            x = begin + (x - begin) // 16 * 16 + 16
    return line.reshape(image_px // 16, image_px)


@pytest.mark.parametrize("monospace", [False, True])
def test_no_pixel_differs_from_the_definition(monospace):
    texts = generated(600, seed=3) + [text for _, text in TRICKY]
    drawn = Renderer(PX, layout="words", monospace=monospace).masks(texts)
    for index, text in enumerate(texts):
        expected = naive(text, PX, monospace)
        assert np.array_equal(drawn[index], expected), f"text {index}: {text[:40]!a}"


@settings(max_examples=150, deadline=None)
@given(st.lists(WORD, max_size=4), WORD, st.lists(WORD, max_size=4))
@example(["a" * 12] * 4, "dog", [])
def test_a_word_has_the_same_patches_wherever_it_stands(before, word, after):
    alone = patches(word, TALL)
    n, at = _patches_of(word), sum(map(_patches_of, before))
    found = patches(" ".join([*before, word, *after]), TALL)[at : at + n]
    assert np.array_equal(found, alone[:n])


def _patches_of(word):
    """Patches that a word takes, by what is drawn after it."""
    inked = patches(word + " |", TALL).any(axis=1)
    return int(np.flatnonzero(inked)[-1])


def test_white_space_of_any_kind_and_length_parts_words_alike():
    expected = WORDS.masks(["ab cd"])
    for space in ["  ", "\n", "\t", "\u3000", " \r\n \u2028", "\u2003" * 40]:
        assert np.array_equal(WORDS.masks([f"{space}ab{space}cd{space}"]), expected), repr(space)
    assert not np.array_equal(WORDS.masks(["ab\u00a0cd"]), expected), "no-break: one word"
    assert not np.array_equal(WORDS.masks(["abcd"]), expected)
    assert not WORDS.masks(["", "   ", "\n"]).any()
    assert WORDS.census(["", "  ", "a", " a b "]).rows.tolist() == [0, 0, 1, 1]


def test_a_full_last_patch_is_followed_by_a_blank_one():
    wide = "\u65e5"
    renderer = Renderer(PX, layout="words", monospace=True)
    found = patches(f"{wide} {wide}", renderer).any(axis=1)
    assert found[:4].tolist() == [True, False, True, False]


def test_letters_are_those_of_the_reference():
    reference = Renderer(PX).masks(["quick"])
    assert np.array_equal(WORDS.masks(["Quick"]), reference)
    assert np.array_equal(patches("a Quick")[1:5], reference.reshape(-1, 16)[:4])


def test_census_agrees_with_what_is_drawn():
    texts = generated(300, seed=5) + ["word " * 40, "x" * 900, "a" * 47 + " " + "b" * 60]
    census, masks = WORDS.census(texts), WORDS.masks(texts)
    inked = masks.any(axis=2)
    last_ink = np.where(inked.any(axis=1), PX // 16 - inked[:, ::-1].argmax(axis=1), 0)
    assert (last_ink <= census.drawn_rows).all() and (census.drawn_rows <= PX // 16).all()
    for text, cut, drawn in zip(texts, census.cut_glyphs.tolist(), masks, strict=True):
        if cut < len(text):
            kept = text[: len(text) - cut]
            assert np.array_equal(WORDS.masks([kept])[0], drawn), "and nothing else is cut"
            assert not WORDS.census([kept]).cut[0] or len(text) > 768
    assert census.cut[-3:].all() and not WORDS.census(["a dog runs"]).cut.any()


def test_a_letter_may_stand_on_two_rows():
    small = Renderer(32, layout="words")
    page = small.masks(["abcdefg"])[0]
    assert page[0].any() and page[1].any()
    assert np.array_equal(page.reshape(-1), patches("abcdefg").reshape(-1)[:64])
    half = small.masks(["abcdefghijk"])[0].reshape(-1)
    assert not half[-1:].any(), "of a letter that does not end on the page nothing is drawn"


def test_its_digest_is_its_own_and_it_can_be_augmented():
    config = RenderConfig(PX, "words")
    assert len({Renderer(PX, layout=x).digest for x in ("reference", "shaped", "words")}) == 3
    assert Renderer.from_config(config).digest == WORDS.digest
    varied = AugmentedRenderer(config, AugmentConfig(max_extra_px=2, double_share=0.5))
    plain = varied.masks(["a dog"], np.array([[0.0, 0.0, 0.0, 1.0]]))
    assert np.array_equal(plain, WORDS.masks(["a dog"]))
    wider = varied.masks(["a dog"], np.array([[0.99, 0.0, 0.0, 1.0]]))
    assert not np.array_equal(wider, plain)
    wider = wider.reshape(-1, 16)
    assert np.array_equal(wider[0][:8], plain.reshape(-1, 16)[0][:8]), "letters stay letters"


def test_unicode_names_what_white_space_is():
    kinds = {unicodedata.category(character) for character in SPACES}
    assert kinds <= {"Zs", "Zl", "Zp", "Cc"}
