"""Who keeps what below a root: the rules of retention.py, each a method that notes reasons.

    kept = Kept(root, files, young)
    kept.newest(4); kept.models(); …        kept.why(name) = why a file is kept, () = nothing does

A name is relative to the root; a folder that is kept keeps everything in it. Nothing is deleted
here.
"""

from __future__ import annotations

import datetime
import re
from collections import defaultdict

from clippo_core import storage
from clippo_core.errors import ClippoError, NotFoundError
from clippo_core.run import history, planned
from clippo_core.run.folder import (
    LATEST,
    MANIFEST,
    OF_A_CHECKPOINT,
    POINTER,
    PROMOTIONS,
    RESULT,
    STAGES,
    BaseFolder,
    RunFolder,
)
from clippo_core.run.history import Promotion
from clippo_core.run.records import ManifestFile, ShardList, loads
from clippo_core.storage import FileStat
from clippo_core.untrusted.json import field, load_json

_RUN = re.compile(r"(?P<name>.+)-[0-9a-f]{12}")
_NOTED = re.compile(
    r"((?:partitions|facts|verdicts|exclusions|evaluated)/[0-9a-f]{32})(?:-records|-texts)?"
    r"\.(?:json|parquet)"
)
"""Names of what is noted of a partition; files of one kind and key belong together."""


