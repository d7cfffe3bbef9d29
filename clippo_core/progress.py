"""How a long loop tells how far it is: a bar on a terminal, elsewhere lines in the log.

    with counted("validate", n, unit="rec") as bar:
        bar.update(100)

    validate: 12,000 of 60,000 rec (20 %), 410 rec/s, about 1 min 57 s left

The log is that of this module, at INFO: a pod shows it (`tasks/settings.py`), a library's user
chooses.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

LOG_SECONDS = 30.0
"""Time between two lines."""
_log = logging.getLogger(__name__)


class Progress:
    """A loop of `total` things (0 = nobody knows how many), of which `start` were done before; see
    `counted`.
    """

    def __init__(
        self, what: str, total: int = 0, *, unit: str = "", start: int = 0, shown: bool = True
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self._done = self._start = start
        self._shown, self._words = shown, ""
        self._began = self._said = time.monotonic()
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=what,
                total=total or None,
                initial=start,
                unit=unit,
                unit_scale=unit == "B",
                dynamic_ncols=True,
            )

    def update(self, n: int = 1, words: str = "") -> None:
        """`n` more are done; `words` stand behind the numbers, as a loss does."""
        self._done += n
        self._words = words or self._words
        if self._bar:
            if words:
                self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(n)
        elif self._shown and time.monotonic() - self._said >= LOG_SECONDS:
            self._said = time.monotonic()
            _log.info("%s", self.line())

    def restart(self, done: int, total: int) -> None:
        """So many of `total` are done: it goes on from there."""
        self.total, self._done, self._start = total, done, done
        self._began = time.monotonic()
        if self._bar:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Nothing more comes."""
        if self._bar:
            self._bar.close()
        elif self._shown:
            _log.info("%s", self.line())
        self._shown = False

    def line(self) -> str:
        """How far it is, how fast, and for how long still."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        speed = (self._done - self._start) / seconds
        done = f"{self._done:,}"
        if self.total:
            done += f" of {self.total:,}"
        share = f" ({100 * self._done / self.total:.0f} %)" if self.total else ""
        parts = [f"{done} {self.unit}".rstrip() + share]
        parts += [self._words] if self._words else []
        digits = ",.0f" if speed >= 100 else ".3g"
        parts += [f"{speed:{digits}} {self.unit}/s"] if self.unit else []
        left = self.total - self._done
        if speed > 0 and left > 0:
            parts += [f"about {duration(left / speed)} left"]
        return f"{self.what}: {', '.join(parts)}"


@contextlib.contextmanager
def counted(
    what: str, total: int = 0, *, unit: str = "", start: int = 0, shown: bool = True
) -> Iterator[Progress]:
    """Tell how far the loop within it is: `total` things of `unit` (0 = unknown), `start` of them
    done before. Says nothing unless `shown`.
    """
    found = Progress(what, total, unit=unit, start=start, shown=shown)
    try:
        yield found
    finally:
        found.close()


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `8 s`, `3 min 05 s`, `1 h 02 min`, `2 d 03 h`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"
