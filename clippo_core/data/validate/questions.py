"""What only the whole can know, asked of all partitions at once (`database`).

    broken    (record, number, place)    a record or text that breaks the rule RULES[place];
                                         `record` is its partition and its number there, `split`
    out                                  of each the first rule that it breaks: what is left out

Keys that come in several partitions, evaluated pictures and captions, photos and texts that come
twice, marks that are too frequent for their one place a batch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from clippo_core.data import perceptual
from clippo_core.data.shard_index import TEXT
from clippo_core.data.validate import thinning
from clippo_core.data.validate.database import arrays, repeated
from clippo_core.data.validate.facts import FIRST
from clippo_core.data.validate.rules import RULES
from clippo_core.data.validate.thinning import PART_BITS
from clippo_core.extras import optional_import

if TYPE_CHECKING:
    import duckdb

PLACE = {rule.name: place for place, rule in enumerate(RULES)}
MARKS = {
    "frequent_text": ("texts", "text_hash", "true"),
    "frequent_photo": ("records", "first_hash", "is_photo"),
    "frequent_group": ("records", "group_hash", "true"),
}
"""Rule -> table, column and condition of a kind of mark; 0 = none."""
TWICE = {"photo_twice": "frequent_photo", "text_repeated": "frequent_text"}
"""Rule that counts what comes twice -> the kind of mark."""


def prepare(db: duckdb.DuckDBPyConnection) -> None:
    """Views with `record`, and what the verdicts found."""
    for name in ("records", "texts", "verdicts"):
        db.execute(
            f"CREATE VIEW all_{name} AS"
            f" SELECT (part::BIGINT << {PART_BITS}) + ordinal AS record, * FROM {name}"
        )
    names = ", ".join(f"'{rule.name}'" for rule in RULES)
    db.execute(
        "CREATE TABLE broken AS SELECT record, number, (list_position("
        f"[{names}], rule) - 1)::TINYINT AS place FROM all_verdicts WHERE \"table\" <> 'tars'"
    )
    db.execute(
        "CREATE VIEW out AS SELECT record, number, min(place) AS place FROM broken"
        " GROUP BY record, number"
    )


def split(record: int) -> tuple[int, int]:
    """(partition, number in it) of a record."""
    return record >> PART_BITS, record & ((1 << PART_BITS) - 1)


def note_repeated_keys(db: duckdb.DuckDBPyConnection) -> int:
    """Records whose key an earlier partition of their source has too; keys that come again within a
    partition have been given other ids.
    """
    _keep(db, "keys", key_hash=repeated(db, "records", "key_hash")[0])
    db.execute(
        "CREATE TABLE again AS SELECT record, key_hash FROM all_records"
        " SEMI JOIN keys USING (key_hash)"
    )
    return _insert(
        db,
        "key_repeated",
        f"SELECT record, {FIRST} FROM again JOIN"
        " (SELECT key_hash, min(record) AS first FROM again GROUP BY key_hash) USING (key_hash)"
        " WHERE record > first",
    )


def note_evaluated(db: duckdb.DuckDBPyConnection) -> int:
    """Photos that an evaluation shows, by content, name or look."""
    db.execute(
        "CREATE TABLE shown AS SELECT record, 0 AS how, evaluation FROM all_records"
        " JOIN evaluated e ON e.kind = 'content' AND first_hash = e.first WHERE is_photo"
        " UNION ALL SELECT record, 1, evaluation FROM all_records JOIN evaluated e"
        " ON e.kind = 'name' AND stem_hash = e.first WHERE is_photo"
    )
    bits, mask = perceptual.BAND_BITS, (1 << perceptual.BAND_BITS) - 1
    db.execute("CREATE TABLE looks AS SELECT * FROM evaluated WHERE kind = 'look'")
    for half, ours in (("first", "look_low"), ("second", "look_high")):
        for shift in range(0, 64 - bits, bits):
            db.execute(
                "INSERT INTO shown SELECT record, 2, evaluation FROM all_records r JOIN looks e"
                f" ON (r.{ours} >> {shift}) & {mask} = (e.{half} >> {shift}) & {mask}"
                " WHERE (look_low <> 0 OR look_high <> 0)"
                " AND bit_count(xor(look_low, e.first)) + bit_count(xor(look_high, e.second))"
                f" <= {perceptual.MAX_DISTANCE}"
            )
    return _insert(db, "evaluated", f"SELECT DISTINCT record, {FIRST} FROM shown")


def note_captions(db: duckdb.DuckDBPyConnection) -> int:
    """Texts that are also a caption of an evaluation."""
    return _insert(
        db,
        "evaluated_caption",
        "SELECT record, number FROM all_texts SEMI JOIN"
        " (SELECT first FROM evaluated WHERE kind = 'caption') e ON plain_hash = e.first",
    )


def count_twice(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many photos, and texts, come more than once; notes the marks of both."""
    return {rule: _count(db, kind) for rule, kind in TWICE.items()}


