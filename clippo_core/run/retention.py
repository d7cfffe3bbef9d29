"""What of the runs below a root is kept, and why; everything else of them may be deleted.

    runs      the last k of each name, those younger than d days, the promoted model's: whole, with
              the stages in earlier folders and the prepared files that they name; an unfinished
              one also keeps what it started from
    prepared  what was measured and judged of a partition, if a run used it within d days: it can
              be made anew
    models    the gate's references and the one that a rollback goes back to: checkpoint, scores
    the rest  notes of stages that are gone, evaluations of checkpoints that are promoted no more

The rules stand in kept.py. Only what this project makes is looked at: run folders
(`<name>-<digest>`), `evaluation-<weights>`, notes below `stages`, and prepared files: those that a
deleted run's manifest names, and what was noted of partitions. What cannot be read keeps everything
that it may name. Nothing is deleted before `Survey.delete`.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from clippo_core import storage
from clippo_core.errors import ConfigError
from clippo_core.run.folder import (
    LATEST,
    MANIFEST,
    PART,
    RESULT,
    BaseFolder,
    PreparedFolder,
)
from clippo_core.run.kept import Kept
from clippo_core.storage import FileStat

RUNS, DAYS = 4, 30.0
"""Last runs of each name, and days, that are kept by default."""

_MARKERS = (LATEST, MANIFEST, RESULT, PART)
"""Without these a folder counts as no whole, so they are deleted before what they list."""
_WRITERS = 8


@dataclasses.dataclass
class Place:
    """A part of a run's folder, and what becomes of it."""

    name: str
    """Relative to the root."""
    files: list[FileStat]
    why: list[str]
    """Why it is kept; empty = it is not."""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files)


@dataclasses.dataclass
class Survey:
    """What stands below a root, and what of it is kept."""

    root: str
    runs: int
    days: float
    now: datetime.datetime
    places: list[Place]
    unreadable: list[str]
    """What could not be read, and keeps everything."""

    @property
    def doomed(self) -> list[FileStat]:
        """Files that nothing keeps."""
        return [file for place in self.places if not place.why for file in place.files]

    def table(self) -> str:
        """A line per part of a run, what could not be read, and the sums."""
        lines = [
            f"{'keep' if one.why else 'delete':6} {_size(one.bytes):>10}  {one.name}"
            + (f"  ({'; '.join(one.why)})" if one.why else "")
            for one in self.places
        ]
        lines += [f"unreadable, so that everything is kept: {one}" for one in self.unreadable]
        gone = sum(file.bytes for file in self.doomed)
        total = sum(place.bytes for place in self.places)
        count = len(self.doomed)
        lines.append(f"{_size(gone)} of {_size(total)}, in {count:,} files, are kept by nothing.")
        return "\n".join(lines)

    def delete(self) -> list[FileStat]:
        """Delete the files that nothing keeps, and still does not on a second look: a run may have
        been planned meanwhile. Returns them. Raises StorageError; a second call goes on.
        """
        again = {
            file.name: file for file in survey(self.root, self.runs, self.days, self.now).doomed
        }
        files = [
            file
            for file in self.doomed
            if (now := again.get(file.name)) == file and now.modified == file.modified
        ]
        marked = [file for file in files if file.uri.rpartition("/")[2] in _MARKERS]
        others = [file for file in files if file.uri.rpartition("/")[2] not in _MARKERS]
        prepared = PreparedFolder(BaseFolder(self.root).prepared)
        top = prepared.root.rpartition("/")[2]
        if any(file.name.startswith(f"{top}/") for file in files):  # no cache may answer for them
            storage.delete(prepared.generation)
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(storage.delete, (file.uri for file in marked)))
            list(pool.map(storage.delete, (file.uri for file in others)))
        for top in {file.name.partition("/")[0] for file in files}:
            storage.delete_empty_folders(storage.join(self.root, top))
        return files


def survey(root: str, runs: int, days: float, now: datetime.datetime) -> Survey:
    """What stands below `root`, and what of it is kept: the last `runs` of each name, and what was
    written within `days` before `now`. Raises NotFoundError where there is nothing, ConfigError for
    fewer than one run or less than no days, StorageError.
    """
    if runs < 1 or days < 0:
        raise ConfigError("runs is at least 1, and days at least 0.")
    kept = Kept(root, storage.list_files(root), now.timestamp() - days * 86_400)
    kept.models()
    kept.newest(runs)
    kept.prepared()
    kept.notes()
    places: dict[tuple[str, tuple[str, ...]], list[FileStat]] = defaultdict(list)
    everything = ["something could not be read"] if kept.unreadable else []
    for file in kept.files:
        if file.name in kept.ours:
            why = (*everything, *kept.why(file.name))
            places[_place(file.name), why].append(file)
    found = [Place(name, files, list(why)) for (name, why), files in sorted(places.items())]
    return Survey(root, runs, days, now, found, kept.unreadable)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def _place(name: str) -> str:
    """The part of a run's folder in which a file stands: what a line of the report is about."""
    return "/".join(name.split("/")[:-1][:2])
