"""The page of all runs under one root: every verdict of the gate, newest first, with its numbers
and links to the reports.

    promotions/<name>/NNNN.json ─▶ <root>/index.html

It is written anew with each report, from the records alone (`run/history.py`), so it can be lost.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from clippo_core import storage
from clippo_core.errors import ClippoError, NotFoundError
from clippo_core.report.pages import fragment
from clippo_core.report.style import PAGE_CSS
from clippo_core.run import history
from clippo_core.run.folder import BaseFolder, RunFolder, run_of
from clippo_core.run.history import Promotion

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """One verdict of the page."""

    record: Promotion
    is_current: bool
    """Whether its model is the promoted one."""
    report: str
    """Link to its report, relative to the page; empty where the run lies elsewhere."""


def write_runs_page(root: str) -> str:
    """Write <root>/index.html (root: folder or bucket prefix) and return its address.

    A name whose records cannot be read is left out, with a warning in the log.
    """
    uri = BaseFolder(root).index
    storage.write_text(uri, runs_page(root, verdicts(root)))
    return uri


def verdicts(root: str) -> dict[str, list[Promotion]]:
    """Name -> its records, oldest first, of all names that were ever judged under `root`."""
    base = BaseFolder(root)
    try:
        files = storage.list_files(base.promotions)
    except NotFoundError:
        return {}
    found = {}
    for name in sorted({file.name.partition("/")[0] for file in files if "/" in file.name}):
        try:
            found[name] = history.read(base.promoted(name))
        except ClippoError as error:
            _logger.warning("%s is left out of the page of all runs: %s", name, error)
    return found


def runs_page(root: str, found: dict[str, list[Promotion]]) -> str:
    """The whole page, a function of the records."""
    groups = []
    for name, records in found.items():
        current = history.promoted(records)
        metrics = sorted({metric for record in records for metric in record.metrics})
        lines = [Line(one, one is current, _report(root, one)) for one in reversed(records)]
        groups.append((name, metrics, lines))
    return str(fragment("runs", css=PAGE_CSS, root=root, groups=groups))


def _report(root: str, record: Promotion) -> str:
    """Link to the report of a record's run."""
    prefix = root.rstrip("/") + "/"
    folder = run_of(record.verdict.model_uri)
    if not folder.startswith(prefix):
        return ""
    return RunFolder(folder.removeprefix(prefix)).report
