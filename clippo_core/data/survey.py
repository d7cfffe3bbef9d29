"""What a source holds, before anything is written or trained: how many records, how often the same
picture or text comes, and its first pictures, opened.

    survey(source) ─▶ Survey(records=20, is_least=False, top_share=0.05, problems=[], ...)

Of tars a few are counted and the others taken for alike; of long sources the first 200,000 records.
Nothing is kept but hashes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from clippo_core import storage
from clippo_core.config import SourceConfig
from clippo_core.data.images import decode_image
from clippo_core.data.pairs import PhotoRecord, Record, key_hash
from clippo_core.data.sources import kinds, tars
from clippo_core.errors import ClippoError

COUNTED = 200_000
"""Records that are counted of a source; one with more has at least so many."""
COUNTED_TARS = 4
"""Tars of a source that are counted; in a bucket one, because it is fetched whole."""
COUNTED_REMOTE = 1000
"""Rows of a dataset on the hub that are counted: they come with their pictures."""
OPENED = 10
"""First pictures that are decoded."""


@dataclass(frozen=True)
class Survey:
    """What was found."""

    has_photos: bool
    records: int
    """Usable records; about so many where not all tars were counted."""
    is_least: bool
    """Whether there are more than were counted."""
    top_share: float
    """Share of the records, 0..1, that have the commonest picture, text or group: a batch takes
    each at most once, so it has at most 1 / top_share records."""
    top: str
    """What that is; empty where nothing comes twice."""
    mean_bytes: float
    """Of the pictures that were opened."""
    opened: int
    """How many pictures were opened, readable or not."""
    problems: list[str]
    """Of records and of opened pictures, the first ones, each a sentence."""
    unusable: int
    """Records with a problem, among those that were counted."""

    @property
    def most_in_a_batch(self) -> int:
        """The largest number of its records that can stand in one batch."""
        return int(1 / self.top_share + 1e-9) if self.records else 0


def survey(source: SourceConfig) -> Survey:
    """Count a source, and open its first pictures. Raises DataError, StorageError where it cannot
    be read at all.
    """
    records, factor = _records(source)
    limit = COUNTED_REMOTE if source.on_hub else COUNTED
    usable = unusable = n_bytes = opened = 0
    problems: list[str] = []
    weights: dict[int, float] = {}
    top, most = "", 1.0
    for record in itertools.islice(records, limit):
        if record.problem:
            unusable += 1
            problems += [record.problem] if len(problems) < OPENED else []
            continue
        usable += 1
        if isinstance(record, PhotoRecord) and opened < OPENED:
            opened += 1
            size, problem = open_picture(record)
            n_bytes += size
            problems += [problem] if problem else []
        for mark, weight, what in _marks(record):
            weights[mark] = weights.get(mark, 0.0) + weight
            if weights[mark] > most:
                most, top = weights[mark], what
    total = round(usable * factor)
    return Survey(
        has_photos=source.has_photos,
        records=total,
        is_least=next(records, None) is not None,
        top_share=most / max(usable, 1) if most > 1 else 1 / max(total, 1),
        top=top,
        mean_bytes=n_bytes / max(opened, 1),
        opened=opened,
        problems=problems,
        unusable=unusable,
    )


def open_picture(record: PhotoRecord) -> tuple[int, str]:
    """(bytes, problem) of a record's picture; a problem is a sentence, empty where it decodes."""
    try:
        data = record.content or tars.picture_bytes(record.image)
        decode_image(data, record.image)
        return len(data), ""
    except ClippoError as error:
        return 0, str(error)


def first_pictures(uris: Iterable[str]) -> tuple[int, list[str]]:
    """(how many were opened, a sentence for each that cannot be read) of the first pictures."""
    found = [open_picture(PhotoRecord("", uri, (), ())) for uri in itertools.islice(uris, OPENED)]
    return len(found), [problem for _, problem in found if problem]


def _records(source: SourceConfig) -> tuple[Iterator[Record], float]:
    """(the records that are counted, how many times as many there are). Of tars only the first."""
    if source.kind != "webdataset" or source.limit:
        return kinds.read_source(source), 1.0
    uris = kinds.source_files(source)
    few = uris[: COUNTED_TARS if storage.is_local(source.path) else 1]
    return itertools.chain.from_iterable(map(tars.source_records, few)), len(uris) / len(few)


def _marks(record: Record) -> Iterator[tuple[int, float, str]]:
    """(hash, share of the draws, what it is) of what stands at most once in a batch."""
    if isinstance(record, PhotoRecord):
        first = record.content or record.image
        yield key_hash(first), 1.0, f"the picture {record.image}"
    else:
        yield key_hash(record.first), 1.0, f"the text {record.first[:60]!r}"
    if record.group:
        yield key_hash("group " + record.group), 1.0, f"the group {record.group}"
    for text in record.texts:
        yield key_hash(text), 1 / len(record.texts), f"the text {text[:60]!r}"