class Kept:
    """The listing of a root, and who keeps what of it: names relative to the root, or folders."""

    def __init__(self, root: str, files: list[FileStat], young: float) -> None:
        """young: what was written since then is kept."""
        self.root, self.files, self.young = root, files, young
        self.unreadable: list[str] = []
        self.reasons: dict[str, list[str]] = defaultdict(list)
        self.folders: dict[str, list[FileStat]] = defaultdict(list)
        for file in files:
            top, _, rest = file.name.partition("/")
            if rest and (_RUN.fullmatch(top) or top.startswith(OF_A_CHECKPOINT)):
                self.folders[top].append(file)
        self.runs = {
            top: [file.modified for file in found]
            for top, found in self.folders.items()
            if _is_run(top, found)
        }
        evaluations = {top for top in self.folders if top.startswith(OF_A_CHECKPOINT)}
        evaluations -= set(self.runs)
        self.shared = {
            file.name.rpartition("/")[0]
            for file in files
            if file.name.partition("/")[0] not in self.folders
        } - {""}
        """Folders that belong to no run."""
        self.ours = {file.name for top in (*self.runs, *evaluations) for file in self.folders[top]}
        self.whole: set[str] = set()

    def why(self, name: str) -> list[str]:
        """Why a file is kept."""
        parts = name.split("/")
        folders = ("/".join(parts[:n]) for n in range(1, len(parts) + 1))
        return list(
            dict.fromkeys(one for folder in folders for one in self.reasons.get(folder, []))
        )

    def keep(self, name: str, why: str) -> None:
        """Keep a file, or a folder with everything in it; empty names nothing."""
        if name:
            self.reasons[name].append(why)

    def below(self, uri: str) -> str:
        """An address as a name below the root; empty where it leads elsewhere. Told by the run's
        folder in it, since a root may be named in several ways, or have moved.
        """
        parts = uri.rstrip("/").split("/")
        first = (n for n, part in enumerate(parts) if part in self.folders)
        return "/".join(parts[next(first, len(parts)) :])

    def models(self) -> None:
        """Keep what the records of the gate name."""
        names = {
            file.name.removeprefix(POINTER).removesuffix(".json")
            for file in self.files
            if file.name.startswith(POINTER) and "/" not in file.name
        }
        names |= {
            file.name.split("/")[1] for file in self.files if file.name.startswith(f"{PROMOTIONS}/")
        }
        for name in sorted(names):
            try:
                past = history.read(storage.join(self.root, f"{POINTER}{name}.json"))
            except ClippoError as error:
                self.unreadable.append(str(error))
                continue
            current = history.promoted(past)
            if current is None:
                continue
            self._promoted(name, current)
            by_number = {one.number: one for one in past}
            for number in sorted(set(current.references.values()) & set(by_number)):
                self._model(by_number[number], f"the gate's reference for {name}")
            before = history.promoted_before(past)
            if before:
                self._model(before, f"a rollback of {name} goes back to it")

    def newest(self, runs: int) -> None:
        """Keep the last `runs` of each name, and what is younger than the limit."""
        of: dict[str, list[str]] = defaultdict(list)
        for top in sorted(self.runs, key=self._planned_at, reverse=True):
            found = _RUN.fullmatch(top)
            of[found["name"] if found else top].append(top)
        for name, tops in of.items():
            for top in tops[:runs]:
                self._run(top, f"one of the last {runs} of {name}")
        for top, files in self.folders.items():
            if max(file.modified for file in files) > self.young:
                if top in self.runs:
                    self._run(top, "it is young")
                else:
                    self.keep(top, "it is young")

    def prepared(self) -> None:
        """Count prepared files that a run names as ours, and keep those that a kept one does."""
        there = {file.name for file in self.files}
        named: dict[str, set[str]] = {}
        for top in self.runs:
            folder = RunFolder(top).shards
            if f"{folder}/{MANIFEST}" in there:
                try:
                    named[folder] = there & self._prepared(storage.join(self.root, folder))
                except ClippoError as error:
                    if self.why(folder):
                        self.unreadable.append(f"manifest of {folder}: {error}")
        noted = self._noted()
        for folder, names in named.items():
            self.ours |= names
            for name in names if self.why(folder) else ():
                self.keep(name, f"{folder} names it")
        for top in self.whole:
            folder = RunFolder(top).shards
            if folder not in named and not self._has(top, RunFolder(top).report):
                for name in noted.union(*named.values()):
                    self.keep(name, f"{top}, which is not finished, may use it")

    def _noted(self) -> set[str]:
        """Count what is noted of partitions as ours, and keep what was used not long ago."""
        top = BaseFolder(self.root).prepared.rpartition("/")[2]
        groups: dict[str, list[FileStat]] = defaultdict(list)
        for file in self.files:
            place, _, rest = file.name.partition("/")
            if place == top and (found := _NOTED.fullmatch(rest)):
                groups[found[1]].append(file)
        names = {file.name for files in groups.values() for file in files}
        self.ours |= names
        for files in groups.values():
            if max(file.modified for file in files) > self.young:
                for file in files:
                    self.keep(file.name, "it was used not long ago")
        return names

    def _promoted(self, name: str, current: Promotion) -> None:
        why = f"promoted as {name}"
        self._model(current, why)
        top = self.below(current.verdict.model_uri).partition("/")[0]
        if top in self.runs:
            self._run(top, why)
        for folder in self.folders:
            if folder == f"{OF_A_CHECKPOINT}{current.weights_sha256[:12]}":
                self.keep(folder, why)

    def _model(self, record: Promotion, why: str) -> None:
        """Keep the checkpoint of a record, and its scores."""
        self.keep(self.below(record.verdict.model_uri), why)
        self.keep(
            self.below(storage.join(record.verdict.model_uri.rpartition("/")[0], LATEST)), why
        )
        for scores in record.scores.values():
            self.keep(self.below(scores.uri), why)
            self.keep(self.below(storage.join(scores.uri.rpartition("/")[0], RESULT)), why)

    def _run(self, top: str, why: str) -> None:
        """Keep a run's folder, and what it names."""
        self.keep(top, why)
        if top in self.whole:
            return
        self.whole.add(top)
        try:
            plan = planned.read(storage.join(self.root, top))
        except NotFoundError:  # of an earlier version: it may name what is older
            for other in self.runs:
                if max(self.runs[other]) <= max(self.runs[top]) and other != top:
                    self.keep(other, f"{top}, which has no plan.json, may name it")
            return
        except ClippoError as error:
            self.unreadable.append(f"{RunFolder(top).plan}: {error}")
            return
        for stage, root in plan.places.items():
            folder, where = RunFolder(root), f"{stage.partition('/')[0]} of {top}"
            evaluation = folder.evaluation(stage.partition("/")[0])
            known = {"render": folder.shards, "pretrain": folder.checkpoints}
            self.keep(self.below(known.get(stage, evaluation)), where)
        if not self._has(top, RunFolder(top).report):
            for start in plan.starts:
                self.keep(self.below(start), f"{top}, which is not finished, started from it")

    def _planned_at(self, top: str) -> str:
        """When a run was planned last; where it does not say so, when something was written."""
        written = datetime.datetime.fromtimestamp(max(self.runs[top]), datetime.UTC).isoformat()
        try:
            return planned.read(storage.join(self.root, top)).at or written
        except ClippoError:
            return written

    def _has(self, top: str, name: str) -> bool:
        return any(file.name == name for file in self.folders[top])

    def _prepared(self, folder: str) -> set[str]:
        """Names of the lists and shards of a manifest that stand in a folder which runs share.
        Foreign tars are none: they are data. Raises ConfigError, StorageError.
        """
        file = loads(ManifestFile, storage.read_text(storage.join(folder, MANIFEST)))
        store = file.manifest.store.rstrip("/")
        parts = store.split("/")
        ends = ("/".join(parts[n:]) for n in reversed(range(len(parts))))
        here = next((one for one in ends if one in self.shared), "")
        if not here:  # its own folder, or another root's
            return set()
        names = {part.name for part in file.lists}
        for part in file.lists:
            listed = loads(ShardList, storage.read_text(storage.join(store, part.name)))
            names |= {entry.name for shard in listed.shards for entry in (shard.tar, shard.index)}
        return {f"{here}/{name}" for name in names if "/" not in name}

    def notes(self) -> None:
        """Count notes of stages as ours that are not young, and whose folder is gone or goes."""
        left = {
            top
            for top, files in self.folders.items()
            if top not in self.runs or any(self.why(file.name) for file in files)
        }
        for file in self.files:
            if file.name.startswith(f"{STAGES}/") and file.modified <= self.young:
                try:
                    note = load_json(storage.read_bytes(file.uri), file.uri)
                    root = field(note, "root", str, file.uri)
                except ClippoError:
                    continue
                if self.below(root).partition("/")[0] not in left:
                    self.ours.add(file.name)


def _is_run(top: str, files: list[FileStat]) -> bool:
    """Whether a folder with the name of a run holds what a run leaves."""
    run = RunFolder(top)
    left = (run.plan, run.shards, run.checkpoints, run.journal, run.evaluation("").rstrip("/"))
    return any(f"{file.name}/".startswith(f"{one}/") for file in files for one in left)
