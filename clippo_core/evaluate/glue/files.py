"""GLUE's files: the official TSVs, quirks included, and Hugging Face's parquet.

    official names    <root>/CoLA/train.tsv, dev.tsv
                      <root>/MNLI/train.tsv, dev_matched.tsv, dev_mismatched.tsv
    Hugging Face's    <root>/cola/train-*.parquet, validation-*.parquet
                      <root>/mnli/validation_matched-*.parquet

TSVs are split at tabs and line feeds alone: quotes are ordinary characters, and so are U+2028 and
U+0085. A byte order mark is dropped; columns are found by name, and by position where the header is
missing (CoLA never has one; MNLI has 12 columns in train and 16 in dev). More rows of a split may
lie in `<split>_lite.tsv`, which cut-down copies of the benchmark use; they are appended. Rows with
too few columns (QQP has some) or an empty cell of a parquet file (null) are left out and counted.
WNLI is not read: the paper leaves it out. Nothing is trained or scored here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clippo_core import storage
from clippo_core.data.sources.annotation_files import opened
from clippo_core.errors import DataError, NotFoundError
from clippo_core.untrusted.names import printable, refusal
from clippo_core.untrusted.numbers import real_number
from clippo_core.untrusted.parquet import Kind, open_parquet
from clippo_core.untrusted.text import read_lines

MAX_SHORT_SHARE = 0.005
"""Rows with too few cells that are left out at most, as a share; above it the file is refused."""
_Row = tuple[str | float, ...]
"""One or two sentences and the label, as a text or a number."""


@dataclass(frozen=True)
class GlueTask:
    """One task: where its columns are, what its labels mean, how large it is."""

    name: str
    columns: tuple[str, ...]
    """Names of the first sentence, the second (if any) and the label in the official header."""
    positions: dict[int, tuple[int, ...]]
    """Number of columns -> the positions of the same, for files without a header."""
    labels: tuple[str, ...]
    """Class names in the order of Hugging Face's ids; empty = a score."""
    dev: dict[str, int]
    """Dev split (official file stem) -> its official number of rows."""
    n_train: int
    folder: str
    """Hugging Face's name of the task."""

    @property
    def is_pair(self) -> bool:
        """Whether an example is two sentences."""
        return len(self.columns) == 3


BINARY = ("0", "1")
ENTAILED = ("entailment", "not_entailment")
_MNLI: dict[int, tuple[int, ...]] = {12: (8, 9, 11), 16: (8, 9, 15)}
TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            "MNLI",
            ("sentence1", "sentence2", "gold_label"),
            _MNLI,
            ("entailment", "neutral", "contradiction"),
            {"dev_matched": 9815, "dev_mismatched": 9832},
            392_702,
            "mnli",
        ),
        GlueTask(
            "QQP",
            ("question1", "question2", "is_duplicate"),
            {6: (3, 4, 5)},
            BINARY,
            {"dev": 40_430},
            363_846,
            "qqp",
        ),
        GlueTask(
            "QNLI",
            ("question", "sentence", "label"),
            {4: (1, 2, 3)},
            ENTAILED,
            {"dev": 5463},
            104_743,
            "qnli",
        ),
        GlueTask("SST-2", ("sentence", "label"), {2: (0, 1)}, BINARY, {"dev": 872}, 67_349, "sst2"),
        GlueTask("CoLA", ("sentence", "label"), {4: (3, 1)}, BINARY, {"dev": 1043}, 8551, "cola"),
        GlueTask(
            "STS-B",
            ("sentence1", "sentence2", "score"),
            {10: (7, 8, 9)},
            (),
            {"dev": 1500},
            5749,
            "stsb",
        ),
        GlueTask(
            "MRPC",
            ("#1 String", "#2 String", "Quality"),
            {5: (3, 4, 0)},
            BINARY,
            {"dev": 408},
            3668,
            "mrpc",
        ),
        GlueTask(
            "RTE",
            ("sentence1", "sentence2", "label"),
            {4: (1, 2, 3)},
            ENTAILED,
            {"dev": 277},
            2490,
            "rte",
        ),
    )
}
_PARQUET_COLUMNS = {
    "MNLI": ("premise", "hypothesis", "label"),
    "STS-B": ("sentence1", "sentence2", "label"),
}
_PARQUET_COLUMNS["MRPC"] = _PARQUET_COLUMNS["STS-B"]
_PARQUET_COLUMNS["QQP"] = ("question1", "question2", "label")


@dataclass(frozen=True)
class Rows:
    """One split of one task."""

    first: list[str]
    second: list[str]
    """Empty for single sentences."""
    labels: np.ndarray
    """int64 class ids, or float64 scores, [n]."""
    n_skipped: int
    """Rows with too few cells, left out."""

    def __len__(self) -> int:
        return len(self.first)

    def keys(self) -> set[tuple[str, str]]:
        """The examples, for finding them again in another split."""
        return set(zip(self.first, self.second or [""] * len(self.first), strict=True))

    def take(self, n: int) -> Rows:
        """The first `n` rows; all for 0."""
        if not n or n >= len(self):
            return self
        return Rows(self.first[:n], self.second[:n], self.labels[:n], self.n_skipped)


