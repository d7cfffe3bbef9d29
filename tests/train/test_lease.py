"""Two runs on one folder: one goes on; a dead owner is replaced without help, a live one never."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT

from clippo_core import storage
from clippo_core.errors import ConflictError
from clippo_core.train import lease as lease_module
from clippo_core.train.lease import Lease


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same tests on a folder and on a bucket."""
    return str(tmp_path / "run") if request.param == "folder" else request.getfixturevalue("s3")


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this machine's processes look as if they ran on another one."""
    monkeypatch.setattr(lease_module, "_process", lambda pid: f"another-boot ns {pid}")


def test_live_owner_is_respected_and_release_frees(root: str) -> None:
    first = Lease(root, seconds=5)
    started = time.monotonic()
    with pytest.raises(ConflictError, match=f"process {os.getpid()} on .*Stop that one first"):
        Lease(root, seconds=5)
    assert time.monotonic() - started < 2, "a process seen alive needs no watching"
    first.check()
    first.release()
    Lease(root, seconds=5).release()


def test_killed_owner_is_replaced_at_once(root: str) -> None:
    program = (
        f"from clippo_core.train.lease import Lease; import time; Lease({root!r}, 60);"
        " print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with pytest.raises(ConflictError):
        Lease(root, seconds=60)
    child.send_signal(signal.SIGKILL)
    time.sleep(0.2)  # dead, but not waited for: a zombie
    started = time.monotonic()
    Lease(root, seconds=60).release()
    assert time.monotonic() - started < 2
    child.wait()
    child.stdout.close()


def test_owner_elsewhere_is_watched(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        elsewhere(patch)
        far = Lease(root, seconds=1.5)
    with pytest.raises(ConflictError, match="is being trained"):
        Lease(root, seconds=1.5)
    far._over.set()  # it stops beating, as a machine that lost its power
    far._thread.join()
    started = time.monotonic()
    mine = Lease(root, seconds=1.5)
    assert 1.4 < time.monotonic() - started < 5
    mine.check()
    with pytest.raises(ConflictError, match=f"taken over by process {os.getpid()}"):
        far.check()
    far.release()
    mine.check()
    mine.release()


def test_frozen_owner_finds_out_by_itself(tmp_path: Path) -> None:
    frozen = Lease(str(tmp_path), seconds=0.4)
    storage.write_text(
        str(tmp_path / "owner.json"), json.dumps({"id": "other", "pid": 1, "host": "far"})
    )
    frozen._thread.join(timeout=5)
    with pytest.raises(ConflictError, match="taken over"):
        frozen.check()
    frozen.release()
    assert json.loads(storage.read_text(str(tmp_path / "owner.json")))["id"] == "other"


def test_unreadable_owner_file_is_taken_over_after_watching(tmp_path: Path) -> None:
    (tmp_path / "owner.json").write_text('{"id": "x", "pi')
    started = time.monotonic()
    Lease(str(tmp_path), seconds=0.6).release()
    assert time.monotonic() - started > 0.5


@pytest.mark.parametrize(
    "owner",
    [
        b"[" * 100_000,
        b"\xff",
        b"[]",
        b'{"process": 7, "pid": 7}',
        b'{"process": "HERE -", "pid": "x", "host": "\\u001b[31m"}',
        b'{"process": "HERE -", "pid": null}',
        b'{"a": "' + b"x" * 100_000 + b'"}',
    ],
)
def test_owner_files_that_nobody_wrote_are_watched(tmp_path: Path, owner: bytes) -> None:
    here = lease_module._process(os.getpid()).rpartition(" ")[0]
    (tmp_path / "owner.json").write_bytes(owner.replace(b"HERE", here.encode()))
    Lease(str(tmp_path), seconds=0.2).release()


def compete(root: str, start: float, results: multiprocessing.Queue[str]) -> None:
    """One of several processes that want the run at the same moment."""
    time.sleep(max(0.0, start - time.time()))
    try:
        held = Lease(root, seconds=20)
        results.put("won")
        time.sleep(2)
        held.release()
    except ConflictError:
        results.put("lost")


def test_of_several_processes_exactly_one_wins(root: str) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[str] = context.Queue()
    start = time.time() + 0.5
    processes = [context.Process(target=compete, args=(root, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = sorted(results.get(timeout=20) for _ in processes)
    for process in processes:
        process.join()
    assert outcomes == ["lost"] * 3 + ["won"]
