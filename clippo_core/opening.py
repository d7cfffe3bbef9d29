"""What is this model? One answer for `Clippo.load`, the command line and the evaluations.

    clippo_b16_yfcc100m             released by CLIPPO's authors, downloaded once
    hf-hub:ORG/NAME[@REVISION]      a repository of the Hugging Face hub
    FILE.npz                        big_vision's
    FILE.safetensors                written by Clippo.save
    FOLDER with model.safetensors   written by Clippo.save_pretrained
    a step of checkpoints, the folder of all steps, or that of a run
    promoted-NAME.json              whatever the gate promoted last under this name

Files and folders may be local or s3://. Of a folder only the names that matter are looked at, never
the whole tree below it.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from clippo_core import storage
from clippo_core.config import ModelConfig, RenderConfig
from clippo_core.engine.checkpoint import Checkpoint, open_checkpoint
from clippo_core.errors import CheckpointError, ClippoError, ConfigError, NotFoundError
from clippo_core.exported import open_exported
from clippo_core.hub import HUB, WEIGHTS, fetch_pretrained
from clippo_core.models import Tower, build_tower, load_big_vision, load_weights
from clippo_core.models.convert import ARRAYS_PER_BLOCK, check_fit
from clippo_core.models.text import TokenEncoder
from clippo_core.released import RELEASED, fetch_released
from clippo_core.run import history, planned, records
from clippo_core.run.folder import LATEST, MANIFEST, RunFolder
from clippo_core.run.records import CheckpointInfo
from clippo_core.untrusted.json import field
from clippo_core.untrusted.names import printable, reason, refusal

TOKENIZER = "tokenizer.model"
"""The tensor of an exported token tower that holds its SentencePiece model."""
TOKEN_KINDS = ("one_tower_clip", "two_tower_clip")
_SHA256 = re.compile("[0-9a-f]{64}")
_EMBEDDING = "token_embed.weight"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
C = TypeVar("C")


@dataclass(frozen=True)
class Found:
    """Where a model lies, and in which form."""

    kind: Literal["big_vision", "exported", "checkpoint"]
    uri: str
    """Loads this very model again: a file, a step of checkpoints, a released name, or a commit of
    a hub's repository."""
    file: str = ""
    """Of `big_vision` and `exported`: the file, local or s3://."""
    checkpoint: Checkpoint | None = None
    """Of `checkpoint`: opened, its files compared with its manifest."""


def find_model(source: str | Path) -> Found:
    """What `source` names. Raises NotFoundError, CheckpointError, ConfigError, DataError or
    StorageError, in a sentence.
    """
    source = str(source)
    if source in RELEASED:
        return Found("big_vision", source, str(fetch_released(source)))
    if source.startswith(HUB):
        uri, file = fetch_pretrained(source)
        return Found("exported", uri, file)
    if source.endswith(".npz"):
        return Found("big_vision", source, source)
    if source.endswith(".safetensors"):
        return Found("exported", source, source)
    if source.endswith(".json"):
        return _promoted(source)
    if source.endswith(_PICKLES):
        fault = "files of this kind are pickles, which can run programs; nothing here opens one"
        remedy = "convert it to .safetensors where you trust it"
        raise refusal(CheckpointError, source, fault, remedy)
    return _in_folder(source)


def open_model(
    source: str | Path | Found, fonts: Sequence[str] | None = None
) -> tuple[Tower, dict[str, Any]]:
    """The tower of a model, and what else `Clippo` takes: render, weights_sha256, and perhaps
    render_digest, warn_font, text_encoder.

    fonts: of an exported file that had fonts of its own. Raises what `find_model` does.
    """
    found = source if isinstance(source, Found) else find_model(source)
    if found.kind == "big_vision":
        return _from_npz(storage.fetch(found.file))
    if found.kind == "exported":
        return _from_single_file(storage.fetch(found.file), found.uri, fonts)
    assert found.checkpoint is not None  # the third kind has one
    return _from_checkpoint(found.checkpoint)


