"""The forty tricky inputs are drawn as tests/golden/rendering-*.txt shows them; golden_art.py rewrites those files."""

import pytest
from golden_art import GOLDEN, art

from clippo_core.rendering import Renderer
from clippo_core.rendering.specimen import SENTENCES, TRICKY, language_page, tricky_page


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
