"""A local run leaves its decks beside it; a pod leaves them to Flyte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.decks import show


def test_a_local_run_leaves_its_decks_beside_it(tmp_path: Path) -> None:
    show("Verdict", "<p>七十</p>", str(tmp_path))
    page = (tmp_path / "decks" / "verdict.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "<p>七十</p>" in page


def test_a_pod_leaves_them_to_flyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_ID", "f1")
    show("Verdict", "<p>x</p>", str(tmp_path))
    assert not list(tmp_path.iterdir())
