"""Annotation files, local or on s3://, plain or gzip, one or matched by a `*`: opened and read,
with errors that name file and line.

It knows where files lie, and no benchmark (`photos`, `texts` do); `untrusted` decodes.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from clippo_core import storage
from clippo_core.errors import DataError, NotFoundError, StorageError
from clippo_core.untrusted import json, names, text
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.text import Line

PICTURES = (".jpg", ".png", ".jpeg", ".webp")
"""Extensions that a picture beside its annotation may have, in the order of looking."""


def files(uri: str, folder_of: str = "") -> list[str]:
    """URIs that `uri` names: itself, or in the order of their names those that match the `*` or the
    range `{000..999}` in its last part. folder_of: an extension; `uri` may be a folder of such
    files. Raises DataError.
    """
    last = uri.rpartition("/")[2]
    try:
        if "*" in last or ".." in last and "{" in last:
            found = [stat.uri for stat in storage.list_files(uri)]
            _check_range(uri, last, len(found))
            return found
        if folder_of and not last.endswith(folder_of):
            found = [
                stat.uri
                for stat in storage.list_files(uri)
                if stat.name.endswith(folder_of) and "/" not in stat.name
            ]
            if found:
                return found
            raise names.refusal(
                DataError, uri, f"it is a folder without {folder_of}", "check `path` of the source"
            )
        if storage.is_local(uri) and not storage.local_path(uri).is_file():
            raise DataError(f"{uri}: there is no such file; check `path` of the source.")
        return [uri]
    except NotFoundError as error:
        raise DataError(f"{uri}: there is no such file; check `path` of the source.") from error


def _check_range(uri: str, last: str, n_found: int) -> None:
    """Raise DataError where files of a range are missing."""
    bounds = re.findall(r"\{([0-9]+)\.\.([0-9]+)\}", last)
    n_named = math.prod(int(high) - int(low) + 1 for low, high in bounds)
    if "*" not in last and n_found != n_named:
        fault = f"{n_found:,} of the {n_named:,} files that it names are there"
        raise names.refusal(DataError, uri, fault, "correct the range, or use `*`")


@contextlib.contextmanager
def opened(uri: str) -> Iterator[IO[bytes]]:
    """A file of any address, open. Raises DataError, also for what fails while it is read."""
    try:
        with open(storage.fetch(uri), "rb") as file:
            yield file
    except NotFoundError as error:
        raise names.refusal(
            DataError, uri, "there is no such file", "check its address in the config"
        ) from error
    except (OSError, StorageError) as error:
        fault = f"it cannot be read ({names.reason(error)})"
        raise names.refusal(DataError, uri, fault, "check it, or fetch it again") from error


def load_json(uri: str) -> Any:
    """A whole JSON file. Half characters in its texts are let through: only their record is bad.
    Raises DataError.
    """
    with opened(uri) as file:
        data = text.read_whole(file, uri, packed=uri.endswith(".gz"), max_bytes=LIMITS.json_bytes)
    return json.load_json(data, uri, lone_surrogates=True)


def lines(uri: str) -> Iterator[Line]:
    """The lines of a file, each with a problem, naming the file, where it cannot be used. Raises
    DataError.
    """
    with opened(uri) as file:
        for line in text.read_lines(file, uri, packed=uri.endswith(".gz")):
            if line.problem:
                problem = names.refusal(DataError, uri, line.problem, "correct or remove it")
                line = Line(line.number, "", str(problem))
            yield line


def relative(folder: str, *parts: str, where: str) -> str:
    """`folder`/`parts`, where the parts come from a file that others wrote. Raises DataError, about
    the record at `where`, for a name that cannot be used or leads out of the folder.
    """
    name = str(PurePosixPath(*parts))
    if problem := names.name_problem(parts[-1]) or names.name_problem(name):
        raise names.refusal(DataError, where, f"picture {name}: {problem}", "rename it")
    return storage.join(folder, name)


def stem(name: str) -> str:
    """File name without folder and last extension."""
    return PurePosixPath(name.replace("\\", "/")).stem
