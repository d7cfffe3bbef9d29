"""The facts that validation judges: one row per record, one per text, as plain columns. It
measures; `expectations` judges.

    records   id, source, problem, is_repeated, is_photo, photo_problem, short_side_px, sha256,
              n_texts, evaluated_in
    texts     id (`<record>#<n>`, or `#first`), language, is_text, is_blank, characters,
              is_repeated, is_cut, has_missing_glyph
    tars      id (`<source>/<stem>`), problem
    census    rows used, share of texts cut off, share with a missing glyph, by language

Every photo is read and decoded once, by as many threads as there are cores.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from clippo_core.config import DataConfig, RenderConfig
from clippo_core.data.images import decoded_image
from clippo_core.data.pairs import PhotoRecord, Record
from clippo_core.data.sources import annotation_files, tars
from clippo_core.data.sources import kinds as sources
from clippo_core.data.validate.evaluated import Evaluated
from clippo_core.errors import ClippoError
from clippo_core.rendering.census import Census, LanguageCensus, by_language, concatenate
from clippo_core.untrusted.names import is_unicode

Row = dict[str, Any]
CHUNK = 512
"""Records that are measured at a time."""


@dataclass(frozen=True)
class Facts:
    """The tables, row by row, and the census of all texts."""

    records: list[Row] = field(default_factory=list)
    texts: list[Row] = field(default_factory=list)
    tars: list[Row] = field(default_factory=list)
    census: list[LanguageCensus] = field(default_factory=list)


def collect(
    data: DataConfig, render: RenderConfig, evaluated: Evaluated, progress: bool = True
) -> Facts:
    """Measure every record of every source. Raises DataError where a source cannot be read at
    all.
    """
    from tqdm import tqdm

    from clippo_core.rendering import Renderer

    renderer = Renderer.from_config(render)
    facts = Facts()
    parts: list[Census] = []
    rows = sources.read_records(data)
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(desc="validate", unit="rec", disable=not progress) as bar,
    ):
        while chunk := list(itertools.islice(rows, CHUNK)):
            facts.records.extend(pool.map(lambda row: _record_row(row, evaluated), chunk))
            texts = [
                row
                for _, key, record in chunk
                if not record.problem
                for row in _text_rows(key, record)
            ]
            parts.append(_add_census(texts, renderer))
            facts.texts.extend(texts)
            bar.update(len(chunk))
    languages = [row["language"] for row in facts.texts if row["is_text"]]
    census = by_language(concatenate(parts), languages)
    return Facts(facts.records, facts.texts, _tar_rows(data, facts.records), census)


def _tar_rows(data: DataConfig, records: list[Row]) -> list[Row]:
    """A row for each tar of the sources; one that cannot be read is a record of the tar's name."""
    problems = {row["id"]: row["problem"] for row in records if row["problem"]}
    ids = [
        f"{name}/{annotation_files.stem(uri)}"
        for name, source in zip(sources.source_names(data), data.sources, strict=True)
        if source.kind == "webdataset"
        for uri in sources.source_files(source)
    ]
    return [{"id": key, "problem": problems.get(key)} for key in ids]


def _record_row(row: tuple[str, str, Record], evaluated: Evaluated) -> Row:
    source, key, record = row
    facts: Row = {
        "id": key,
        "source": source,
        "problem": record.problem or None,
        "is_repeated": key != f"{source}/{record.key}",
        "is_photo": isinstance(record, PhotoRecord) and not record.problem,
        "photo_problem": None,
        "short_side_px": None,
        "sha256": None,
        "n_texts": len(record.texts),
        "evaluated_in": None,
    }
    if isinstance(record, PhotoRecord) and not record.problem:
        try:
            data = record.content or tars.picture_bytes(record.image)
            facts["sha256"] = hashlib.sha256(data).hexdigest()
            name = record.image.rpartition("/")[2] if ".tar#" not in record.image else record.key
            facts["evaluated_in"] = evaluated.where(facts["sha256"], annotation_files.stem(name))
            with decoded_image(data, record.image) as pixels:
                facts["short_side_px"] = min(pixels.shape[:2])
        except ClippoError as error:
            facts["photo_problem"] = str(error)
    return facts


def _text_rows(key: str, record: Record) -> Iterable[Row]:
    """A row for the first text of a text pair, and one for each caption or partner."""
    firsts: list[tuple[str, Any, str]] = []
    languages = record.languages
    if not isinstance(record, PhotoRecord):
        firsts = [(f"{key}#first", record.first, languages[0])]
        languages = languages[1:]
    partners = [
        (f"{key}#{n}", text, language)
        for n, (text, language) in enumerate(zip(record.texts, languages, strict=True))
    ]
    seen: set[Any] = set()
    for name, text, language in firsts + partners:
        is_text = isinstance(text, str) and is_unicode(text)
        yield {
            "id": name,
            "record": key,
            "text": text if is_text else None,
            "language": language,
            "is_text": is_text,
            "is_blank": is_text and not text.strip(),
            "characters": len(text) if is_text else 0,
            "is_repeated": is_text and text in seen,
            "shown": repr(text)[:80],
        }
        if is_text:
            seen.add(text)


def _add_census(rows: list[Row], renderer: Any) -> Census:
    """What the page cuts off and the font lacks, also as columns of the rows; texts themselves are
    not kept.
    """
    drawn = [row for row in rows if row["is_text"]]
    census = renderer.census([row["text"] for row in drawn])
    for row in rows:
        row |= {"is_cut": False, "has_missing_glyph": False}
        del row["text"]
    for row, cut, missing in zip(drawn, census.cut.tolist(), census.missing.tolist(), strict=True):
        row["is_cut"], row["has_missing_glyph"] = cut, missing
    return census
