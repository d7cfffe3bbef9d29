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
from clippo_core.data.pairs import mix
from clippo_core.data.shard_index import TEXT
from clippo_core.data.validate import thinning
from clippo_core.data.validate.database import arrays, repeated
from clippo_core.data.validate.facts import FIRST
from clippo_core.data.validate.rules import RULES
from clippo_core.data.validate.thinning import PART_BITS
from clippo_core.extras import optional_import

if TYPE_CHECKING:
    from clippo_core.data.validate.database import Database

PLACE = {rule.name: place for place, rule in enumerate(RULES)}
MARKS = {
    "frequent_text": ("texts", "text_hash", "true"),
    "frequent_photo": ("records", "first_hash", "is_photo"),
    "frequent_group": ("records", "group_hash", "true"),
}
"""Rule -> table, column and condition of a kind of mark; 0 = none."""
TWICE = {"photo_twice": "frequent_photo", "text_repeated": "frequent_text"}
"""Rule that counts what comes twice -> the kind of mark."""


def prepare(db: Database) -> None:
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


def note_repeated_keys(db: Database) -> int:
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


def note_evaluated(db: Database) -> int:
    """Photos that an evaluation shows, by content, name or look."""
    db.execute(
        "CREATE TABLE shown AS SELECT record, 0 AS how, evaluation FROM all_records"
        " JOIN evaluated e ON e.kind = 'content' AND first_hash = e.first WHERE is_photo"
        " UNION ALL SELECT record, 1, evaluation FROM all_records JOIN evaluated e"
        " ON e.kind = 'name' AND stem_hash = e.first WHERE is_photo"
    )
    _note_looks(db)
    return _insert(db, "evaluated", f"SELECT DISTINCT record, {FIRST} FROM shown")


def _note_looks(db: Database) -> None:
    """Photos that look like an evaluated one: equal in a band, and in nearly all of their bits."""
    looks = arrays(db, "SELECT first, second FROM evaluated WHERE kind = 'look'")
    bits, mask = perceptual.BAND_BITS, (1 << perceptual.BAND_BITS) - 1
    bands = [(half, shift) for half in (0, 1) for shift in range(0, 64 - bits, bits)]
    known = [np.zeros(1 << bits, bool) for _ in bands]
    for (half, shift), table in zip(bands, known, strict=True):
        table[looks[("first", "second")[half]] >> np.uint64(shift) & np.uint64(mask)] = True
    near: list[list[np.ndarray]] = []
    select = "SELECT record, look_low, look_high FROM all_records WHERE look_low | look_high <> 0"
    for batch in db.sql(select).to_arrow_reader(2**17):  # a glance, which rules out most photos
        record, *halves = (column.to_numpy() for column in batch.columns)
        is_near = np.zeros(len(record), bool)
        signed = [column.view(np.int64) for column in halves]  # numpy takes places by these
        for (half, shift), table in zip(bands, known, strict=True):
            is_near |= table[signed[half] >> shift & mask]
        near.append([column[is_near] for column in (record, *halves)])
    if not near:
        return
    record, low, high = (np.concatenate(columns) for columns in zip(*near, strict=True))
    _keep(db, "near", record=record, look_low=low, look_high=high)
    for half, shift in bands:
        ours, theirs = ("look_low", "look_high")[half], ("first", "second")[half]
        db.execute(
            "INSERT INTO shown SELECT record, 2, evaluation FROM near JOIN evaluated e"
            f" ON ({ours} >> {shift}) & {mask} = (e.{theirs} >> {shift}) & {mask}"
            " WHERE e.kind = 'look' AND bit_count(xor(look_low, e.first))"
            f" + bit_count(xor(look_high, e.second)) <= {perceptual.MAX_DISTANCE}"
        )


def note_captions(db: Database) -> int:
    """Texts that are also a caption of an evaluation."""
    return _insert(
        db,
        "evaluated_caption",
        "SELECT record, number FROM all_texts SEMI JOIN"
        " (SELECT first FROM evaluated WHERE kind = 'caption') e ON plain_hash = e.first",
    )


def count_twice(db: Database) -> dict[str, int]:
    """How many photos, and texts, come more than once; notes the marks of both."""
    return {rule: _count(db, kind) for rule, kind in TWICE.items()}


