"""Compositions, augmentations, the census by language, and compiled expansion."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from rendering_texts import generated, rows_used

from clippo_core.config import AugmentConfig, RenderConfig
from clippo_core.errors import RenderError
from clippo_core.rendering import Renderer, compose
from clippo_core.rendering.augment import (
    LAYOUT_NUMBERS,
    NEUTRAL,
    PIXEL_NUMBERS,
    AugmentedRenderer,
    augmented_pixels,
    double,
    noise_of_step,
    numbers_of_step,
    shift,
)
from clippo_core.rendering.census import by_language
from clippo_core.rendering.draw import expand, expand_numpy

TEXTS = generated(200, seed=11) + [""]
PLAIN = Renderer(64)


def test_a_pair_is_one_text_with_the_separator_between():
    assert (
        compose.join_pair("a", "b") == "a [SEP] b"
        and compose.join_pair("a", "b", "") == "a b"
        and compose.join_pair("a", "b", "|") == "a | b"
    )


@pytest.fixture(scope="module")
def questions():
    photos = torch.randint(
        0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    texts = ["what is it?", "", "m" * 100, "is it\ueeee?", "m" * 12]
    return photos, torch.from_numpy(PLAIN.masks(texts)), rows_used(PLAIN.masks(texts))


def test_overlay_replaces_the_used_rows_and_nothing_else(questions):
    photos, masks, used = questions
    assert used.tolist() == [2, 0, 4, 1, 2]
    pages = expand(masks, torch.uint8)
    out = compose.question_overlay(photos, masks)
    assert out.dtype == torch.uint8
    for i, rows in enumerate(used):
        assert torch.equal(out[i, :, : 16 * rows], pages[i, :, : 16 * rows]) and torch.equal(
            out[i, :, 16 * rows :], photos[i, :, 16 * rows :]
        )


def test_above_squashes_the_photo_below_the_question(questions):
    photos, masks, used = questions
    pages = expand(masks, torch.uint8)
    out = compose.question_above(photos, masks)
    for i, rows in enumerate(used.tolist()):
        assert torch.equal(out[i, :, : 16 * rows], pages[i, :, : 16 * rows])
        height = 64 - 16 * rows
        if not height:
            continue
        # Bilinear by hand: half-pixel centres, no antialias, truncated to uint8.
        y = np.clip((np.arange(height) + 0.5) * 64 / height - 0.5, 0, 63)
        low, weight = np.floor(y).astype(int), y - np.floor(y)
        photo = photos[i].numpy().astype(np.float64)
        expected = (
            photo[:, low] * (1 - weight[:, None])
            + photo[:, np.minimum(low + 1, 63)] * weight[:, None]
        )
        excess = expected - out[i, :, 16 * rows :].numpy()
        assert excess.min() > -1e-3 and excess.max() < 1 + 1e-3
    assert torch.equal(out[1], photos[1]), "no question: the photo as it is"


def test_photos_and_masks_that_do_not_belong_together(questions):
    photos, masks, _ = questions
    for wrong in ((photos[:2], masks), (photos.float(), masks), (photos[:, :, :32], masks)):
        with pytest.raises(RenderError, match="do not belong together"):
            compose.question_overlay(*wrong)
    with pytest.raises(RenderError, match="takes uint16"):
        expand(masks.to(torch.int32))
    with pytest.raises(RenderError, match="dtype is torch.int32"):
        expand(masks, torch.int32)


def test_augmentations_are_off_by_default():
    off = AugmentConfig()
    assert not off.varies_layout and not off.varies_pixels
    numbers = numbers_of_step(0, 0, len(TEXTS))[:, 0]
    assert np.array_equal(
        AugmentedRenderer(RenderConfig(64), off).masks(TEXTS, numbers[:, :LAYOUT_NUMBERS]),
        PLAIN.masks(TEXTS),
    )
    masks = torch.from_numpy(PLAIN.masks(TEXTS))
    plain = augmented_pixels(masks, off, torch.from_numpy(numbers[:, LAYOUT_NUMBERS:]))
    assert torch.equal(plain, expand(masks, channels=1))


def test_the_numbers_of_a_step_belong_to_seed_step_place_and_side():
    numbers = numbers_of_step(3, 7, 16)
    assert (
        numbers.shape == (16, 2, LAYOUT_NUMBERS + PIXEL_NUMBERS)
        and numbers.min() >= 0
        and numbers.max() < 1
    )
    assert len(np.unique(numbers)) == numbers.size
    assert np.array_equal(numbers, numbers_of_step(3, 7, 16))
    some = numbers_of_step(3, 7, 1000, 0.3)
    is_plain = (some == NEUTRAL).all(axis=2)
    assert 0.67 < is_plain.mean() < 0.73 and np.array_equal(
        some[~is_plain], numbers_of_step(3, 7, 1000)[~is_plain]
    )
    for other in (numbers_of_step(4, 7, 16), numbers_of_step(3, 8, 16), numbers_of_step(-3, 7, 16)):
        assert not np.isin(numbers, other).any()
    assert np.array_equal(noise_of_step(3, 7, 32), noise_of_step(3, 7, 32))
    assert not np.array_equal(noise_of_step(3, 7, 32), noise_of_step(3, 8, 32))


@pytest.mark.parametrize(
    ("right", "down"), [(0, 0), (3, 0), (0, 5), (7, 16), (63, 63), (64, 64), (100, 100), (1, 33)]
)
def test_shift_moves_pixels(right, down):
    for masks in PLAIN.masks(TEXTS[:20]):
        page = expand_numpy(masks[None])[0]
        expected = np.full_like(page, 127)
        expected[down:, right:] = page[: max(64 - down, 0), : max(64 - right, 0)]
        assert np.array_equal(expand_numpy(shift(masks, right, down)[None])[0], expected)


def test_double_doubles_pixels():
    masks = PLAIN.masks(TEXTS[:20])
    assert np.array_equal(
        expand_numpy(double(masks)), expand_numpy(masks).repeat(2, axis=1).repeat(2, axis=2)
    )


def test_neutral_numbers_draw_plainly_whatever_is_on():
    everything = AugmentConfig(1.0, 8, 40, 1.0, 1.0, 1.0, 1.0, 2.0)
    numbers = np.tile(NEUTRAL, (len(TEXTS), 1))
    masks = AugmentedRenderer(RenderConfig(64), everything).masks(
        TEXTS, numbers[:, :LAYOUT_NUMBERS]
    )
    assert np.array_equal(masks, PLAIN.masks(TEXTS))
    noise = torch.from_numpy(noise_of_step(0, 0, 64))
    pixels = augmented_pixels(
        torch.from_numpy(masks), everything, torch.from_numpy(numbers[:, LAYOUT_NUMBERS:]), noise
    )
    assert torch.equal(pixels, expand(torch.from_numpy(masks), channels=1))


def test_layout_by_hand():
    """Every text alone, from its own four numbers, by the plain renderer."""
    augment = AugmentConfig(max_extra_px=2, max_offset_px=9, double_share=0.3)
    numbers = numbers_of_step(5, 0, len(TEXTS))[:, 0, :LAYOUT_NUMBERS]
    drawn = AugmentedRenderer(RenderConfig(80), augment).masks(TEXTS, numbers)
    assert drawn.shape == (len(TEXTS), 5, 80)
    for text, (spacing, right, down, doubled), found in zip(
        TEXTS, numbers.tolist(), drawn, strict=True
    ):
        extra_px, right_px, down_px = int(spacing * 3), int(right * 10), int(down * 10)
        if doubled < 0.3:
            page = np.zeros((1, 5, 80), np.uint16)
            page[:, :4, :64] = double(Renderer(32, extra_px=extra_px).masks([text]))
        else:
            page = Renderer(80, extra_px=extra_px).masks([text])
        assert np.array_equal(found, shift(page[0], right_px, down_px))
    assert {int(n * 3) for n in numbers[:, 0]} == {0, 1, 2} and 0.2 < (
        numbers[:, 3] < 0.3
    ).mean() < 0.4


def test_extra_spacing_moves_glyphs_apart():
    plain, wide = Renderer(64).masks(["ab"])[0, 0], Renderer(64, extra_px=2).masks(["ab"])[0, 0]
    ink_plain, ink_wide = np.flatnonzero(plain), np.flatnonzero(wide)
    assert (
        len(ink_plain) == len(ink_wide)
        and ink_wide[-1] == ink_plain[-1] + 2
        and ink_wide[0] == ink_plain[0]
    )
    assert Renderer(64, extra_px=2).digest != Renderer(64).digest


def test_pixel_augmentations():
    masks = torch.from_numpy(PLAIN.masks(["a dog"] * 64))
    plain = expand(masks, channels=1)

    numbers = torch.from_numpy(numbers_of_step(1, 0, 64)[:, 1, LAYOUT_NUMBERS:])
    normal = torch.from_numpy(noise_of_step(1, 0, 64))

    def draw(**settings):
        return augmented_pixels(masks, AugmentConfig(**settings), numbers, normal)

    bold = draw(stroke_share=1.0)
    assert torch.equal(
        bold[:, :, :, 1:] == -1, (plain[:, :, :, 1:] == -1) | (plain[:, :, :, :-1] == -1)
    )
    inverted = draw(inversion_share=1.0)
    assert torch.equal(inverted == -1, plain != -1) and len(inverted.unique()) == 2
    faint = draw(contrast=1.0)
    ink = faint.amin(dim=(1, 2, 3))
    assert (
        torch.equal(faint[:, 0, -1, -1], plain[:, 0, -1, -1])
        and ink.std() > 0.1
        and (ink >= -1).all()
    )
    pale = draw(contrast=1.0, inversion_share=1.0)
    torch.testing.assert_close(pale.amax(dim=(1, 2, 3)) + 1, plain[0, 0, -1, -1] - ink)
    noise = (draw(noise=0.2) - plain)[
        :, 0, 32:
    ]  # rows without ink, where next to nothing is clamped
    torch.testing.assert_close(
        noise.std(dim=(1, 2)), 0.2 * numbers[:, 3].float(), rtol=0.1, atol=0.001
    )
    assert abs(noise.mean()) < 0.01 and not torch.equal(noise[0], noise[1])
    assert draw(noise=2.0).aminmax() == (-1, 1)
    some = draw(inversion_share=0.5)
    assert 10 < (some[:, 0, -1, -1] == -1).sum() < 54
    every = {"stroke_share": 0.5, "contrast": 0.5, "inversion_share": 0.5, "noise": 0.2}
    assert torch.equal(draw(**every), draw(**every))
    for chosen in (slice(0, 1), slice(10, 30)):  # whatever else is in the batch
        alone = augmented_pixels(masks[chosen], AugmentConfig(**every), numbers[chosen], normal)
        assert torch.equal(alone, draw(**every)[chosen])
    nothing = augmented_pixels(
        masks[:0], AugmentConfig(**every), numbers[:0], normal, torch.bfloat16
    )
    assert nothing.shape == (0, 1, 64, 64) and nothing.dtype == torch.bfloat16


def test_census_by_language():
    languages = ["en", "ja", "en", "xx"]
    rows = by_language(PLAIN.census(["a dog", "猫", "w" * 1000, "\ue000"]), languages)
    assert [(r.language, r.texts, r.mean_rows, r.cut_share, r.missing_share) for r in rows] == [
        ("en", 2, 2.5, 0.5, 0.0),
        ("ja", 1, 1.0, 0.0, 0.0),
        ("xx", 1, 1.0, 0.0, 1.0),
    ]
    assert by_language(PLAIN.census([]), []) == []


def test_drawing_on_the_host_does_not_import_torch():
    code = (
        "import sys; from clippo_core.rendering import Renderer; Renderer(32).render(['a']); assert"
        " 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_compiled_expansion_does_not_recompile_for_another_batch():
    import torch._dynamo.testing as testing

    counter = testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(expand, dynamic=True, fullgraph=True, backend=counter)
    for px, n in ((64, 2), (64, 5), (224, 3), (32, 64)):
        masks = torch.from_numpy(Renderer(px).masks(generated(n, seed=n)))
        assert torch.equal(compiled(masks), expand(masks))
    assert counter.frame_count == 1


def test_compiled_augmentation_does_not_recompile_for_another_step():
    import torch._dynamo.testing as testing

    augment = AugmentConfig(stroke_share=0.5, contrast=0.5, inversion_share=0.5, noise=0.2)
    counter = testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(augmented_pixels, fullgraph=True, backend=counter)
    for step in range(4):
        masks = torch.from_numpy(PLAIN.masks(generated(6, seed=step)))
        numbers = torch.from_numpy(numbers_of_step(0, step, 6)[:, 0, LAYOUT_NUMBERS:])
        noise = torch.from_numpy(noise_of_step(0, step, 64))
        torch.testing.assert_close(
            compiled(masks, augment, numbers, noise),
            augmented_pixels(masks, augment, numbers, noise),
        )
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_compiled_expansion_has_the_same_bits(dtype):
    compiled = torch.compile(expand, dynamic=True, fullgraph=True)
    for px, n in ((64, 300), (224, 40)):
        masks = torch.from_numpy(Renderer(px).masks(generated(n, seed=n)))
        assert torch.equal(compiled(masks, dtype), expand(masks, dtype))
