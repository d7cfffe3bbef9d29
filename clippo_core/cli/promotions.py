"""`clippo promotions | promote | rollback | retain`: what operators do by hand: see every verdict,
promote a model, go back to the one before, delete what nothing needs any more.

The first three take the pointer's address, `<root>/promoted-<name>.json`, the last one the root,
local or s3://.
"""

from __future__ import annotations

import argparse
import datetime
import getpass
from typing import TYPE_CHECKING

from clippo_core.cli.options import Names, add_command
from clippo_core.errors import ConfigError
from clippo_core.run.retention import DAYS, RUNS

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


RETAINING = """\
Kept are the promoted model, the last runs of each name, what is younger, and whatever these need:
the gate's references and their scores, what a rollback goes to, what an unfinished run started
from.

  clippo retain s3://clippo/runs --runs 8 --days 60
  clippo retain runs --delete
"""


def add(names: Names) -> None:
    """Add the four commands."""
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
    summary = "what of old runs is kept and why; --delete the rest"
    retaining = add_command(names, "retain", retain, summary, RETAINING)
    retaining.add_argument("root", metavar="ROOT", help="folder of the runs, local or s3://")
    retaining.add_argument("--runs", type=int, default=RUNS, help="last runs of each name to keep")
    retaining.add_argument("--days", type=float, default=DAYS, help="keep what is younger")
    retaining.add_argument("--delete", action="store_true", help="delete; there is no undo")


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


def retain(chosen: argparse.Namespace) -> None:
    """What is kept and why, what is not, and how many bytes that is."""
    from clippo_core.run.retention import survey

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
