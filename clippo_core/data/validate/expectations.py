"""What is expected of the pairs, put to Great Expectations, and what follows: a record is left out,
or the whole run stops.

    facts (tables) ─▶ Great Expectations ─┬▶ report: expectation, checked, failed, three worst rows
                                          ├▶ excluded: id -> reason
                                          └▶ DataError, naming rows, above data.max_bad_share

An expectation either says what is usable (breaking it excludes the record, or that one text of it)
or only counts (texts that the page cuts off, missing glyphs, a photo that comes twice). A record
stays as long as one of its texts does. The ephemeral context writes nothing and sends nothing. This
is the only module that imports great_expectations; doing so takes seconds.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clippo_core.data.validate import facts
from clippo_core.data.validate.evaluated import Evaluated, evaluated_pictures
from clippo_core.errors import DataError
from clippo_core.extras import optional_import
from clippo_core.run.records import Expectation, ValidatePlan, ValidationReport

if TYPE_CHECKING:
    import pandas

MIN_SIDE_PX = 8
"""A photo with a shorter side is none."""
MAX_TEXT_CHARACTERS = 10_000
"""A longer text is a file gone astray: a page holds some hundreds of characters."""
MAX_SHOWN = 500
"""Characters of a value or problem that the report shows."""
LANGUAGE = r"^[a-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*$"
"""What a language code looks like."""


@dataclass(frozen=True)
class _Rule:
    """One expectation over one column of one table."""

    table: str
    column: str
    kind: str
    """Name of the Great Expectations class."""
    sentence: str
    shown: str
    """Column whose value stands in the report and in the reason."""
    excludes: bool = True
    counts_as_bad: bool = True
    options: tuple[tuple[str, Any], ...] = ()


_TRUE, _FALSE = (("value_set", (True,)),), (("value_set", (False,)),)
RULES = (
    _Rule(
        "tars",
        "problem",
        "ExpectColumnValuesToBeNull",
        "every tar can be read to its end",
        "problem",
    ),
    _Rule(
        "records",
        "problem",
        "ExpectColumnValuesToBeNull",
        "every entry is as its format says",
        "problem",
    ),
    _Rule(
        "records",
        "is_repeated",
        "ExpectColumnValuesToBeInSet",
        "no key occurs twice in a source",
        "id",
        options=_FALSE,
    ),
    _Rule(
        "records",
        "n_texts",
        "ExpectColumnValuesToBeBetween",
        "every record has a text",
        "n_texts",
        options=(("min_value", 1),),
    ),
    _Rule(
        "photos",
        "photo_problem",
        "ExpectColumnValuesToBeNull",
        "every photo can be read and decoded whole",
        "photo_problem",
    ),
    _Rule(
        "photos",
        "short_side_px",
        "ExpectColumnValuesToBeBetween",
        f"every photo's sides are at least {MIN_SIDE_PX} px",
        "short_side_px",
        options=(("min_value", MIN_SIDE_PX),),
    ),
    _Rule(
        "photos",
        "evaluated_in",
        "ExpectColumnValuesToBeNull",
        "no photo is also evaluated",
        "evaluated_in",
    ),
    _Rule(
        "photos",
        "sha256",
        "ExpectColumnValuesToBeUnique",
        "no photo comes twice",
        "sha256",
        excludes=False,
    ),
    _Rule(
        "texts",
        "is_text",
        "ExpectColumnValuesToBeInSet",
        "every text is a string of Unicode characters",
        "shown",
        options=_TRUE,
    ),
    _Rule(
        "texts",
        "is_blank",
        "ExpectColumnValuesToBeInSet",
        "no text is empty",
        "shown",
        options=_FALSE,
    ),
    _Rule(
        "texts",
        "characters",
        "ExpectColumnValuesToBeBetween",
        f"no text is longer than {MAX_TEXT_CHARACTERS:,} characters",
        "characters",
        options=(("max_value", MAX_TEXT_CHARACTERS),),
    ),
    _Rule(
        "texts",
        "language",
        "ExpectColumnValuesToMatchRegex",
        "every text has a language code",
        "language",
        options=(("regex", LANGUAGE),),
    ),
    _Rule(
        "texts",
        "is_repeated",
        "ExpectColumnValuesToBeInSet",
        "no record has a text twice",
        "shown",
        counts_as_bad=False,
        options=_FALSE,
    ),
    _Rule(
        "texts",
        "is_cut",
        "ExpectColumnValuesToBeInSet",
        "every text fits on the page",
        "shown",
        excludes=False,
        options=_FALSE,
    ),
    _Rule(
        "texts",
        "has_missing_glyph",
        "ExpectColumnValuesToBeInSet",
        "the font has every glyph",
        "shown",
        excludes=False,
        options=_FALSE,
    ),
)
"""In the order in which they are reported; the first one that a row breaks is the reason for
leaving it out."""


def validate(plan: ValidatePlan, progress: bool = True) -> ValidationReport:
    """Measure and judge every pair of a run. Raises DataError where a source is unreadable or
    empty, or too many records are unusable.
    """
    evaluated = evaluated_pictures(plan.evaluate)
    table = facts.collect(plan.data, plan.render, evaluated, progress)
    if not table.records:
        raise DataError("the data sources have no record; check their paths, splits and languages.")
    frames = _frames(table)
    excluded: dict[str, str] = {}
    bad: set[str] = set()
    expectations = []
    for rule, broken in zip(RULES, _judge(frames, RULES), strict=True):
        frame = frames[rule.table]
        rows = frame.iloc[broken]
        named = list(zip(rows["id"], rows[rule.shown], strict=True)) if broken else []
        allowed = plan.data.max_bad_share if rule.excludes and rule.counts_as_bad else 1.0
        worst = [f"{key}: {str(value)[:MAX_SHOWN]}" for key, value in named[:3]]
        expectations.append(
            Expectation(_sentence(rule, evaluated), len(frame), len(rows), allowed, worst)
        )
        if rule.excludes:
            for key, value in named:
                record = key.removesuffix("#first")  # a pair without its first text is none
                excluded.setdefault(record, f"broke '{rule.sentence}': {str(value)[:MAX_SHOWN]}")
                if rule.counts_as_bad:
                    bad.add(record)
    _stop_if_too_many(table, bad, excluded, plan.data.max_bad_share)
    return _report(plan, table, expectations, excluded)


def _frames(table: facts.Facts) -> dict[str, pandas.DataFrame]:
    with optional_import():
        import pandas

    records, texts = pandas.DataFrame(table.records), pandas.DataFrame(table.texts)
    return {
        "records": records,
        "photos": records[records["is_photo"]].reset_index(drop=True),
        "texts": texts,
        "tars": pandas.DataFrame(table.tars),
    }


def _judge(frames: dict[str, pandas.DataFrame], rules: tuple[_Rule, ...]) -> list[list[int]]:
    """For each rule, the rows of its table that break it."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with optional_import():
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("pairs")
    found: dict[_Rule, list[int]] = {}
    for name, frame in frames.items():
        mine = [rule for rule in rules if rule.table == name]
        if frame.empty:
            found |= {rule: [] for rule in mine}
            continue
        asked = [
            getattr(gx.expectations, rule.kind)(column=rule.column, **dict(rule.options))
            for rule in mine
        ]
        batch = (
            source.add_dataframe_asset(name)
            .add_batch_definition_whole_dataframe("all")
            .get_batch({"dataframe": frame})
        )
        for rule, expectation in zip(mine, asked, strict=True):
            result = batch.validate(expectation, result_format={"result_format": "COMPLETE"})
            if result.exception_info and result.exception_info.get("raised_exception"):
                raise RuntimeError(
                    f"Great Expectations could not judge {rule}:"
                    f" {result.exception_info['exception_message']}"
                )
            found[rule] = sorted(result.result.get("unexpected_index_list") or [])
    return [found[rule] for rule in rules]


