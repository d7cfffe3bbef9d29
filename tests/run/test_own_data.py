"""`clippo new` and `clippo check`: a run for a folder of photos, and every fault of a run."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clippo_core.cli.main import main
from clippo_core.config import RunConfig

Says = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with 64 photos and captions, and a benchmark of 8 of them."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("held").mkdir()
    entries = []
    for n in range(72):
        pixels = np.random.default_rng(n).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        if n < 64:
            Image.fromarray(pixels).save(f"photos/{n:05d}.jpg")
            Path(f"photos/{n:05d}.txt").write_text(f"photo number {n}\n")
        else:
            Image.fromarray(pixels).save(f"held/held{n:05d}.jpg")
            sentences = [{"raw": f"held photo {n}"}]
            entries.append(
                {"filename": f"held{n:05d}.jpg", "split": "test", "sentences": sentences}
            )
    Path("dataset.json").write_text(json.dumps({"images": entries}))
    return tmp_path


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    """Run `clippo`: (exit code, standard output, standard error)."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        return (code, *capsys.readouterr())

    return run


def edited(**changes: Any) -> None:
    """Write run.json with other values at dotted paths; None removes one."""
    run = json.loads(Path("run.json").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = run
        for name in parents:
            part = part[int(name) if name.isdigit() else name]
        if value is None:
            del part[last]
        else:
            part[last] = value
    Path("run.json").write_text(json.dumps(run))


@pytest.fixture
def run(home: Path, says: Says) -> RunConfig:
    """run.json, as `clippo new` wrote it."""
    words = ("new", "mine", "--pairs", "photos", "--retrieval", "dataset.json", "held")
    code, out, error = says(*words)
    assert code == 0, error
    Path("run.json").write_text(out)
    return RunConfig.from_json(out)


def test_new_fits_the_data(run: RunConfig, says: Says) -> None:
    assert (run.name, run.data.text_pair_share) == ("mine", 0.0)
    (source,) = run.data.sources
    assert (source.kind, source.path) == ("folder", str(Path("photos").absolute()))
    assert run.train.batch_pairs == 16, "the largest power of two within a quarter of the photos"
    assert run.train.steps == 100 and run.optim.warmup_steps == 10
    (benchmark,) = run.evaluate.retrieval
    assert (benchmark.dataset, benchmark.split, benchmark.expect_images) == ("dataset", "test", 8)
    code, out, _ = says("check", "run.json")
    assert code == 0 and "no fault found" in out
    assert "retrieval (dataset): its first 8 pictures open" in out
    assert "photos: 64 records, its first 10 pictures open" in out
    assert "100 steps pass 25.0 times over the photos" in out and "GB are free" in out


def test_new_takes_texts_and_sizes(home: Path, says: Says) -> None:
    Path("en.txt").write_text("".join(f"Sentence {n}.\n" for n in range(100)))
    code, out, error = says("new", "two", "--pairs", "photos", "en.txt", "--size", "b16")
    found = RunConfig.from_json(out)
    assert code == 0 and found.data.text_pair_share == 0.25 and found.model.width == 768
    assert "photos: folder, 64 photos with captions" in error
    assert "en.txt: sentences, 50 text pairs" in error and "nothing will be evaluated" in error
    alone = RunConfig.from_json(says("new", "texts", "--pairs", "en.txt")[1])
    assert alone.data.text_pair_share == 1.0


def test_new_heeds_a_common_caption(home: Path, says: Says) -> None:
    for n in range(16):
        Path(f"photos/{n:05d}.txt").write_text("a dog")
    found = RunConfig.from_json(says("new", "mine", "--pairs", "photos")[1])
    assert found.train.batch_pairs == 2
    Path("run.json").write_text(
        json.dumps({**json.loads(says("new", "m", "--pairs", "photos")[1])})
    )
    edited(train__batch_pairs=8)
    code, _, error = says("check", "run.json")
    assert code == 2 and "the text 'a dog' is so common that batches hold at most 4" in error


def test_check_names_every_fault_at_once(run: RunConfig, says: Says) -> None:
    Path("photos/00003.jpg").write_bytes(b"no picture")
    Path("held/held00070.jpg").unlink()
    edited(
        train__step=5,
        train__batch_pairs=100,
        optim__lr=1e-3,
        render__fonts=["no.hex"],
        model__initial_weights="no.npz",
        evaluate__glue={"root": "no-glue"},
    )
    code, out, error = says("check", "run.json")
    lines = error.splitlines()
    assert code == 2 and lines[0] == "error: run.json has 7 faults:"
    for sentence in (
        "train.step: there is no such field; did you mean `steps`?",
        "no.npz: there is no such file",
        "no.hex: there is no such file",
        "photos: 1 of its first 64 records cannot be used; the first: ",
        "train.batch_pairs is 100: a batch takes 100 photos, and there are 64; lower it, or add",
        "retrieval (dataset): 1 of its first 8 pictures cannot be used; the first: ",
        "glue (glue): no-glue: there is no such file, or the folder is empty",
    ):
        assert any(sentence in line for line in lines[1:]), (sentence, error)
    assert len(lines) == 8


def test_check_stops_at_what_is_no_config(home: Path, says: Says) -> None:
    for text, sentence in (
        ("{", "run.json has 1 fault"),
        ('{"name": "x"}', "data is missing"),
        ('{"name": "x", "data": {"sources": []}}', "data.sources is empty"),
        ("[1]", "it must be an object"),
    ):
        Path("run.json").write_text(text)
        code, _, error = says("check", "run.json")
        assert code == 2 and sentence in error and "Traceback" not in error
    assert "none.json: it does not exist" in says("check", "none.json")[2]


def test_the_plan_names_a_benchmarks_faults_before_anything_is_trained(
    run: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    from flytekit import current_context

    from tasks.plan import plan

    begin = time.process_time()
    Path("held/held00064.jpg").unlink()
    plan(config=run, kickoff_time=datetime.datetime(1970, 1, 1))
    shown = {deck.name: deck.html for deck in current_context().decks}
    sentence = "retrieval (dataset): 1 of its first 8 pictures cannot be used"
    assert sentence in shown["Benchmarks"] and "held00064.jpg" in shown["Benchmarks"]
    assert sentence in caplog.text
    assert time.process_time() - begin < 10
