"""The font asset: its contents, its build, its licence; fonts given by path; changed glyphs."""

import hashlib
import os
import warnings
from pathlib import Path

import build_font
import numpy as np
import pytest
from conftest import OLD_FONT
from naive_renderer import hex_font

from clippo_core.errors import RenderError
from clippo_core.rendering import Renderer, font

PAPER_FONT = [OLD_FONT / "unifont-9.0.06.hex", OLD_FONT / "unifont_upper-9.0.06.hex"]
DEBIAN = Path(os.environ.get("CLIPPO_UNIFONT_ROOT", "/"))
DEBIAN_HEX = DEBIAN / "usr/share/unifont/unifont.hex"
DEBIAN_UPPER = DEBIAN / "usr/share/fonts/opentype/unifont/unifont_upper.otf"
DEBIAN_COMBINING = DEBIAN / "usr/share/unifont/plane00-combining.txt"
SHIPPED_SHA256 = "d70efb79498f3fdfa802046c2830a342a9091c2b0520e3f11fd05d5fee27a3e5"

needs_paper_font = pytest.mark.skipif(
    not OLD_FONT.exists(), reason="Unifont 9.0.06 (GPL, not shipped) is not beside the repository"
)
needs_debian = pytest.mark.skipif(
    not (DEBIAN_HEX.exists() and DEBIAN_UPPER.exists()),
    reason=(
        "Debian's unifont and fonts-unifont 1:15.0.01-2 are not installed (CLIPPO_UNIFONT_ROOT"
        " names another root)"
    ),
)


