"""Every example of `clippo COMMAND --help`, pasted into a shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image
from tower_reference import SMALL, perturbed

from clippo_core import models
from clippo_core.cli.main import main, parser
from clippo_core.config import ModelConfig
from clippo_core.evaluate.results import write_result
from clippo_core.run.records import EvalResult, Metric

EXCUSED = {
    "clippo_b16_yfcc100m": "needs a network: it fetches a released model",
    "s3://": "needs a bucket; tests/run/test_promotion.py runs it on one",
    "runs/": "needs a trained and promoted run; tests/run and tests/tasks run it",
    "promote ": "needs a promoted run; tests/run/test_promotion.py runs it",
    "--page": "serves until Ctrl-C; the search page's tests run it",
    "--to onnx": "needs onnx, which is in no lock",
}
"""What an example contains -> why it is not run here."""


def examples() -> list[str]:
    """The command lines of all helps."""
    commands = parser()._subparsers
    assert commands is not None
    choices = next(iter(commands._group_actions)).choices or {}
    texts = [re.sub(r"\\\n +", "", str(command.description)) for command in dict(choices).values()]
    return [
        line.strip()
        for text in texts
        for line in text.splitlines()
        if re.match(r"  \S.*", line) and "clippo " in line
    ]


RUN_HERE = [line for line in examples() if not any(part in line for part in EXCUSED)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples name."""
    root = tmp_path_factory.mktemp("world")
    tower = perturbed(models.build_tower(ModelConfig(**SMALL), 32))
    models.save_big_vision(tower, str(root / "model.npz"))
    shutil.copy(root / "model.npz", root / "B_16.npz")
    for folder in ("photos", "web", "shards"):
        (root / folder).mkdir()
    entries = []
    for n in range(16):
        pixels = np.random.default_rng(n).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"photos/{n}.jpg")
        (root / f"photos/{n}.txt").write_text(f"photo {n}\n")
        sentences = [{"raw": f"photo {n}"}]
        entries.append({"filename": f"{n}.jpg", "split": "test", "sentences": sentences})
    for name in ("dog.jpg", "1.jpg", "2.jpg"):
        shutil.copy(root / "photos/1.jpg", root / name)
    for number in range(100):
        with tarfile.open(root / f"shards/{number:05d}.tar", "w") as tar:
            for end in ("jpg", "txt"):
                tar.add(root / f"photos/{number % 16}.{end}", f"{number}.{end}")
    shutil.copy(root / "shards/00001.tar", root / "web/0.tar")
    rows = "".join(f"photos/{n}.jpg,row {n}\n" for n in range(16))
    (root / "pairs.csv").write_text("filepath,title\n" + rows)
    (root / "pairs.tsv").write_text("en\tx\ta dog\nde\tx\tein Hund\n")
    (root / "captions.tsv").write_text("".join(f"{n}.jpg\tphoto {n}\n" for n in range(16)))
    (root / "dataset.json").write_text(json.dumps({"images": entries}))
    for name in ("captions", "names", "classes", "en", "de", "th"):
        (root / f"{name}.txt").write_text("".join(f"a {name} of {n} dogs\n" for n in range(200)))
    lines = [f"{n} dogs and a cat" for n in range(200)]
    models.train_tokenizer(lines, str(root / "spiece.model"), vocab_size=290)
    metric = Metric(75.0, 74.0, 76.0, 40.0, 277)
    result = EvalResult("glue", "glue", "dev", "p", 277, {"glue/average": metric})
    write_result(str(root / "runs/x/evaluations/glue"), result)
    os.chdir(root)
    assert main(["convert", "model.npz", "model.safetensors"]) == 0
    words = ["--images", "photos", "--out", "photos.emb", "--device", "cpu"]
    assert main(["embed", "model.safetensors", *words]) == 0
    os.chdir(PROJECT)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN_HERE)
def test_an_example_runs(line: str, world: Path) -> None:
    new = f"{sys.executable} -m clippo_core new mine --pairs photos > run.json"
    pasted = line.replace("/data", "photos")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{new} && clippo() {{ {sys.executable} -m clippo_core"
         f' "$@"; }} && {pasted}'],
        cwd=world,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_most_examples_are_run() -> None:
    assert len(RUN_HERE) >= 25
    for part in EXCUSED:
        assert any(part in line for line in examples()), f"no example has {part!r} any more"
