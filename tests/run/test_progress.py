"""How a long loop tells how far it is: a bar on a terminal, lines in a log elsewhere."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios

import pytest
from conftest import PROJECT

from clippo_core import progress
from clippo_core.progress import counted, duration

LOOP = """
import logging, sys
from clippo_core import progress
logging.basicConfig(level=logging.INFO)
with progress.counted("count", 4, unit="rec") as bar:
    for n in range(4):
        bar.update(1, f"loss {n}")
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests move."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_half_minute_and_one_at_the_end(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with counted("validate", 12_000, unit="rec") as bar:
        for _ in range(120):
            clock[0] += 1
            bar.update(100)
    lines = caplog.messages
    assert lines[:2] == [
        "validate: 3,000 of 12,000 rec (25 %), 100 rec/s, about 1 min 30 s left",
        "validate: 6,000 of 12,000 rec (50 %), 100 rec/s, about 1 min 00 s left",
    ]
    assert len(lines) == 5 and lines[-1] == "validate: 12,000 of 12,000 rec (100 %), 100 rec/s"


def test_what_goes_on_counts_its_own_speed_and_shows_its_words(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with counted("pretrain", 730, unit="steps", start=700) as bar:
        clock[0] += 30
        bar.update(15, "loss 3.2, 1,234 pairs/s")
    assert caplog.messages[0] == (
        "pretrain: 715 of 730 steps (98 %), loss 3.2, 1,234 pairs/s, 0.5 steps/s, about 30 s left"
    )
    caplog.clear()
    with counted("file", unit="B") as bar:
        bar.update(7)
        bar.restart(1000, 9000)
        clock[0] += 40
        bar.update(400)
    assert caplog.messages[0] == "file: 1,400 of 9,000 B (16 %), 10 B/s, about 12 min 40 s left"


def test_one_that_is_not_shown_says_nothing(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with counted("quiet", 3, shown=False) as bar:
        clock[0] += 100
        bar.update(3)
    assert not caplog.messages


def test_an_error_ends_the_line_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with pytest.raises(KeyError), counted("count", 3, unit="rec") as bar:
        bar.update(2)
        raise KeyError
    assert caplog.messages[0].startswith("count: 2 of 3 rec (67 %), ")


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines() -> None:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", LOOP]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert re.search(r"count: 4 of 4 rec \(100 %\), loss 3, [\d,.e+]+ rec/s\n", done.stderr)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    subprocess.run(command, stderr=theirs, env=environment, timeout=120, check=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # nothing more comes
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert b"count: 100%" in shown and b"4/4" in shown and b"INFO" not in shown


def test_durations_show_two_units() -> None:
    found = [duration(seconds) for seconds in (-1, 8.4, 185, 3725, 97_300)]
    assert found == ["0 s", "8 s", "3 min 05 s", "1 h 02 min", "1 d 03 h"]
