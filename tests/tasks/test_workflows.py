"""The whole pipeline through Flyte, small: one run, a second one from the cache, lost bytes, a
failing evaluation, kill -9, two processes.

Every test starts `pyflyte run workflows NAME` as a user does, in a home of its own, so that Flyte's
local cache is empty.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from tiny import QUICK_DEMO

from clippo_core.config import RetrievalConfig, RunConfig, presets, replace
from clippo_core.config.small import NUMBERS_FOLDER
from clippo_core.data.numbers.world import write_numbers
from clippo_core.data.shards import open_manifest
from clippo_core.engine.checkpoint import open_checkpoint
from clippo_core.run import journal

PYFLYTE = Path(sys.executable).with_name("pyflyte")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's files, written once."""
    root = tmp_path_factory.mktemp("numbers")
    write_numbers(str(root))
    return root


def small(root: Path, numbers: Path, **changes: Any) -> RunConfig:
    """The demo with a few steps, and few fine-tuning steps of two GLUE tasks."""
    folder = root / NUMBERS_FOLDER
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(numbers)
    return replace(presets.demo(str(root)), **(QUICK_DEMO | changes))


def command(workflow: str, config: RunConfig, folder: Path) -> list[str]:
    """The command line that runs `workflow` on `config`."""
    path = folder / f"{workflow}-{config.train.steps}.json"
    path.write_text(json.dumps(dataclasses.asdict(config)))
    return [str(PYFLYTE), "run", "workflows", workflow, "--config", str(path)]


