"""The shaped layout and its parts: order, joining, marks, wrapping."""

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering_texts import generated
from specimen import TRICKY

from clippo_core.errors import RenderError
from clippo_core.rendering import Renderer
from clippo_core.rendering.shaped import bidi, shaping, wrapping
from clippo_core.rendering.shaped.joining import join

SHAPED, REFERENCE, SMALL = (
    Renderer(224, layout="shaped"),
    Renderer(224),
    Renderer(64, layout="shaped"),
)
BIDI_POOL = "abc אבגש١٢12 +-$,.:()[]<>ابتة %/\u0301\u05b8!\t"
BIDI_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"


def same(one: str, other: str) -> bool:
    """Whether two texts are drawn alike."""
    masks = SHAPED.masks([one, other])
    return np.array_equal(masks[0], masks[1])


def visual(text: str) -> str:
    """A paragraph from left to right, without mirroring."""
    levels, base = bidi.embedding_levels(text)
    levels = bidi.reset_trailing_space(text, levels, base)
    kept = [i for i, level in enumerate(levels) if level >= 0]
    return "".join(text[kept[j]] for j in bidi.visual_order([levels[i] for i in kept]))


@pytest.mark.parametrize("pool", [BIDI_POOL, BIDI_POOL + BIDI_CONTROLS])
def test_order_is_that_of_the_unicode_bidi_crate(pool):
    from bidi import get_display

    rng = random.Random(0)
    for _ in range(3000):
        # The crate does not reset white space after overrides at the end of a line (L1): end with a
        # letter, and see below.
        text = "".join(rng.choice(pool) for _ in range(rng.randrange(1, 24))) + rng.choice("aא")
        theirs = "".join(
            c for c in get_display(text) if unicodedata.bidirectional(c) not in bidi.REMOVED
        )
        assert visual(text) == theirs, ascii(text)


@pytest.mark.parametrize(
    ("logical", "expected"),
    [
        ("abc", "abc"),
        ("אבג", "גבא"),
        ("abc אבג", "abc גבא"),
        ("אבג abc", "abc גבא"),
        ("אבג 123", "123 גבא"),
        ("אבג  ", "  גבא"),
        ("a (אב) c", "a (בא) c"),
        ("אב (c) ד", "ד )c( בא"),  # the brackets are right to left: mirroring turns them
        ("a אב\u2067 c", "a בא\u2067c "),
    ],
)
def test_order_by_hand(logical, expected):
    assert visual(logical) == expected


def test_brackets_face_the_text_in_a_right_to_left_run():
    assert [bidi.mirrored(c) for c in "([{<«≤⦍a"] == list(")]}>»≥⦐a")
    assert same("א(בד)ג", "\u202dג(דב)א"), (
        "the opening bracket of the logical text is the closing one to the eye, so it is turned"
    )


def test_arabic_forms():
    assert join("سلام") == ["\ufeb3", "\ufefc", "", "\ufee1"]
    assert join("بب") == ["\ufe91", "\ufe90"] and join("ب") == ["\ufe8f"]
    assert join("اب") == ["\ufe8d", "\ufe8f"], "alef does not join the next letter"
    assert join("ب\u064eب")[2] == "\ufe90", "a mark between is transparent"
    assert join("ب\u200cب")[0] == "\ufe8f" and join("ب\u200d")[0] == "\ufe91", (
        "ZWNJ parts, ZWJ joins"
    )
    assert join("ءبء") == ["ء", "\ufe8f", "ء"], "hamza joins nothing"
    assert join("abc") == ["a", "b", "c"]


def test_arabic_is_drawn_from_right_to_left_with_its_forms():
    assert same("سلام", "\u202d\ufee1\ufefc\ufeb3")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("e\u0301", "é"),
        ("\u1112\u1161\u11ab", "한"),
        ("a\r\nb", "a\nb"),
        ("a\u2028b", "a\nb"),
        ("a\tb", "a b"),
        ("a\u200b\ufeff\u00ad\u2060\ufe0fb", "ab"),
        ("a\0\x01\x7fb", "ab"),
        ("👨\u200d👩", "👨👩"),
        ("A Dog", "a dog"),
        ("a\u200eb", "ab"),
        ("x" + "\u0301\u0323" * 100, "x" + "\u0323" * 4),
        ("\ue000", "\U0002ffff"),
        ("\ud83d", "\ufffd"),
        (
            "می\u200cخواهم",
            "\u202d" + "".join(reversed("\ufee3\ufbfd\ufea7\ufeee\ufe8d\ufeeb\ufee2")),
        ),
    ],
)
def test_drawn_alike(one, other):
    assert same(one, other)


def test_marks_lie_over_their_base():
    alone, marked = SHAPED.masks(["x", "x\u0323"])
    assert (alone & ~marked == 0).all() and not np.array_equal(alone, marked), (
        "the base is all there, and more"
    )
    assert np.flatnonzero(marked[0]).max() == np.flatnonzero(alone[0]).max(), (
        "and the mark takes no room of its own"
    )
    vowel_sign, letter = SHAPED.masks(["कि", "क"])
    ink = np.flatnonzero(vowel_sign[0])
    assert ink[0] < np.flatnonzero(letter[0])[0] + 3 and ink[-1] <= 16, (
        "the short i stands before its letter, in its cell"
    )


