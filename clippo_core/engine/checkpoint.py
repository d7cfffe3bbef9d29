"""Checkpoints: whole or not there, the same for any number of ranks and any ZeRO stage, every byte
checked when read.

    <root>/step-00001000/weights.safetensors      parameters by name, float32
                         optimizer.safetensors    optimizer state by parameter name, unsharded
                         manifest.json            names, sizes, sha256, step, configuration;
                                                  written last, it makes the rest count
    <root>/latest.json                            replaced atomically:
                                {"name": "step-00001000", "step": 1000, "finished": false}

A folder without a readable manifest is litter of a save that was cut off; the checkpoint before it
is the newest. Nothing is unpickled. When to save, and whom the run belongs to, is decided in
`train/`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from clippo_core import storage
from clippo_core.config import ModelConfig, RenderConfig, digest
from clippo_core.engine.recipe import plan_of, recipe
from clippo_core.errors import CheckpointError, ConfigError, DataError, NotFoundError
from clippo_core.run.folder import LATEST, MANIFEST
from clippo_core.run.records import CheckpointInfo, PretrainPlan, from_dict
from clippo_core.untrusted.json import at, field, load_json
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import refusal
from clippo_core.untrusted.tensors import open_safetensors

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
SCHEMA = 1
_STEP = "step-"
_REMEDY = "delete that folder, and the checkpoint before it is used"
_SHA256 = re.compile("[0-9a-f]{64}")
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run is, beyond its weights: what a checkpoint says about itself."""

    step: int
    """Optimizer steps done."""
    pairs_seen: int
    loss: float
    """Mean loss of the last steps, nats; 0 before the first."""
    world_size: int
    code_digest: str = ""
    render_digest: str = ""
    journal: str = ""
    """URI of the run's journal."""
    finished: bool = False
    """Whether this is the run's last step."""
    state: dict[str, Any] | None = None
    """Anything else, JSON-able, that the training loop wants back."""
    left_out: str = ""
    """Of the records and texts that were left out of the training data; see Manifest."""


class Checkpoint:
    """A checkpoint whose files have been compared with its manifest."""

    def __init__(self, uri: str, manifest: dict[str, Any], files: dict[str, Path]):
        self.uri, self.manifest, self._files = uri, manifest, files

    def weights(self) -> dict[str, Any]:
        """Parameter name -> CPU tensor. Raises CheckpointError."""
        return _load(self._files[WEIGHTS])

    def optimizer(self) -> dict[str, Any]:
        """`<parameter>/<slot>` -> CPU tensor, as `Engine.optimizer_state` gave it."""
        return _load(self._files[OPTIMIZER])

    @property
    def model(self) -> ModelConfig:
        """The tower's configuration."""
        return _decoded(ModelConfig, self.manifest["recipe"], "model", self.uri)

    @property
    def render(self) -> RenderConfig:
        """How text was rendered."""
        return _decoded(RenderConfig, self.manifest["recipe"], "render", self.uri)

    @property
    def progress(self) -> Progress:
        """How far the run was."""
        return _decoded(Progress, self.manifest, "progress", self.uri)

    @property
    def info(self) -> CheckpointInfo:
        """What other stages are told."""
        progress = self.progress
        return CheckpointInfo(
            uri=self.uri,
            step=progress.step,
            pairs_seen=progress.pairs_seen,
            loss=progress.loss,
            weights_sha256=next(
                file["sha256"] for file in self.manifest["files"] if file["name"] == WEIGHTS
            ),
            config_digest=digest(self.manifest["recipe"]),
            code_digest=progress.code_digest,
            world_size=progress.world_size,
            journal=progress.journal,
        )