def _sentence(rule: _Rule, evaluated: Evaluated) -> str:
    if rule.column == "evaluated_in" and evaluated.notes:
        return f"{rule.sentence} (not looked at: {'; '.join(evaluated.notes)})"
    return rule.sentence


def _stop_if_too_many(
    table: facts.Facts, bad: set[str], excluded: dict[str, str], max_bad_share: float
) -> None:
    """Raise DataError where the share of unusable records, of unusable texts, or of unreadable
    tars, is above what is tolerated.
    """
    tables = {"records": table.records, "texts": table.texts, "tars": table.tars}
    for what, rows in tables.items():
        names = [row["id"] for row in rows if row["id"] in bad]
        if len(names) > max_bad_share * len(rows):
            shown = "; ".join(f"{name} {excluded[name]}" for name in names[:5])
            raise DataError(
                f"{len(names)} of {len(rows)} {what} are unusable, more than data.max_bad_share ="
                f" {max_bad_share:.2%}: {shown}{' ...' if len(names) > 5 else ''}. Repair or remove"
                " them, or raise data.max_bad_share."
            )


def _report(
    plan: ValidatePlan,
    table: facts.Facts,
    expectations: list[Expectation],
    excluded: dict[str, str],
) -> ValidationReport:
    sound_texts = Counter(
        row["record"]
        for row in table.texts
        if row["id"] not in excluded and not row["id"].endswith("#first")
    )
    sound = Counter(
        row["source"]
        for row in table.records
        if row["id"] not in excluded and sound_texts[row["id"]]
    )
    total = sum(sound.values())
    if not total:
        raise DataError("no record is usable; see the data sources.")
    return ValidationReport(
        n_records=len(table.records),
        expectations=expectations,
        excluded=excluded,
        shares_by_source={source: count / total for source, count in sorted(sound.items())},
        cut_share_by_language={census.language: census.cut_share for census in table.census},
        missing_glyph_share_by_language={
            census.language: census.missing_share for census in table.census
        },
        data_digest=plan.stage.data_digest,
        mean_rows_by_language={census.language: census.mean_rows for census in table.census},
    )
