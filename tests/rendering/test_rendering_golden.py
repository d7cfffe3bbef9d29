"""The forty tricky inputs are drawn as tests/golden/rendering-*.txt shows them; golden_art.py
rewrites those files.
"""

import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT
from golden_art import GOLDEN, art
from PIL import Image
from specimen import SENTENCES, TRICKY, language_page, tricky_page

from clippo_core.rendering import Renderer


@pytest.mark.parametrize("layout", ["reference", "shaped"])
def test_tricky_inputs_look_as_recorded(layout):
    assert len(TRICKY) == 40
    assert art(layout) == (GOLDEN / f"rendering-{layout}.txt").read_text(encoding="utf-8")


def test_thirty_languages_have_their_glyphs_and_fit():
    assert len(SENTENCES) == 30
    for layout in ("reference", "shaped"):
        census = Renderer(224, layout=layout).census(list(SENTENCES.values()))
        assert not census.missing.any() and not census.cut.any() and census.rows.min() >= 2
    assert language_page().shape == (780, 984) and tricky_page().shape[0] == 720


def test_the_tools_run_as_scripts(tmp_path):
    for command in (["specimen.py", str(tmp_path)], ["build_font.py", "--help"]):
        done = subprocess.run(
            [sys.executable, f"tools/{command[0]}", *command[1:]], cwd=PROJECT, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
    for name in ("rendering-languages.png", "rendering-tricky.png", "rendering-words.png"):
        drawn, shown = (
            Image.open(folder / name).convert("L") for folder in (tmp_path, PROJECT / "docs")
        )
        assert np.array_equal(np.asarray(drawn), np.asarray(shown)), f"draw docs/{name} anew"
