"""Files of models and runs as a stranger may make them: weights, exports, manifests, configs, and
the small files that a run leaves.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import os
import struct
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies import JSON_VALUES, fuzzed

SIZES = {"width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16, "embed_dim": 8}
ODD = JSON_VALUES | st.sampled_from(
    [None, True, "", "x", "../x", "/etc/passwd", "s3://b/../x", 0, -1, 7, 99_999_999, 2**31, 2**63]
    + [10**300, 1.5, [], {}, [[]], "0" * 64, "\ud800", "a\nb", "é" * 400]
)
KEYS = ["img/embedding/kernel", "img/pos_embedding", "img/Transformer/encoderblock_0", "t"]
_DTYPES = ["<f4", "<f2", "<f8", "V2", "<i4", "|u1"]


def with_lies(draw: DrawFn, value: Any, n: int = 1) -> Any:
    """A json value with up to `n` of the values in it changed, lost or added."""
    found = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, n))):
        holder: Any = found
        while True:
            inner = holder if isinstance(holder, dict) else dict(enumerate(holder))
            if not inner:
                break
            key = draw(st.sampled_from(sorted(inner)))
            if inner[key] and isinstance(inner[key], (dict, list)) and draw(st.integers(0, 4)):
                holder = inner[key]
                continue
            if draw(st.integers(0, 3)) == 0:
                del holder[key]
            else:
                holder[key] = copy.deepcopy(draw(ODD))  # which a later lie may change
            break
    return found


def as_json(draw: DrawFn, value: Any) -> bytes:
    is_ascii = draw(st.booleans())
    data = json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    return data.replace(b"-Infinity", b"-1e400").replace(b"Infinity", b"1e400")


@lru_cache
def model() -> Any:
    """A model of four patches."""
    from clippo_core.config import ModelConfig, RenderConfig
    from clippo_core.embedder import Clippo
    from clippo_core.models import build_tower

    return Clippo(build_tower(ModelConfig(**SIZES), 32), RenderConfig(), device="cpu")


@lru_cache
def scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-models-"))


@lru_cache
def npz_arrays() -> dict[str, np.ndarray]:
    from clippo_core.models import save_big_vision

    save_big_vision(model().tower, scratch() / "model.npz")
    with np.load(scratch() / "model.npz") as file:
        return {name: file[name] for name in file.files}


@lru_cache
def exported() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(facts, tensors) of an exported file."""
    from safetensors import safe_open

    path = scratch() / "model.safetensors"
    model().save(path)
    with safe_open(str(path), "np") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        return json.loads(file.metadata()["clippo"]), tensors


@lru_cache
def tokenizer_bytes() -> bytes:
    from clippo_core.models import train_tokenizer

    texts = [f"{n} dogs see {m} cats" for n in range(20) for m in range(10)]
    return Path(train_tokenizer(texts, str(scratch() / "small.model"), 290)).read_bytes()


@lru_cache
def checkpoint() -> dict[str, bytes]:
    """The files of a checkpoint's folder."""
    from tiny import tiny_plan

    from clippo_core.engine.checkpoint import Progress, save_checkpoint

    weights = {name: value.detach() for name, value in model().tower.named_parameters()}
    changes = {f"model__{name}": value for name, value in SIZES.items()}
    plan = tiny_plan("runs", **changes)
    progress = Progress(3, 24, 0.5, 1, state={"skipped": [], "losses": [1.0, 2.0]}, finished=True)
    folder = Path(save_checkpoint(str(scratch() / "run"), weights, {}, plan, progress).uri)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@fuzzed("npz_weights")
