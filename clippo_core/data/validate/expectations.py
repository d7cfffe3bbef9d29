"""Puts the rules that one partition can answer to Great Expectations, over the partition's facts.

    facts ─▶ 500,000 rows at a time ─▶ Great Expectations ─┬▶ checked, failed, worst rows, by rule
                                                           └▶ verdict: what is left out, and why

Nothing is decoded, so a changed rule judges again in seconds. The ephemeral context writes nothing
and sends nothing. This is the only module that imports great_expectations; doing so takes seconds.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clippo_core.config import digest
from clippo_core.data import parts
from clippo_core.data.sources import annotation_files
from clippo_core.data.validate.facts import (
    FIRST,
    VERDICT,
    Facts,
    RuleCount,
    Verdict,
    chunks,
    read_table,
    table_writer,
)
from clippo_core.data.validate.rules import MAX_SHOWN, RULES, Rule
from clippo_core.extras import optional_import
from clippo_core.run.folder import PreparedFolder
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import Part, PartitionPlan

if TYPE_CHECKING:
    import pandas
    import pyarrow

CHUNK = 500_000
"""Rows that are judged at a time."""
_COLUMNS = {
    "records": [
        "ordinal", "id", "problem", "is_repeated", "is_photo", "n_texts", "photo_problem",
        "short_side_px",
    ],
    "texts": [
        "ordinal", "number", "language", "is_text", "is_blank", "characters", "is_repeated",
        "is_cut", "has_missing_glyph", "shown",
    ],
}  # fmt: skip


def judge(plan: PartitionPlan, facts: Part) -> Part:
    """The verdict on a partition: the one that was found before, or found now."""
    name = PreparedFolder.part("verdicts", digest([facts.sha256, code_digest(__name__)]))
    verdict = parts.finished(plan.prepared, name, Verdict, ("rows",))
    if verdict is None:
        verdict = _judged(plan.prepared, facts, name.removesuffix(".json"))
        return parts.write(plan.prepared, name, verdict, verdict.rows.n_records)
    return parts.noted(name, verdict, verdict.rows.n_records)


def _judged(prepared: str, part: Part, name: str) -> Verdict:
    facts = parts.read(prepared, part, Facts)
    records, texts = (parts.table(prepared, entry) for entry in (facts.records, facts.texts))
    ids = read_table(records, ["id"])
    counts = {rule.name: RuleCount(rule.name, 0, 0, []) for rule in RULES if rule.kind}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "verdict")
        with table_writer(path, VERDICT) as writer:
            for table, frame in _frames(facts, records, texts):
                rules = [rule for rule in RULES if rule.kind and rule.table == table]
                for rule, broken in zip(rules, _broken(frame, rules), strict=True):
                    kept = broken if rule.excludes else broken[:3]  # the others are only counted
                    found = _rows(rule, frame.iloc[kept], ids)
                    counts[rule.name] = _add(counts[rule.name], len(frame), len(broken), found)
                    if rule.excludes:
                        writer.add(found)
        rows = parts.store_table(prepared, f"{name}.parquet", path, writer.n_rows)
    return Verdict(list(counts.values()), rows)


def _frames(facts: Facts, records: Path, texts: Path) -> Iterator[tuple[str, pandas.DataFrame]]:
    """(table, some of its rows)."""
    with optional_import():
        import pandas

    names = [f"{facts.source}/{annotation_files.stem(tar.uri)}" for tar in facts.tars]
    problems = [tar.problem or None for tar in facts.tars]
    tars = {"ordinal": range(len(names)), "number": FIRST, "id": names, "problem": problems}
    yield "tars", pandas.DataFrame(tars)
    for chunk in chunks(records, CHUNK, _COLUMNS["records"]):
        frame = chunk.to_pandas().assign(number=FIRST)
        yield "records", frame
        yield "photos", frame[frame["is_photo"]].reset_index(drop=True)
    for chunk in chunks(texts, CHUNK, _COLUMNS["texts"]):
        yield "texts", chunk.to_pandas()


def _rows(rule: Rule, broken: pandas.DataFrame, ids: pyarrow.Table) -> list[dict[str, Any]]:
    """Rows of a verdict."""
    ordinals, numbers = broken["ordinal"].tolist(), broken["number"].tolist()
    if rule.table == "texts":
        names = ids["id"].take(ordinals).to_pylist() if ordinals else []
        names = [
            f"{name}#{'first' if number == FIRST else number}"
            for name, number in zip(names, numbers, strict=True)
        ]
    else:
        names = broken["id"].tolist()
    table = "records" if rule.table == "photos" else rule.table
    columns = zip(ordinals, numbers, names, broken[rule.shown].tolist(), strict=True)
    return [
        {
            "table": table,
            "ordinal": ordinal,
            "number": number,
            "rule": rule.name,
            "id": name,
            "shown": str(value)[:MAX_SHOWN],
        }
        for ordinal, number, name, value in columns
    ]


def _add(count: RuleCount, checked: int, failed: int, found: list[dict[str, Any]]) -> RuleCount:
    worst = count.worst + [f"{row['id']}: {row['shown']}" for row in found[:3]]
    return RuleCount(count.rule, count.checked + checked, count.failed + failed, worst[:3])


def _broken(frame: pandas.DataFrame, rules: list[Rule]) -> list[list[int]]:
    """For each rule, the rows of the frame that break it."""
    if frame.empty:
        return [[] for _ in rules]
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with optional_import():
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = (
        context.data_sources.add_pandas("pairs")
        .add_dataframe_asset("rows")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame})
    )
    found = []
    for rule in rules:
        asked = getattr(gx.expectations, rule.kind)(column=rule.column, **dict(rule.options))
        result = batch.validate(asked, result_format={"result_format": "COMPLETE"})
        if result.exception_info and result.exception_info.get("raised_exception"):
            raise RuntimeError(
                f"Great Expectations could not judge {rule}:"
                f" {result.exception_info['exception_message']}"
            )
        found.append(sorted(result.result.get("unexpected_index_list") or []))
    return found
