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

if TYPE_CHECKING:
    import duckdb

MEMORY = "3GB"
"""Of tables, hashes and sorts; the rest of a process of 4 GB is Python's and the reader's."""


@contextlib.contextmanager
def open_database(
    tables: Mapping[str, Sequence[Path]], scratch: str | Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with a view for each table; `scratch` (default: the system's) takes what does not
    fit into memory. A table without files has no view.
    """
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


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
