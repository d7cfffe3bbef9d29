"""From the verdicts on all partitions to one report, and to what is left out of each.

facts, verdicts ─▶ counts, worst rows, by rule ─┬▶ ValidationReport
                   evaluated photos             ├▶ DataError, above data.max_bad_share
                   keys over partitions         └▶ exclusions, a file per partition
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from clippo_core.data import parts
from clippo_core.data.validate.evaluated import EvaluatedPictures
from clippo_core.data.validate.facts import (
    EXCLUSION,
    FIRST,
    Facts,
    Verdict,
    read_table,
    table_writer,
)
from clippo_core.data.validate.rules import RULES
from clippo_core.errors import DataError
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.records import Expectation, LeftOut, Part, ValidatePlan, ValidationReport

PLACE = {rule.name: place for place, rule in enumerate(RULES)}


def merge(
    plan: ValidatePlan, facts: list[Part], verdicts: list[Part], evaluated: Part
) -> tuple[ValidationReport, list[Part]]:
    """The report on a run's pairs, and the exclusions of each partition, in the order of `facts`.
    Raises DataError where there is no record, or too many are unusable.
    """
    prepared, share = plan.prepared, plan.data.max_bad_share
    shown = parts.read(prepared, evaluated, EvaluatedPictures)
    checked, failed = Counter[str](), Counter[str]()
    worst: dict[str, list[str]] = {rule.name: [] for rule in RULES}
    totals, bad = Counter[str](), Counter[str]()
    named: dict[str, list[str]] = {"records": [], "texts": [], "tars": []}
    left = {rule.name: LeftOut(rule.sentence, 0, []) for rule in RULES if rule.excludes}
    sound, n_excluded, exclusions = Counter[str](), 0, []
    keys: dict[str, set[int]] = {}
    photos = Counter[int]()
    photo_ids: dict[int, list[str]] = {}
    for part, verdict_part in zip(facts, verdicts, strict=True):
        found = parts.read(prepared, part, Facts)
        verdict = parts.read(prepared, verdict_part, Verdict)
        for count in verdict.rules:
            checked[count.rule] += count.checked
            failed[count.rule] += count.failed
            worst[count.rule] += count.worst
        rows = read_table(parts.table(prepared, verdict.rows), [*EXCLUSION, "table", "id", "shown"])
        broken = rows.to_pylist()
        records = read_table(
            parts.table(prepared, found.records),
            ["id", "key_hash", "is_photo", "first_hash", "stem_hash"],
        ).to_pylist()
        seen = keys.setdefault(found.source, set())
        mine = []
        for ordinal, record in enumerate(records):
            about = {"table": "records", "ordinal": ordinal, "number": FIRST, "id": record["id"]}
            if record["key_hash"] in seen:
                mine.append(about | {"rule": "key_repeated", "shown": record["id"]})
            if record["is_photo"]:
                checked["evaluated"] += 1
                where = shown.where(record["first_hash"], record["stem_hash"])
                if where:
                    mine.append(about | {"rule": "evaluated", "shown": where})
                if record["first_hash"]:
                    photos[record["first_hash"]] += 1
                    photo_ids.setdefault(record["first_hash"], []).append(record["id"])
        seen |= {record["key_hash"] for record in records}
        for row in mine:
            failed[row["rule"]] += 1
            worst[row["rule"]].append(f"{row['id']}: {row['shown']}")
        broken = sorted(broken + mine, key=lambda row: PLACE[row["rule"]])
        totals.update(records=found.n_records, texts=found.n_texts, tars=len(found.tars))
        out, bad_here = _left_out(broken)
        for table, rows_of in bad_here.items():
            bad[table] += len(rows_of)
            named[table] += [f"{row['id']} {_reason(row)}" for row in rows_of[:5]]
        for row in out.values():
            one = left[row["rule"]]
            example = f"{row['id']}: {row['shown']}"
            left[row["rule"]] = LeftOut(one.reason, one.count + 1, (one.examples + [example])[:3])
        n_excluded += len(out)
        gone = {ordinal for ordinal, number in out if number == FIRST}
        texts = read_table(parts.table(prepared, found.texts), ["ordinal", "number"])
        usable = {
            ordinal
            for ordinal, number in zip(
                texts["ordinal"].to_pylist(), texts["number"].to_pylist(), strict=True
            )
            if number != FIRST and ordinal not in gone and (ordinal, number) not in out
        }
        if usable:
            sound[found.source] += len(usable)
        exclusions.append(_store(prepared, part, out))
    if not totals["records"]:
        raise DataError("the data sources have no record; check their paths, splits and languages.")
    checked["photo_twice"] = checked["evaluated"]
    twice = {sha: n for sha, n in photos.items() if n > 1}
    failed["photo_twice"] = sum(twice.values())
    worst["photo_twice"] = [f"{key}: {sha}" for sha in twice for key in photo_ids[sha]]
    for table in ("records", "texts", "tars"):
        if bad[table] > share * totals[table]:
            examples = "; ".join(named[table][:5])
            raise DataError(
                f"{bad[table]} of {totals[table]} {table} are unusable, more than"
                f" data.max_bad_share = {share:.2%}: {examples}{' ...' if bad[table] > 5 else ''}."
                " Repair or remove them, or raise data.max_bad_share."
            )
    if not sound:
        raise DataError("no record is usable; see the data sources.")
    expectations = [
        Expectation(
            rule.sentence
            + (
                f" (not looked at: {'; '.join(shown.notes)})"
                if rule.name == "evaluated" and shown.notes
                else ""
            ),
            checked[rule.name],
            failed[rule.name],
            share if rule.excludes and rule.counts_as_bad else 1.0,
            worst[rule.name][:3],
        )
        for rule in RULES
    ]
    census = _census(plan, facts)
    total = sum(sound.values())
    return (
        ValidationReport(
            totals["records"],
            expectations,
            [one for one in left.values() if one.count],
            {source: count / total for source, count in sorted(sound.items())},
            {code: sums["cut"] / sums["texts"] for code, sums in census.items()},
            {code: sums["missing"] / sums["texts"] for code, sums in census.items()},
            plan.stage.data_digest,
            {code: sums["rows"] / sums["texts"] for code, sums in census.items()},
            n_excluded,
        ),
        exclusions,
    )


def _reason(row: dict[str, Any]) -> str:
    return f"broke '{RULES[PLACE[row['rule']]].sentence}': {row['shown']}"


def _left_out(
    broken: list[dict[str, Any]],
) -> tuple[dict[tuple[int, int], dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """((ordinal, number) -> the first row that leaves it out; the unusable rows of each table)."""
    out: dict[tuple[int, int], dict[str, Any]] = {}
    bad: dict[str, dict[Any, dict[str, Any]]] = {"records": {}, "texts": {}, "tars": {}}
    for row in broken:
        rule, place = RULES[PLACE[row["rule"]]], (row["ordinal"], row["number"])
        table = "records" if row["table"] == "texts" and row["number"] == FIRST else row["table"]
        if table != "tars":
            out.setdefault(place, row)
        if rule.counts_as_bad:
            bad[table].setdefault(place, row)
    return out, {
        table: sorted(rows.values(), key=lambda row: (row["ordinal"], row["number"]))
        for table, rows in bad.items()
    }


def _store(prepared: str, facts: Part, out: dict[tuple[int, int], dict[str, Any]]) -> Part:
    if not out:
        return Part("", "", 0)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "exclusions")
        with table_writer(path, EXCLUSION) as writer:
            writer.add([out[place] for place in sorted(out)])
        from clippo_core import storage

        sha256 = storage.sha256_file(path)
        name = PreparedFolder.part("exclusions", sha256, ".parquet")
        parts.store_table(prepared, name, path, len(out))
    return Part(name, sha256, len(out))


def _census(plan: ValidatePlan, facts: list[Part]) -> dict[str, Counter[str]]:
    sums: dict[str, Counter[str]] = {}
    for part in facts:
        for one in parts.read(plan.prepared, part, Facts).census:
            counts = sums.setdefault(one.language, Counter())
            counts.update(texts=one.texts, rows=one.rows, cut=one.cut, missing=one.missing)
    return dict(sorted(sums.items()))
