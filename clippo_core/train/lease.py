"""Whose run is it? Of two processes that train into one folder exactly one goes on; a dead owner's
place is taken without help.

    <run>/owner.json   {"id": …, "host": …, "pid": …, "beat": 7}
                       written only by compare-and-swap, a beat every SECONDS / 4

    owner's process seen dead on this machine    taken over at once
                                                 (the same command after `kill -9`)
    owner's process seen alive on this machine   ConflictError at once
    owner elsewhere                              watched: a beat within `seconds` -> ConflictError,
                                                 none -> taken over

No two clocks are compared: the watcher counts its own seconds. A frozen owner that wakes up finds
its lease lost at its next save, before anything of it counts. Only rank 0 holds it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from typing import Any, Literal

from clippo_core import storage
from clippo_core.errors import ConflictError, DataError, NotFoundError, StorageError
from clippo_core.run.folder import RunFolder
from clippo_core.untrusted.json import load_json
from clippo_core.untrusted.names import printable

MAX_BYTES = 65_536
"""Longest owner file that is looked into; ours has 200 bytes."""
_log = logging.getLogger(__name__)


class Lease:
    """The right to write into a run's folder, from construction until `release`. Raises
    ConflictError where another process has it.
    """

    def __init__(self, root: str, seconds: float):
        self._uri, self._root, self._seconds = RunFolder(root).owner, root, seconds
        pid = os.getpid()
        self._mine = {
            "id": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": pid,
            "process": _process(pid),
            "beat": 0,
        }
        self._lost = ""
        self._etag = self._acquire()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise ConflictError if the run belongs to another process now; asks the folder or bucket.
        Raises StorageError if it can't.
        """
        if not self._lost:
            owner = _parse(storage.read_bytes(self._uri))
            if owner.get("id") != self._mine["id"]:
                self._lost = _name(owner)
        if self._lost:
            raise ConflictError(
                f"{self._root} was taken over by {self._lost}, because this process did not answer;"
                " it must stop."
            )

    def release(self) -> None:
        """Let the next process have the run at once. Never raises."""
        self._over.set()
        self._thread.join()
        if not self._lost:
            with contextlib.suppress(StorageError):
                storage.write_text(
                    self._uri, json.dumps({"released": True}) + "\n", if_match=self._etag
                )

    def _acquire(self) -> str:
        watched, since = "", time.monotonic()
        while True:
            try:
                found, etag = storage.read_with_etag(self._uri)
            except NotFoundError:
                with contextlib.suppress(ConflictError):
                    return storage.write_text(self._uri, self._text(), if_absent=True)
                continue
            owner = _parse(found)
            state = "dead" if owner.get("released") else _state(owner)
            if state == "alive" or (watched and etag != watched):
                raise ConflictError(
                    f"{self._root} is being trained by {_name(owner)}. Stop that one first, or give"
                    " this run another name or root."
                )
            if not watched and not owner.get("released"):
                _log.warning(
                    "%s was trained by %s; it is %s.",
                    self._root,
                    _name(owner),
                    "gone" if state == "dead" else "being watched",
                )
            watched = etag
            if state == "dead" or time.monotonic() - since > self._seconds:
                with contextlib.suppress(
                    NotFoundError, ConflictError
                ):  # somebody was faster: look again
                    return storage.write_text(self._uri, self._text(), if_match=etag)
            time.sleep(min(1.0, self._seconds / 8))

    def _keep_beating(self) -> None:
        while not self._over.wait(self._seconds / 4):
            self._mine["beat"] = int(str(self._mine["beat"])) + 1
            try:
                self._etag = storage.write_text(self._uri, self._text(), if_match=self._etag)
            except (ConflictError, NotFoundError):
                self._lost = "another process"
                return
            except (
                StorageError
            ) as error:  # tried again at the next beat; `check` decides before anything counts
                _log.warning("%s", error)

    def _text(self) -> str:
        return json.dumps(self._mine) + "\n"


def _parse(data: bytes) -> dict[str, Any]:
    """What an owner wrote; empty for anything else, whose owner is watched."""
    try:
        owner = load_json(data, "the lease", max_bytes=MAX_BYTES)
    except DataError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _name(owner: dict[str, Any]) -> str:
    pid, host = owner.get("pid", "?"), owner.get("host", "an unknown machine")
    return printable(f"process {pid} on {host}")


def _state(owner: dict[str, Any]) -> Literal["alive", "dead", "unknown"]:
    """Whether the owner's process lives, as far as this machine can see."""
    here = _process(os.getpid()).rpartition(" ")[0]
    place, _, _ = str(owner.get("process", "")).rpartition(" ")
    pid = owner.get("pid")
    if not here or place != here or type(pid) is not int:
        return "unknown"
    return "alive" if _process(pid) == owner["process"] else "dead"


def _process(pid: int) -> str:
    """A name that no other process ever has: this boot, this pid namespace, and the process's
    start. Empty where there is no /proc.

    For a process that is gone or a zombie only the start is missing.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            place = f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return f"{place} -"
    return f"{place} {'-' if state in 'ZX' else fields[18]}"