def save_checkpoint(
    root: str,
    weights: dict[str, Any],
    optimizer: dict[str, Any],
    plan: PretrainPlan,
    progress: Progress,
    before_commit: Callable[[], None] = lambda: None,
) -> CheckpointInfo:
    """Save under `root`, point `latest.json` to it and delete what is older than
    plan.train.keep_checkpoints.

    `weights` and `optimizer` are dicts of CPU tensors or of numpy arrays. `before_commit` is called
    when all data are safe and nothing counts yet; what it raises stops the save. Called on one
    rank. Raises StorageError (the checkpoint before stays), ConflictError.
    """
    folder = storage.join(root, step_name(progress.step))
    if (found := _try_open(folder)) is None:
        storage.delete(
            storage.join(folder, MANIFEST)
        )  # first, so that what follows it never looks whole
        storage.delete(folder)
        files = [
            _write(folder, name, tensors)
            for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, optimizer))
        ]
        before_commit()
        manifest = {
            "schema": SCHEMA,
            "progress": asdict(progress),
            "recipe": recipe(plan),
            "files": files,
        }
        manifest["sha256"] = digest(manifest)
        storage.write_text(
            storage.join(folder, MANIFEST),
            json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n",
        )
        found = Checkpoint(folder, manifest, {})
    _point_to(root, progress)
    _prune(root, progress.step, plan.train.keep_checkpoints)
    return found.info


def open_checkpoint(uri: str) -> Checkpoint:
    """The checkpoint at `uri`, or the newest whole one under the root `uri`, with every file
    compared with its sha256.

    Raises CheckpointError where it is incomplete or damaged, NotFoundError where there is none.
    """
    if storage.exists(storage.join(uri, MANIFEST)):
        return _open(uri)
    newest = latest_checkpoint(uri)
    if newest is None:
        raise NotFoundError(
            f"{uri}: there is no checkpoint (no {MANIFEST}, no finished step-… folder); check the"
            " path."
        )
    return newest


def trained_by(uri: str) -> PretrainPlan:
    """The plan of the run that left the checkpoint at `uri`, as far as its numbers follow from it;
    its weights are not read. Raises CheckpointError, ConfigError, NotFoundError.
    """
    return plan_of(uri, _read_manifest(uri)["recipe"])


def latest_checkpoint(root: str) -> Checkpoint | None:
    """The newest whole checkpoint under `root`; None where none was ever finished. A damaged one is
    passed over, with a warning in the log.

    Raises CheckpointError where all are damaged: starting again from nothing is for a person to
    decide.
    """
    damaged = []
    for step in sorted(_steps(root), reverse=True):
        try:
            return _open(storage.join(root, step_name(step)))
        except CheckpointError as error:
            _log.warning("%s", error)
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(
            f"{root}: all {len(damaged)} checkpoints are damaged; delete the folder to start anew."
            f" {damaged[0]}"
        )
    return None


def finished_checkpoint(root: str) -> Checkpoint | None:
    """The last checkpoint of a run that `latest.json` says is over; None where it is not, or not
    whole.
    """
    uri = storage.join(root, LATEST)
    try:
        latest = load_json(storage.read_bytes(uri), uri, max_bytes=LIMITS.json_header_bytes)
        if not field(latest, "finished", bool, uri):
            return None
        found = _open(storage.join(root, step_name(field(latest, "step", int, uri))))
    except (NotFoundError, DataError, CheckpointError):
        return None
    return found if found.progress.finished else None


def step_name(step: int) -> str:
    """Folder of a step's checkpoint."""
    return f"{_STEP}{step:08d}"


