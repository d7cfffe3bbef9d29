"""Checkpoints: loadable after a crash at any call, after any kill, on full disks and damaged files;
never mixed, never silent.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import LOCAL_IO, FaultProxy, crash_at
from tiny import tiny_plan

from clippo_core import storage
from clippo_core.config import digest
from clippo_core.data import pairs
from clippo_core.engine.checkpoint import (
    AsyncSaver,
    Progress,
    finished_checkpoint,
    latest_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from clippo_core.engine.recipe import check_same_recipe
from clippo_core.errors import CheckpointError, ConflictError, NotFoundError, StorageError
from clippo_core.run.records import CheckpointInfo
from clippo_core.storage import bucket as bucket_module


def save(root: str, step: int, size: int = 1000, keep: int = 3, **fields: Any) -> CheckpointInfo:
    """A checkpoint whose every number is its step."""
    weights = {"a": np.full(size, step, np.float32), "b": np.full((2, 3), step, np.float32)}
    optimizer = {"a/momentum": np.full(1000, step, np.float32), "optimizer/step": np.array(step)}
    progress = Progress(
        step=step, pairs_seen=8 * step, loss=1.0 / (step + 1), world_size=1, state={"skipped": step}
    )
    return save_checkpoint(
        root,
        weights,
        optimizer,
        tiny_plan("runs", train__keep_checkpoints=keep),
        progress,
        **fields,
    )


def assert_whole(root: str) -> int:
    """The newest checkpoint loads, and all of it is of one step, which is returned (0 = none was
    ever finished).
    """
    checkpoint = latest_checkpoint(root)
    if checkpoint is None:
        return 0
    weights, optimizer, step = (
        checkpoint.weights(),
        checkpoint.optimizer(),
        checkpoint.progress.step,
    )
    for tensor in (*weights.values(), *optimizer.values()):
        assert bool((tensor == step).all())
    assert checkpoint.progress.state == {"skipped": step} and set(weights) == {"a", "b"}
    return step


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same tests on a folder and on a bucket."""
    monkeypatch.setattr(bucket_module, "FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return (
        str(tmp_path / "checkpoints")
        if request.param == "folder"
        else request.getfixturevalue("s3")
    )


def test_round_trip_is_exact(root: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "w": torch.randn(7, 5, generator=generator),
        "t": torch.tensor([2.3]),
        "empty": torch.zeros(0, 4),
    }
    optimizer = {
        "w/momentum": torch.randn(7, 5, generator=generator).bfloat16(),
        "optimizer/step": torch.tensor(3),
        "view": weights["w"].t(),
    }
    plan = tiny_plan("runs", model__depth=3, data__text_pair_share=0.0)
    saved = save_checkpoint(
        root,
        weights,
        optimizer,
        plan,
        Progress(3, 24, 0.1 + 0.2, 2, "code", "render", "runs/journal.jsonl"),
    )
    for uri in (root, saved.uri):
        checkpoint = open_checkpoint(uri)
        for expected, found in (
            (weights, checkpoint.weights()),
            (optimizer, checkpoint.optimizer()),
        ):
            assert expected.keys() == found.keys()
            assert all(
                found[name].dtype == expected[name].dtype
                and torch.equal(found[name], expected[name])
                for name in expected
            )
        assert (
            checkpoint.model == plan.model
            and checkpoint.render == plan.render
            and checkpoint.info == saved
        )
        check_same_recipe(checkpoint.uri, checkpoint.manifest["recipe"], plan)
    assert json.loads(storage.read_text(f"{root}/latest.json")) == {
        "name": "step-00000003",
        "step": 3,
        "finished": False,
    }
    assert saved.weights_sha256 == storage.sha256_file(
        storage.fetch(f"{saved.uri}/weights.safetensors")
    )


def test_keeps_the_newest_and_drops_an_abandoned_future(root: str) -> None:
    for step in range(1, 6):
        save(root, step, keep=2)
    assert {stat.name.partition("/")[0] for stat in storage.list_files(root)} == {
        "latest.json",
        "step-00000004",
        "step-00000005",
    }
    storage.delete(
        f"{root}/step-00000005/weights.safetensors"
    )  # damaged: the run goes on from 4, in smaller strides
    assert assert_whole(root) == 4
    save(root, 3, keep=1)
    assert {stat.name.partition("/")[0] for stat in storage.list_files(root)} == {
        "latest.json",
        "step-00000003",
    }
    assert assert_whole(root) == 3


def test_nothing_there(root: str) -> None:
    assert latest_checkpoint(root) is None
    with pytest.raises(NotFoundError, match="no checkpoint"):
        open_checkpoint(root)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