def npz_weights(draw: DrawFn) -> bytes:
    """A big_vision file; arrays renamed, lost, of other types and shapes; names that lie."""
    arrays = dict(npz_arrays())
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(arrays)))
        change = draw(st.integers(0, 6))
        array = arrays.pop(name)
        if change == 0:
            continue
        if change == 1:
            number = draw(st.sampled_from(["1", "99999999", "-1", "x", "0" * 300]))
            name = name.replace("encoderblock_0", f"encoderblock_{number}")
        elif change == 2:
            array = array.reshape(-1)[: draw(st.integers(0, array.size))]
        elif change == 3:
            array = array[..., None] if draw(st.booleans()) else array.T
        elif change == 4:
            factor = draw(st.sampled_from([np.nan, np.inf, 1e30, 0]))
            array = array.astype(np.float32) * factor if array.dtype.kind == "f" else array
        elif change == 5:
            kind = np.dtype(draw(st.sampled_from(_DTYPES)))
            array = np.zeros(array.shape, kind)
        arrays[name if draw(st.integers(0, 9)) else name.removeprefix("params/")] = array
    target = io.BytesIO()
    (np.savez_compressed if draw(st.integers(0, 3)) == 0 else np.savez)(target, **arrays)
    return target.getvalue()


def safetensors_bytes(
    draw: DrawFn, tensors: dict[str, np.ndarray], metadata: dict[str, Any] | None
) -> bytes:
    """The tensors as a file, whose header may have a lie."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata is not None else {}
    data = b""
    for name, array in tensors.items():
        content = array.tobytes()
        kind = {"f4": "F32", "f2": "F16", "f8": "F64", "i4": "I32", "u1": "U8"}[array.dtype.str[1:]]
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        data += content
    if draw(st.integers(0, 3)) == 0:
        header = with_lies(draw, header)
    text = json.dumps(header).replace("Infinity", "1e400").encode()
    return struct.pack("<Q", len(text)) + text + data


@fuzzed("exported")
def exported_file(draw: DrawFn) -> bytes:
    """An exported model; facts and tensors that lie, most under a digest that fits."""
    from clippo_core.exported import _digest

    facts, tensors = exported()
    tensors = dict(tensors)
    if draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(sorted(tensors)))
        array = tensors.pop(name)
        if draw(st.booleans()):
            tensors[draw(st.sampled_from([name, "blocks.1.x", "tokenizer.model"]))] = array[
                ..., None
            ]
    facts = with_lies(draw, facts, 2)
    if isinstance(facts, dict) and draw(st.integers(0, 4)):
        import torch

        as_torch = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
        facts["digest"] = _digest(facts, as_torch)
    return safetensors_bytes(
        draw, tensors, {"clippo": as_json(draw, facts).decode("utf-8", "replace")}
    )


@fuzzed("timm")
def timm_file(draw: DrawFn) -> bytes:
    """A timm ViT; tensors lost, of other shapes, blocks with other numbers."""
    tensors = {
        name: array for name, array in exported()[1].items()
        if name.startswith(("patch_embed", "pos_embed", "blocks", "norm"))
    }  # fmt: skip
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(tensors)))
        array = tensors.pop(name)
        change = draw(st.integers(0, 4))
        if change == 1:
            number = draw(st.sampled_from(["1", "99999999", "-1", "x"]))
            name = name.replace("blocks.0.", f"blocks.{number}.")
        elif change == 2:
            array = array.reshape(-1)[: draw(st.integers(0, array.size))]
        elif change == 3:
            array = array.astype(draw(st.sampled_from(["<f2", "<f8", "<i4"])))
        if change:
            tensors[name] = array
    return safetensors_bytes(draw, tensors, None)


@fuzzed("manifest")
def manifest_file(draw: DrawFn) -> bytes:
    """A checkpoint's manifest, most with a sha256 that fits."""
    from clippo_core.config import digest

    manifest = with_lies(draw, json.loads(checkpoint()["manifest.json"]), 2)
    if isinstance(manifest, dict) and draw(st.integers(0, 9)):
        manifest.pop("sha256", None)
        with contextlib.suppress(UnicodeEncodeError):
            manifest["sha256"] = digest(manifest)
    return as_json(draw, manifest)


