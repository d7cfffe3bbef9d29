"""Every source of pairs behind one call: SourceConfig in, records out, in the file's order.

    read_source(SourceConfig("karpathy", "dataset_coco.json", images="coco", split="train"))
    ─▶ PhotoRecord, PhotoRecord, ...

The table of kinds is `_read`. An entry that breaks its format comes out as a record with a
`problem`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator

from clippo_core.config import DataConfig, SourceConfig
from clippo_core.data.pairs import MAX_KEY_CHARACTERS, PhotoRecord, Record, TextRecord
from clippo_core.data.sources import annotation_files as files
from clippo_core.data.sources import hub, tables, tars
from clippo_core.data.sources import photos as photo_sources
from clippo_core.data.sources import texts as text_sources
from clippo_core.errors import ConfigError, DataError
from clippo_core.untrusted.names import printable, refusal

__all__ = [
    "PhotoRecord",
    "Record",
    "TextRecord",
    "read_records",
    "read_source",
    "source_names",
]


def read_source(source: SourceConfig, uris: Iterable[str] | None = None) -> Iterator[Record]:
    """Records of one source, at most `limit`; of its files only `uris`, where these are given.
    Raises DataError where the annotation file is missing or not of its kind.
    """
    records = _read(source, uris)
    return itertools.islice(records, source.limit) if source.limit else records


def read_records(
    name: str, source: SourceConfig, uris: Iterable[str] | None = None
) -> Iterator[tuple[str, Record]]:
    """(id, record) of a source called `name`, or of some of its files.

    The id is `<source>/<key>`; a key that comes again among them gets `@1`, `@2`, ... A record
    whose key is longer than MAX_KEY_CHARACTERS comes with a `problem`.
    """
    seen: dict[str, int] = {}
    for record in read_source(source, uris):
        if len(record.key) > MAX_KEY_CHARACTERS:
            record = dataclasses.replace(
                record, problem=record.problem or _long_key(source.path, record.key)
            )
        times = seen.get(record.key, 0)
        seen[record.key] = times + 1
        yield f"{name}/{record.key}" + (f"@{times}" if times else ""), record


def source_names(data: DataConfig) -> list[str]:
    """A name for each source: its own, else kind and file stem. Raises ConfigError if two are alike
    or one is no plain name.
    """
    names = []
    for source in data.sources:
        stem = re.sub(r"[*{}]", "", files.stem(source.path)).replace("..", "-").strip("-.")
        names.append(source.name or f"{source.kind}-{stem or 'all'}")
    for name in names:
        if not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
            raise ConfigError(
                f"source name {name!r} must be letters, digits, '-', '_' and '.', for it names"
                " shards; set `name`."
            )
        if names.count(name) > 1:
            raise ConfigError(f"two sources are called {name!r}; set `name` of one of them.")
    return names


def source_files(source: SourceConfig) -> list[str]:
    """The annotation files, texts or tars of a source, in their order. Raises DataError."""
    return files.files(source.path, ".tar" if source.kind == "webdataset" else "")


def _long_key(path: str, key: str) -> str:
    fault = f"key {printable(key, 40)} has {len(key):,} characters, more than {MAX_KEY_CHARACTERS}"
    return str(refusal(DataError, path, fault, "shorten it, or check that it is the key"))


def _read(source: SourceConfig, uris: Iterable[str] | None) -> Iterator[Record]:
    """One kind of source, one line."""
    languages = source.languages
    language = languages[0] if languages else "en"
    if source.kind == "hf":
        read = hub.hub_records if source.on_hub else tables.parquet_records
        return read(source, language)
    if source.kind == "folder":
        return tables.folder_records(source.path, language)
    # Not a list: who reads tars one by one notes each as it is asked for (`validate.measure`).
    uris = source_files(source) if uris is None else uris
    match source.kind:
        case "karpathy":
            return _chain(
                photo_sources.karpathy_records(uri, source.images, source.split, language)
                for uri in uris
            )
        case "coco":
            return _chain(photo_sources.coco_records(uri, source.images, language) for uri in uris)
        case "xm3600":
            return _chain(
                photo_sources.xm3600_records(uri, source.images, languages, source.split)
                for uri in uris
            )
        case "csv":
            return _chain(tables.csv_records(uri, source, language) for uri in uris)
        case "webdataset":
            return _chain(tars.source_records(uri, language) for uri in uris)
        case "sentences":
            return _chain(text_sources.sentence_records(uri, language) for uri in uris)
        case "c4":
            return _chain(text_sources.c4_records(uri, language) for uri in uris)
        case "moses":
            firsts, seconds = list(uris), files.files(source.second_path)
            if len(seconds) != len(firsts):
                raise DataError(
                    f"{source.path} names {len(firsts)} files and {source.second_path}"
                    f" {len(seconds)}; they must be as many."
                )
            return _chain(
                text_sources.moses_records(one, two, languages)
                for one, two in zip(firsts, seconds, strict=True)
            )
        case "tsv":
            return _chain(text_sources.tsv_records(uri, languages) for uri in uris)
        case "captions":
            return _chain(photo_sources.caption_pairs(uri, source.split, language) for uri in uris)


def _chain(streams: Iterable[Iterator[Record]]) -> Iterator[Record]:
    return itertools.chain.from_iterable(streams)
