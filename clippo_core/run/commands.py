"""What operators do by hand, as commands of `python -m clippo_core`: see every verdict, promote a
model, go back to the one before; delete what nothing needs any more.

The first three take the pointer's address, `<root>/promoted-<name>.json`, the last one the root,
local or s3://. The command line itself stands in `clippo_core/__main__.py`.
"""

from __future__ import annotations

import argparse
import datetime
import getpass
from collections.abc import Callable
from typing import TYPE_CHECKING

from clippo_core.errors import ConfigError

if TYPE_CHECKING:
    from clippo_core.run.history import Promotion

RUNS, DAYS = 4, 30.0
"""Last runs of each name, and days, that retention keeps by default."""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands. command: (name, function, summary) -> its parser."""
    listing = command("promotions", promotions, "every verdict of the gate, and by whom")
    promoting = command("promote", promote, "promote a model by hand")
    going_back = command("rollback", rollback, "go back to the model promoted before")
    for parser in (listing, promoting, going_back):
        parser.add_argument("pointer", metavar="POINTER", help="promoted-NAME.json, local or s3://")
    promoting.add_argument("model", metavar="MODEL", help="a record's number, or a checkpoint")
    for parser in (promoting, going_back):
        parser.add_argument("--why", required=True, metavar="WORDS", help="kept in the record")
        parser.add_argument(
            "--by", default="", metavar="NAME", help="who decides (default: the login)"
        )
    retaining = command("retain", retain, "what of old runs is kept and why; --delete the rest")
    retaining.add_argument("root", metavar="ROOT", help="folder of the runs, local or s3://")
    retaining.add_argument("--runs", type=int, default=RUNS, help="last runs of each name to keep")
    retaining.add_argument("--days", type=float, default=DAYS, help="keep what is younger")
    retaining.add_argument("--delete", action="store_true", help="delete; there is no undo")


def promotions(chosen: argparse.Namespace) -> None:
    """One line per record."""
    from clippo_core.run import history

    past = history.read(chosen.pointer)
    current = history.promoted(past)
    for one in past:
        mark = "*" if one is current else " "
        print(f"{mark} {one.number:4d}  {one.at or '-':25}  {one.by}\n        {one.verdict.reason}")
        print(f"        {one.verdict.model_uri}  {one.weights_sha256[:12]}")


def promote(chosen: argparse.Namespace) -> None:
    """Promote a model by hand."""
    from clippo_core.run.promotion import promote

    _said(promote(chosen.pointer, chosen.model, chosen.by or getpass.getuser(), chosen.why))


def rollback(chosen: argparse.Namespace) -> None:
    """Promote the model before by hand."""
    from clippo_core.run.promotion import rollback

    _said(rollback(chosen.pointer, chosen.by or getpass.getuser(), chosen.why))


def retain(chosen: argparse.Namespace) -> None:
    """What is kept and why, what is not, and how many bytes that is."""
    from clippo_core.run.retention import survey

    if chosen.runs < 1 or chosen.days < 0:
        raise ConfigError("--runs is at least 1, and --days at least 0.")
    now = datetime.datetime.now(datetime.UTC)
    found = survey(chosen.root, chosen.runs, chosen.days, now)
    print(found.table())
    if chosen.delete:
        deleted = found.delete()
        print(f"Deleted {len(deleted):,} files.")
    elif found.doomed:
        print("Nothing was deleted: add --delete, which has no undo.")


def _said(record: Promotion) -> None:
    before = record.verdict.previous_uri or "none"
    print(f"promoted {record.verdict.model_uri} (record {record.number}); before: {before}")
