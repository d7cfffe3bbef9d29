"""Typical mistakes at the command line: each gets one clear sentence and exit code 2, leaves every
file as it was and writes none.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tower_reference import SMALL, perturbed

from clippo_core import models
from clippo_core.cli.main import main
from clippo_core.config import ModelConfig

RUN = {
    "name": "x",
    "data": {"sources": [{"kind": "folder", "path": "photos"}]},
    "optim": {"warmup_steps": 1, "cooldown_steps": 1, "timescale_steps": 1},
    "train": {"steps": 10, "batch_pairs": 2},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, photos, texts, a run, and files that are not what they are called."""
    root = tmp_path_factory.mktemp("mistakes")
    models.save_big_vision(
        perturbed(models.build_tower(ModelConfig(**SMALL), 32)), str(root / "m.npz")
    )
    (root / "photos").mkdir()
    (root / "bare").mkdir()
    (root / "empty").mkdir()
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"photos/{n}.jpg")
        Image.fromarray(pixels).save(root / f"bare/{n}.jpg")
        (root / f"photos/{n}.txt").write_text(f"photo {n}\n")
    (root / "texts.txt").write_text("a dog\nzwei Hunde\n")
    (root / "latin.txt").write_bytes(b"caf\xe9\n")
    (root / "fake.jpg").write_text("no picture")
    (root / "fake.npz").write_text("no archive")
    (root / "fake.safetensors").write_text("no tensors")
    (root / "cut.npz").write_bytes((root / "m.npz").read_bytes()[:5000])
    (root / "run.json").write_text(json.dumps(RUN))
    (root / "typo.json").write_text(json.dumps({**RUN, "trian": {"steps": 3}}))
    (root / "broken.json").write_text("{")
    (root / "odd.csv").write_text("id,words\n1,a\n")
    (root / "captions.tsv").write_text("0.jpg photo without a tab\n")
    elsewhere = {"sources": [{"kind": "csv", "path": "odd.csv", "separator": ","}]}
    (root / "columns.json").write_text(json.dumps({**RUN, "data": elsewhere}))
    large = {**RUN, "train": {"steps": 10, "batch_pairs": 64}}
    (root / "large.json").write_text(json.dumps(large))
    missing = {"retrieval": [{"annotations": "no.json", "images": "photos"}]}
    (root / "benchmark.json").write_text(json.dumps({**RUN, "evaluate": missing}))
    return root


