"""What a person sees of a running training: a page that refreshes itself, and a progress bar.

    pretrain(plan, manifest, watch=Watch)        training.html in the run's folder

The page is made and written by a thread, so a slow bucket never holds up a step. A page that cannot
be written is only logged. Training reads nothing back from here.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

from clippo_core import storage
from clippo_core.errors import StorageError
from clippo_core.report.live import training_page
from clippo_core.run.folder import RunFolder
from clippo_core.run.records import PretrainPlan

PAGE_SECONDS = 10.0
"""Time between two pages."""
_log = logging.getLogger(__name__)


class Watch:
    """Page and bar of the run of `plan`, which goes on after step `start`; on rank 0."""

    def __init__(self, plan: PretrainPlan, start: int):
        root, self._total_steps = plan.stage.root, plan.train.steps
        self._page = RunFolder(root).training_page
        self._title = root.rstrip("/").rpartition("/")[2] or root
        self._drawn = time.monotonic()
        self._drawing: threading.Thread | None = None
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            total = self._total_steps
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def step(self, line: dict[str, Any], shown: list[dict[str, Any]]) -> None:
        """Move the bar on by the step of `line`; now and then draw the page of `shown`."""
        if self._bar:
            self._bar.update()
            words = f"loss {line['loss']:.3f}, {line['pairs_per_second']:.0f} pairs/s"
            self._bar.set_postfix_str(words, refresh=False)
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
        if self._bar:
            self._bar.close()
        self._draw(shown)

    def _draw(self, lines: list[dict[str, Any]]) -> None:
        try:
            page = training_page(lines, self._title, self._total_steps, int(PAGE_SECONDS))
            storage.write_text(self._page, page)
        except StorageError as error:
            _log.warning("%s", error)
