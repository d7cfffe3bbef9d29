"""Every source of pairs behind one call: SourceConfig in, records out, in the file's order.

    read_source(SourceConfig("karpathy", "dataset_coco.json", images="coco", split="train")) ─▶ PhotoRecord, PhotoRecord, ...

The table of kinds is `_read`. An entry that breaks its format comes out as a record with a `problem`; the readers for evaluations
(`read_karpathy`, `read_coco_captions`, `read_xm3600`) raise instead, for there is nothing to leave out of a benchmark.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator

from clippo_core.config import DataConfig, SourceConfig
from clippo_core.data import annotation_files as files
from clippo_core.data import photo_sources, tars, text_sources
from clippo_core.data.pairs import PhotoRecord, Record, TextRecord
from clippo_core.errors import ConfigError, DataError

__all__ = [
    "PhotoRecord",
    "Record",
    "TextRecord",
    "read_coco_captions",
    "read_karpathy",
    "read_records",
    "read_source",
    "read_xm3600",
    "source_names",
]


def read_source(source: SourceConfig) -> Iterator[Record]:
    """Records of one source, at most `limit`. Raises DataError where the annotation file is missing or not of its kind."""
    records = _read(source)
    return itertools.islice(records, source.limit) if source.limit else records


def read_records(data: DataConfig, skip: Container[str] = ()) -> Iterator[tuple[str, str, Record]]:
    """(source name, id, record) of all sources but those named in `skip`.

    The id is `<source>/<key>`; a key that comes again gets `@1`, `@2`, ...
    """
    for name, source in zip(source_names(data), data.sources, strict=True):
        if name in skip:
            continue
        seen: dict[str, int] = {}
        for record in read_source(source):
            times = seen.get(record.key, 0)
            seen[record.key] = times + 1
            yield name, f"{name}/{record.key}" + (f"@{times}" if times else ""), record


def source_names(data: DataConfig) -> list[str]:
    """A name for each source: its own, else kind and file stem. Raises ConfigError if two are alike or one is no plain name."""
    names = [source.name or f"{source.kind}-{files.stem(source.path).replace('*', '').strip('-.') or 'all'}" for source in data.sources]
    for name in names:
        if not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
            raise ConfigError(f"source name {name!r} must be letters, digits, '-', '_' and '.', for it names shards; set `name`.")
        if names.count(name) > 1:
            raise ConfigError(f"two sources are called {name!r}; set `name` of one of them.")
    return names


def read_karpathy(annotations: str, images: str, split: str = "", language: str = "en") -> list[PhotoRecord]:
    """All records of a split of a Karpathy json. Raises DataError at the first bad entry, or if the split is empty."""
    return _sound(photo_sources.karpathy_records(annotations, images, split, language), f"split {split!r} of {annotations}")


def read_coco_captions(annotations: str, images: str) -> list[PhotoRecord]:
    """All records of COCO's captions json. Raises DataError at the first bad entry, or if there is none."""
    return _sound(photo_sources.coco_records(annotations, images), annotations)


def read_xm3600(captions: str, images: str, languages: Iterable[str] = ()) -> list[PhotoRecord]:
    """All records of XM3600's captions.jsonl, with the captions of `languages` (empty = all). Raises DataError as the others do."""
    return _sound(photo_sources.xm3600_records(captions, images, languages), captions)


def _read(source: SourceConfig) -> Iterator[Record]:
    """One kind of source, one line."""
    languages = source.languages
    language = languages[0] if languages else "en"
    uris = files.files(source.path)
    match source.kind:
        case "karpathy":
            return _chain(photo_sources.karpathy_records(uri, source.images, source.split, language) for uri in uris)
        case "coco":
            return _chain(photo_sources.coco_records(uri, source.images, language) for uri in uris)
        case "xm3600":
            return _chain(photo_sources.xm3600_records(uri, source.images, languages, source.split) for uri in uris)
        case "webdataset":
            return _chain(tars.foreign_records(uri, language) for uri in uris)
        case "sentences":
            return _chain(text_sources.sentence_records(uri, language) for uri in uris)
        case "c4":
            return _chain(text_sources.c4_records(uri, language) for uri in uris)
        case "moses":
            seconds = files.files(source.second_path)
            if len(seconds) != len(uris):
                raise DataError(f"{source.path} names {len(uris)} files and {source.second_path} {len(seconds)}; they must be as many.")
            return _chain(text_sources.moses_records(one, two, languages) for one, two in zip(uris, seconds, strict=True))
        case "tsv":
            return _chain(text_sources.tsv_records(uri, languages) for uri in uris)


def _chain(streams: Iterable[Iterator[Record]]) -> Iterator[Record]:
    return itertools.chain.from_iterable(streams)


def _sound(records: Iterator[PhotoRecord], where: str) -> list[PhotoRecord]:
    """The records as a list, none of which has a problem or a caption that is no text."""
    found = list(records)
    if not found:
        raise DataError(f"{where} has no photo; check the split's name.")
    for record in found:
        if record.problem:
            raise DataError(f"{record.problem}; repair the file.")
        if not all(isinstance(text, str) for text in record.texts):
            raise DataError(f"photo {record.key} in {where} has a caption that is no text; repair the file.")
    return found