def run(
    words: list[str], timeout: float = 900, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in the project's folder."""
    return subprocess.run(
        words,
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_folder(root: Path) -> Path:
    """The newest run's folder."""
    return max(
        (path for path in root.glob("demo-*") if path.is_dir()),
        key=lambda path: path.stat().st_mtime,
    )


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Results by evaluation, as written."""
    return {
        path.parent.name: json.loads(path.read_text())
        for path in folder.glob("evaluations/*/result.json")
    }


@pytest.mark.slow
def test_demo_then_cache_then_lost_bytes(tmp_path: Path, flyte_home: Path, numbers: Path) -> None:
    config = small(tmp_path / "runs", numbers)
    words = command("demo", config, tmp_path)
    done = run(words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = run_folder(tmp_path / "runs")
    first = results(folder)
    assert set(first) == {"imagenet", "retrieval", "vqa", "glue", "xm3600"}
    assert all(
        result["failure"] == "" and result["is_demo"] and result["metrics"]
        for result in first.values()
    )
    assert len(journal.read(str(folder / "journal.jsonl"))) == 6
    page = (folder / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "") and "demo" in page
    summary = (tmp_path / "runs" / "demo-summary.txt").read_text()
    assert str(folder / "report.html") in summary and "numbers/i2t_recall@1" in summary

    written = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and "checkpoints" in path.parts
    }
    again = run(words)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in written} == written

    checkpoint = open_checkpoint(str(folder / "checkpoints")).info
    shutil.rmtree(folder / "shards")
    shutil.rmtree(folder / "checkpoints")
    (folder / "journal.jsonl").unlink()
    third = run(words)
    assert third.returncode == 0, third.stdout[-3000:] + third.stderr[-3000:]
    assert (folder / "shards" / "manifest.json").is_file()
    assert (
        open_checkpoint(str(folder / "checkpoints")).info.weights_sha256
        == checkpoint.weights_sha256
    )


@pytest.mark.slow
def test_one_failing_evaluation_costs_the_others_nothing(
    tmp_path: Path, flyte_home: Path, numbers: Path
) -> None:
    config = small(
        tmp_path / "runs",
        numbers,
        evaluate__vqa__train_questions="/nowhere/questions.json",
        evaluate__glue=None,
    )
    done = run(command("demo", config, tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = (tmp_path / "runs" / "demo-summary.txt").read_text()
    assert "Not promoted" in summary and "/nowhere/questions.json" in summary
    assert not (tmp_path / "runs" / "promoted-demo.json").exists()
    folder = run_folder(tmp_path / "runs")
    assert {"imagenet", "retrieval", "xm3600"} <= {
        name for name, result in results(folder).items() if not result["failure"]
    }
    assert "/nowhere/questions.json" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_kill_during_training_costs_nothing_that_was_saved(
    tmp_path: Path, flyte_home: Path, numbers: Path
) -> None:
    """The same command after `kill -9` ends with the losses and weights that an undisturbed run
    has, bit for bit.
    """
    only_one = {f"evaluate__{name}": None for name in ("imagenet", "vqa", "glue", "xm3600")}
    changes = {"train__steps": 30, "train__save_every_steps": 5, **only_one}
    calm = small(tmp_path / "calm", numbers, **changes)
    assert run(command("demo", calm, tmp_path)).returncode == 0
    killed = small(tmp_path / "killed", numbers, **changes)
    words = command("demo", killed, tmp_path)
    process = subprocess.Popen(
        words,
        cwd=PROJECT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    while not list((tmp_path / "killed").glob("demo-*/checkpoints/step-*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline, "training saved nothing"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run(words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folders = [run_folder(tmp_path / name) for name in ("calm", "killed")]
    losses = [
        [line["loss"] for line in journal.read(str(folder / "journal.jsonl"))] for folder in folders
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 30
    weights = [
        open_checkpoint(str(folder / "checkpoints")).info.weights_sha256 for folder in folders
    ]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_two_processes_train_the_same_run(tmp_path: Path, flyte_home: Path, numbers: Path) -> None:
    only_one = {f"evaluate__{name}": None for name in ("imagenet", "vqa", "glue", "xm3600")}
    losses = {}
    for shape in ("laptop", "laptop2"):
        config = small(tmp_path / shape, numbers, **only_one)
        done = run(command("demo", config, tmp_path), CLIPPO_CLUSTER=shape)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        folder = run_folder(tmp_path / shape)
        losses[shape] = [line["loss"] for line in journal.read(str(folder / "journal.jsonl"))]
        assert open_checkpoint(str(folder / "checkpoints")).info.world_size == int(
            shape.removeprefix("laptop") or 1
        )
    assert losses["laptop2"] == pytest.approx(losses["laptop"], rel=1e-4)


@pytest.mark.slow
def test_what_a_user_sees_when_ranks_and_batch_do_not_fit(
    tmp_path: Path, flyte_home: Path, numbers: Path
) -> None:
    config = small(tmp_path / "runs", numbers, train__batch_pairs=45)
    done = run(command("demo", config, tmp_path), CLIPPO_CLUSTER="laptop2")
    assert done.returncode != 0
    assert "does not divide by 2 ranks" in done.stdout + done.stderr


def limited(run_config: RunConfig, n: int) -> tuple[RetrievalConfig, ...]:
    """The run's retrieval benchmarks, each on at most `n` images (0 = all)."""
    return tuple(replace(one, limit=n) for one in run_config.evaluate.retrieval)


def few(data: Path, root: Path) -> RunConfig:
    """A few dozen real pairs at 64 px, and a few rows of each real benchmark."""
    run_config = presets.slices(str(data), str(root), image_px=64, steps=8, batch_pairs=16)
    sources = tuple(dataclasses.replace(source, limit=48) for source in run_config.data.sources)
    return replace(
        run_config,
        data__sources=sources,
        optim__warmup_steps=2,
        optim__timescale_steps=2,
        optim__cooldown_steps=2,
        train__save_every_steps=4,
        evaluate__bootstrap_samples=100,
        evaluate__imagenet__templates="name",
        evaluate__retrieval=limited(run_config, 24),
        evaluate__vqa__finetune__max_steps=2,
        evaluate__glue__tasks=("MNLI", "CoLA", "STS-B"),
        evaluate__glue__limit_train=32,
        evaluate__xm3600__limit=24,
    )


@pytest.mark.slow
def test_real_photos_and_real_benchmark_files(
    tmp_path: Path, flyte_home: Path, slices: Path
) -> None:
    config = few(slices, tmp_path / "runs")
    done = run(command("pretrain_and_evaluate", config, tmp_path), timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = next(path for path in (tmp_path / "runs").glob("slices-*") if path.is_dir())
    found = results(folder)
    assert {name for name, result in found.items() if not result["failure"]} == {
        "imagenet",
        "retrieval",
        "vqa",
        "glue",
        "xm3600",
    }
    assert all(result["is_partial"] and not result["is_demo"] for result in found.values())
    # What a slice cannot give says so, and is not averaged away.
    assert found["imagenet"]["metrics"]["imagenet/10shot_top1"]["why_not"]
    for metric in ("glue/mnli_mm_accuracy", "glue/average"):
        assert found["glue"]["metrics"][metric]["why_not"]
    manifest = open_manifest(str(folder / "shards"))
    assert set(manifest.shares_by_source) == {"flickr8k", "flickr30k", "c4", "multi30k"}
    assert "not run" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_training_photo_that_is_also_evaluated_is_left_out(tmp_path: Path, slices: Path) -> None:
    """The test split of Flickr30k among the sources of pairs: validation excludes exactly those
    photos, or refuses the run.
    """
    from prepared import validated

    from clippo_core.errors import DataError

    config = few(slices, tmp_path / "runs")
    leaky = tuple(
        dataclasses.replace(source, split="test") if source.name == "flickr30k" else source
        for source in config.data.sources
    )
    tolerant = replace(
        config, data__sources=leaky, data__max_bad_share=0.5, evaluate__retrieval=limited(config, 0)
    )
    data, render, evaluate = tolerant.data, tolerant.render, tolerant.evaluate
    found = validated(tmp_path / "run", data, render, evaluate)
    leaked = {key for key, reason in found.excluded.items() if "evaluated" in reason}
    photos = {key for key in leaked if "#" not in key}  # the others are captions
    assert len(photos) == 48 and all(key.startswith("flickr30k/") for key in photos)
    with pytest.raises(DataError, match="flickr30k"):
        validated(tmp_path / "run", replace(data, max_bad_share=0.05), render, evaluate)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo_beats_chance_in_all_five_evaluations(
    tmp_path: Path, flyte_home: Path, seed: int
) -> None:
    config = replace(presets.demo(str(tmp_path / "runs")), seed=seed)
    done = run(command("demo", config, tmp_path), timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = results(run_folder(tmp_path / "runs"))
    judged = {
        "imagenet": ["digits/zero_shot_top1", "digits/10shot_top1"],
        "retrieval": ["numbers/i2t_recall@1", "numbers/t2i_recall@1"],
        "vqa": ["numbers_vqa/overall"],
        "glue": ["numbers_glue/average"],
        "xm3600": ["numbers_xm/i2t_recall@1", "numbers_xm/t2i_recall@1"],
    }
    for evaluation, metrics in judged.items():
        for metric in metrics:
            number = found[evaluation]["metrics"][metric]
            low, chance = number["low"], number["chance"]
            print(
                f"seed {seed}  {metric}  {number['value']:.1f}  low {low:.1f}  chance {chance:.1f}"
            )
            assert low > chance, f"{metric}: {low} is not above {chance}"
