"""What a person sees of a running training: the journal, a page that refreshes itself, a progress bar on a terminal. Rank 0 only.

The page is made and written by a thread, so a slow bucket never holds up a step; a page that cannot be written is only logged.
It decides nothing, and training reads nothing back from it.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

from clippo_core import storage
from clippo_core.analysis.live import training_page
from clippo_core.errors import StorageError
from clippo_core.journal import Journal

PAGE_SECONDS = 10.0
"""Time between two pages."""
_log = logging.getLogger(__name__)


class Watch:
    """Journal, page and bar of the run in `root`, which goes on after step `start`."""

    def __init__(self, root: str, start: int, total_steps: int, progress: bool):
        self.journal = Journal(storage.join(root, "journal.jsonl"), keep_through=start)
        self._page = storage.join(root, "training.html")
        self._title, self._total_steps = root.rstrip("/").rpartition("/")[2] or root, total_steps
        self._drawn = time.monotonic()
        self._drawing: threading.Thread | None = None
        self._bar: Any = None
        if progress and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total_steps, initial=start, unit="step", dynamic_ncols=True)

    def step(self, fields: dict[str, Any]) -> None:
        """Note a step. Raises StorageError where the journal cannot be written."""
        self.journal.append(**fields)
        if self._bar:
            self._bar.update()
            self._bar.set_postfix_str(f"loss {fields['loss']:.3f}, {fields['pairs_per_second']:.0f} pairs/s", refresh=False)
        if time.monotonic() - self._drawn >= PAGE_SECONDS and not (self._drawing and self._drawing.is_alive()):
            self._drawn = time.monotonic()
            self._drawing = threading.Thread(target=self._draw, args=(list(self.journal.shown),), name="page", daemon=True)
            self._drawing.start()

    def close(self) -> None:
        """The last page and the journal's last lines. Raises StorageError for the journal."""
        if self._drawing:
            self._drawing.join()
        if self._bar:
            self._bar.close()
        self._draw(self.journal.shown)
        self.journal.close()

    def _draw(self, records: list[dict[str, Any]]) -> None:
        try:
            storage.write_text(self._page, training_page(records, self._title, self._total_steps, int(PAGE_SECONDS)))
        except StorageError as error:
            _log.warning("%s", error)
