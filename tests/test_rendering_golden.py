"""The forty tricky inputs are drawn as tests/golden/rendering-*.txt shows them; golden_art.py rewrites those files."""

import unicodedata

import pytest
from golden_art import GOLDEN, art

from clippo_core.rendering.specimen import TRICKY


@pytest.mark.parametrize("layout", ["reference", "shaped"])
def test_tricky_inputs_look_as_recorded(layout):
    if layout == "shaped" and unicodedata.unidata_version < "14":
        pytest.skip("recorded with the character data of Unicode 14 or later")
    assert len(TRICKY) == 40
    assert art(layout) == (GOLDEN / f"rendering-{layout}.txt").read_text(encoding="utf-8")
