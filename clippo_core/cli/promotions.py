"""`clippo promotions | promote | rollback`: what operators do by hand: see every verdict, promote a
model, go back to the one before.

Each takes the pointer's address, `<root>/promoted-<name>.json`, local or s3://.
"""

from __future__ import annotations

import argparse
import getpass
from typing import TYPE_CHECKING

from clippo_core.cli.options import Names, add_command
from clippo_core.errors import ConfigError

if TYPE_CHECKING:
    from clippo_core.run.history import Promotion

LISTING = """\
Every verdict, oldest first; * is the promoted model.

  clippo promotions s3://clippo/runs/promoted-weekly.json
"""
PROMOTING = """\
MODEL is the number of a record (a refused model has one, too), or a checkpoint's address. Later
models are held against it, in all the metrics that its record has.

  clippo promote runs/promoted-weekly.json 7 --why 'captions were cleaned'
  clippo promote runs/promoted-weekly.json runs/mine-1a2b3c/checkpoints --why first
"""
GOING_BACK = """\
The model that was promoted before the present one; given twice, the one before that. To go to
another one: promote NUMBER.

  clippo rollback s3://clippo/runs/promoted-weekly.json --why 'wrong colours'
"""


def add(names: Names) -> None:
    """Add the three commands."""
    summary = "every verdict of the gate, and by whom"
    listing = add_command(names, "promotions", promotions, summary, LISTING)
    promoting = add_command(names, "promote", promote, "promote a model by hand", PROMOTING)
    summary = "go back to the model promoted before"
    going_back = add_command(names, "rollback", rollback, summary, GOING_BACK)
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
    if not past:
        raise ConfigError(
            f"{chosen.pointer}: nothing was judged under this name; give the"
            " <root>/promoted-<name>.json of a run that has ended."
        )
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