def model_info(source: str | Path) -> CheckpointInfo:
    """What evaluations are told of a model, its bytes verified: those of a checkpoint; of a foreign
    file step 0, its sha256 and where it is. Raises what `find_model` does.
    """
    found = find_model(source)
    if found.checkpoint:
        return found.checkpoint.info
    if found.kind == "big_vision":
        sha256 = storage.sha256_file(storage.fetch(found.file))
    else:
        with open_exported(storage.fetch(found.file), found.uri) as exported:
            exported.tensors()  # compared with the digest
            sha256 = _noted_sha256(exported.facts, found.uri)
        if not sha256:
            tower, _ = open_model(found)
            sha256 = weights_digest(tower)
    return CheckpointInfo(found.uri, 0, 0, 0.0, sha256, "", "", 0)


def weights_digest(tower: torch.nn.Module) -> str:
    """sha256 (hex) over names, shapes and values of a tower's parameters."""
    total = hashlib.sha256()
    for name, value in sorted(tower.named_parameters()):
        total.update(f"{name} {tuple(value.shape)} ".encode())
        total.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return total.hexdigest()


def _promoted(pointer: str) -> Found:
    """The model that a pointer leads to."""
    uri = history.promoted_uri(pointer)
    try:
        return _whole(open_checkpoint(uri))
    except NotFoundError as error:
        fault = f"the model that it points to, {uri}, is gone"
        raise refusal(
            NotFoundError, pointer, fault, "promote another one (docs/gate.md)"
        ) from error


def _in_folder(source: str) -> Found:
    """The model in a folder, found by the few names that can be there."""
    for name in (MANIFEST, LATEST):
        if storage.exists(storage.join(source, name)):
            return _whole(open_checkpoint(source))
    weights = storage.join(source, WEIGHTS)
    if storage.exists(weights):
        return Found("exported", weights, weights)
    own = (RunFolder(source).checkpoints, source)
    for folder in itertools.chain(own, _trained_elsewhere(source)):
        try:
            return _whole(open_checkpoint(folder))
        except NotFoundError:
            continue
    raise _unknown(source)


def _trained_elsewhere(run: str) -> Iterator[str]:
    """Where checkpoints may lie if an earlier run trained the same: as planned, or beside this run,
    where both were moved.
    """
    try:
        place = planned.read(run).places["pretrain"]
    except (ClippoError, KeyError):
        return
    beside = storage.join(run.rstrip("/").rpartition("/")[0] or ".", place.rpartition("/")[2])
    yield from (RunFolder(folder).checkpoints for folder in (place, beside))


def _whole(checkpoint: Checkpoint) -> Found:
    return Found("checkpoint", checkpoint.uri, checkpoint=checkpoint)


def _unknown(source: str) -> NotFoundError:
    """What to say about a name that leads to no model."""
    near = difflib.get_close_matches(source, RELEASED, n=1, cutoff=0.6)
    if near:
        return NotFoundError(
            f"{printable(source)}: there is no such model; did you mean {near[0]}? Released are"
            f" {', '.join(RELEASED)}."
        )
    if storage.exists(source):
        fault = f"there is no model in it (no {MANIFEST}, no finished step-… folder, no {WEIGHTS})"
    else:
        fault = "there is no checkpoint or other model here"
    hub = f"{HUB}{source}" if re.fullmatch(r"[\w.-]+/[\w.-]+", source) else f"{HUB}ORG/NAME"
    return NotFoundError(
        f"{printable(source)}: {fault}; check the path. A model is a released name (`clippo"
        f" released` lists them), an .npz, a .safetensors, a run, a checkpoint, a"
        f" promoted-NAME.json, or {hub}."
    )


def _from_npz(path: Path) -> tuple[Tower, dict[str, Any]]:
    """A big_vision file holds no render config: the reference layout at its own size, with a word
    where the fonts differ.
    """
    tower = load_big_vision(path)
    return tower, {
        "render": RenderConfig(image_px=tower.image_px),
        "weights_sha256": storage.sha256_file(path),
        "warn_font": True,
    }


def _noted_sha256(facts: dict[str, Any], source: str) -> str:
    """The sha256 of the weights in an exported file's header; empty where it proves nothing."""
    noted: str = field(facts, "weights_sha256", str, source, error=CheckpointError)
    if noted and not _SHA256.fullmatch(noted):
        fault = f"its weights_sha256 is {noted!r}, and no sha256"
        raise refusal(CheckpointError, source, fault, "export it again")
    return noted


