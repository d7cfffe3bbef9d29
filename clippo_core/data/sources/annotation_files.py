"""Annotation files, local or on s3://, plain or gzip, one or matched by a `*`: opened, read,
parsed, with errors that name file and line.

It knows JSON, lines and gzip, but no benchmark (`photo_sources`, `text_sources` do).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from clippo_core import storage
from clippo_core.errors import DataError, NotFoundError, StorageError

MAX_LINE_BYTES = 2**26
"""A longer line is refused: the file is not what it is taken for."""


def files(uri: str) -> list[str]:
    """URIs that `uri` names: itself, or in the order of their names those that match the `*` in its
    last part. Raises DataError.
    """
    try:
        if "*" in uri:
            return [stat.uri for stat in storage.list_files(uri)]
        if storage.is_local(uri) and not storage.local_path(uri).is_file():
            raise DataError(f"{uri}: there is no such file; check `path` of the source.")
        return [uri]
    except NotFoundError as error:
        raise DataError(f"{uri}: there is no such file; check `path` of the source.") from error


def load_json(uri: str) -> Any:
    """A whole JSON file. Raises DataError."""
    try:
        return json.loads(b"".join(_chunks(uri)))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{uri} is not valid JSON ({error}); it is damaged or cut short."
        ) from error


def lines(uri: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end) of a file; only \\n and \\r\\n end a line. Raises
    DataError.
    """
    number, rest = 0, b""
    for chunk in _chunks(uri):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            yield number, line.removesuffix(b"\r")
        if len(rest) > MAX_LINE_BYTES:
            raise DataError(
                f"{uri}: line {number + 1} is longer than {MAX_LINE_BYTES:,} bytes; this is no file"
                " of lines."
            )
    if rest:
        yield number + 1, rest.removesuffix(b"\r")


def relative(folder: str, *parts: str) -> str:
    """`folder`/`parts`, where the parts come from a file that others wrote. Raises DataError if
    they lead out of the folder.
    """
    name = PurePosixPath(*parts)
    if name.is_absolute() or ".." in name.parts or "\0" in str(name) or not name.name:
        raise DataError(f"picture name {str(name)[:200]!r} leads out of its folder.")
    return storage.join(folder, str(name))


def stem(name: str) -> str:
    """File name without folder and last extension."""
    return PurePosixPath(name.replace("\\", "/")).stem


def _chunks(uri: str) -> Iterator[bytes]:
    """The content of a file in pieces, unzipped."""
    try:
        path: Path = storage.fetch(uri)
        with gzip.open(path, "rb") if str(uri).endswith(".gz") else open(path, "rb") as file:
            while chunk := file.read(2**22):
                yield chunk
    except NotFoundError as error:
        raise DataError(
            f"{uri}: there is no such file; check its address in the config."
        ) from error
    except (OSError, EOFError, zlib.error, StorageError) as error:
        raise DataError(f"{uri} cannot be read ({error}); it is damaged or cut short.") from error
