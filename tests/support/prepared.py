"""Sources to shards in one process: with a real validation, or with records left out by hand."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from clippo_core import storage
from clippo_core.config import DataConfig, EvaluateConfig, RenderConfig
from clippo_core.data import parts, prepare
from clippo_core.data.partitions import make_partitions
from clippo_core.data.prepare import Judged
from clippo_core.data.validate.facts import EXCLUSION, FIRST, Facts, read_table, table_writer
from clippo_core.data.validate.measure import measure
from clippo_core.data.validate.rules import RULES
from clippo_core.run.folder import BaseFolder
from clippo_core.run.records import (
    Manifest,
    Part,
    PartitionPlan,
    StagePlan,
    ValidationReport,
)


@dataclasses.dataclass(frozen=True)
class Validated:
    """A validation, and what it left out by name."""

    judged: Judged
    excluded: dict[str, str]
    """Id (`<record>` or `<record>#<n>`) -> sentence of the rule."""

    @property
    def report(self) -> ValidationReport:
        return self.judged.report


def validated(
    root: Path | str, data: DataConfig, render: RenderConfig, evaluate: EvaluateConfig | None = None
) -> Validated:
    """Measured, judged and merged below `root`."""
    judged = prepare.validate(StagePlan(str(root), 0, "digest"), data, render, evaluate)
    prepared = BaseFolder(str(root)).prepared
    sentences = {rule.name: rule.sentence for rule in RULES}
    excluded = {}
    for facts, left_out in zip(judged.facts, judged.exclusions, strict=True):
        if left_out.count:
            ids = _ids(prepared, facts)
            table = read_table(parts.part_table(prepared, left_out), list(EXCLUSION))
            for row in table.to_pylist():
                name = ids[row["ordinal"]]
                name += "" if row["number"] == FIRST else f"#{row['number']}"
                excluded[name] = sentences[row["rule"]]
    return Validated(judged, excluded)


def written(root: Path | str, data: DataConfig, render: RenderConfig, judged: Judged) -> Manifest:
    """The shards of what is left, below `root`."""
    return prepare.write_shards(StagePlan(str(root), 0, "digest"), data, render, judged)


def shards_of(
    root: Path | str,
    data: DataConfig,
    render: RenderConfig,
    excluded: tuple[str, ...] = (),
    data_digest: str = "data",
) -> Manifest:
    """Shards of everything but the ids in `excluded`, unjudged."""
    prepared = BaseFolder(str(root)).prepared
    plan = PartitionPlan(prepared, render)
    facts = [measure(plan, part, False) for part in make_partitions(data, prepared)]
    report = ValidationReport(sum(part.count for part in facts), [], [], {}, {}, {}, data_digest)
    exclusions = [_left_out(prepared, part, set(excluded)) for part in facts]
    judged = Judged(report, facts, exclusions)
    return prepare.write_shards(StagePlan(str(root), 0, data_digest), data, render, judged)


def _ids(prepared: str, facts: Part) -> list[str]:
    content = parts.read(prepared, facts, Facts)
    ids: list[str] = read_table(parts.table(prepared, content.records), ["id"])["id"].to_pylist()
    return ids


def _left_out(prepared: str, facts: Part, excluded: set[str]) -> Part:
    """The exclusions of a partition, as the merge writes them."""
    rows = []
    for ordinal, key in enumerate(_ids(prepared, facts)):
        numbers = [FIRST] if key in excluded or f"{key}#first" in excluded else []
        numbers += [n for n in range(100) if f"{key}#{n}" in excluded]
        rows += [{"ordinal": ordinal, "number": n, "rule": "by hand"} for n in numbers]
    if not rows:
        return Part("", "", 0)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "exclusions")
        with table_writer(path, EXCLUSION) as writer:
            writer.add(rows)
        sha256 = storage.sha256_file(path)
        parts.store_table(prepared, f"exclusions/{sha256}.parquet", path, len(rows))
    return Part(f"exclusions/{sha256}.parquet", sha256, len(rows))
