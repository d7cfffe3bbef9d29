"""Every verdict about the models of one name, oldest first, and the pointer to the promoted one.

    promotions/<name>/0000.json, 0001.json, …    one record each, never changed
    promoted-<name>.json                         the model of the newest promotion among them

A record is made under the next free number, and only if nobody else took it: of two runs that
finish together one is told, and judges again against what the other left. The pointer follows the
records; where a process died between the two, the next verdict moves it on.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from clippo_core import storage
from clippo_core.config import decode
from clippo_core.errors import ConfigError, ConflictError, DataError, NotFoundError
from clippo_core.run.folder import MANIFEST, promotions
from clippo_core.run.records import Metric, Verdict, dumps
from clippo_core.untrusted.json import field as field_of
from clippo_core.untrusted.json import load_json, optional
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import name_problem, reason, refusal

HISTORY_SCHEMA = 1
"""Version of a record's JSON."""


@dataclass(frozen=True)
class ScoreFile:
    """Where the per-example scores of an evaluation stand."""

    uri: str
    sha256: str


@dataclass(frozen=True)
class Promotion:
    """One verdict, with what later models are held against."""

    number: int
    by: str
    """Who decided: the gate of a run, or a person."""
    at: str
    """When, ISO 8601, UTC."""
    verdict: Verdict
    weights_sha256: str
    step: int
    data_digest: str = ""
    """Of the pairs that it was trained on."""
    recipe: str = ""
    start: str = ""
    order_seed: int = 0
    """As in its GatePlan: what was trained, from which weights, in which order."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    """Its main metrics."""
    scores: dict[str, ScoreFile] = field(default_factory=dict)
    """By evaluation."""
    benchmarks: dict[str, str] = field(default_factory=dict)
    """Dataset -> digest of its config and files."""
    references: dict[str, int] = field(default_factory=dict)
    """Metric -> number of the promotion that the next model is held against in it."""
    schema_version: int = HISTORY_SCHEMA


def read(pointer: str) -> list[Promotion]:
    """Every record behind a pointer, oldest first; none where nothing was ever judged.

    A pointer that version 0.1.0 wrote has no records: it becomes record 0. Raises DataError for a
    record that cannot be read, StorageError.
    """
    folder = promotions(pointer)
    try:
        names = [f.name for f in storage.list_files(folder) if re.fullmatch(r"\d+\.json", f.name)]
    except NotFoundError:
        names = []
    found = [_read(storage.join(folder, name)) for name in names]
    if not found and storage.exists(pointer):
        found = [_taken_over(pointer)]
        try:
            append(pointer, found[0])
        except ConflictError:
            return read(pointer)
    return sorted(found, key=lambda record: record.number)


def promoted(past: list[Promotion]) -> Promotion | None:
    """The newest promotion; None before the first."""
    return next((record for record in reversed(past) if record.verdict.promoted), None)


def promoted_before(past: list[Promotion]) -> Promotion | None:
    """The promotion that a rollback goes back to: the one before the first of the present weights,
    so that a second rollback goes further back. None where there is none.
    """
    found = [one for one in past if one.verdict.promoted]
    weights = [one.weights_sha256 for one in found]
    first = weights.index(weights[-1]) if weights else 0
    return found[first - 1] if first else None


def append(pointer: str, record: Promotion) -> None:
    """Add a record. Raises ConflictError where its number is taken."""
    uri = storage.join(promotions(pointer), f"{record.number:04d}.json")
    storage.write_text(uri, dumps(record), if_absent=True)


def point(pointer: str, record: Promotion) -> None:
    """Move the pointer to the model of `record`, unless it is at a later one already."""
    content = {
        "uri": record.verdict.model_uri,
        "weights_sha256": record.weights_sha256,
        "step": record.step,
        "metrics": {name: metric.value for name, metric in record.metrics.items()},
        "promotion": record.number,
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    while True:
        try:
            data, etag = storage.read_with_etag(pointer)
        except NotFoundError:
            condition: dict[str, Any] = {"if_absent": True}
        else:
            with contextlib.suppress(DataError):  # a damaged pointer is written anew
                if optional(_load(data, pointer), "promotion", int, -1, pointer) >= record.number:
                    return
            condition = {"if_match": etag}
        with contextlib.suppress(ConflictError):
            storage.write_text(pointer, text, **condition)
            return


def promoted_uri(pointer: str) -> str:
    """Address of the promoted model's checkpoint. Raises NotFoundError where nothing was promoted
    yet, DataError where the pointer is damaged.

    A run's folder stands beside the pointer (`folder.py`), so a relative path is looked for there
    first: the pointer may be named from elsewhere, or have been moved with the runs.
    """
    uri = _taken_over(pointer).verdict.model_uri
    parts = [part for part in uri.split("/") if part][-3:]  # run, checkpoints, step
    if ".." in parts or name_problem("/".join(parts)):
        return uri
    beside = storage.join(pointer.rpartition("/")[0] or ".", *parts)
    return beside if storage.exists(storage.join(beside, MANIFEST)) else uri


def _load(data: bytes, uri: str) -> Any:
    remedy = "restore it from a copy, or delete it to promote the next model as the first"
    return load_json(data, uri, unique_keys=True, remedy=remedy, max_bytes=LIMITS.json_header_bytes)


def _read(uri: str) -> Promotion:
    values = _load(storage.read_bytes(uri), uri)
    if optional(values, "schema_version", int, 1, uri) > HISTORY_SCHEMA:
        raise DataError(f"{uri} was written by a newer version; use that one to go on.")
    try:
        return decode(Promotion, values, lenient=True)
    except (ConfigError, TypeError) as error:
        fault = f"it is no record of a promotion ({reason(error, 300)})"
        raise refusal(DataError, uri, fault, "restore it from a copy") from error


def _taken_over(pointer: str) -> Promotion:
    """A pointer as record 0, for one that has no records. Raises DataError where it is damaged."""
    values = _load(storage.read_bytes(pointer), pointer)
    metrics = {
        name: Metric(value)
        for name, value in field_of(values, "metrics", dict[str, float], pointer).items()
    }
    uri = field_of(values, "uri", str, pointer)
    return Promotion(
        number=0,
        by="version 0.1.0",
        at="",
        verdict=Verdict(True, "Taken over from the pointer.", uri, ""),
        weights_sha256=field_of(values, "weights_sha256", str, pointer),
        step=optional(values, "step", int, 0, pointer),
        metrics=metrics,
        references=dict.fromkeys(metrics, 0),
    )
