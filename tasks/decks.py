"""A task's deck, for the console; in a local run also as a page beside the run, because flytekit
leaves local decks in a temporary folder that nobody is told of.
"""

from __future__ import annotations

from flytekit import Deck

from clippo_core import storage
from clippo_core.run.folder import RunFolder
from tasks import settings


def show(name: str, html: str, root: str) -> None:
    """Add the deck `name` to the task; `root`: folder of the stage, under which a local run finds
    it as `decks/<name>.html`.
    """
    Deck(name, html)
    if not settings.in_pod():
        page = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{name}</title>{html}'
        storage.write_text(storage.join(RunFolder(root).decks, f"{name.lower()}.html"), page)