def test_damage_is_found_and_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    root = str(tmp_path)
    save(root, 1)
    save(root, 2)
    path = tmp_path / "step-00000002" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b""}[damage])
    assert assert_whole(root) == 1
    with pytest.raises((CheckpointError, NotFoundError), match="step-00000002"):
        open_checkpoint(f"{root}/step-00000002")
    save(root, 2)
    assert assert_whole(root) == 2


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a json value, but the value itself."""
    keys = list(value) if isinstance(value, dict) else []
    for key in range(len(value)) if isinstance(value, list) else keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


GONE = object()
ODD = [GONE, None, True, 7, -1, 1e300, 10**30, "", "../x", "é" * 300, [], [[1]], {}, {"a": 1}]


def with_odd_value(manifest: dict[str, Any], path: tuple[Any, ...], odd: Any) -> dict[str, Any]:
    """The manifest with one value replaced or dropped, and a sha256 that fits."""
    changed: Any = copy.deepcopy(manifest)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if odd is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = odd
    changed.pop("sha256", None)
    return {**changed, "sha256": digest(changed)} if path != ("sha256",) else changed


def test_manifests_with_a_right_sha256_and_wrong_fields(tmp_path: Path) -> None:
    save(str(tmp_path), 1)
    path = tmp_path / "step-00000001" / "manifest.json"
    manifest = json.loads(path.read_text())
    plan, refused, fine = tiny_plan("runs"), 0, 0
    for number, place in enumerate(places(manifest)):
        for odd in (*ODD[:2], ODD[2 + number % (len(ODD) - 2)]):
            path.write_text(json.dumps(with_odd_value(manifest, place, odd)))
            try:
                found = open_checkpoint(str(path.parent))
                assert found.info.step >= 0 and found.model and found.render
                assert set(found.weights()) == {"a", "b"}
                check_same_recipe(found.uri, found.manifest["recipe"], plan)
                fine += 1
            except CheckpointError as error:
                assert str(path.parent) in str(error) and len(str(error)) < 2000, str(error)
                refused += 1
    assert refused > 150 and fine > 5, (refused, fine)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000, "nested more than 64 deep; delete that folder"),
        ("[]", "it is a list, and must be an object"),
        ('{"schema": 1, "schema": 1}', "the key 'schema' twice"),
        ("{}", "its sha256 is another; delete that folder, and the checkpoint before it is used"),
    ],
)
def test_manifests_that_are_none(tmp_path: Path, text: str, sentence: str) -> None:
    save(str(tmp_path), 1)
    (tmp_path / "step-00000001" / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"manifest.json: .*{sentence}"):
        open_checkpoint(str(tmp_path / "step-00000001"))


def test_tensors_with_a_right_sha256_that_are_none(tmp_path: Path) -> None:
    save(str(tmp_path), 1)
    folder = tmp_path / "step-00000001"
    manifest = json.loads((folder / "manifest.json").read_text())
    for content in (b"", b"\xff" * 100, (10**6).to_bytes(8, "little") + b"{}" * 20):
        (folder / "weights.safetensors").write_bytes(content)
        sums = {"name": "weights.safetensors", "bytes": len(content)}
        sums["sha256"] = hashlib.sha256(content).hexdigest()
        place = [file["name"] for file in manifest["files"]].index("weights.safetensors")
        changed = with_odd_value(manifest, ("files", place), sums)
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match="weights.safetensors: it is no safetensors file"):
            open_checkpoint(str(folder)).weights()


def test_a_run_is_over_when_latest_says_so(root: str) -> None:
    assert finished_checkpoint(root) is None
    save(root, 1)
    assert finished_checkpoint(root) is None
    progress = Progress(step=2, pairs_seen=16, loss=0.5, world_size=1, finished=True)
    weights = {"a": np.zeros(3, np.float32)}
    info = save_checkpoint(root, weights, {}, tiny_plan("runs"), progress)
    found = finished_checkpoint(root)
    assert found is not None and found.info == info
    for text in ("{", "[]", '{"finished": "yes"}', '{"finished": true}', "[" * 100_000):
        storage.write_text(f"{root}/latest.json", text)
        assert finished_checkpoint(root) is None


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    save(str(tmp_path), 1)
    (tmp_path / "step-00000001" / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="delete the folder"):
        latest_checkpoint(str(tmp_path))


def test_other_settings_are_named(tmp_path: Path) -> None:
    save(str(tmp_path), 1)
    checkpoint = open_checkpoint(str(tmp_path))
    saved = checkpoint.manifest["recipe"]
    with pytest.raises(
        CheckpointError,
        match="optim.lr is 0.001 there, 0.002 here.*train.steps is 6 there, 7 here.*resume_from",
    ):
        check_same_recipe(checkpoint.uri, saved, tiny_plan("runs", optim__lr=2e-3, train__steps=7))
    allowed = {
        "zero_stage": 3,
        "memory": "cached",
        "loader_workers": 9,
        "save_every_steps": 5,
        "timeout_seconds": 9.0,
    }
    check_same_recipe(
        checkpoint.uri,
        saved,
        tiny_plan("elsewhere", **{f"train__{name}": value for name, value in allowed.items()}),
    )


WRITTEN_BEFORE: dict[str, Any] = {
    "seed": 0,
    "data_digest": "0" * 64,
    "train": {"steps": 6, "batch_pairs": 8, "precision": "float32"},
    "data": {
        "sources": [
            {
                "kind": "karpathy",
                "path": "data/dataset.json",
                "images": "data/images",
                "split": "",
                "second_path": "",
                "languages": [],
                "limit": 0,
                "name": "",
            },
            {
                "kind": "tsv",
                "path": "data/sentences.tsv",
                "images": "",
                "split": "",
                "second_path": "",
                "languages": [],
                "limit": 0,
                "name": "",
            },
        ],
        "text_pair_share": 0.25,
        "records_per_shard": 1000,
        "store_drawings": False,
        "max_short_side_px": 256,
        "max_bad_share": 0.05,
    },
    "render": {
        "image_px": 32,
        "layout": "reference",
        "monospace": False,
        "fonts": [],
        "strict_font": False,
    },
    "model": {
        "kind": "clippo",
        "width": 32,
        "depth": 2,
        "num_heads": 2,
        "mlp_dim": 64,
        "embed_dim": 32,
        "initial_logit_scale": 10.0,
        "separate_patch_embeddings": False,
        "separate_heads": False,
        "tokenizer": "",
        "text_tokens": 196,
        "initial_weights": "",
        "skip_blank_rows": False,
    },
    "optim": {
        "name": "adafactor",
        "lr": 0.001,
        "weight_decay": 0.0001,
        "clip_norm": 1.0,
        "momentum_dtype": "bfloat16",
        "warmup_steps": 2,
        "timescale_steps": 4,
        "cooldown_steps": 2,
        "adam_beta2": 0.95,
    },
}
"""The recipe of `tiny_plan` as version 0.1.0 wrote it into a checkpoint's manifest."""


