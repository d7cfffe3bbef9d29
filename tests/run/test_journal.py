"""The journal: one line per step, torn and later lines dropped on resume, a folder and a bucket
alike.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from clippo_core import storage
from clippo_core.errors import NotFoundError
from clippo_core.run import journal


@pytest.fixture(params=["folder", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A journal's address in a folder, then in a bucket."""
    root = str(tmp_path / "run") if request.param == "folder" else request.getfixturevalue("s3")
    return f"{root}/journal.jsonl"


def test_resume_keeps_the_curve(uri: str) -> None:
    first = journal.Journal(uri)
    for step in range(1, 8):
        first.append(step=step, loss=1.0 / step)
    first.flush()  # and then the process dies: `close` is never called
    second = journal.Journal(uri, keep_through=4)
    assert [line["step"] for line in second.shown] == [1, 2, 3, 4]
    for step in range(5, 8):
        second.append(step=step, loss=1.0 / step)
    second.close()
    assert journal.read(uri) == [{"step": step, "loss": 1.0 / step} for step in range(1, 8)]


def test_new_run_starts_empty(uri: str) -> None:
    with pytest.raises(NotFoundError):
        journal.read(uri)
    old = journal.Journal(uri)
    old.append(step=1, loss=3.0)
    old.close()
    journal.Journal(uri).close()
    assert journal.read(uri) == []


def test_numbers_that_json_lacks(uri: str) -> None:
    book = journal.Journal(uri)
    book.append(step=1, loss=math.nan, grad_norm=math.inf, note="ä\n")
    book.close()
    assert journal.read(uri) == [{"step": 1, "loss": None, "grad_norm": None, "note": "ä\n"}]


def test_torn_line_is_dropped(tmp_path: Path) -> None:
    uri = str(tmp_path / "journal.jsonl")
    Path(uri).write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert journal.read(uri) == [{"step": 1, "loss": 2.0}]
    book = journal.Journal(uri, keep_through=2)
    book.append(step=2, loss=1.5)
    book.close()
    assert journal.read(uri) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]


def test_lines_that_nobody_wrote_are_left_out(tmp_path: Path) -> None:
    uri = str(tmp_path / "journal.jsonl")
    odd = [b"[1]", b"null", b'{"loss": 1.0}', b'{"step": "2"}', b'{"step": 2, "skipped": "no"}']
    odd += [b'{"step": 1, "note": "\\ud800"}', b'{"step": 2, "note": "\xff"}', b'{"step": true}']
    odd += [b'{"step": 2, "loss": ' + b"9" * 400 + b"}", b'{"step": 2, "a": ' + b"[" * 100_000]
    Path(uri).write_bytes(b"\n".join([b'{"step": 1}', *odd, b'{"step": 2}', b""]))
    assert journal.read(uri) == [{"step": 1}, {"step": 2}]
    journal.Journal(uri, keep_through=1).close()
    assert journal.read(uri) == [{"step": 1}]


def test_local_lines_are_there_at_once(tmp_path: Path) -> None:
    book = journal.Journal(str(tmp_path / "journal.jsonl"))
    book.append(step=1, loss=2.0)
    assert len(journal.read(book.uri)) == 1


def test_bucket_is_written_now_and_then(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    book, writes = journal.Journal(f"{s3}/journal.jsonl"), []
    monkeypatch.setattr(storage, "write_text", lambda uri, text: writes.append(text.count("\n")))
    for step in range(1, 2001):
        book.append(step=step, loss=0.0)
        while book._writing.locked():
            time.sleep(0.001)
    book.close()
    assert writes[-1] == 2000 and 20 <= len(writes) <= 2000 // journal.LINES_BETWEEN_WRITES + 1
    assert sum(writes) < 150 * 2000, "the whole volume stays within a small multiple of the journal"


def test_shown_lines_are_thinned_and_end_with_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SHOWN_LINES", 64)
    book = journal.Journal(str(tmp_path / "journal.jsonl"))
    for step in range(1, 1001):
        book.append(step=step)
        assert book.shown[-1]["step"] == step and len(book.shown) <= 64
    steps = [line["step"] for line in book.shown]
    assert steps == sorted(steps) and steps[0] <= 32 and len(journal.read(book.uri)) == 1000
