"""Photos with captions as people keep them: tables, folders, and datasets of Hugging Face.

    csv      filepath<TAB>title         a header, then a picture's path and a caption per row,
             photos/1.jpg<TAB>a dog     as open_clip reads them
    folder   1.jpg 1.txt                a picture beside its caption, in folders of any depth
    hf       image, text                columns of a dataset on the hub, or of parquet files

A row is a record. A row that is not as it should be becomes a record with a `problem`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from clippo_core import storage
from clippo_core.config import SourceConfig
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources.annotation_files import PICTURES
from clippo_core.errors import ClippoError, DataError
from clippo_core.extras import optional_import
from clippo_core.untrusted import parquet
from clippo_core.untrusted.json import at
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import printable, reason, refusal
from clippo_core.untrusted.text import read_text

_QUOTES = 'close the quotes, and write " within them as ""'
MAX_ROW_LINES = 1000
"""A row of more lines has a quote that is opened and not closed."""


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
    them, a row group at a time. Raises DataError.
    """
    image, text = _columns(source)
    wanted = {image: parquet.Kind.PICTURE, text: parquet.Kind.TEXTS}
    first = 0
    for uri in files.files(source.path, ".parquet"):
        with files.opened(uri) as file:
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
                    yield _row_record(key, where, content, stored, texts, language)
                in_file += n_rows
            first += in_file


def hub_records(source: SourceConfig, language: str = "en") -> Iterator[PhotoRecord]:
    """Records of a dataset of the hub, at the revision that the plan pinned; streamed, unless the
    hub must not be asked (HF_HUB_OFFLINE): then from its local cache. Raises DataError.
    """
    with optional_import():
        import datasets

    image, text = _columns(source)
    where = source.path + (f" at {source.revision}" if source.revision else "")
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(
            source.path,
            revision=source.revision or None,
            split=source.split or "train",
            streaming=not datasets.config.HF_HUB_OFFLINE,
        )
        missing = {image, text} - set(rows.features or rows.column_names or [])
        if missing:
            fault = f"it has no column {', '.join(sorted(missing))}"
            raise refusal(DataError, where, fault, "set `image_column` and `text_column`")
        rows = rows.select_columns([image, text])
        for name, feature in (rows.features or {}).items():
            # The library decodes what is declared a picture, sound or film, and opens the path or
            # address in it: a table of texts could name a file of ours.
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
            elif not is_plain(feature):
                fault = f"its column {name} holds {printable(str(feature), 60)}"
                raise refusal(DataError, where, fault, "name columns of pictures and of texts")
        for number, row in enumerate(rows):
            yield _hub_record(
                f"row-{number}", row[image], row[text], language, f"row {number} of {where}"
            )
    except (ClippoError, MemoryError):
        raise
    except Exception as error:  # of datasets, its file systems, pyarrow and the network
        fault = f"it cannot be read ({reason(error)})"
        raise refusal(DataError, where, fault, "check the name, or fetch it again") from error


def is_plain(feature: Any) -> bool:
    """Whether the library `datasets` gives values of a feature as they are stored."""
    with optional_import():
        import datasets

    if isinstance(feature, dict):
        return all(is_plain(each) for each in feature.values())
    if isinstance(feature, (list, tuple)):
        return all(is_plain(each) for each in feature)
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return is_plain(feature.feature)
    return isinstance(feature, (datasets.Value, datasets.ClassLabel))


def column_names(source: SourceConfig) -> list[str]:
    """The columns of a dataset of the hub, or of the first parquet file. Raises DataError."""
    if not source.on_hub:
        uri = files.files(source.path, ".parquet")[0]
        with files.opened(uri) as file:
            return parquet.open_parquet(file, uri, {}, error=DataError).names
    with optional_import():
        import datasets

    try:
        found = datasets.load_dataset_builder(source.path, revision=source.revision or None)
        features = found.info.features
    except Exception as error:  # of datasets, its file systems and the network
        fault = "there is no such file or folder, and it cannot be read from Hugging Face's hub"
        remedy = "check the path, or the name on the hub"
        raise refusal(DataError, source.path, f"{fault} ({reason(error)})", remedy) from error
    return list(features or ())


def pinned(source: SourceConfig) -> str:
    """The commit that a dataset's branch or tag stands at on the hub. Raises DataError where it
    cannot be asked, and `revision` is no commit.
    """
    import huggingface_hub

    revision = source.revision
    if len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        return revision
    try:
        about = huggingface_hub.HfApi().dataset_info(source.path, revision=revision or None)
        return str(about.sha)
    except Exception as error:  # of the hub and the network
        fault = f"its revision cannot be looked up on the hub ({reason(error)})"
        raise refusal(DataError, source.path, fault, "set `revision` to a commit") from error


def _columns(source: SourceConfig) -> tuple[str, str]:
    """Columns of the picture and of the text. Raises DataError where they are one."""
    image, text = source.image_column or "image", source.text_column or "text"
    if image == text:
        fault = f"picture and text are both column {image}"
        raise refusal(DataError, source.path, fault, "set `image_column` and `text_column`")
    return image, text


def _hub_record(key: str, image: Any, text: Any, language: str, where: str) -> PhotoRecord:
    """A row of a dataset as a record."""
    content = image.get("bytes") if isinstance(image, dict) else image
    stored = image.get("path") if isinstance(image, dict) else ""
    texts = text if isinstance(text, list) else [text]
    return _row_record(key, where, content, stored, texts, language)


def _row_record(
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
