"""Where a stage stands: in the folder in which it was completed before, if its bytes are still
there.

    <root>/stages/<stage>-<digest>.json  ─▶  folder, generation
"""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Callable
from typing import Any

from clippo_core import storage
from clippo_core.data import shards
from clippo_core.errors import DataError, NotFoundError
from clippo_core.evaluate.results import whole_result
from clippo_core.run.folder import LATEST, MANIFEST, BaseFolder, RunFolder
from clippo_core.untrusted.json import field, load_json


def is_complete(stage: str, root: str) -> bool:
    """Whether the bytes that `stage` leaves under `root` are all there, by name and size; those of
    an evaluation's scores by sha256.
    """
    folder = RunFolder(root)
    try:
        if stage == "validate":
            return True  # its result is a value: there are no bytes to lose
        if stage == "render":
            return shards.is_whole(folder.shards)
        if stage == "pretrain":
            uri = storage.join(folder.checkpoints, LATEST)
            latest = _read_json(uri)
            return field(latest, "finished", bool, uri) and _files_present(
                storage.join(folder.checkpoints, field(latest, "name", str, uri))
            )
        return whole_result(folder.evaluation(stage)) is not None
    except (NotFoundError, DataError):
        return False


def _files_present(folder: str) -> bool:
    uri = storage.join(folder, MANIFEST)
    listed = field(_read_json(uri), "files", list[dict], uri)
    sizes = {file.name: file.bytes for file in storage.list_files(folder)}
    return all(
        sizes.get(field(file, "name", str, uri)) == field(file, "bytes", int, uri)
        for file in listed
    )


def _read_json(uri: str) -> Any:
    return load_json(storage.read_bytes(uri), uri, unique_keys=True)


def place_of(
    base: str,
    root: str,
    stage: str,
    stage_digest: str,
    is_whole: Callable[[str], bool] | None = None,
) -> tuple[str, str]:
    """Folder and generation of a stage: those of its last completion if the bytes are still there,
    else this run's and a new one.

    is_whole: whether the stage is complete under a folder; None = `is_complete`.
    """
    note = BaseFolder(base).stage_note(stage, stage_digest)
    is_whole = is_whole or functools.partial(is_complete, stage)
    try:
        placed = _read_json(note)
        folder = field(placed, "root", str, note)
        known = field(placed, "generation", str, note)
        if folder.startswith(base.rstrip("/") + "/") and is_whole(folder):
            return folder, known
    except (NotFoundError, DataError):
        pass
    generation = uuid.uuid4().hex[:12]
    storage.write_text(note, json.dumps({"root": root, "generation": generation}) + "\n")
    return root, generation
