"""Rows of a report by name: which record or text it is, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clippo_core.data.validate.facts import FIRST
from clippo_core.data.validate.questions import split
from clippo_core.data.validate.rules import MAX_SHOWN, RULES

if TYPE_CHECKING:
    from clippo_core.data.validate.database import Database

HOW = ("", " (the file's name)", " (as it looks)")
"""How a photo was found to be one that an evaluation shows: by content, name or look."""


@dataclass(frozen=True)
class Named:
    """One row that breaks a rule."""

    id: str
    """`<source>/<key>`, with `#<n>` or `#first` of a text."""
    shown: str
    place: int
    """Of the rule in RULES."""

    def __str__(self) -> str:
        return f"{self.id}: {self.shown}"


def names_of(db: Database, rows: list[tuple[int, int, int]]) -> list[Named]:
    """The names of a few rows (record, number, place), as `questions` has them."""
    return [_named(db, split(record), record, number, place) for record, number, place in rows]


def _named(db: Database, where: tuple[int, int], record: int, number: int, place: int) -> Named:
    rule = RULES[place]
    one = "WHERE part = ? AND ordinal = ?"
    [(key,)] = db.execute(f"SELECT id FROM records {one}", where).fetchall()
    shown = key
    if rule.table == "texts":
        [(shown,)] = db.execute(
            f"SELECT shown FROM texts {one} AND number = ?", [*where, number]
        ).fetchall()
        key += "#first" if number == FIRST else f"#{number}"
    if rule.name == "evaluated":
        [(how, evaluation)] = db.execute(
            "SELECT how, evaluation FROM shown WHERE record = ? ORDER BY ALL LIMIT 1", [record]
        ).fetchall()
        shown = evaluation + HOW[how]
    elif rule.kind:
        noted = db.execute(
            f"SELECT shown FROM verdicts {one} AND number = ? AND rule = ?",
            [*where, number, rule.name],
        ).fetchall()
        shown = noted[0][0] if noted else shown
    return Named(key, str(shown)[:MAX_SHOWN], place)
