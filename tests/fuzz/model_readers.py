"""What the readers of models and runs must make of every file: a refusal in one sentence, or what
an independent reading gives, twice; nothing written, and no file opened outside their folder.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checks import Refused, check, outcome
from guard import alone, read
from model_files import checkpoint

from clippo_core import models, storage
from clippo_core.config import EvaluateConfig, RunConfig, digest, to_json
from clippo_core.config.check import Checked
from clippo_core.embedder import Clippo
from clippo_core.errors import ClippoError, ConfigError, ConflictError, StorageError
from clippo_core.report.live import by_step, number_of
from clippo_core.run import history, journal
from clippo_core.run.records import dumps, loads
from clippo_core.train.lease import Lease

warnings.simplefilter("ignore")  # of older exports and other fonts, said once each
torch.set_num_threads(1)


def weights_of(tower: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in tower.named_parameters()}


@check("npz_weights")
def check_npz_weights(data: bytes) -> bool:
    found = read("a.npz", data, lambda path: weights_of(models.load_big_vision(path)))
    vit = read("a.npz", data, lambda path: weights_of(models.load_image_only(path, 32)))
    if isinstance(found, Refused):
        return not isinstance(vit, Refused)
    with alone({"a.npz": data}) as folder, np.load(folder / "a.npz") as file:
        expected = {name: file[name] for name in file.files}
    whole = {name.removeprefix("params/"): value for name, value in expected.items()}
    for ours, theirs in (("head.bias", "img/head/bias"), ("pos_embed", "img/pos_embedding")):
        array = whole[theirs]
        if array.dtype.kind == "f":
            assert np.array_equal(found[ours], array.astype(np.float32))
    assert all(np.isfinite(value).all() for value in found.values())
    return True


@check("exported")
def check_exported(data: bytes) -> bool:
    def load(path: str) -> Any:
        model = Clippo.load(path, "cpu")
        return model.weights_sha256, model.render_digest, weights_of(model.tower)

    found = read("a.safetensors", data, load)
    if isinstance(found, Refused):
        return False
    import safetensors

    for name, about in safetensors.deserialize(data):
        values = np.frombuffer(about["data"], {"F32": "<f4", "F16": "<f2", "F64": "<f8",
                               "I32": "<i4", "U8": "|u1"}[about["dtype"]])  # fmt: skip
        if name != "tokenizer.model":
            expected = values.astype(np.float32).reshape(about["shape"])
            assert np.array_equal(found[2][name], expected, equal_nan=True)
    return True


@check("timm")
def check_timm(data: bytes) -> bool:
    found = read("a.safetensors", data, lambda path: weights_of(models.load_image_only(path, 32)))
    if isinstance(found, Refused):
        return False
    import safetensors

    tensors = dict(safetensors.deserialize(data))
    kind = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4"}
    for name in ("norm.weight", "blocks.0.mlp.fc1.weight"):
        values = np.frombuffer(tensors[name]["data"], kind[tensors[name]["dtype"]])
        assert np.array_equal(found[name].ravel(), values.astype(np.float32))
    return True


@check("manifest")
def check_manifest(data: bytes) -> bool:
    def load(folder: str) -> Any:
        from clippo_core.engine.checkpoint import open_checkpoint

        found = open_checkpoint(folder)
        info, progress = found.info, found.progress
        assert info.step == progress.step >= 0 and len(info.weights_sha256) == 64
        if found.render.fonts or found.model.tokenizer:  # files that the run's own config names
            return info, None
        return info, weights_of(Clippo.load(folder, "cpu").tower)

    with alone({**checkpoint(), "manifest.json": data}) as folder:
        found = outcome(lambda: load(str(folder)), str(folder))
    return not isinstance(found, Refused)


@check("pointer")
def check_pointer(data: bytes) -> bool:
    found = read("promoted-x.json", data, history.promoted_uri)
    with alone({"promoted-x.json": data}, may_write=True) as folder:  # it becomes record 0
        path = str(folder / "promoted-x.json")
        past = outcome(lambda: history.read(path), path)
    if isinstance(found, Refused):
        assert past == found
        return False
    assert found == json.loads(data.decode("utf-8-sig"))["uri"] == past[0].verdict.model_uri
    return True


@check("promotion")
def check_promotion(data: bytes) -> bool:
    with alone({"promotions/x/0001.json": data}) as folder:
        path = folder / "promotions" / "x" / "0001.json"
        found = outcome(lambda: history.read(str(folder / "promoted-x.json")), str(path))
    if isinstance(found, Refused):
        return False
    assert loads(history.Promotion, dumps(found[0])) == found[0]
    return True


def config_of(cls: type[Checked], data: bytes) -> bool:
    """A config read from json, whose refusal is a line per fault."""

    def decode() -> Any:
        try:
            return cls.from_json(data.decode(errors="surrogateescape"))
        except ConfigError as error:
            words = str(error)
            lines = words.split("\n")
            assert all(line.isprintable() for line in lines) and len(words) < 20_000, words
            assert all(line.endswith((".", "?")) for line in lines), words
            return Refused(words)

    found = outcome(decode, "")
    if isinstance(found, Refused):
        return False
    assert cls.from_json(to_json(found)) == found and len(digest(found)) == 64
    return True


@check("run_config")
def check_run_config(data: bytes) -> bool:
    return config_of(RunConfig, data)


@check("evaluate_config")
def check_evaluate_config(data: bytes) -> bool:
    return config_of(EvaluateConfig, data)


@check("address")
def check_address(data: bytes) -> bool:
    uri = data.decode(errors="surrogateescape")

    def look(uri: str) -> Any:
        return storage.local_path(uri) if storage.is_local(uri) else uri

    found = outcome(lambda: look(uri), "")
    if isinstance(found, Refused):
        is_whole = b"//user:SECRET@" in data or b"//us/er:SECRET@" in data
        assert not is_whole or "SECRET" not in found.words, found.words
        with contextlib.suppress(StorageError):
            storage.read_bytes(uri)
            raise AssertionError("it was refused and read")
        return False
    assert uri and not any(ord(letter) < 32 for letter in str(found))
    if isinstance(found, Path):
        assert not uri.startswith(("s3:/", "http:/"))
        return True
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    assert bucket and "@" not in bucket and not {".", ".."} & set(key.split("/"))
    assert len(key.encode()) <= 1024
    return True


@check("journal")
def check_journal(data: bytes) -> bool:
    found = read("journal.jsonl", data, journal.read)
    assert all(type(line["step"]) is int for line in found)
    kept = by_step(found)
    assert len(kept) <= len(found) <= data.count(b"\n")
    for line in kept:
        assert isinstance(number_of(line, "loss"), float)
    plain = []
    for line in data.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, RecursionError):
            plain.append(json.loads(line.decode("utf-8-sig")))
    assert all(line in plain for line in found)
    with alone({"journal.jsonl": data}, may_write=True) as folder:
        journal.Journal(str(folder / "journal.jsonl"), keep_through=2).close()
        left = journal.read(str(folder / "journal.jsonl"))
    assert left == [line for line in found if line["step"] <= 2]
    return bool(found)


@check("lease")
def check_lease(data: bytes) -> bool:
    def take(folder: Path) -> str:
        (folder / "owner.json").write_bytes(data)
        try:
            Lease(str(folder), seconds=0.03).release()
        except ConflictError as error:
            raise StorageError(str(error)) from None
        return "taken"

    with alone({}, may_write=True) as folder:
        found = outcome(lambda: take(folder), str(folder))
    return not isinstance(found, Refused)


@check("tokenizer")
def check_tokenizer(data: bytes) -> bool:
    def encode() -> Any:
        try:
            encoder = models.text.TokenEncoder(data, 7)
        except ClippoError as error:
            assert str(error).startswith("the tokenizer"), error
            raise
        return encoder(["a dog sees 3 cats", "", "é 犬", "x" * 50]), encoder.digest

    found = outcome(encode, "the tokenizer")
    if isinstance(found, Refused):
        return False
    tokens, _ = found
    n_pieces = models.load_tokenizer(data).get_piece_size()
    assert tokens.shape == (4, 7) and tokens.min() >= 0 and tokens.max() < n_pieces
    return not math.isnan(float(tokens.sum()))
