"""From the verdicts on all partitions, and what only the whole can know, to one report and to what
is left out of each partition.

    facts, verdicts, evaluated ─▶ DuckDB (`questions`) ─┬▶ ValidationReport
                                                        ├▶ DataError, above data.max_bad_share
                                                        └▶ exclusions, a file per partition

The report is small whatever the data: counts, and three rows by name for each rule.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clippo_core import storage
from clippo_core.data import parts
from clippo_core.data.pairs import text_pairs_per_batch
from clippo_core.data.sources import annotation_files
from clippo_core.data.validate import questions, thinning
from clippo_core.data.validate.database import arrays, open_database
from clippo_core.data.validate.evaluated import Evaluated
from clippo_core.data.validate.facts import EXCLUSION, FIRST, Facts, LanguageSums, Verdict, schema
from clippo_core.data.validate.named import Named, names_of
from clippo_core.data.validate.rules import RULES
from clippo_core.data.validate.thinning import PART_BITS
from clippo_core.errors import DataError
from clippo_core.extras import optional_import
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.records import Expectation, LeftOut, Part, ValidatePlan, ValidationReport

if TYPE_CHECKING:
    from clippo_core.data.validate.database import Database

SHOWN = 3
"""Rows that the report names for each rule."""
NAMED = 5
"""Rows that an error names."""


@dataclass
class _Counts:
    """What was looked at and what failed, by rule, over all partitions."""

    checked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    worst: dict[str, list[str]] = field(default_factory=dict)

    def add(self, rule: str, checked: int, failed: int, worst: list[str]) -> None:
        self.checked[rule] += checked
        self.failed[rule] += failed
        self.worst[rule] = (self.worst.get(rule, []) + worst)[:SHOWN]


def merge(
    plan: ValidatePlan, facts: list[Part], verdicts: list[Part], evaluated: Part
) -> tuple[ValidationReport, list[Part]]:
    """The report on a run's pairs, and the exclusions of each partition, in the order of `facts`.
    Raises DataError where there is no record, too many are unusable, or too many would have to be
    left out for the size of a batch.
    """
    found = [parts.read(plan.prepared, part, Facts) for part in facts]
    judged = [parts.read(plan.prepared, part, Verdict) for part in verdicts]
    shown = parts.read(plan.prepared, evaluated, Evaluated)
    n_records = sum(one.n_records for one in found)
    if not n_records:
        raise DataError("the data sources have no record; check their paths, splits and languages.")
    tables = {
        "records": [parts.table(plan.prepared, one.records) for one in found],
        "texts": [parts.table(plan.prepared, one.texts) for one in found],
        "verdicts": [parts.table(plan.prepared, one.rows) for one in judged],
        "evaluated": [parts.table(plan.prepared, shown.table)],
    }
    counts = _Counts()
    for one in judged:
        for rule in one.rules:
            counts.add(rule.rule, rule.checked, rule.failed, rule.worst)
    with open_database(tables) as db:
        questions.prepare(db)
        _ask(db, counts, sum(one.n_texts for one in found), n_records)
        _stop_if_too_many(db, found, plan.data.max_bad_share)
        sizes = questions.sizes(db)
        if _thin(db, counts, plan, sizes):
            sizes = questions.sizes(db)
        left_out, n_excluded = _left_out(db)
        exclusions = _store(db, plan.prepared, len(facts))
    sound: Counter[str] = Counter()
    for (part, _), n in sizes.items():
        sound[found[part].source] += n
    total = sum(sound.values())
    if not total:
        raise DataError("no record is usable; see the data sources.")
    census = _census(found)
    report = ValidationReport(
        n_records=n_records,
        expectations=_expectations(counts, shown, plan.data.max_bad_share),
        excluded=left_out,
        shares_by_source={name: n / total for name, n in sorted(sound.items()) if n},
        cut_share_by_language={one.language: one.cut / one.texts for one in census},
        missing_glyph_share_by_language={one.language: one.missing / one.texts for one in census},
        data_digest=plan.stage.data_digest,
        mean_rows_by_language={one.language: one.rows / one.texts for one in census},
        n_excluded=n_excluded,
    )
    return report, exclusions


def _ask(db: Database, counts: _Counts, n_texts: int, n_records: int) -> None:
    """Put the questions that do not depend on the size of a batch."""
    [(n_photos,)] = db.execute("SELECT count(*) FROM records WHERE is_photo").fetchall()
    twice = questions.count_twice(db)
    asked = {
        "key_repeated": (0, questions.note_repeated_keys(db)),
        "evaluated": (n_photos, questions.note_evaluated(db)),
        "evaluated_caption": (n_texts, questions.note_captions(db)),
        "photo_twice": (n_photos, twice["photo_twice"]),
        "text_repeated": (n_texts, twice["text_repeated"]),
        "frequent_text": (n_texts, 0),
        "frequent_photo": (n_photos, 0),
        "frequent_group": (n_records, 0),
    }
    for rule, (checked, failed) in asked.items():
        rows = []
        if failed and rule in questions.TWICE:
            rows = _first_repeated(db, rule)
        elif failed:
            select = f"SELECT record, number FROM broken WHERE place = {questions.PLACE[rule]}"
            rows = _first_rows(db, select, questions.PLACE[rule])
        counts.add(rule, checked, failed, [str(one) for one in rows])


def _first_repeated(db: Database, rule: str) -> list[Named]:
    """The first rows of which the photo, or the text, comes more than once."""
    table, column, condition = questions.MARKS[questions.TWICE[rule]]
    [(n_parts,)] = db.execute("SELECT max(part) + 1 FROM records").fetchall()
    rows: list[Named] = []
    for part in range(n_parts):  # nearly always the first one has them, and no other is read
        select = (
            f"SELECT record, {'number' if table == 'texts' else FIRST} AS number FROM all_{table}"
            f" SEMI JOIN (SELECT hash FROM {questions.TWICE[rule]}) m ON {column} = m.hash"
            f" WHERE part = {part} AND {condition}"
        )
        rows += _first_rows(db, select, questions.PLACE[rule])
        if len(rows) >= SHOWN:
            break
    return rows[:SHOWN]


def _first_rows(db: Database, select: str, place: int) -> list[Named]:
    rows = db.execute(f"{select} ORDER BY record, number LIMIT {SHOWN}").fetchall()
    return names_of(db, [(record, number, place) for record, number in rows])


def _thin(
    db: Database,
    counts: _Counts,
    plan: ValidatePlan,
    sizes: dict[tuple[int, int], int],
) -> bool:
    """Leave out what is too frequent for its one place a batch; whether there was anything."""
    if not plan.batch_pairs:
        return False
    n_texts = text_pairs_per_batch(plan.batch_pairs, plan.data.text_pair_share)
    n_photos, n_pairs = (sum(n for (_, of), n in sizes.items() if of == kind) for kind in (0, 1))
    batches = thinning.Batches(
        (n_photos, n_pairs),
        (plan.batch_pairs - n_texts, n_texts),
        plan.data.window_records,
        plan.data.block_records,
    )
    try:
        thinned = questions.note_frequent(db, batches)
    except thinning.TooFrequentError as error:
        raise DataError(_refusal(error, plan.batch_pairs)) from error
    for rule in questions.MARKS:
        mine = [one for one in thinned if one.rule == rule]
        named = names_of(
            db, [(one.record, one.number, questions.PLACE[rule]) for one in mine[:SHOWN]]
        )
        worst = [
            f"{name}: {one.n:,} of them, drawn {one.drawn:.2f} times a batch; {one.n_out:,} left"
            " out"
            for name, one in zip(named, mine, strict=False)
        ]
        counts.add(rule, 0, sum(one.n_out for one in mine), worst)
    return bool(thinned)


def _refusal(error: thinning.TooFrequentError, batch_pairs: int) -> str:
    kind = ("photos", "text pairs")[error.kind]
    return (
        f"batches of {batch_pairs} pairs are too large for this data: so few texts, photos and"
        f" groups recur in so many of its {kind} that {error.share:.0%} of them would have to be"
        " left out for each to stand at most once in a batch; lower train.batch_pairs, or add data."
    )


def _stop_if_too_many(db: Database, found: list[Facts], max_bad_share: float) -> None:
    """Raise DataError where the share of unusable records, of unusable texts, or of unreadable
    tars, is above what is tolerated.
    """
    bad = [place for place, rule in enumerate(RULES) if rule.excludes and rule.counts_as_bad]
    texts = [place for place, rule in enumerate(RULES) if rule.table == "texts"]
    of_text = f"(place IN ({_listed(texts)}) AND number <> {FIRST})"
    chosen = {
        "records": f"SELECT DISTINCT record, number FROM broken WHERE place IN ({_listed(bad)})"
        f" AND NOT {of_text}",
        "texts": f"SELECT DISTINCT record, number FROM broken WHERE place IN ({_listed(bad)})"
        f" AND {of_text}",
    }
    totals = {
        "records": sum(one.n_records for one in found),
        "texts": sum(one.n_texts for one in found),
    }
    for what, select in chosen.items():
        [(n_bad,)] = db.execute(f"SELECT count(*) FROM ({select})").fetchall()
        if n_bad > max_bad_share * totals[what]:
            rows = db.execute(
                f"SELECT record, number, place FROM out SEMI JOIN ({select}) USING (record, number)"
                f" ORDER BY record, number LIMIT {NAMED}"
            ).fetchall()
            raise _too_many(what, n_bad, totals[what], max_bad_share, names_of(db, rows))
    tars = [
        Named(
            f"{one.source}/{annotation_files.stem(tar.uri)}",
            tar.problem,
            questions.PLACE["tar_problem"],
        )
        for one in found
        for tar in one.tars
        if tar.problem
    ]
    n_tars = sum(len(one.tars) for one in found)
    if len(tars) > max_bad_share * n_tars:
        raise _too_many("tars", len(tars), n_tars, max_bad_share, tars[:NAMED])


def _too_many(
    what: str, n_bad: int, total: int, max_bad_share: float, named: list[Named]
) -> DataError:
    shown = "; ".join(f"{one.id} broke '{RULES[one.place].sentence}': {one.shown}" for one in named)
    return DataError(
        f"{n_bad} of {total} {what} are unusable, more than data.max_bad_share ="
        f" {max_bad_share:.2%}: {shown}{' ...' if n_bad > NAMED else ''}. Repair or remove"
        " them, or raise data.max_bad_share."
    )


def _left_out(db: Database) -> tuple[list[LeftOut], int]:
    """What is left out, by its first reason, and how many records and texts that are."""
    db.execute("CREATE TABLE excluded AS SELECT * FROM out")
    found = []
    for place, n in db.execute(
        "SELECT place, count(*) FROM excluded GROUP BY place ORDER BY place"
    ).fetchall():
        rows = _first_rows(db, f"SELECT record, number FROM excluded WHERE place = {place}", place)
        found.append(LeftOut(RULES[place].sentence, n, [str(one) for one in rows]))
    return found, sum(one.count for one in found)


def _store(db: Database, prepared: str, n_parts: int) -> list[Part]:
    """The exclusions of each partition in a file of its own, named by its content."""
    with optional_import():
        import pyarrow as pa
        import pyarrow.parquet

    rows = arrays(
        db,
        f"SELECT record >> {PART_BITS} AS part, record & {(1 << PART_BITS) - 1} AS ordinal,"
        " number, place FROM excluded ORDER BY record, number",
    )
    names = np.array([rule.name for rule in RULES], object)
    stored = []
    for part in range(n_parts):
        mine = slice(*np.searchsorted(rows["part"], [part, part + 1]))
        if mine.start == mine.stop:
            stored.append(Part("", "", 0))
            continue
        columns = [rows["ordinal"][mine], rows["number"][mine], names[rows["place"][mine]]]
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "exclusions")
            pa.parquet.write_table(
                pa.table(columns, schema=schema(EXCLUSION)), path, compression="zstd"
            )
            sha256 = storage.sha256_file(path)
            name = PreparedFolder.part("exclusions", sha256, ".parquet")
            storage.upload(path, storage.join(prepared, name))
        stored.append(Part(name, sha256, len(columns[0])))
    return stored


def _expectations(counts: _Counts, shown: Evaluated, max_bad_share: float) -> list[Expectation]:
    return [
        Expectation(
            rule.sentence
            + (
                f" (not looked at: {'; '.join(shown.notes)})"
                if rule.name.startswith("evaluated") and shown.notes
                else ""
            ),
            counts.checked[rule.name],
            counts.failed[rule.name],
            max_bad_share if rule.excludes and rule.counts_as_bad else 1.0,
            counts.worst.get(rule.name, []),
        )
        for rule in RULES
    ]


def _census(found: list[Facts]) -> list[LanguageSums]:
    """Sums over all partitions, by language."""
    sums: dict[str, LanguageSums] = {}
    for one in (language for facts in found for language in facts.census):
        known = sums.get(one.language, LanguageSums(one.language, 0, 0, 0, 0))
        sums[one.language] = replace(
            known,
            texts=known.texts + one.texts,
            rows=known.rows + one.rows,
            cut=known.cut + one.cut,
            missing=known.missing + one.missing,
        )
    return [sums[language] for language in sorted(sums)]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "-1"