def test_a_checkpoint_of_an_earlier_version_goes_on_or_says_why_not() -> None:
    with pytest.raises(CheckpointError, match="another order of batches.*train.resume_from"):
        check_same_recipe("old", WRITTEN_BEFORE, tiny_plan("runs"))
    same_order = WRITTEN_BEFORE | {"order": pairs.ORDER_VERSION}
    check_same_recipe("old", same_order, tiny_plan("runs"))
    check_same_recipe("old", same_order, tiny_plan("runs", train__resume_from="elsewhere"))
    with pytest.raises(CheckpointError, match="dropped is 1 there, null here"):
        check_same_recipe("old", same_order | {"dropped": 1}, tiny_plan("runs"))
    gone = same_order | {"optim": WRITTEN_BEFORE["optim"] | {"fancy": True}}
    with pytest.raises(CheckpointError, match="another version .*optim.fancy: there is no such"):
        check_same_recipe("old", gone, tiny_plan("runs"))
    with pytest.raises(CheckpointError, match="model.depth is 2 there, 3 here"):
        check_same_recipe("old", same_order, tiny_plan("runs", model__depth=3))
    with pytest.raises(CheckpointError, match="train.augment is {} there, {.share.*here"):
        check_same_recipe("old", same_order, tiny_plan("runs", train__augment__noise=0.1))
    other = same_order | {"optim": WRITTEN_BEFORE["optim"] | {"name": "lion"}}
    with pytest.raises(CheckpointError, match="another version .*optim.name is 'lion'; use"):
        check_same_recipe("old", other, tiny_plan("runs"))
    lost = {name: part for name, part in same_order.items() if name != "optim"}
    with pytest.raises(CheckpointError, match="another version of this project wrote"):
        check_same_recipe("old", lost, tiny_plan("runs"))


