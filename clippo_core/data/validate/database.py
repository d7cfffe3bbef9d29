"""DuckDB over the tables of all partitions, in bounded memory: what does not fit lies on disk.

    with open_database({"records": paths, ...}) as db:
        db.execute("SELECT count(*) FROM records")

Each table is a view over one parquet file per partition; its column `part` is the partition's
number. DuckDB reads these files and no other, writes nothing but its own scratch, installs and
loads no extension, and its settings are locked. This is the only module that imports it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clippo_core.extras import optional_import

if TYPE_CHECKING:
    import duckdb

    Database = duckdb.DuckDBPyConnection

MEMORY = "3GB"
"""Of tables, hashes and sorts; the rest of a process of 4 GB is Python's and the reader's."""

SORTED = 2**27
"""Values that are sorted at a time: 1 GiB. Each time the column is read anew."""


@contextlib.contextmanager
def open_database(
    tables: Mapping[str, Sequence[Path]], scratch: str | Path | None = None
) -> Iterator[Database]:
    """A database with a view for each table; `scratch` (default: the system's) takes what does not
    fit into memory. A table without files has no view.
    """
    with optional_import():
        import duckdb

    with tempfile.TemporaryDirectory(dir=scratch, prefix="clippo-merge-") as folder:
        settings: dict[str, Any] = {
            "memory_limit": MEMORY,
            "threads": os.cpu_count() or 1,
            "temp_directory": folder,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
        }
        with duckdb.connect(":memory:", config=settings) as db:
            paths = [str(path) for files in tables.values() for path in files]
            db.execute(f"SET allowed_paths = [{', '.join(map(_quoted, paths))}]")
            db.execute("SET enable_external_access = false")
            db.execute("SET lock_configuration = true")
            for name, files in tables.items():
                if files:
                    listed = ", ".join(_quoted(str(path)) for path in files)
                    db.execute(
                        f"CREATE VIEW {name} AS"
                        f" SELECT file_index::INTEGER AS part, * FROM read_parquet([{listed}])"
                    )
            yield db


def arrays(db: Database, select: str) -> dict[str, np.ndarray]:
    """The columns of an answer without nulls."""
    found = db.execute(select).fetchnumpy()
    return {name: np.asarray(column) for name, column in found.items()}


def repeated(
    db: Database, table: str, column: str, condition: str = "true"
) -> tuple[np.ndarray, np.ndarray]:
    """(values, how often each comes), uint64 and int64: those of a column of hashes that come more
    than once, but for 0. Sorting takes half of what a GROUP BY takes, in time and memory.
    """
    where = f"{column} <> 0 AND {condition}"
    [(n_rows,)] = db.execute(f"SELECT count(*) FROM {table}").fetchall()
    found = []
    parts = 1 + n_rows // SORTED
    room = np.empty(min(n_rows, SORTED + SORTED // 8) + 1, np.uint64)  # hashes fall evenly
    for part in range(parts):
        some = f"{where} AND {column} % {parts} = {part}" if parts > 1 else where
        end = 0
        for batch in db.sql(f"SELECT {column} FROM {table} WHERE {some}").to_arrow_reader(2**20):
            if end + len(batch) > len(room):  # one value comes very often
                room = np.concatenate([room, np.empty_like(room)])
            room[end : end + len(batch)] = batch.column(0).to_numpy()
            end += len(batch)
        values = room[:end]
        values.sort()
        found.append(np.unique(values[1:][values[1:] == values[:-1]], return_counts=True))
    values, counts = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return values, counts + 1


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
