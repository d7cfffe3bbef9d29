"""What is to be embedded, one item after the other, in an order that is the same every time.

    photos/               every picture below it, by name; a text file beside one is its caption
    a.tar  {00..99}.tar   webdataset tars, or a folder of them; txt or json is the caption
    list.txt  -           one address a line, or standard input
    a.jpg  s3://b/a.jpg   the picture itself

    texts.txt  -          one text a line

An item that cannot be used comes out with a `problem`, for the caller to count. No picture is
opened here, and no list is held in memory.
"""

from __future__ import annotations

import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from clippo_core import storage
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources import tars
from clippo_core.errors import ConfigError, DataError
from clippo_core.storage import local
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import hidden_in, is_unicode, printable, refusal
from clippo_core.untrusted.text import Line, read_lines, read_text

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Extensions of pictures, in lower case."""


@dataclass(frozen=True)
class Item:
    """One picture or text."""

    name: str
    """Of a picture: its place in its folder, tar or list. Of a text: the text itself."""
    address: str = ""
    """Of a picture: what `tars.picture_bytes` opens."""
    caption: str = ""
    problem: str = ""
    """Why it cannot be embedded, as a sentence; empty = nothing is known yet."""


def pictures(given: Iterable[str]) -> Iterator[Item]:
    """The pictures that arguments name, in their order. Raises ConfigError, NotFoundError, ..., at
    the argument that is wrong, DataError for a tar that cannot be read.
    """
    return itertools.chain.from_iterable(_named(argument) for argument in given)


def texts(path: str) -> Iterator[Item]:
    """The lines of a file, or of standard input (`-`): ended by newlines alone, because a text may
    hold any other separator of Unicode.
    """
    for line in _lines(path):
        yield Item(line.text, problem=_problem(path, line))


def check(given: Iterable[str], text_file: str | None) -> None:
    """Raise for what cannot work, before a model is loaded: an argument that names nothing,
    standard input twice.
    """
    given = list(given)
    if (given + [text_file]).count("-") > 1:
        raise ConfigError("standard input (-) was named twice; write one of the two to a file.")
    for argument in given:
        _named(argument)  # nothing is read of a list: it may be a pipe
    if text_file is not None and text_file != "-":
        with local.explained(text_file, "read"):
            if Path(text_file).is_dir():
                raise IsADirectoryError
            Path(text_file).stat()


def _named(argument: str) -> Iterator[Item]:
    """The pictures that one argument names."""
    ending = argument.lower()
    if ending.endswith(".tar"):
        return _of_tars(argument)
    if argument == "-":
        return _of_list(argument)
    if storage.is_local(argument):
        path = storage.local_path(argument)
        if path.is_dir():
            return _of_folder(path)
        if "*" in path.name:
            return _of_pattern(argument)
        with local.explained(argument, "read"):
            path.stat()
        return iter([_file(path)]) if ending.endswith(PICTURES) else _of_list(argument)
    if ending.endswith(PICTURES):
        return iter([Item(argument, argument)])
    return _of_prefix(argument)


def _of_folder(folder: Path) -> Iterator[Item]:
    """Pictures below a local folder; tars, where it holds no picture."""
    return _or_tars(str(folder), (_file(path, folder) for path in _walk(folder)))


def _of_prefix(uri: str) -> Iterator[Item]:
    """Pictures below a prefix of a bucket; tars, where it holds no picture."""
    found = storage.list_files(uri)
    wanted = (one for one in found if one.name.lower().endswith(PICTURES))
    return _or_tars(uri, (Item(one.name, one.uri) for one in wanted))


def _or_tars(uri: str, items: Iterator[Item]) -> Iterator[Item]:
    first = next(items, None)
    if first is not None:
        return itertools.chain([first], items)
    try:
        return _of_tars(uri)
    except DataError as error:
        kinds = " ".join(PICTURES)
        raise ConfigError(f"{uri}: it holds no picture ({kinds}) and no .tar.") from error


def _of_pattern(uri: str) -> Iterator[Item]:
    """Pictures that match a `*` in the last part, where the shell did not fill it in."""
    found = [one.uri for one in storage.list_files(uri) if one.name.lower().endswith(PICTURES)]
    if not found:
        raise ConfigError(f"{uri}: what it matches is no picture ({' '.join(PICTURES)}).")
    return (_file(Path(one)) for one in found)


def _of_tars(argument: str) -> Iterator[Item]:
    """Records of the tars that `argument` names, known to be there before the first is read."""
    uris = files.files(argument, ".tar")
    return itertools.chain.from_iterable(map(_of_tar, uris))


def _of_tar(uri: str) -> Iterator[Item]:
    path = storage.fetch(uri)
    address = str(path.absolute()) if storage.is_local(uri) else uri
    found = tars.entries(path, address)
    with open(path, "rb") as tar:
        for number, entry in enumerate(found):
            name, where = f"{files.stem(uri)}/{entry.key}", f"record {number} of {uri}"
            captions, problem = tars.foreign_text(tar.fileno(), entry, where)
            if entry.problem or not entry.picture:
                yield Item(name, problem=problem)
                continue  # below, a problem is one of the caption, and the picture stands alone
            offset, size = entry.members[entry.picture]
            yield Item(name, f"{address}#{offset}+{size}", captions[0] if captions else "")


def _of_list(argument: str) -> Iterator[Item]:
    for line in _lines(argument):
        address = line.text.strip()
        if line.problem:
            yield Item("", problem=_problem(argument, line))
        elif address.startswith("s3://"):
            yield Item(address, address)
        elif address:
            yield _file(Path(address))


def _file(path: Path, folder: Path | None = None) -> Item:
    """One picture file; a text beside it is its caption."""
    name = str(path.relative_to(folder) if folder else path)
    hidden = "" if is_unicode(name) else "bytes that are no UTF-8"
    hidden = hidden or hidden_in(name)
    if hidden:
        shown = printable(os.fsencode(name))
        return Item(shown, problem=f"{shown}: its name holds {hidden}; rename it.")
    beside = path.with_suffix(".txt")
    caption = _caption(beside) if folder and beside.is_file() else ""
    return Item(name, str(path.absolute()), caption)


def _caption(path: Path) -> str:
    """The text in a file, empty where it is none: a caption is welcome, no more."""
    try:
        with open(path, "rb") as file:
            return read_text([file.read(LIMITS.json_header_bytes)], str(path)).strip()
    except (DataError, OSError):
        return ""


def _walk(folder: Path) -> Iterator[Path]:
    """Picture files below a folder: those of a folder by name, then its folders by name."""
    for place, inside, names in os.walk(folder):
        inside[:] = sorted(one for one in inside if not one.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(PICTURES) and not name.startswith("."):
                yield Path(place) / name


def _problem(path: str, line: Line) -> str:
    if not line.problem:
        return ""
    return str(refusal(DataError, path, line.problem, "convert it to UTF-8 text first"))


def _lines(path: str) -> Iterator[Line]:
    if path == "-":
        # As it comes: what is in the pipe is embedded while more is being written.
        pipe = cast(io.BufferedReader, sys.stdin.buffer)
        yield from read_lines(iter(lambda: pipe.read1(2**20), b""), "standard input")
        return
    with local.explained(path, "read"), open(path, "rb") as file:
        yield from read_lines(file, path)