def state(root: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


MISTAKES = [
    # a model
    ("embed no.npz --texts texts.txt --out x.npz", "no.npz"),
    ("embed fake.npz --texts texts.txt --out x.npz", "fake.npz"),
    ("embed cut.npz --texts texts.txt --out x.npz", "cut.npz"),
    ("embed fake.safetensors --texts texts.txt --out x.npz", "fake.safetensors"),
    ("embed photos --texts texts.txt --out x.npz", "photos"),
    ("embed clippo_b16_yfcc --texts texts.txt --out x.npz", "clippo_b16_yfcc"),
    ("embed gs://bucket/m.npz --texts texts.txt --out x.npz", "gs:// are not supported"),
    # what is embedded
    ("embed m.npz --out x.npz", "there is nothing to embed; give --images"),
    ("embed m.npz --texts no.txt --out x.npz", "no.txt: it does not exist; check the path"),
    ("embed m.npz --texts photos --out x.npz", "photos: it is a folder"),
    ("render --file latin.txt --census", "latin.txt: line 1 is not UTF-8"),
    ("embed m.npz --images no.jpg --out x.npz", "no.jpg"),
    ("embed m.npz --images photos --out no/x.npz", "no"),
    ("embed m.npz --images photos --out x.parquet", "x.parquet"),
    ("embed m.npz --images photos --out texts.txt", "texts.txt"),
    ("embed m.npz --texts texts.txt --out x.npz --batch-size 0", "batch"),
    ("embed m.npz --texts texts.txt --out x.npz --batch-size -1", "batch"),
    ("embed m.npz --images empty --out x.npz", "empty"),
    ("embed m.npz --texts texts.txt --out x.npz --device gpu", "gpu"),
    # a collection
    ("index photos", "photos"),
    ("search photos dog", "photos"),
    ("search no dog", "no"),
    ("search photos", "there is no question; give a text"),
    ("search photos dog --top 0", "--top is 0; it must be at least 1"),
    # numbers of a model
    ("evaluate no.npz benchmark.json", "no.npz"),
    ("evaluate m.npz no.json", "no.json"),
    ("evaluate m.npz run.json", "run.json"),
    ("evaluate m.npz benchmark.json --only glu", "glu"),
    # classes
    ("classify m.npz photos/0.jpg", "at least one class name"),
    ("classify m.npz photos/0.jpg --names a b --template dog", "has no {}"),
    ("classify m.npz fake.jpg --names a b", "fake.jpg: it is no readable picture"),
    # pages
    ("render", "there is nothing to draw"),
    ("render dog", "give --out FILE.png for a picture"),
    ("render dog --out x.png --image-px 100", "100"),
    ("render dog --out x.png --font no.hex", "no.hex"),
    ("render dog --tagged --census", "--tagged is about the lines of --file"),
    # other forms
    ("convert m.npz m.pt", "m.pt"),
    ("convert m.npz x.npz --image-px 100", "image_px is 100; it must be a multiple of 16"),
    # analyses
    ("analyse gap m.npz --images photos --captions captions.tsv", "line 1: expected a file name"),
    ("analyse lengths --texts texts.txt", "expected NAME=FILE"),
    ("analyse compare photos", "photos holds no result of an evaluation"),
    ("analyse compare photos --beside CLIPO", "nothing is published of 'CLIPO'"),
    # a run
    ("preset slice", "there is no preset slice; there are"),
    ("preset slices", "preset slices needs data; add --data FOLDER"),
    (
        "preset demo --set train__step=10",
        "train.step: there is no such field; did you mean `steps`",
    ),
    ("preset demo --set train__steps=abc", "train.steps is 'abc'; it must be a whole number"),
    ("preset demo --set train=10", "train is 10; it must be"),
    ("preset demo --set data__sources=x", "data.sources is 'x'; it must be a list"),
    ("preset demo --set evaluate__vqa=None", "evaluate.vqa is 'None'; it must be an object"),
    ("preset demo --set steps", "expected NAME="),
    ("new x --pairs no", "no: there is no such file or folder; check the path"),
    ("new x --pairs empty", "empty: there is no such file or folder"),
    ("new x --pairs bare", "no picture in it has a .txt beside it"),
    ("new x --pairs odd.csv", "its header (id, words) names no picture or no caption"),
    ("new a/b --pairs photos", "name is 'a/b'; it names a folder"),
    ("new x --pairs photos photos", "two sources are called 'folder-photos'"),
    ("new x --pairs photos --retrieval run.json photos", "neither Karpathy's nor COCO's"),
    ("check no.json", "no.json: it does not exist"),
    ("check broken.json", "it is not valid json at line 1"),
    ("check typo.json", "trian: there is no such field; did you mean `train`?"),
    ("check columns.json", "its header (id, words) lacks filepath or title"),
    ("check large.json", "a batch takes 64 photos, and there are 4; lower it, or add data"),
    ("check benchmark.json", "retrieval (coco): no.json: there is no such file"),
    # what operators do
    ("tokenizer --out x.model", "give text files, or --config"),
    ("tokenizer texts.txt --size 3 --out x.model", "no tokenizer of 3 pieces"),
    ("promotions no.json", "no.json: nothing was judged under this name"),
    ("rollback no.json --why wrong", "no.json"),
    ("promote no.json 7 --why better", "no.json"),
]


@pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_sentence(
    line: str,
    sentence: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = state(home)
    code = main(line.split())
    _, error = capsys.readouterr()
    assert code == 2 and sentence in error, error
    said = [text for text in error.splitlines() if text.startswith("error: ")]
    assert len(said) == 1 and "Traceback" not in error
    assert state(home) == before, "a file was changed or left behind"


def test_there_are_as_many_as_promised() -> None:
    assert len(MISTAKES) >= 30