def sizes(db: Database) -> dict[tuple[int, int], int]:
    """(partition, 0 for photos or 1 for text pairs) -> records that are usable: not left out, nor
    with all their texts. A partition has records of one kind.
    """
    db.execute(
        "CREATE OR REPLACE TABLE gone AS"
        f" SELECT record FROM out WHERE number = {FIRST} UNION"
        " SELECT record FROM all_records JOIN (SELECT record, count(*) AS lost FROM out"
        f" WHERE number <> {FIRST} GROUP BY record) USING (record) WHERE lost >= n_texts"
    )
    db.execute(
        f"CREATE TABLE IF NOT EXISTS pools AS SELECT part, max((kind = {TEXT})::INTEGER), count(*)"
        " FROM records GROUP BY part"
    )
    gone_of = f"SELECT record >> {PART_BITS} AS part, count(*) FROM gone GROUP BY part"
    gone = dict(db.execute(gone_of).fetchall())
    pools = db.execute("SELECT * FROM pools").fetchall()
    return {(part, kind): n - gone.get(part, 0) for part, kind, n in pools}


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


def note_frequent(db: Database, batches: thinning.Batches) -> list[Thinned]:
    """The marks that were thinned, the most frequent ones first. Raises
    thinning.TooFrequentError.
    """
    pairs = zip(batches.sizes, batches.places, strict=True)
    rate = max((n / max(size, n) for size, n in pairs if n), default=0.0)
    if not rate:
        return []
    _count(db, "frequent_group")
    least = thinning.LIMIT / 2 / rate
    rows = " UNION ALL ".join(
        f"SELECT record, {'number' if table == 'texts' else FIRST} AS number, {column} AS hash,"
        f" {PLACE[rule]} AS place FROM all_{table} SEMI JOIN ({_suspects(rule, least, batches)}) m"
        f" ON {column} = m.hash WHERE {condition}"
        for rule, (table, column, condition) in MARKS.items()
    )
    db.execute(f"CREATE TABLE marked AS SELECT * FROM ({rows}) ANTI JOIN gone USING (record)")
    db.execute(
        "DELETE FROM marked USING out"
        " WHERE marked.record = out.record AND marked.number = out.number"
    )
    return _thin(db, batches)


def _suspects(rule: str, least: float, batches: thinning.Batches) -> str:
    """Select the marks that come `least` times; where windows take stretches of neighbours, also
    those that are often in one, and often enough to fill half of a window's batches.
    """
    select = f"SELECT hash FROM {rule} WHERE n >= {least}"
    if not any(batches.takes_stretches(kind) for kind in (0, 1)):
        return select
    table, column, condition = MARKS[rule]
    return (
        f"{select} UNION SELECT {column} AS hash FROM all_{table} SEMI JOIN"
        f" (SELECT hash FROM {rule} WHERE n >= {batches.window_steps // 2}) m ON {column} = m.hash"
        f" WHERE {condition} GROUP BY {column}, record // {batches.block_records}"
        f" HAVING count(*) > {batches.most_of_a_stretch}"
    )


def _thin(db: Database, batches: thinning.Batches) -> list[Thinned]:
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
    names = mix(marked["hash"], 0, marked["place"])  # equal hashes of two rules are two marks
    values, first, marks = np.unique(names, return_index=True, return_inverse=True)
    found = thinning.Frequent(
        records["kind"],
        records["key_hash"],
        records["n"],
        records["record"],
        marks,
        np.searchsorted(records["record"], marked["record"]),
        marked["number"] != FIRST,
    )
    out, drawn = thinning.thinned(found, batches)
    n_all, n_out = (
        np.bincount(marks[which], minlength=len(values)) for which in (slice(None), out)
    )
    _keep(db, "left_out", **{name: marked[name][out] for name in ("record", "number", "place")})
    db.execute("INSERT INTO broken SELECT record, number, place FROM left_out")
    order = sorted(np.flatnonzero(n_out), key=lambda mark: (-drawn[mark], first[mark]))
    return [
        Thinned(
            RULES[int(marked["place"][first[mark]])].name,
            int(marked["record"][first[mark]]),
            int(marked["number"][first[mark]]),
            float(drawn[mark]),
            int(n_all[mark]),
            int(n_out[mark]),
        )
        for mark in order
    ]


def _count(db: Database, rule: str) -> int:
    """A table, of the rule's name, with the marks that come more than once; how many rows those
    are.
    """
    values, counts = repeated(db, *MARKS[rule])
    _keep(db, rule, hash=values, n=counts)
    return int(counts.sum())


def _insert(db: Database, rule: str, select: str) -> int:
    [(n,)] = db.execute(f"INSERT INTO broken SELECT *, {PLACE[rule]} FROM ({select})").fetchall()
    return int(n)


def _keep(db: Database, table: str, **columns: np.ndarray) -> None:
    """A table with these columns."""
    with optional_import():
        import pyarrow as pa

    db.register("columns_of_it", pa.table(columns))
    db.execute(f"CREATE TABLE {table} AS SELECT * FROM columns_of_it")
    db.unregister("columns_of_it")
