"""`pyflyte run` with a mistake in a run: our sentence, without a traceback above it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from PIL import Image

PYFLYTE = Path(sys.executable).with_name("pyflyte")
MISTAKES = {
    "fields": (
        {"trian": {}, "train": {"step": 3}},
        "error: trian: there is no such field; did you mean `train`?\n"
        "train.step: there is no such field; did you mean `steps`?",
    ),
    "path": ({}, "error: nowhere: not found, or an empty folder; check the path"),
}


def pyflyte(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYFLYTE, *words, "--config", str(folder / "run.json")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def write(folder: Path, changes: dict[str, object]) -> None:
    sources = {"sources": [{"kind": "folder", "path": "nowhere"}]}
    run = {"name": "x", "root": str(folder / "runs"), "data": sources, **changes}
    (folder / "run.json").write_text(json.dumps(run))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_run_is_one_sentence(name: str, flyte_home: Path, tmp_path: Path) -> None:
    changes, sentence = MISTAKES[name]
    write(tmp_path, changes)
    done = pyflyte(tmp_path, "run", "workflows", "pretrain_and_evaluate")
    said = done.stdout + done.stderr
    assert done.returncode == 1 and sentence in said, said
    assert "Traceback" not in said and "nobody else was told" not in said


@pytest.mark.slow
def test_help_is_no_schema(flyte_home: Path) -> None:
    for workflow, words in (
        ("pretrain_and_evaluate", "A run: its JSON"),
        ("evaluate_glue", "part"),
    ):
        command = [PYFLYTE, "run", "workflows", workflow, "--help"]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
        assert words in done.stdout and "additionalProperties" not in done.stdout
        assert len(done.stdout.splitlines()) < 40


@pytest.mark.slow
def test_a_mistake_that_a_rank_finds_is_one_sentence(flyte_home: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        colour = tuple(hashlib.sha256(bytes([number])).digest()[:3])
        Image.new("RGB", (32, 32), colour).save(photos / f"{number}.png")
        (photos / f"{number}.txt").write_text(f"colour {number}")
    sources = {"sources": [{"kind": "folder", "path": str(photos)}]}
    train = {"steps": 6, "batch_pairs": 8, "resume_from": "nothing", "precision": "float32"}
    optim = {"warmup_steps": 1, "timescale_steps": 2, "cooldown_steps": 1}
    write(tmp_path, {"data": sources, "train": train, "optim": optim, "render": {"image_px": 32}})
    done = pyflyte(tmp_path, "run", "workflows", "pretrain_and_evaluate")
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "\nerror: train.resume_from: nothing: there is no" in said, said
    assert "Traceback" not in said and "ChildFailed" not in said


@pytest.mark.slow
def test_verbose_shows_where_and_a_missing_file_is_called_so(
    flyte_home: Path, tmp_path: Path
) -> None:
    write(tmp_path, {"trian": {}})
    done = pyflyte(tmp_path, "-v", "run", "workflows", "pretrain_and_evaluate")
    assert "Traceback" in done.stdout + done.stderr
    (tmp_path / "run.json").unlink()
    done = pyflyte(tmp_path, "run", "workflows", "pretrain_and_evaluate")
    assert done.returncode == 2 and "there is no such file" in done.stdout + done.stderr
    (tmp_path / "run.json").touch()
    done = pyflyte(tmp_path, "run", "workflows", "pretrain_and_evaluate")
    said = " ".join(done.stderr.replace("│", " ").split())  # without its box
    assert done.returncode == 2 and "it is empty, and no json" in said
