"""Why ZeRO stage 0 is the default: what every rank then holds beside activations is small."""

from __future__ import annotations

import pytest

from clippo_core.config import TrainConfig, presets
from clippo_core.engine.choose import GIB, STATE_BYTES_PER_PARAMETER
from clippo_core.models import build_tower

SMALLEST_GPU_GIB = 40
"""An A100's smaller edition."""


@pytest.mark.parametrize(("name", "gib"), [("paper_b16", 2.1), ("paper_l16", 7.1)])
def test_the_whole_state_of_a_preset_fits_on_each_gpu(name: str, gib: float) -> None:
    run = presets.by_name()[name]()
    tower = build_tower(run.model, run.render.image_px, device="meta")
    state = STATE_BYTES_PER_PARAMETER * sum(p.numel() for p in tower.parameters()) / GIB
    assert state == pytest.approx(gib, abs=0.05)  # as TrainConfig says
    assert state < 0.2 * SMALLEST_GPU_GIB and run.train.zero_stage == TrainConfig().zero_stage == 0
