"""What a person sees of a running training: a page that refreshes itself, and a progress bar, or
lines in the log.

    pretrain(plan, manifest, watch=Watch)        training.html in the run's folder

The page is made and written by a thread, so a slow bucket never holds up a step. A page that cannot
be written is only logged. Training reads nothing back from here.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from clippo_core import storage
from clippo_core.errors import StorageError
from clippo_core.progress import Progress
from clippo_core.report.live import training_page
from clippo_core.run.folder import RunFolder
from clippo_core.run.records import PretrainPlan

PAGE_SECONDS = 10.0
"""Time between two pages."""
_log = logging.getLogger(__name__)


class Watch:
    """Page and bar of the run of `plan`, which goes on after step `start`; on rank 0.

    also: address of a second copy of the page; empty = none.
    """

    def __init__(self, plan: PretrainPlan, start: int, *, also: str = ""):
        root, self._total_steps = plan.stage.root, plan.train.steps
        self._pages = [RunFolder(root).training_page, *([also] if also else [])]
        self._title = root.rstrip("/").rpartition("/")[2] or root
        self._drawn = time.monotonic()
        self._drawing: threading.Thread | None = None
        self._bar = Progress("pretrain", self._total_steps, unit="steps", start=start)

    def step(self, line: dict[str, Any], shown: list[dict[str, Any]]) -> None:
        """Move the bar on by the step of `line`; now and then draw the page of `shown`."""
        words = f"loss {line['loss']:.3f}, {line['pairs_per_second']:,.0f} pairs/s"
        self._bar.update(words=words)
        is_due = time.monotonic() - self._drawn >= PAGE_SECONDS
        if is_due and not (self._drawing and self._drawing.is_alive()):
            self._drawn = time.monotonic()
            args = (list(shown),)
            self._drawing = threading.Thread(target=self._draw, args=args, name="page", daemon=True)
            self._drawing.start()

    def close(self, shown: list[dict[str, Any]]) -> None:
        """The last page."""
        if self._drawing:
            self._drawing.join()
        self._bar.close()
        self._draw(shown)

    def _draw(self, lines: list[dict[str, Any]]) -> None:
        seconds = int(PAGE_SECONDS)
        for place, uri in enumerate(self._pages):
            # Only the one in the run's folder stands beside what it links to.
            page = training_page(
                lines, self._title, self._total_steps, seconds, has_links=place == 0
            )
            try:
                storage.write_text(uri, page)
            except StorageError as error:
                _log.warning("%s", error)