@fuzzed("pointer")
def pointer_file(draw: DrawFn) -> bytes:
    """The pointer to a promoted model."""
    whole = {"uri": "runs/a", "weights_sha256": "0" * 64, "step": 3, "metrics": {"a/b": 4.5}}
    return as_json(draw, with_lies(draw, whole, 2))


@fuzzed("promotion")
def promotion_file(draw: DrawFn) -> bytes:
    """The record of a verdict."""
    from clippo_core.run.history import Promotion, ScoreFile
    from clippo_core.run.records import Metric, Verdict

    verdict = Verdict(True, "Promoted: the first of its name.", "runs/a", "")
    metrics, scores = {"a/b": Metric(4.5, 4.0, 5.0)}, {"a": ScoreFile("runs/a/x", "0" * 64)}
    whole = Promotion(
        1, "a run", "2026-01-01", verdict, "0" * 64, 3, metrics=metrics, scores=scores
    )
    return as_json(draw, with_lies(draw, dataclasses.asdict(whole), 2))


@fuzzed("run_config")
def run_config(draw: DrawFn) -> bytes:
    """A run.json of one of the presets."""
    from clippo_core.config import presets

    preset = draw(st.sampled_from([presets.demo(), presets.weekly(), presets.slices("DATA")]))
    return as_json(draw, with_lies(draw, dataclasses.asdict(preset), 3))


@fuzzed("evaluate_config")
def evaluate_config(draw: DrawFn) -> bytes:
    """An evaluate.json."""
    from clippo_core.config import presets

    return as_json(draw, with_lies(draw, dataclasses.asdict(presets.demo().evaluate), 3))


@fuzzed("address")
def address_bytes(draw: DrawFn) -> bytes:
    """Addresses of folders and buckets, with every part odd."""
    scheme = st.sampled_from(
        ["s3://", "s3:/", "S3://", "file://", "http://", "", "/", "gs://", "s3:"]
    )
    user = st.sampled_from(["", "", "", "user:SECRET@", "us/er:SECRET@"])
    part = st.sampled_from(
        ["bucket", "a", "..", ".", "", "\0", "\n", "\ud800", "é", "x" * 300, "*"]
    )
    part = part | st.text(max_size=5)
    text = draw(scheme) + draw(user) + "/".join(draw(st.lists(part, max_size=5)))
    return text.encode(errors="surrogatepass")


@fuzzed("journal")
def journal_file(draw: DrawFn) -> bytes:
    """Lines of a journal, with others between them."""
    line = {"step": 3, "loss": 1.5, "lr": 1e-3, "skipped": 0, "note": "é", "skipped_keys": ["a"]}
    lines = [as_json(draw, with_lies(draw, line)) for _ in range(draw(st.integers(0, 5)))]
    lines += draw(st.lists(st.sampled_from([b"", b"[", b"\xff", b"[" * 2000, b"null"]), max_size=2))
    return b"\n".join(lines) + draw(st.sampled_from([b"", b"\n"]))


@fuzzed("lease")
def lease_file(draw: DrawFn) -> bytes:
    """An owner's note: of a process that is gone, of this one, of nobody."""
    from clippo_core.train.lease import _process

    pid = draw(st.sampled_from([os.getpid(), 2**22 + 1, 1]))
    whole = {"id": "ab" * 8, "host": "h", "pid": pid, "process": _process(pid), "beat": 3}
    whole |= draw(st.sampled_from([{}, {}, {"released": True}]))
    return as_json(draw, with_lies(draw, whole))


@fuzzed("tokenizer")
def tokenizer_file(draw: DrawFn) -> bytes:
    """A SentencePiece model, which is damaged further by chance."""
    data = tokenizer_bytes()
    if draw(st.booleans()):
        return data
    start, length = draw(st.integers(0, len(data))), draw(st.sampled_from([0, 0, 1, 5, 60]))
    extra = draw(st.sampled_from([b"", b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x05", b"\x0a\x00"]))
    return data[:start] + extra + data[start + length :]