def sizes(db: duckdb.DuckDBPyConnection) -> dict[tuple[int, int], int]:
    """(partition, 0 for photos or 1 for text pairs) -> records that are usable: not left out, nor
    with all their texts.
    """
    db.execute(
        "CREATE OR REPLACE TABLE gone AS"
        f" SELECT record FROM out WHERE number = {FIRST} UNION"
        " SELECT record FROM all_records JOIN (SELECT record, count(*) AS lost FROM out"
        f" WHERE number <> {FIRST} GROUP BY record) USING (record) WHERE lost >= n_texts"
    )
    kind = f"(kind = {TEXT})::INTEGER"
    counts = {
        (part, of): n
        for part, of, n in db.execute(
            f"SELECT part, {kind}, count(*) FROM all_records GROUP BY ALL"
        ).fetchall()
    }
    for part, of, n in db.execute(
        f"SELECT part, {kind}, count(*) FROM all_records SEMI JOIN gone USING (record) GROUP BY ALL"
    ).fetchall():
        counts[part, of] -= n
    return counts


@dataclasses.dataclass(frozen=True)
class Thinned:
    """One mark of which records or texts were left out."""

    rule: str
    record: int
    """A record that has it."""
    number: int
    drawn: float
    """How often it would be drawn a batch."""
    n: int
    """Usable records or texts that have it."""
    n_out: int


def note_frequent(db: duckdb.DuckDBPyConnection, batches: thinning.Batches) -> list[Thinned]:
    """The marks that were thinned, the most frequent ones first. Raises
    thinning.TooFrequentError.
    """
    pairs = zip(batches.sizes, batches.places, strict=True)
    rate = max((n / max(size, n) for size, n in pairs if n), default=0.0)
    if not rate:
        return []
    least = max(2, int(np.ceil(thinning.LIMIT / 2 / rate)))
    if any(batches.takes_stretches(kind) for kind in (0, 1)):
        least = max(2, min(least, batches.window_steps // 2))
    _count(db, "frequent_group")
    rows = " UNION ALL ".join(
        f"SELECT record, {'number' if table == 'texts' else FIRST} AS number, {column} AS hash,"
        f" {PLACE[rule]} AS place FROM all_{table}"
        f" SEMI JOIN (SELECT hash FROM {rule} WHERE n >= {least}) m ON {column} = m.hash"
        f" WHERE {condition}"
        for rule, (table, column, condition) in MARKS.items()
    )
    db.execute(f"CREATE TABLE marked AS SELECT * FROM ({rows}) ANTI JOIN gone USING (record)")
    db.execute(
        "DELETE FROM marked USING out"
        " WHERE marked.record = out.record AND marked.number = out.number"
    )
    return _thin(db, batches)


def _thin(db: duckdb.DuckDBPyConnection, batches: thinning.Batches) -> list[Thinned]:
    marked = arrays(db, "SELECT * FROM marked ORDER BY record, number, place")
    if not len(marked["record"]):
        return []
    records = arrays(
        db,
        f"SELECT record, (kind = {TEXT})::INTEGER AS kind, key_hash,"
        " n_texts - coalesce(lost, 0) AS n FROM all_records SEMI JOIN marked USING (record)"
        " LEFT JOIN (SELECT record, count(*) AS lost FROM out"
        f" WHERE number <> {FIRST} GROUP BY record) USING (record) ORDER BY record",
    )
    names = np.stack([marked["place"].astype(np.uint64), marked["hash"]], 1)
    values, first, marks = np.unique(names, axis=0, return_index=True, return_inverse=True)
    found = thinning.Frequent(
        records["kind"],
        records["key_hash"],
        records["n"],
        records["record"],
        marks.reshape(-1),
        np.searchsorted(records["record"], marked["record"]),
        marked["number"] != FIRST,
    )
    out, drawn = thinning.thinned(found, batches)
    n_all, n_out = (
        np.bincount(marks.reshape(-1)[which], minlength=len(values)) for which in (slice(None), out)
    )
    _keep(db, "left_out", **{name: marked[name][out] for name in ("record", "number", "place")})
    db.execute("INSERT INTO broken SELECT record, number, place FROM left_out")
    order = sorted(np.flatnonzero(n_out), key=lambda mark: (-drawn[mark], first[mark]))
    return [
        Thinned(
            RULES[int(values[mark, 0])].name,
            int(marked["record"][first[mark]]),
            int(marked["number"][first[mark]]),
            float(drawn[mark]),
            int(n_all[mark]),
            int(n_out[mark]),
        )
        for mark in order
    ]


def _count(db: duckdb.DuckDBPyConnection, rule: str) -> int:
    """A table, of the rule's name, with the marks that come more than once; how many rows those
    are.
    """
    values, counts = repeated(db, *MARKS[rule])
    _keep(db, rule, hash=values, n=counts)
    return int(counts.sum())


def _insert(db: duckdb.DuckDBPyConnection, rule: str, select: str) -> int:
    [(n,)] = db.execute(f"INSERT INTO broken SELECT *, {PLACE[rule]} FROM ({select})").fetchall()
    return int(n)


def _keep(db: duckdb.DuckDBPyConnection, table: str, **columns: np.ndarray) -> None:
    """A table with these columns."""
    with optional_import():
        import pyarrow as pa

    db.register("columns_of_it", pa.table(columns))
    db.execute(f"CREATE TABLE {table} AS SELECT * FROM columns_of_it")
    db.unregister("columns_of_it")