class AsyncSaver:
    """Runs one save at a time in a thread, so that training goes on; the next one waits until it is
    not `busy`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._running: Future[CheckpointInfo] | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
        return self._running is not None and not self._running.done()

    def submit(self, save: Callable[[], CheckpointInfo]) -> None:
        """Start `save` (its data must be copies that nobody changes); raises what an earlier one
        raised.
        """
        self.wait()
        self._running = self._pool.submit(save)

    def check(self) -> None:
        """Raise what a save that is over has raised."""
        if not self.busy:
            self.wait()

    def wait(self) -> CheckpointInfo | None:
        """The result of the last save, when it is over; None before the first. Raises what it
        raised.
        """
        return self._running.result() if self._running else None

    def close(self) -> None:
        """Wait for the save under way, whatever comes of it."""
        self._pool.shutdown(wait=True)


def _write(folder: str, name: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """One file of tensors; its line in the manifest."""
    data = _encode(tensors)
    storage.write_bytes(storage.join(folder, name), data)
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _encode(tensors: dict[str, Any]) -> bytes:
    """safetensors bytes, the same for the same tensors; no metadata."""
    import numpy

    if all(isinstance(value, numpy.ndarray) for value in tensors.values()):
        import safetensors.numpy

        return safetensors.numpy.save(tensors)
    import safetensors.torch

    return safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})


def _load(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return open_safetensors(file, str(path)).tensors()


def _decoded(cls: type[T], values: dict[str, Any], name: str, uri: str) -> T:
    """A part of a manifest. Raises CheckpointError, in one sentence."""
    try:
        return from_dict(cls, field(values, name, dict, uri, error=CheckpointError))
    except ConfigError as error:
        fault = f"its {name} cannot be read ({str(error).splitlines()[0]})"
        raise refusal(CheckpointError, uri, fault, "use the version that wrote it") from error


def _open(uri: str) -> Checkpoint:
    manifest = _read_manifest(uri)
    files = {}
    for entry in manifest["files"]:
        file = storage.join(uri, entry["name"])
        try:
            files[entry["name"]] = storage.fetch(file, sha256=entry["sha256"])
        except (NotFoundError, storage.DamagedError) as error:
            raise CheckpointError(
                f"{uri} is damaged: {error} Delete that folder; the checkpoint before it is used"
                " then."
            ) from error
    return Checkpoint(uri, manifest, files)


def _try_open(uri: str) -> Checkpoint | None:
    try:
        return _open(uri)
    except (CheckpointError, NotFoundError):
        return None


def _read_manifest(uri: str) -> dict[str, Any]:
    """A manifest whose sha256 is right, and with the fields that this module reads."""
    where = storage.join(uri, MANIFEST)
    manifest: dict[str, Any] = at(
        load_json(
            storage.read_bytes(where), where, error=CheckpointError, remedy=_REMEDY,
            unique_keys=True, max_bytes=LIMITS.json_header_bytes,
        ),
        dict, where, error=CheckpointError,
    )  # fmt: skip
    if manifest.pop("sha256", None) != digest(manifest):
        raise refusal(CheckpointError, where, "it is damaged: its sha256 is another", _REMEDY)
    schema = field(manifest, "schema", int, where, error=CheckpointError)
    if schema != SCHEMA:
        fault = f"it has layout {schema}, and this code reads {SCHEMA}"
        raise refusal(CheckpointError, where, fault, "use the version that wrote it")
    files = field(manifest, "files", list[dict], where, error=CheckpointError)
    names = [field(entry, "name", str, where, "files", error=CheckpointError) for entry in files]
    sums = [field(entry, "sha256", str, where, "files", error=CheckpointError) for entry in files]
    if sorted(names) != sorted((WEIGHTS, OPTIMIZER)) or not all(map(_SHA256.fullmatch, sums)):
        fault = f"it names other files than {WEIGHTS} and {OPTIMIZER} with a sha256 each"
        raise refusal(CheckpointError, where, fault, _REMEDY)
    field(manifest, "recipe", dict, where, error=CheckpointError)
    progress = _decoded(Progress, manifest, "progress", uri)
    if min(progress.step, progress.pairs_seen, progress.world_size) < 0:
        raise refusal(CheckpointError, where, "its progress is negative", _REMEDY)
    return manifest


def _steps(root: str) -> set[int]:
    """Steps under `root` with a manifest, sound or not."""
    names = [stat.name.split("/") for stat in storage.list_folders(root, _STEP)]
    found = [parts[0] for parts in names if len(parts) == 2 and parts[1] == MANIFEST]
    return {
        int(name[len(_STEP) :])
        for name in found
        if name[len(_STEP) :].isdecimal() and step_name(int(name[len(_STEP) :])) == name
    }


def _point_to(root: str, progress: Progress) -> None:
    """Replace latest.json; of two writers at once, one is told."""
    uri = storage.join(root, LATEST)
    text = (
        json.dumps(
            {"name": step_name(progress.step), "step": progress.step, "finished": progress.finished}
        )
        + "\n"
    )
    try:
        before, etag = storage.read_with_etag(uri)
    except NotFoundError:
        storage.write_text(uri, text, if_absent=True)
        return
    if before != text.encode():
        storage.write_text(uri, text, if_match=etag)


def _prune(root: str, step: int, keep: int) -> None:
    """Delete steps after this one (a future that a resumed run did not have), and all but the
    newest `keep` up to it.
    """
    steps = _steps(root)
    past = sorted(found for found in steps if found <= step)
    for old in [*(found for found in steps if found > step), *past[:-keep]]:
        folder = storage.join(root, step_name(old))
        storage.delete(storage.join(folder, MANIFEST))
        storage.delete(folder)