def test_a_missing_glyph_is_a_visible_box():
    assert SHAPED.masks(["\ue000"]).any() and not REFERENCE.masks(["\ue000"]).any()
    census = SHAPED.census(["\ue000a", "a\u200b", "\U0010ffff"])
    assert census.missing_glyphs.tolist() == [1, 0, 1]


def naive_wrap(widths, flags, px, max_rows):
    """Rows of glyphs by the rules of wrapping.py, one glyph after another."""
    rows, row, start, i = [max_rows] * len(widths), 0, 0, 0
    while start < len(widths) and row < max_rows:
        used, i = 0, start
        while i < len(widths) and not flags[i] & wrapping.NEWLINE and used + widths[i] <= px:
            used += widths[i]
            i += 1
        end = i
        if i < len(widths) and not flags[i] & wrapping.NEWLINE:  # full
            if not flags[i] & wrapping.SPACE:
                for b in range(i, start, -1):
                    asked = flags[b] & wrapping.BREAK_BEFORE or flags[b - 1] & wrapping.BREAK_AFTER
                    if (
                        asked
                        and not flags[b] & (wrapping.CLOSING | wrapping.SPACE)
                        and not flags[b - 1] & wrapping.OPENING
                    ):
                        end = b
                        break
            following = end
            while following < len(widths) and flags[following] & wrapping.SPACE:
                following += 1
            last = end
            while last > start and flags[last - 1] & wrapping.SPACE:
                last -= 1
        else:
            following = last = end
        for k in range(start, following):
            rows[k] = row if k < last else wrapping.NOT_DRAWN
        if following < len(widths) and flags[following] & wrapping.NEWLINE:
            rows[following] = wrapping.NOT_DRAWN
            following += 1
        start, row = following, row + 1
    return rows


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab -\n(日)、 ", max_size=60), max_size=5),
    st.sampled_from([32, 48, 80]),
    st.sampled_from([1, 2, 3, 100]),
)
def test_wrapping_equals_the_naive_loop(texts, px, max_rows):
    flags = [
        wrapping.line_flags()[[ord(c) for c in text]] if text else np.zeros(0, np.uint8)
        for text in texts
    ]
    widths = [
        np.array([0 if c == "\n" else 16 if c in "日、" else 6 for c in text], np.int32)
        for text in texts
    ]
    expected = [
        row
        for width, flag in zip(widths, flags, strict=True)
        for row in naive_wrap(width.tolist(), flag.tolist(), px, max_rows)
    ]
    lengths = np.array([len(text) for text in texts], np.int64)
    joined = [
        np.concatenate([np.zeros(0, dtype), *arrays])
        for arrays, dtype in ((widths, np.int32), (flags, np.uint8))
    ]
    assert wrapping.wrap(*joined, lengths, px, max_rows).tolist() == expected


def test_words_wrap_and_newlines_break():
    masks = SHAPED.masks(["the quick brown fox jumps over the lazy dog", "a\n\nb", "w" * 100])
    assert np.array_equal(masks[1][0], SHAPED.masks(["a"])[0, 0]) and np.array_equal(
        masks[1][2], SHAPED.masks(["b"])[0, 0]
    )
    first_row = SHAPED.masks(["the quick brown fox jumps over the"])[0, 0]
    assert np.array_equal(masks[0][0], first_row), "the row ends with a whole word"
    assert masks[2][:2].any(axis=1).all(), "a word longer than a row is broken inside"


def test_simple_and_complex_ways_agree(monkeypatch):
    flags, _ = shaping._character_data()
    plain = [
        text
        for text in generated(400, seed=5)
        if not (flags[[ord(c) for c in text]] & shaping.COMPLEX).any()
    ]
    plain += ["the quick brown fox, (jumps) - over\n the  lazy dog 日本語です。" * 9, ""]
    assert len(plain) > 100
    expected = SHAPED.masks(plain)
    slow = Renderer(224, layout="shaped")
    monkeypatch.setattr(slow._shaper, "_flags", flags | np.uint8(shaping.COMPLEX))
    assert np.array_equal(slow.masks(plain), expected)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=60), max_size=4))
def test_any_str_is_drawn_and_a_batch_is_its_texts(texts):
    batch = SMALL.masks(texts)
    census = SMALL.census(texts)
    for text, masks, cut in zip(texts, batch, census.cut_glyphs, strict=True):
        assert np.array_equal(SMALL.masks([text])[0], masks)
        assert cut >= 0


def test_generated_texts_never_raise_at_any_size():
    texts = generated(600, seed=6) + [text for _, text in TRICKY] + ["日本 dog\u0301 א\n" * 100_000]
    for px, monospace in ((32, False), (224, False), (64, True)):
        renderer = Renderer(px, layout="shaped", monospace=monospace)
        masks = renderer.masks(texts)
        assert masks.shape == (len(texts), px // 16, px) and masks.any()
        census = renderer.census(texts)
        assert (census.drawn_rows <= px // 16).all() and (
            census.rows[~census.cut] <= px // 16
        ).all()
    with pytest.raises(RenderError, match="text 1 is a int"):
        renderer.masks(["a", 3])