def _from_single_file(
    path: Path, source: str, fonts: Sequence[str] | None
) -> tuple[Tower, dict[str, Any]]:
    with open_exported(path, source) as exported:
        kinds: dict[str, type] = {"render_digest": str, "warn_font": bool}
        options: dict[str, Any] = {
            name: field(exported.facts, name, kind, source, error=CheckpointError)
            for name, kind in kinds.items()
        }
        options["weights_sha256"] = _noted_sha256(exported.facts, source)
        model = _decoded(ModelConfig, exported.facts, "model", source)
        render = _decoded(RenderConfig, exported.facts, "render", source)
        if render.fonts and fonts is None:  # an address in a stranger's file is not opened
            fault = f"it was exported with fonts of its own ({', '.join(render.fonts)})"
            raise refusal(CheckpointError, source, fault, "name them again, as fonts (--font)")
        shapes = exported.shapes
        shapes.pop(TOKENIZER, None)
        tower = _tower_of(model, render, shapes, source)
        weights = exported.tensors()
        if model.kind in TOKEN_KINDS:
            if TOKENIZER not in weights:
                fault = f"its tokenizer is missing (tensor {TOKENIZER})"
                raise refusal(CheckpointError, source, fault, "export it again")
            content = weights.pop(TOKENIZER)
            options["text_encoder"] = _tokenizer(content, model, tower, source)
        load_weights(tower, weights, source)
    return tower, {"render": render, **options}


def _decoded(cls: type[C], facts: dict[str, Any], name: str, source: str) -> C:
    values = field(facts, name, dict, source, error=CheckpointError)
    try:
        return records.from_dict(cls, values)
    except ConfigError as error:
        raise refusal(CheckpointError, source, str(error), "export it again") from error


def _tokenizer(
    content: torch.Tensor, model: ModelConfig, tower: Tower, source: str
) -> TokenEncoder:
    """The tokenizer of an exported token tower, whose pieces the tower's embedding has rows for."""
    try:
        encoder = TokenEncoder(content.numpy().tobytes(), model.text_tokens)
    except ConfigError as error:
        raise refusal(CheckpointError, source, str(error), "export it again") from error
    rows = next(
        (len(value) for name, value in tower.named_parameters() if name.endswith(_EMBEDDING)), 0
    )
    if encoder.processor.get_piece_size() > rows:
        fault = f"its tokenizer has {encoder.processor.get_piece_size():,} pieces"
        fault += f", and its tower knows {rows:,}"
        raise refusal(CheckpointError, source, fault, "export it again")
    return encoder


def _from_checkpoint(checkpoint: Checkpoint) -> tuple[Tower, dict[str, Any]]:
    weights = checkpoint.weights()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    tower = _tower_of(checkpoint.model, checkpoint.render, shapes, checkpoint.uri)
    load_weights(tower, weights, checkpoint.uri)
    options = {
        "weights_sha256": checkpoint.info.weights_sha256,
        "render_digest": checkpoint.progress.render_digest,
    }
    return tower, {"render": checkpoint.render, **options}


def _tower_of(
    model: ModelConfig, render: RenderConfig, shapes: dict[str, tuple[int, ...]], source: str
) -> Tower:
    """The tower for weights of these shapes, unfilled; refused before memory is taken for it."""
    if model.depth * ARRAYS_PER_BLOCK > len(shapes):
        fault = f"it is said to have {model.depth:,} blocks, and has {len(shapes):,} tensors"
        raise refusal(CheckpointError, source, fault, "fetch or export it again")
    embedding = next((shape for name, shape in shapes.items() if name.endswith(_EMBEDDING)), ())
    # Built without drawing initial weights, and without reading those it once started from.
    try:
        tower = build_tower(
            model, render.image_px, device="meta", vocab_size=embedding[0] if embedding else 1
        )
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        fault = f"its configuration is that of no tower ({reason(error)})"
        raise refusal(CheckpointError, source, fault, "fetch or export it again") from error
    check_fit(tower, shapes, source)
    return tower.to_empty(device="cpu")
