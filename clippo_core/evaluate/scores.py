"""The per-example scores of one evaluation: one file, so that models can be compared pairwise.

    metric              example     group     score  target  …
    coco/t2i_recall@1   0003.jpg#2  0003.jpg  100.0          rank, query, retrieved, …
    glue/cola_matthews  17          17          1.0     0.0  first, second, truth, …

One row per example of a metric. `example` names the same example for every model that reads the
same data. Where `target` is empty, the metric is the mean of `score`, in its own unit; elsewhere
`score` is the prediction and the metric is a statistic of (score, target), as F1 or a rank
correlation. Examples of one `group` (the captions of a photo) are not independent: intervals
resample groups. Further columns are for digging. Equal scores give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clippo_core.errors import EvaluationError
from clippo_core.extras import optional_import
from clippo_core.untrusted.names import refusal
from clippo_core.untrusted.parquet import Kind, open_parquet

MAX_BYTES = 2**30
"""Of the file. VQAv2's 450,000 test questions take some 30 MB."""
_TYPES = {
    "metric": "string",
    "example": "string",
    "group": "string",
    "score": "float64",
    "target": "float64",
}
_KINDS = {name: Kind.TEXT if kind == "string" else Kind.REAL for name, kind in _TYPES.items()}


class Scores:
    """The rows, as they come."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in _TYPES}

    def __len__(self) -> int:
        return len(self.columns["metric"])

    def add(
        self,
        metric: str,
        examples: Sequence[Any],
        scores: Sequence[float | None],
        *,
        targets: Sequence[float] | None = None,
        groups: Sequence[Any] | None = None,
        **columns: Sequence[Any],
    ) -> None:
        """Append one row per example of `metric` (its full name).

        scores: float [n], None where the truth is not known. targets: float [n], or None where the
        metric is a mean. groups: None = every example is a group of its own. columns: name -> one
        value per example. Raises EvaluationError for unequal lengths.
        """
        n = len(examples)
        names = [str(example) for example in examples]
        rows: dict[str, Sequence[Any]] = {
            "metric": [metric] * n,
            "example": names,
            "group": names if groups is None else [str(group) for group in groups],
            "score": scores,
            "target": [None] * n if targets is None else targets,
            **columns,
        }
        lengths = {name: len(values) for name, values in rows.items()}
        if set(lengths.values()) - {n}:
            raise EvaluationError(f"columns of the scores of {metric} differ in length: {lengths}.")
        self._append(rows, n)

    def add_parquet(self, table: bytes, where: str) -> None:
        """Append the rows of a file that `to_parquet` wrote.

        Raises EvaluationError, naming `where`, for one that is damaged or has other columns.
        """
        for columns in read_groups(table, where, others=Kind.PLAIN):
            self._append(columns, len(columns["metric"]))

    def to_parquet(self) -> bytes:
        """The table as a parquet file, a function of the rows alone."""
        with optional_import():
            import pyarrow
            import pyarrow.parquet

        table = pyarrow.table(
            {name: pyarrow.array(values, _TYPES.get(name)) for name, values in self.columns.items()}
        )
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        return buffer.getvalue()

    def _append(self, rows: Mapping[str, Sequence[Any]], n: int) -> None:
        """Append `n` rows by column; a column that either side lacks is empty there."""
        before = len(self)
        for name in dict.fromkeys([*self.columns, *rows]):
            column = self.columns.setdefault(name, [None] * before)
            column.extend(rows.get(name, [None] * n))


def read_groups(
    table: bytes, where: str, others: Kind | None = None
) -> Iterator[dict[str, list[Any]]]:
    """The columns of each row group of a file that `Scores.to_parquet` wrote: those of every table,
    and further ones where `others` says what they hold.

    Raises EvaluationError, naming `where`, for a file that is damaged or has other columns.
    """
    found = open_parquet(io.BytesIO(table), where, _KINDS, others=others, error=EvaluationError)
    for number in range(len(found.group_rows)):
        columns = found.read_group(number).columns
        if any(None in columns[name] for name, kind in _KINDS.items() if kind is Kind.TEXT):
            fault = "a row lacks its metric, example or group"
            raise refusal(EvaluationError, where, fault, "delete it and run the evaluation again")
        yield columns