def test_crash_at_every_call_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    for index in range(500):
        root = str(tmp_path / f"run{index}")
        save(root, 1, keep=1)
        with crash_at(index, monkeypatch, LOCAL_IO) as calls:
            save(root, 2, keep=1)
        steps.append(assert_whole(root))
        assert steps[-1] in (1, 2), f"crash at call {index}: {calls[-3:]}"
        save(root, 2, keep=1)  # the same command goes on
        assert assert_whole(root) == 2
        if len(calls) <= index:
            break
    assert steps == sorted(steps) and set(steps) == {1, 2} and index > 30


def test_crash_at_every_call_of_a_second_save_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole checkpoint of the same step is never taken apart, even when it is the only one."""
    for index in range(500):
        root = str(tmp_path / f"run{index}")
        save(root, 1, keep=1)
        with crash_at(index, monkeypatch, LOCAL_IO) as calls:
            save(root, 1, keep=1)
        assert assert_whole(root) == 1
        if len(calls) <= index:
            break


@pytest.mark.slow
def test_crash_at_every_request_of_a_save(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(bucket_module, "PARALLEL_PARTS", 1)
    steps: list[int] = []
    for index in range(100):
        root = f"{s3}/run{index}"
        save(root, 1, keep=1)
        with crash_at(
            index, monkeypatch, [(storage._bucket(), "_call"), (storage._bucket(), "_list_page")]
        ) as calls:
            save(root, 2, size=1_400_000, keep=1)  # in two parts
        steps.append(assert_whole(root))
        assert steps[-1] in (1, 2), f"crash at request {index}: {calls}"
        if len(calls) <= index:
            break
    assert set(steps) == {1, 2} and index > 10


def test_disk_full_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    root = str(tmp_path)
    save(root, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="no room left"):
            save(root, 2, size=10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert assert_whole(root) == 1
    assert [stat.name for stat in storage.list_files(root)] == [
        "latest.json",
        "step-00000001/manifest.json",
        "step-00000001/optimizer.safetensors",
        "step-00000001/weights.safetensors",
    ]


def test_faults_of_the_bucket(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(storage, "READ_SECONDS", 0.5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    proxy = FaultProxy(os.environ["AWS_ENDPOINT_URL_S3"], share=0.1, seed=1, slow_seconds=0.7)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    for step in range(1, 9):
        save(s3, step, size=20_000, keep=2)
        assert assert_whole(s3) == step
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.target)
    assert assert_whole(s3) == 8 and len(storage.list_files(s3)) == 7
    assert sum(proxy.counts[kind] for kind in proxy.KINDS) > 7
    proxy.close()


def test_what_stops_before_the_commit_leaves_nothing_that_counts(root: str) -> None:
    save(root, 1)

    def refuse() -> None:
        raise ConflictError("the run belongs to somebody else now")

    with pytest.raises(ConflictError):
        save(root, 2, before_commit=refuse)
    assert assert_whole(root) == 1


def kill_while_saving(root: str, kills: int, seed: int) -> int:
    """Fork a process that saves back to back, kill it at a random moment, check; `kills` times.

    Every other process first saves three times, so that the run gets on however busy the machine
    is; the others may die in their first save. Returns the last step.
    """
    source, step = random.Random(seed), 0
    for number in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                while True:
                    step += 1
                    save(root, step, size=200_000, keep=2)
                    os.write(writer, b"s")
            finally:
                os._exit(1)
        os.close(writer)
        for _ in range(3 * (number % 2)):
            assert os.read(reader, 1) == b"s"
        time.sleep(source.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        found = assert_whole(root)
        assert found >= step, f"checkpoint {step} was there before, and {found} is the newest now"
        step = found
    return step


def test_kill_during_saves(tmp_path: Path) -> None:
    assert kill_while_saving(str(tmp_path), kills=20, seed=0) > 20


@pytest.mark.nightly
def test_many_kills_during_saves(tmp_path: Path) -> None:
    assert kill_while_saving(str(tmp_path), kills=200, seed=1) > 200


def test_async_saver_does_not_block_and_tells(tmp_path: Path) -> None:
    saver, go = AsyncSaver(), threading.Event()

    def slow() -> CheckpointInfo:
        go.wait(10)
        return save(str(tmp_path), 1)

    saver.submit(slow)
    assert saver.busy
    saver.check()  # a save under way is no news
    go.set()
    info = saver.wait()
    assert info is not None and info.step == 1 and not saver.busy

    def fail() -> CheckpointInfo:
        raise StorageError("the disk is full")

    saver.submit(fail)
    with pytest.raises(StorageError, match="full"):
        saver.wait()
    with pytest.raises(StorageError, match="full"):
        saver.check()
    saver.close()
