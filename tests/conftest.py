"""What every test shares: where the real slices lie, and a home of its own for Flyte's local cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
SLICES = PROJECT.parent / "shared" / "data"
OLD_FONT = PROJECT.parent / "shared" / "fonts" / "unifont-9.0.06"

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
# Many test processes on few cores: more threads would only fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def slices() -> Path:
    """Folder of the real benchmark slices; skips the test where it is absent."""
    if not SLICES.is_dir():
        pytest.skip("the folder ../shared/data with real benchmark slices is absent")
    return SLICES


@pytest.fixture
def flyte_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, so that Flyte's local cache and configuration are empty; for tests that start `pyflyte`."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home