@pytest.fixture
def hex_file(tmp_path):
    def write(text, name="font.hex"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_the_asset_is_the_one_of_this_version_and_below_a_megabyte():
    data = font.SHIPPED_FONT.read_bytes()
    assert hashlib.sha256(data).hexdigest() == SHIPPED_SHA256 == Renderer(32).fonts_sha256[0]
    assert len(data) < 1_000_000


def test_the_asset_has_all_planes_and_both_widths():
    glyphs = font.read_asset()
    assert (np.diff(glyphs.code_points.astype(np.int64)) > 0).all()
    counts = np.bincount(glyphs.code_points >> 16, minlength=17)
    assert counts[0] == 57_086 and counts[1] > 12_000 and counts[2] > 200 and counts[14] == 368
    assert (
        set(np.unique(glyphs.cell_px)) == {8, 16}
        and not glyphs.cells[glyphs.cell_px == 8, 8:].any()
    )
    assert set(np.unique(glyphs.mark_offset)) == {-16, -12, -8, 0, font.NO_MARK}


def test_licence_and_notices_lie_beside_the_asset():
    assert (
        "SIL OPEN FONT LICENSE" in (font.ASSETS / "OFL-1.1.txt").read_text()
        and "Unifont" in (font.ASSETS / "FONT-NOTICE.txt").read_text()
    )
    assert "unifont-15.0.01.xz" in (font.ASSETS.parent.parent / "NOTICE").read_text()


@needs_debian
def test_rebuilding_from_the_debian_packages_gives_the_same_bytes():
    data = build_font.build(DEBIAN_HEX, DEBIAN_UPPER, DEBIAN_COMBINING)
    assert hashlib.sha256(data).hexdigest() == SHIPPED_SHA256


@pytest.mark.slow
@needs_debian
def test_outlines_give_back_the_bitmaps():
    """The basic plane is there in both forms: every outline fills the very pixels of its .hex
    line.
    """
    glyph = hex_font(DEBIAN_HEX)
    outlines = build_font.read_outlines(DEBIAN_UPPER.with_name("unifont.otf"))
    compared = 0
    for code, cell in list(zip(outlines.code_points.tolist(), outlines.cells, strict=True))[::31]:
        if code <= 0xFFFF:
            assert np.array_equal(cell >> np.arange(16)[:, None] & 1, glyph(code)), f"U+{code:04X}"
            compared += 1
    assert compared > 1800


@needs_paper_font
def test_the_list_of_changes_is_what_differs_from_the_papers_font():
    assert build_font.changed_list(font.SHIPPED_FONT, PAPER_FONT) == font.CHANGED_LIST.read_text()
    changed = set(font.changed_code_points().tolist())
    assert len([code for code in changed if code <= 0xFFFF]) == 3497, (
        "3,675 lines differ; 178 of them only in the width of the cell"
    )
    assert not any(code < 0x80 for code in changed)


@needs_paper_font
def test_unchanged_texts_are_drawn_alike_by_both_fonts():
    texts = ["a brown dog, 42!", "日本語の文", "é ñ ü"]
    ours, theirs = Renderer(), Renderer(fonts=PAPER_FONT)
    assert np.array_equal(ours.masks(texts), theirs.masks(texts))
    assert not np.array_equal(ours.masks(["³"]), theirs.masks(["³"]))
    assert len(theirs.fonts_sha256) == 2 and theirs.digest != ours.digest


def test_strict_font_raises_at_the_first_changed_glyph():
    renderer = Renderer(strict_font=True)
    renderer.masks(["a dog", "日本語"])
    with pytest.raises(RenderError, match=r"text 2 has U\+00B3.*9\.0\.06"):
        renderer.masks(["a dog", "", "m³", "x²"])


def test_warn_font_warns_once_and_draws():
    renderer = Renderer(warn_font=True)
    with pytest.warns(UserWarning, match=r"text 1 has U\+00B3"):
        masks = renderer.masks(["ok", "m³"])
    assert np.array_equal(masks, Renderer().masks(["ok", "m³"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        renderer.masks(["m³"])
        Renderer().masks(["m³"])


def test_a_font_by_path_and_gaps_filled_by_the_next(hex_file):
    full, half = "FFFF" + "8001" * 14 + "FFFF", "FF" + "81" * 14 + "FF"
    first = hex_file(f"0061:{half}\n0062:{full}\n\n")
    second = hex_file(f"0061:{'00' * 16}\n10400:{full}\n", "second.hex")
    renderer = Renderer(32, fonts=[first, second])
    assert renderer.render(["a"])[0, :2, :9].tolist() == [
        [0] * 8 + [127],
        [0] + [127] * 6 + [0, 127],
    ]
    assert renderer.census(["ab\U00010400c"]).missing_glyphs.tolist() == [1]
    assert renderer.fonts_sha256 == tuple(
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)
    )
    assert Renderer(32, fonts=[second, first]).digest != renderer.digest
    assert Renderer(32, fonts=[first], strict_font=True).masks(["a³"]).any(), (
        "strictness minds the shipped font only"
    )
    shaped = Renderer(32, fonts=[first, second], layout="shaped")
    assert shaped.masks(["ab a"]).any() and not shaped.masks([" "]).any(), (
        "a font without a space has a blank, not a box"
    )


def test_a_changed_font_file_is_read_again(hex_file):
    path = hex_file("0061:" + "FF" * 16)
    before = Renderer(32, fonts=[path])
    hex_file("0061:" + "F0" * 16)
    os.utime(path, ns=(1, 1))
    assert Renderer(32, fonts=[path]).digest != before.digest


@pytest.mark.parametrize(
    "line",
    [
        "0061:FFF",
        "zz:" + "00" * 16,
        "0061 " + "00" * 16,
        "0061:" + "GG" * 16,
        "110000:" + "00" * 16,
    ],
)
def test_a_bad_font_file_is_named_with_its_line(hex_file, line):
    path = hex_file("0041:" + "00" * 16 + "\n" + line + "\n")
    with pytest.raises(RenderError, match=r"font\.hex, line 2"):
        Renderer(32, fonts=[path])


def test_an_empty_or_missing_font_file_is_named(hex_file, tmp_path):
    with pytest.raises(RenderError, match="holds no glyph"):
        Renderer(32, fonts=[hex_file("\n")])
    with pytest.raises(RenderError, match="absent.hex"):
        Renderer(32, fonts=[tmp_path / "absent.hex"])
    with pytest.raises(RenderError, match="directory"):
        Renderer(32, fonts=[tmp_path])


def test_a_damaged_asset_is_named(tmp_path):
    for data in (b"", b"junk", font.SHIPPED_FONT.read_bytes()[:1000]):
        (tmp_path / "cut.xz").write_bytes(data)
        with pytest.raises(RenderError, match="damaged"):
            font.read_asset(tmp_path / "cut.xz")
