"""Photos with captions as people keep them: tables, folders, and parquet files.

    csv      filepath<TAB>title         a header, then a picture's path and a caption per row,
             photos/1.jpg<TAB>a dog     as open_clip reads them
    folder   1.jpg 1.txt                a picture beside its caption, in folders of any depth
    hf       image, text                columns of parquet files, here or on the hub (`hub`)

A row is a record. A row that is not as it should be becomes a record with a `problem`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import IO, Any

from clippo_core import storage
from clippo_core.config import SourceConfig
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources.annotation_files import PICTURES
from clippo_core.errors import DataError
from clippo_core.untrusted import parquet
from clippo_core.untrusted.json import at
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import is_unicode, printable, reason, refusal
from clippo_core.untrusted.text import read_text

_QUOTES = 'close the quotes, and write " within them as ""'
MAX_ROW_LINES = 1000
"""A row of more lines has a quote that is opened and not closed."""
Opener = Callable[[str], AbstractContextManager[IO[bytes]]]
"""Opens a file by its address."""


def csv_records(uri: str, source: SourceConfig, language: str = "en") -> Iterator[PhotoRecord]:
    """Records of a table, in its order. Raises DataError for a header without the columns, and for
    a quote that is not closed, behind which rows would be lost.
    """
    folder = source.images or uri.rpartition("/")[0] or "."
    rows = _rows(uri, source.separator)
    header, problem = next(rows, ([], "it is empty"))
    names = [name.strip() for name in header]
    wanted = (source.image_column or "filepath", source.text_column or "title")
    if problem or not set(wanted) <= set(names):
        fault = problem or f"its header ({', '.join(names)}) lacks {' or '.join(wanted)}"
        remedy = "set `image_column`, `text_column` and `separator`"
        raise refusal(DataError, uri, fault, remedy)
    places = [names.index(name) for name in wanted]
    for number, (row, problem) in enumerate(rows, 1):
        key, where = f"{files.stem(uri)}-{number}", f"row {number} of {uri}"
        try:
            if problem or max(places) >= len(row):
                fault = problem or f"it has {len(row)} columns, and the header {len(names)}"
                raise refusal(DataError, where, fault, "correct or remove it")
            name, text = (row[place].strip() for place in places)
            name = name.removeprefix(folder.rstrip("/") + "/")
            image = files.relative(folder, name, where=where)
            yield PhotoRecord(key, image, (text,), (language,))
        except DataError as error:
            yield PhotoRecord(key, "", (), (), problem=str(error))


def folder_records(uri: str, language: str = "en") -> Iterator[PhotoRecord]:
    """Records of all pictures and texts below a folder, by name without extension. Raises
    DataError.
    """
    found: dict[str, dict[str, storage.FileStat]] = {}
    try:
        for stat in storage.list_files(uri):
            name = PurePosixPath(stat.name)
            if name.suffix.lower() in (*PICTURES, ".txt"):
                stats = found.setdefault(str(name.with_suffix("")), {})
                stats.setdefault(name.suffix.lower(), stat)
    except storage.StorageError as error:
        raise refusal(DataError, uri, reason(error), "check `path` of the source") from error
    for key, stats in found.items():
        picture = next((stats[end] for end in PICTURES if end in stats), None)
        where = f"{printable(key, 80)} in {uri}"
        try:
            if picture is None or ".txt" not in stats:
                fault = "it has no picture" if picture is None else "it has no .txt beside it"
                raise refusal(DataError, where, fault, "add one, or remove it")
            if not all(is_unicode(stat.uri) for stat in stats.values()):
                raise refusal(DataError, where, "its name is not UTF-8", "rename it")
            files.relative(uri, picture.name, where=where)
            if stats[".txt"].bytes > LIMITS.json_header_bytes:
                fault = f"its .txt has {stats['.txt'].bytes:,} bytes"
                raise refusal(DataError, where, fault, "shorten it")
            text = read_text([storage.read_bytes(stats[".txt"].uri)], stats[".txt"].uri).strip()
            yield PhotoRecord(key, picture.uri, (text,), (language,))
        except DataError as error:
            yield PhotoRecord(printable(key), "", (), (), problem=str(error))


def parquet_records(source: SourceConfig, language: str = "en") -> Iterator[PhotoRecord]:
    """Records of parquet files with a column of pictures' bytes and one of texts, or of lists of
    them. Raises DataError.
    """
    return row_records(source, files.files(source.path, ".parquet"), files.opened, language)


def row_records(
    source: SourceConfig, uris: Iterable[str], opened: Opener, language: str
) -> Iterator[PhotoRecord]:
    """Records of these parquet files, a row group at a time. Raises DataError."""
    image, text = columns(source)
    wanted = {image: parquet.Kind.PICTURE, text: parquet.Kind.TEXTS}
    first = 0
    for uri in uris:
        with opened(uri) as file:
            table = parquet.open_parquet(file, uri, wanted)
            in_file = 0
            for number, n_rows in enumerate(table.group_rows):
                group = table.read_group(number)
                for row in range(n_rows):
                    key, where = f"row-{first + in_file + row}", f"row {in_file + row} of {uri}"
                    if row in group.problems:
                        error = refusal(DataError, where, group.problems[row], "remove the row")
                        yield PhotoRecord(key, "", (), (), problem=str(error))
                        continue
                    content, stored = group.columns[image][row]
                    texts = group.columns[text][row]
                    yield row_record(key, where, content, stored, texts, language)
                in_file += n_rows
            first += in_file


def column_names(uris: Iterable[str], opened: Opener) -> list[str]:
    """The columns of the first of these parquet files. Raises DataError."""
    uri = next(iter(uris))
    with opened(uri) as file:
        return parquet.open_parquet(file, uri, {}, error=DataError).names


def columns(source: SourceConfig) -> tuple[str, str]:
    """Columns of the picture and of the text. Raises DataError where they are one."""
    image, text = source.image_column or "image", source.text_column or "text"
    if image == text:
        fault = f"picture and text are both column {image}"
        raise refusal(DataError, source.path, fault, "set `image_column` and `text_column`")
    return image, text


def row_record(
    key: str, where: str, content: Any, stored: Any, texts: list[Any], language: str
) -> PhotoRecord:
    """A record of a picture's bytes, the path under which it was stored, and texts."""
    try:
        if not isinstance(content, bytes) or not content:
            fault = "its picture has no bytes in the table"
            raise refusal(DataError, where, fault, "store the pictures in the parquet files")
        texts = [at(one, str, where, "text").strip() for one in texts]
        # The name under which it was stored shows whether the photo is one of those evaluated.
        address = f"{where}/{printable(str(stored or key)).rpartition('/')[2]}"
        return PhotoRecord(key, address, tuple(texts), (language,) * len(texts), content=content)
    except DataError as error:
        return PhotoRecord(key, "", (), (), problem=str(error))


def _rows(uri: str, separator: str) -> Iterator[tuple[list[str], str]]:
    """(cells, problem) of each row that is not empty. Raises DataError."""
    problems: list[str] = []
    reader = csv.reader(_noted(uri, problems), delimiter=separator)
    last = 0
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:  # a cell of more than 131,072 characters
            fault = f"the row after line {last:,} cannot be read ({reason(error)})"
            raise refusal(DataError, uri, fault, _QUOTES) from None
        n_lines, last = reader.line_num - last, reader.line_num
        if n_lines > MAX_ROW_LINES:
            fault = f"a quote opens in line {last - n_lines + 1:,}, and {n_lines:,} lines follow"
            raise refusal(DataError, uri, fault, _QUOTES)
        if row is None:
            return
        if row or problems:
            yield row, problems[0] if problems else ""
        problems.clear()


def _noted(uri: str, problems: list[str]) -> Iterator[str]:
    """The lines of a file; of an unusable one the problem is noted, and nothing else is left."""
    for line in files.lines(uri):
        if line.problem:
            problems.append(f"line {line.number} cannot be used ({line.problem})")
        yield line.text + "\n"