def read_split(root: str, task: GlueTask, split: str) -> Rows:
    """The rows of `train`, `dev`, `dev_matched` or `dev_mismatched`. Raises NotFoundError where
    there is no file, DataError.
    """
    tables = _tables(root, task, split)
    if not tables:
        raise NotFoundError(f"there is no {task.name}/{split}.tsv (nor parquet) under {root}")
    first: list[str] = []
    second: list[str] = []
    labels: list[float] = []
    n_skipped = 0
    for uri in tables:
        rows, skipped = (_parquet_rows if uri.endswith(".parquet") else _tsv_rows)(uri, task)
        n_skipped += skipped
        for number, row in enumerate(rows):
            first.append(str(row[0]))
            if task.is_pair:
                second.append(str(row[1]))
            labels.append(_label(uri, task, number, row[-1]))
    if not first:
        raise DataError(
            f"{', '.join(tables)}: there are no rows; give a split of {task.name} that has some."
        )
    kind = np.int64 if task.labels else np.float64
    return Rows(first, second, np.array(labels, dtype=kind), n_skipped)


def _tables(root: str, task: GlueTask, split: str) -> list[str]:
    """The files of a split, in order; none where the task is missing."""
    for folder in dict.fromkeys([task.name, task.folder, task.name.lower()]):
        try:
            found = {
                stat.name: storage.join(root, folder, stat.name)
                for stat in storage.list_files(storage.join(root, folder))
            }
        except NotFoundError:
            continue
        named = [found[name] for name in (f"{split}.tsv", f"{split}_lite.tsv") if name in found]
        if named:
            return named
        stem = split.replace("dev", "validation")
        shards = [
            uri
            for name, uri in sorted(found.items())
            if _is_shard(name, stem) or _is_shard(name, split)
        ]
        if shards:
            return shards
    return []


def _is_shard(name: str, stem: str) -> bool:
    """validation.parquet, validation-00000-of-00001.parquet; not validation_matched-..."""
    return (
        name.endswith(".parquet")
        and name.rpartition("/")[2].removesuffix(".parquet").partition("-")[0] == stem
    )


def _tsv_rows(uri: str, task: GlueTask) -> tuple[list[_Row], int]:
    """(rows, rows left out). Raises DataError."""
    rows: list[_Row] = []
    places: tuple[int, ...] = ()
    n_lines = 0
    with opened(uri) as file:
        for line in read_lines(file, uri):
            if line.problem:
                raise refusal(DataError, uri, line.problem, "take the official file, UTF-8 text")
            if not line.text.strip():
                continue
            cells = line.text.split("\t")
            if not places:
                places, is_header = _places(uri, task, [name.strip() for name in cells])
                if is_header:
                    continue
            n_lines += 1
            if len(cells) > max(places):
                rows.append(tuple(cells[place] for place in places))
    return rows, _short(uri, n_lines, len(rows))


def _places(uri: str, task: GlueTask, header: list[str]) -> tuple[tuple[int, ...], bool]:
    """(where sentences and label stand, whether the file's first line is a header)."""
    if all(column in header for column in task.columns):
        return tuple(header.index(column) for column in task.columns), True
    if len(header) in task.positions:
        return task.positions[len(header)], False
    fault = (
        f"{task.name} needs the columns {', '.join(task.columns)}, but the first line has"
        f" {len(header)}: {' | '.join(name[:20] for name in header[:12])}"
    )
    raise refusal(DataError, uri, fault, "take the official TSV")


def _parquet_rows(uri: str, task: GlueTask) -> tuple[list[_Row], int]:
    """(rows, rows left out). Raises DataError."""
    columns = _PARQUET_COLUMNS.get(task.name, task.columns)
    kinds = dict.fromkeys(columns, Kind.TEXT)
    kinds[columns[-1]] = Kind.WHOLE if task.labels else Kind.REAL
    rows: list[_Row] = []
    with opened(uri) as file:
        table = open_parquet(file, uri, kinds)
        for number in range(len(table.group_rows)):
            group = table.read_group(number)
            cells = zip(*(group.columns[column] for column in columns), strict=True)
            rows += [row for place, row in enumerate(cells) if place not in group.problems]
    return rows, _short(uri, sum(table.group_rows), len(rows))


def _short(uri: str, n_lines: int, n_rows: int) -> int:
    """Number of rows left out. Raises DataError where they are too many."""
    n_short = n_lines - n_rows
    if n_short > max(1, MAX_SHORT_SHARE * n_lines):
        fault = f"{n_short} of {n_lines} rows have too few cells"
        raise refusal(DataError, uri, fault, "it is cut, or another file; fetch it again")
    return n_short


def _label(uri: str, task: GlueTask, number: int, value: str | float) -> float:
    """A class id (from its name or id), or a score. Raises DataError for anything else, as test
    sets' -1.
    """
    if not task.labels:
        text = value.strip() if isinstance(value, str) else repr(value)
        return real_number(text, f"{uri}, score of row {number}", minimum=0, maximum=5)
    text = str(value).strip()
    if text in task.labels:
        return task.labels.index(text)
    if isinstance(value, int) and 0 <= value < len(task.labels):
        return value
    fault = f"row {number} has the label {printable(text, 40)!r}"
    remedy = f"{task.name} has {', '.join(task.labels)}"
    raise refusal(DataError, uri, fault, remedy)
