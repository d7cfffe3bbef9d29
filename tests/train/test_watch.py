"""What a person sees of a running training: the page, its copies, and lines in the log."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tiny import tiny_plan

from clippo_core import progress
from clippo_core.report import watch
from clippo_core.run.folder import BaseFolder, RunFolder

LINE = {"step": 1, "loss": 3.21, "pairs_per_second": 1234.5, "pairs_seen": 8, "lr": 1e-3}


def test_the_page_is_written_beside_the_run_and_where_the_console_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(watch, "PAGE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    plan = tiny_plan(str(tmp_path / "run"))
    seen = watch.Watch(plan, 0, also=str(tmp_path / "out/deck.html"))
    seen.step(LINE, [LINE])
    assert caplog.messages[0].startswith("pretrain: 1 of 6 steps (17 %), loss 3.210, 1,234 pairs/s")
    assert "left" in caplog.messages[0]
    seen.close([LINE])
    page = (tmp_path / "run/training.html").read_text()
    copy = (tmp_path / "out/deck.html").read_text()
    assert "3.21" in page and "3.21" in copy
    links = [os.path.normpath(f"runs/a/{link}") for link in re.findall(r'href="([^"]*)"', page)]
    assert links == [RunFolder("runs/a").report, BaseFolder("runs").index]
    assert "href" not in copy  # nothing stands beside it


def test_a_copy_that_cannot_be_written_is_told_and_the_page_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = watch.Watch(tiny_plan(str(tmp_path / "run")), 0, also="gs://elsewhere/deck.html")
    seen.close([LINE])
    assert (tmp_path / "run/training.html").exists()
    assert "gs://elsewhere" in caplog.text
