"""What is expected of the pairs: one rule per line of the report, in its order.

A rule either says what is usable (breaking it leaves out the record, or that one text of it) or
only counts (texts that the page cuts off, missing glyphs, a photo that comes twice). A record stays
as long as one of its texts does. Rules with a `kind` are put to Great Expectations, partition by
partition (`expectations`); the others need all partitions, and `merge` asks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MIN_SIDE_PX = 8
"""A photo with a shorter side is none."""
MAX_TEXT_CHARACTERS = 10_000
"""A longer text is a file gone astray: a page holds some hundreds of characters."""
MAX_SHOWN = 500
"""Characters of a value or problem that the report shows."""
LANGUAGE = r"^[a-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*$"
"""What a language code looks like."""


@dataclass(frozen=True)
class Rule:
    """One expectation over one column of one table."""

    name: str
    """In files."""
    table: str
    """records, photos (those of the records that have one), texts, tars."""
    column: str
    kind: str
    """Name of the Great Expectations class; empty = `merge` asks it of all partitions."""
    sentence: str
    shown: str
    """Column whose value stands in the report and in the reason."""
    excludes: bool = True
    counts_as_bad: bool = True
    options: tuple[tuple[str, Any], ...] = ()


_NULL, _IN_SET, _BETWEEN = (
    "ExpectColumnValuesToBeNull",
    "ExpectColumnValuesToBeInSet",
    "ExpectColumnValuesToBeBetween",
)
_TRUE, _FALSE = (("value_set", (True,)),), (("value_set", (False,)),)
_WHOLE_TAR, _FORMAT = "every tar can be read to its end", "every entry is as its format says"
_DECODED = "every photo can be read and decoded whole"
_SIDES = f"every photo's sides are at least {MIN_SIDE_PX} px"
_LONG = f"no text is longer than {MAX_TEXT_CHARACTERS:,} characters"
_TWICE, _FITS = "no record has a text twice", "every text fits on the page"
_UNICODE = "every text is a string of Unicode characters"
RULES = (
    Rule("tar_problem", "tars", "problem", _NULL, _WHOLE_TAR, "problem"),
    Rule("problem", "records", "problem", _NULL, _FORMAT, "problem"),
    Rule(
        "key_repeated", "records", "is_repeated", _IN_SET, "no key occurs twice in a source", "id",
        options=_FALSE,
    ),
    Rule(
        "no_text", "records", "n_texts", _BETWEEN, "every record has a text", "n_texts",
        options=(("min_value", 1),),
    ),
    Rule("photo_problem", "photos", "photo_problem", _NULL, _DECODED, "photo_problem"),
    Rule(
        "small_photo", "photos", "short_side_px", _BETWEEN, _SIDES, "short_side_px",
        options=(("min_value", MIN_SIDE_PX),),
    ),
    Rule("evaluated", "photos", "first_hash", "", "no photo is also evaluated", "id"),
    Rule(
        "photo_twice", "photos", "first_hash", "", "no photo comes twice", "id", excludes=False,
    ),
    Rule("not_a_text", "texts", "is_text", _IN_SET, _UNICODE, "shown", options=_TRUE),
    Rule("blank", "texts", "is_blank", _IN_SET, "no text is empty", "shown", options=_FALSE),
    Rule(
        "long_text", "texts", "characters", _BETWEEN, _LONG, "characters",
        options=(("max_value", MAX_TEXT_CHARACTERS),),
    ),
    Rule(
        "no_language", "texts", "language", "ExpectColumnValuesToMatchRegex",
        "every text has a language code", "language", options=(("regex", LANGUAGE),),
    ),
    Rule(
        "text_twice", "texts", "is_repeated", _IN_SET, _TWICE, "shown", counts_as_bad=False,
        options=_FALSE,
    ),
    Rule("cut", "texts", "is_cut", _IN_SET, _FITS, "shown", excludes=False, options=_FALSE),
    Rule(
        "no_glyph", "texts", "has_missing_glyph", _IN_SET, "the font has every glyph", "shown",
        excludes=False, options=_FALSE,
    ),
    Rule(
        "text_repeated", "texts", "text_hash", "", "no text comes twice", "shown", excludes=False,
    ),
    Rule(
        "evaluated_caption", "texts", "plain_hash", "", "no text is an evaluated caption", "shown",
        counts_as_bad=False,
    ),
    Rule(
        "frequent_text", "texts", "text_hash", "", "no text is too frequent for a batch", "shown",
        counts_as_bad=False,
    ),
    Rule(
        "frequent_photo", "photos", "first_hash", "", "no photo is too frequent for a batch", "id",
        counts_as_bad=False,
    ),
    Rule(
        "frequent_group", "records", "group_hash", "", "no group is too frequent for a batch", "id",
        counts_as_bad=False,
    ),
)  # fmt: skip
"""In the order in which they are reported; the first one that a row breaks is the reason for
leaving it out."""
