"""Datasets of the Hugging Face hub: streamed, offline, and as strangers may make them."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dataset_hub import DatasetHub, dataset_hub

from clippo_core.config import SourceConfig
from clippo_core.data.sources.hub import pinned
from clippo_core.errors import DataError

CAPTIONS = [f'photo {n}, a "dog", un café' for n in range(20)]
PHOTOS = [bytes([n]) * (1000 + n) for n in range(20)]
CARD = "---\nconfigs:\n- config_name: default\n  data_files: {}\n---\n"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[DatasetHub]:
    """Datasets on a hub: a right one in two files, and those of a stranger."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    home = tmp_path / "hub/people"
    pictures = [{"bytes": photo, "path": None} for photo in PHOTOS]
    table = pa.table({"image": pictures, "text": CAPTIONS})
    for name, part in (("train-00000-of-00002", 0), ("train-00001-of-00002", 1)):
        (home / "photos/data").mkdir(parents=True, exist_ok=True)
        path = home / f"photos/data/{name}.parquet"
        pq.write_table(table.slice(10 * part, 10), path, row_group_size=4)
    (home / "photos/README.md").write_text("---\nlicense: mit\n---\n# Photos\n")
    (tmp_path / "private").mkdir()
    pq.write_table(table, tmp_path / "private/own.parquet")
    bomb = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise("abcdefghi")]
    for name, card in (
        ("absolute", CARD.format(tmp_path / "private/own.parquet")),
        ("relative", CARD.format("../../../../../private/own.parquet")),
        ("address", CARD.format("http://127.0.0.1:1/own.parquet")),
        ("bomb", "---\n" + "\n".join([*bomb, "configs: *i"]) + "\n---\n"),
    ):
        shutil.copytree(home / "photos", home / name)
        (home / name / "README.md").write_text(card)
    (home / "tars").mkdir()
    (home / "tars/train.tar").write_bytes(b"")
    (home / "part").mkdir()
    shutil.copy(path, home / "part")
    with dataset_hub(tmp_path / "hub") as server:
        yield server


ON_HUB = """
from clippo_core.config import SourceConfig
from clippo_core.data.sources.guess import guess_source
from clippo_core.data.sources.hub import pinned
from clippo_core.data.sources.kinds import read_source
from clippo_core.errors import DataError
def told(function):
    try:
        return function()
    except DataError as error:
        return str(error)
def read(name):
    source = SourceConfig("hf", f"people/{name}", revision="a" * 40)
    return told(lambda: [(one.key, one.texts, len(one.content)) for one in read_source(source)])
print(told(lambda: pinned(SourceConfig("hf", "people/photos"))))
print(told(lambda: pinned(SourceConfig("hf", "people/photos", revision="v2"))))
print(told(lambda: pinned(SourceConfig("hf", "people/photos", revision="c" * 40))))
print(told(lambda: pinned(SourceConfig("hf", "people/none"))))
for name in ("none", "photos", "absolute", "relative", "address", "bomb", "tars", "part"):
    print(read(name))
print(told(lambda: guess_source("people/photos")))
"""


def on_the_hub(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", ON_HUB], capture_output=True, text=True, timeout=240,
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


WHOLE = str([(f"row-{n}", (text,), len(PHOTOS[n])) for n, text in enumerate(CAPTIONS)])


def test_a_dataset_of_the_hub_is_streamed_and_offline_read_from_its_cache(
    hub: DatasetHub, tmp_path: Path
) -> None:
    there = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    found = on_the_hub(HF_HUB_OFFLINE="0", **there)
    assert found[:3] == ["a" * 40, "b" * 40, "c" * 40]
    assert "people/none: its revision cannot be looked up" in found[3]
    assert "people/none at aaa" in found[4] and "cannot be read" in found[4]
    assert found[5] == WHOLE
    for line in found[6:9]:
        assert "README.md: it names" in line and "which is no file of the dataset" in line
    assert "bomb/README.md: its YAML stands for" in found[9]
    assert "train.tar is no parquet; set `revision` to refs/convert/parquet" in found[10]
    assert "1 of the 2 files people/part/train-*.parquet are there" in found[11]
    assert "kind='hf', path='people/photos'" in found[12]
    sizes = {path.name: path.stat().st_size for path in hub.home.glob("*/photos/data/*")}
    assert {name: hub.sent[name] for name in sizes} == {  # once for the rows, once for the columns
        name: size * (2 if "00000-of" in name else 1) for name, size in sizes.items()
    }
    fetch = "from huggingface_hub import snapshot_download as f\n"
    fetch += "f('people/photos', repo_type='dataset', revision='a' * 40)"
    subprocess.run([sys.executable, "-c", fetch], check=True, env={**os.environ, **there})
    found = on_the_hub(HF_HUB_OFFLINE="1", **there | {"HF_ENDPOINT": "http://127.0.0.1:1"})
    assert found[2] == "c" * 40
    for line in (found[0], found[1], found[3]):
        assert "cannot be looked up" in line and "offline" in line.lower(), line
    assert "cannot be read" in found[4] and found[5] == WHOLE


def test_a_folder_here_is_not_taken_for_a_dataset_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "people/photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"write \./people/photos for the folder"):
        pinned(SourceConfig("hf", "people/photos", revision="c" * 40))
