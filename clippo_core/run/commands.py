"""What operators do by hand, as commands of `python -m clippo_core`: see every verdict, promote a
model, go back to the one before.

Each takes the pointer's address, `<root>/promoted-<name>.json`, local or s3://. The command line
itself stands in `clippo_core/__main__.py`.
"""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clippo_core.run.history import Promotion


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


def _said(record: Promotion) -> None:
    before = record.verdict.previous_uri or "none"
    print(f"promoted {record.verdict.model_uri} (record {record.number}); before: {before}")
