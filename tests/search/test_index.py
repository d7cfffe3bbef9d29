"""Exact search against the definition, and the graphs against exact search."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clippo_core.cli import main as command_line
from clippo_core.errors import ConfigError
from clippo_core.search import collection, index
from clippo_core.search.collection import Facts, Shard, ShardRows
from clippo_core.search.inputs import Item

FACTS = Facts("model", "w" * 64, "r" * 64, "float32", "squash", "float32", 8, 1000)


def write(folder, sizes, dtype="float32", texts=0, dim=8, facts=FACTS):
    """A collection of random rows, in shards of these sizes; returns its facts and all rows."""
    random = np.random.default_rng(0)
    facts = dataclasses.replace(facts, dtype=dtype, dim=dim)
    collection.write_facts(str(folder), facts)
    whole = []
    for side, number in [
        *(("images", size) for size in sizes),
        *([("texts", texts)] * bool(texts)),
    ]:
        values = random.standard_normal((number, dim)).astype(np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        rows = ShardRows(number + 3, dim, dtype)
        rows.add(values[: number // 2])
        rows.add(values[number // 2 :])
        items = [Item(f"{side} {n}", f"/{n}", f"caption {n}") for n in range(number)]
        shard = Shard(number, number, collection.names_digest(items))
        facts = collection.write_shard(str(folder), facts, side, rows, items, shard, [], True)
        whole += [values.astype(dtype).astype(np.float32)] if side == "images" else []
    return facts, np.concatenate(whole)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_exact_search_is_a_sort(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(index, "_BLOCK_ROWS", 7)
    facts, whole = write(tmp_path, [20, 1, 9], dtype)
    rows = index.Rows(str(tmp_path), facts, "images")
    assert len(rows) == 30 and [rows.place(row) for row in (0, 19, 20, 21, 29)] == [
        (0, 0), (0, 19), (1, 0), (2, 0), (2, 8),
    ]  # fmt: skip
    np.testing.assert_array_equal(rows.at([29, 0, 20]), whole[[29, 0, 20]])
    for k in (1, 4, 30, 99):
        for query in whole[:5]:
            found, cosines = rows.nearest(query, k)
            wanted = sorted(range(30), key=lambda row: (-float(whole[row] @ query), row))[:k]
            np.testing.assert_allclose(cosines, whole[found] @ query, atol=1e-6)
            np.testing.assert_allclose(cosines, whole[wanted] @ query, atol=1e-6)
    row = collection.shard_metadata(str(tmp_path), facts, "images", 2)[8]
    assert row == collection.Row("images 8", "/8", "caption 8")


def test_equal_rows_come_in_their_order(tmp_path):
    facts, _ = write(tmp_path, [3, 3])
    for number in range(2):
        np.save(tmp_path / f"img_emb/img_emb_{number}.npy", np.full((3, 8), 0.5, np.float32))
    found, _ = index.Rows(str(tmp_path), facts, "images").nearest(np.full(8, 0.5, np.float32), 5)
    assert found.tolist() == [0, 1, 2, 3, 4]


def test_equal_rows_of_a_large_part_come_in_their_order(tmp_path):
    facts, _ = write(tmp_path, [1000])
    rows = np.zeros((1000, 8), np.float32)
    rows[:, 0] = np.random.default_rng(0).integers(0, 3, 1000)
    np.save(tmp_path / "img_emb/img_emb_0.npy", rows)
    found, _ = index.Rows(str(tmp_path), facts, "images").nearest(
        np.eye(8, dtype=np.float32)[0], 10
    )
    assert found.tolist() == np.flatnonzero(rows[:, 0] == 2)[:10].tolist()


def test_the_command_and_what_it_says(tmp_path, capsys):
    facts, _ = write(tmp_path, [30], texts=5)
    assert command_line.main(["index", str(tmp_path), "--kind", "exact"]) == 0
    out = capsys.readouterr().out
    assert "30 images: exact index" in out and "5 texts: exact index" in out
    assert "recall@10 100.0 % (30 of the images asking), 100.0 % (texts asking)" in out
    found, candidates = index.read(str(tmp_path), facts, "images")
    assert candidates is None and found is not None and (found.kind, found.rows) == ("exact", 30)
    stale = dataclasses.replace(facts, images=(*facts.images, facts.images[0]))
    with pytest.raises(ConfigError, match="run `clippo index .*` again"):
        index.read(str(tmp_path), stale, "images")
    for folder, sentence in ((tmp_path / "absent", "it holds no embeddings"),):
        assert command_line.main(["index", str(folder)]) == 2
        assert sentence in capsys.readouterr().err


def test_files_that_do_not_belong_together_are_refused(tmp_path, capsys):
    facts, _ = write(tmp_path, [30])
    for name, damage, sentence in (
        ("img_emb/img_emb_0.npy", lambda data: data[:-4], "should have 960 bytes, and has 956"),
        (
            "img_emb/img_emb_0.npy",
            lambda data: data.replace(b"(30, 8)", b"(60, 4)"),
            "and embedding",
        ),
        ("embedding.json", lambda data: data.replace(b'"dim": 8', b'"dim": "8"'), "dim"),
        ("embedding.json", lambda data: data[:50], "it is not valid json"),
    ):
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        assert command_line.main(["index", str(tmp_path)]) == 2
        assert sentence in capsys.readouterr().err, name
        path.write_bytes(whole)
    (tmp_path / "metadata/metadata_0.parquet").write_bytes(b"PAR1")
    with pytest.raises(Exception, match="metadata_0.parquet"):
        collection.shard_metadata(str(tmp_path), facts, "images", 0)


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(index.importlib.util, "find_spec", lambda name: None)
    assert index.choose() == "exact"
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        index.choose("faiss")
    monkeypatch.setattr(index.importlib.util, "find_spec", lambda name: name == "faiss" or None)
    assert index.choose() == "faiss"


@pytest.mark.slow
def test_graphs_of_usearch_and_faiss_find_nearly_all(tmp_path):
    """In a folder of their own, for the lock does not hold them."""
    packages, data = tmp_path / "packages", tmp_path / "data"
    wanted = ["usearch", "simsimd", "numkong", "faiss-cpu"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    installed = subprocess.run([*command, str(packages), *wanted], capture_output=True, timeout=500)
    if installed.returncode:
        pytest.skip("usearch and faiss-cpu cannot be installed here")
    write(data, [4000, 1000], texts=300, dim=32)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(packages)])
    }
    for kind in ("usearch", "faiss"):
        command = [sys.executable, "-m", "clippo_core", "index", str(data), "--kind", kind]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=Path.cwd(), timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert f"5,000 images: {kind} index" in done.stdout and "by the index" in done.stdout
        found = json.loads((data / "index" / "images.json").read_text())
        assert found["recall_images"] > 95 and found["recall_texts"] > 80, found
        program = (
            "import sys; from clippo_core.search import collection, index;"
            "facts = collection.read_facts(sys.argv[1]);"
            "rows = index.Rows(sys.argv[1], facts, 'images');"
            "found, near = index.read(sys.argv[1], facts, 'images');"
            "query = rows.at([4321])[0];"
            "got, cosines = index.search(rows, near, query, 10);"
            "assert got[0] == 4321 and len(got) == 10, got;"
            "assert abs(cosines - rows.at(got) @ query).max() < 1e-6"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(data)],
            capture_output=True, text=True, env=environment, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "clippo_core", "search", str(data), "a"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2 and "faiss is not installed; pip install faiss-cpu" in done.stderr
