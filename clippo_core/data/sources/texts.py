"""Text/text pairs: consecutive sentences, and translations.

    sentences   one sentence per line; lines 1 and 2 are a pair, 3 and 4, ...;
                an empty line ends a document
    c4          json lines with a `text` (C4's own files):
                sentences 1 and 2 of a document are a pair, 3 and 4, ...
    moses       two files, line n of one translates line n of the other
    tsv         first, second · or first language, second language, first, second;
                a fifth column is the record's group

Each sentence is used once; a last one without partner is left out. A line that is not as its format
says becomes a record with a `problem`, which validation names and counts. How text is split into
sentences stands in `splitter`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from clippo_core.data.pairs import TextRecord
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources.splitter import split_sentences
from clippo_core.errors import DataError
from clippo_core.untrusted.json import field, load_json


def sentence_records(uri: str, language: str = "en") -> Iterator[TextRecord]:
    """Pairs of consecutive lines of a file of sentences."""
    waiting: str | None = None
    name = files.stem(uri)
    for line in files.lines(uri):
        key = f"{name}-{line.number}"
        if line.problem:
            yield TextRecord(key, "", (), (language,), problem=line.problem)
        text = line.text.strip()
        if waiting is not None and text:
            yield TextRecord(key, waiting, (text,), (language, language))
            waiting = None
        else:
            waiting = text or None


def c4_records(uri: str, language: str = "en") -> Iterator[TextRecord]:
    """Pairs of consecutive sentences of each document."""
    name = files.stem(files.stem(uri))
    for line in files.lines(uri):
        key = f"{name}-{line.number}"
        if not line.problem and not line.text.strip():
            continue
        where = f"line {line.number} of {uri}"
        try:
            if line.problem:
                raise DataError(line.problem)
            sentences = split_sentences(field(load_json(line.text, where), "text", str, where))
        except DataError as error:
            yield TextRecord(key, "", (), (language,), problem=str(error))
            continue
        for place in range(0, len(sentences) - 1, 2):
            yield TextRecord(
                f"{key}-{place}", sentences[place], (sentences[place + 1],), (language, language)
            )


def moses_records(
    first_uri: str, second_uri: str, languages: tuple[str, ...] = ()
) -> Iterator[TextRecord]:
    """Pairs of the lines of two aligned files. Raises DataError if one is longer."""
    codes = languages if len(languages) == 2 else ("en", "und")
    name = files.stem(first_uri)
    for first, second in itertools.zip_longest(files.lines(first_uri), files.lines(second_uri)):
        if first is None or second is None:
            longer = second_uri if first is None else first_uri
            raise DataError(
                f"{first_uri} and {second_uri} are not aligned: {longer} has more lines; use files"
                " of equal length."
            )
        yield TextRecord(
            f"{name}-{first.number}",
            first.text.strip(),
            (second.text.strip(),),
            codes,
            problem=first.problem or second.problem,
        )


def tsv_records(uri: str, languages: tuple[str, ...] = ()) -> Iterator[TextRecord]:
    """Pairs of a tab-separated file of 2, 4 or 5 columns without a header; quotes are text."""
    codes = languages if len(languages) == 2 else (languages or ("en",)) * 2
    name = files.stem(uri)
    for line in files.lines(uri):
        if not line.problem and not line.text.strip():
            continue
        key = f"{name}-{line.number}"
        cells = [cell.strip() for cell in line.text.split("\t")]
        problem = line.problem
        if not problem and len(cells) not in (2, 4, 5):
            problem = f"line {line.number} of {uri} has {len(cells)} columns; it needs 2, 4 or 5."
        if problem:
            yield TextRecord(key, "", (), codes[:1], problem=problem)
        elif len(cells) == 2:
            yield TextRecord(key, cells[0], (cells[1],), codes)
        else:
            yield TextRecord(
                key, cells[2], (cells[3],), (cells[0], cells[1]), group="".join(cells[4:])
            )
