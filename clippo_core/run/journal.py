"""The journal of a training run: one JSON line per step, appended while it runs, read by pages,
decks and reports.

    {"step": 412, "loss": 1.53, "lr": 0.001, "logit_scale": 14.2, "pairs_per_second": 181.0, …}

`step` counts the optimizer steps done.

After a crash the lines beyond the restored checkpoint are dropped, so the curve is the one that the
run would have had without it. A bucket knows no append: there the file is written again now and
then by a thread, at the latest when `flush` is called. It is no log of messages, and nobody's
input: training never reads it back, beyond keeping its lines.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from typing import Any, TextIO

from clippo_core import storage
from clippo_core.errors import DataError, NotFoundError, StorageError
from clippo_core.storage import local
from clippo_core.untrusted.json import at, field, load_json, optional
from clippo_core.untrusted.limits import LIMITS

LINES_BETWEEN_WRITES = 20
"""On a bucket: at most this many lines, or a hundredth of the whole journal, wait to be written."""


SHOWN_LINES = 8192
"""`Journal.shown` is thinned to every second line whenever it grows beyond this."""


class Journal:
    """Appends to the journal at `uri`, which keeps its lines up to step `keep_through` and loses
    the later ones.
    """

    def __init__(self, uri: str, *, keep_through: int = 0):
        self.uri = uri
        self.shown: list[dict[str, Any]] = []
        """Lines for a page, oldest first: all of them, or evenly thinned where they are many; the
        newest is always there."""
        self._lines: list[str] = []
        self._written = 0
        self._appending = threading.Lock()
        self._writing = threading.Lock()
        for line in _lines(uri):
            if line["step"] <= keep_through:
                self._keep(line)
        self._written = len(self._lines)
        storage.write_text(uri, "".join(self._lines))
        self._file: TextIO | None = None
        if storage.is_local(uri):
            path = storage.local_path(uri)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  open until close()

    def append(self, **fields: Any) -> None:
        """Add one line: `step` and numbers or texts. Non-finite numbers become null: JSON knows
        none.
        """
        with self._appending:
            self._keep({name: _finite(value) for name, value in fields.items()})
            line, waiting = self._lines[-1], len(self._lines) - self._written
        if self._file:
            with local.explained(self.uri, "written"):
                self._file.write(line)
                self._file.flush()  # to the operating system: survives the process, not a power cut
        elif (
            waiting >= max(LINES_BETWEEN_WRITES, len(self._lines) // 100)
            and not self._writing.locked()
        ):
            threading.Thread(target=self._flush_quietly, daemon=True).start()

    def flush(self) -> None:
        """Return when every line so far is safe on the disk or in the bucket. Raises StorageError.
        May be called from any thread.
        """
        with self._writing:
            if self._file:
                with local.explained(self.uri, "written"):
                    os.fsync(self._file.fileno())
                return
            with self._appending:
                text, lines = "".join(self._lines), len(self._lines)
            if lines > self._written:
                storage.write_text(self.uri, text)
                self._written = lines

    def close(self) -> None:
        """Flush, and let go of the file."""
        self.flush()
        if self._file:
            self._file.close()

    def _keep(self, line: dict[str, Any]) -> None:
        self._lines.append(json.dumps(line, allow_nan=False) + "\n")
        self.shown.append(line)
        if len(self.shown) > SHOWN_LINES:
            self.shown = self.shown[::-2][::-1]

    def _flush_quietly(self) -> None:
        with contextlib.suppress(
            StorageError
        ):  # the next write brings these lines too; `flush` tells
            self.flush()


def read(uri: str) -> list[dict[str, Any]]:
    """The lines of the journal at `uri`, oldest first, each with a step; a half-written last line
    is left out, as is one that nobody can read. Raises NotFoundError where there is none.
    """
    lines = storage.read_bytes(uri).split(b"\n")
    found = []
    for line in lines[:-1]:
        with contextlib.suppress(DataError):
            content = load_json(line, uri, max_bytes=LIMITS.json_header_bytes)
            field(content, "step", int, uri)
            optional(content, "skipped", int, 0, uri)
            for value in content.values():
                if type(value) is int:
                    at(value, int, uri)  # one that a float can hold, too
            found.append(content)
    return found


def _lines(uri: str) -> list[dict[str, Any]]:
    try:
        return read(uri)
    except NotFoundError:
        return []


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
