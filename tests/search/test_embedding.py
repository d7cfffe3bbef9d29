"""`clippo embed`: what it reads, what it leaves, and that a kill changes no byte of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from tower_reference import SMALL, perturbed

from clippo_core import models, storage
from clippo_core.cli import main as command_line
from clippo_core.config import ModelConfig
from clippo_core.embedder import Clippo
from clippo_core.search import inputs


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.npz"
    models.save_big_vision(perturbed(models.build_tower(ModelConfig(**SMALL), 32)), path)
    return str(path)


@pytest.fixture(scope="module")
def model(model_file):
    return Clippo.load(model_file, "cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve pictures in two folders, of which two have a caption and two cannot be read."""
    monkeypatch.chdir(tmp_path)
    for n in range(10):
        picture(Path("photos", "deep" if n > 6 else "", f"{n}.png"), n)
    Path("photos/3.txt").write_text("drei Hunde\n", encoding="utf-8")
    Path("photos/deep/8.txt").write_text("八\n", encoding="utf-8")
    Path("photos/5.jpg").write_bytes(b"no picture at all")
    Path("photos/deep/half.png").write_bytes(Path("photos/2.png").read_bytes()[:400])
    Path("photos/.hidden.png").write_bytes(b"")
    return tmp_path


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def run(capsys, *arguments):
    code = command_line.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def contents(folder):
    """Every file below a folder."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rows(folder, side="img"):
    parts = sorted(
        Path(folder, f"{side}_emb").iterdir(), key=lambda path: int(path.stem.split("_")[-1])
    )
    return np.concatenate([np.load(part) for part in parts])


def metadata(folder, name="metadata"):
    parts = sorted(Path(folder, name).iterdir(), key=lambda path: int(path.stem.split("_")[-1]))
    return [row for part in parts for row in pyarrow.parquet.read_table(part).to_pylist()]


# --- what it reads -------------------------------------------------------------------------------


def test_a_folder_becomes_shards_with_captions_and_a_list_of_bad_pictures(
    folder, capsys, model, model_file
):
    code, out, error = run(
        capsys, "embed", model_file, "--images", "photos", "--out", "found", "--shard-size", 5,
        "--batch-size", 2,
    )  # fmt: skip
    assert code == 0 and "found: 10 images, 16 numbers each; 2 left out, see found/bad.tsv" in out
    assert error.count("shard ") == 3 and "1 could not be read" in error
    names = [*(f"{n}.png" for n in range(7)), "deep/7.png", "deep/8.png", "deep/9.png"]
    wanted = [str(folder / "photos" / name) for name in names]
    found = metadata("found")
    assert [row["image_path"] for row in found] == wanted and [row["key"] for row in found] == names
    assert [row["caption"] for row in found] == ["", "", "", "drei Hunde", *[""] * 4, "八", ""]
    assert rows("found").dtype == np.float32
    np.testing.assert_allclose(rows("found"), model.embed_images(wanted), atol=2e-6)
    bad = Path("found/bad.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in bad] == [
        ["kind", "name"], ["images", "5.jpg"], ["images", "deep/half.png"],
    ]  # fmt: skip
    assert "no readable picture" in bad[1] and "cut short" in bad[2]
    facts = json.loads(Path("found/embedding.json").read_text())
    assert facts["model"] == model_file and facts["weights_sha256"] == model.weights_sha256
    assert [(one["inputs"], one["rows"]) for one in facts["images"]] == [(5, 5), (5, 4), (2, 1)]


def test_tars_lists_pipes_and_files_are_read_alike(folder, capsys, model_file, monkeypatch):
    good = [f"photos/{n}.png" for n in range(4)]
    for part in range(2):
        with tarfile.open(f"{part:05d}.tar", "w") as tar:
            for n in (0, 1) if part == 0 else (2, 3):
                tar.add(f"photos/{n}.png", f"{n:03d}.png")
                tar.add("photos/3.txt", f"{n:03d}.txt")
    Path("list.txt").write_text("\n".join(good) + "\n\n")
    runs = {
        "files": ["--images", *good],
        "list": ["--images", "list.txt"],
        "tars": ["--images", "{00000..00001}.tar"],
        "two": ["--images", "00000.tar", "00001.tar"],
        "pipe": ["--images", "-"],
    }
    for name, arguments in runs.items():
        with open("list.txt", "rb") as pipe:
            monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
            code, _, error = run(capsys, "embed", model_file, *arguments, "--out", f"{name}.emb")
            assert code == 0, (name, error)
        np.testing.assert_array_equal(rows(f"{name}.emb"), rows("files.emb"), err_msg=name)
    assert {row["caption"] for row in metadata("tars.emb")} == {"drei Hunde"}
    assert [row["key"] for row in metadata("tars.emb")][1:3] == ["00000/001", "00001/002"]
    assert contents("tars.emb").keys() == contents("two.emb").keys()
    found = inputs.pictures(["."])  # a folder of tars, once it holds no picture
    assert next(found).name == "photos/0.png"
    for path in Path("photos").rglob("*.*"):
        path.unlink()
    assert [item.name for item in inputs.pictures(["."])][::3] == ["00000/000", "00001/003"]


def test_texts_and_pictures_in_one_folder(folder, capsys, model, model_file):
    texts = ["siebzig", "七十", "سبعون", "", "a\u2028b"]
    Path("texts.txt").write_bytes("\n".join(texts).encode() + b"\nbad \xff\n")
    arguments = ["embed", model_file, "--images", "photos/1.png", "--texts", "texts.txt"]
    code, out, _ = run(capsys, *arguments, "--out", "both", "--dtype", "float16")
    assert code == 0 and "both: 1 images, 5 texts, 16 numbers each; 1 left out" in out
    assert [row["caption"] for row in metadata("both", "text_metadata")] == texts
    assert len(metadata("both")) == 1 and rows("both", "text").dtype == np.float16
    np.testing.assert_allclose(rows("both", "text"), model.embed_texts(texts), atol=1e-3)
    assert "texts\t\ttexts.txt: line 6 is not UTF-8" in Path("both/bad.tsv").read_text()
    # Texts alone take the place that clip-retrieval's tools look at; pictures cannot join them.
    assert run(capsys, *arguments[:2], "--texts", "texts.txt", "--out", "texts")[0] == 0
    assert [row["caption"] for row in metadata("texts")] == texts
    code, _, error = run(capsys, *arguments, "--out", "texts")
    assert code == 2 and "give pictures a folder of their own" in error


def test_names_take_their_own_room_and_no_more(tmp_path, capsys, model_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"a dog, number {n}" for n in range(3000)] + ["x" * 20_000]
    Path("texts.txt").write_text("\n".join(lines))
    for out in ("x.npz", "folder"):
        assert run(capsys, "embed", model_file, "--texts", "texts.txt", "--out", out)[0] == 0
    with np.load("x.npz") as found:
        assert bytes(found["text_names"]).decode().split("\n") == lines
    assert Path("x.npz").stat().st_size < 2e6
    assert sum(len(data) for data in contents("folder").values()) < 2e6


# --- going on ------------------------------------------------------------------------------------


def feed(process, names):
    process.stdin.write("".join(f"{name}\n" for name in names).encode())
    process.stdin.flush()


def test_killed_and_started_again_leaves_equal_bytes(tmp_path, model_file):
    names = [str(tmp_path / "photos" / f"{n:03d}.png") for n in range(45)]
    for n, name in enumerate(names):
        picture(Path(name), n)
    Path(names[7]).write_bytes(b"broken")
    Path(names[31]).write_bytes(b"broken")

    def start(out):
        command = [sys.executable, "-m", "clippo_core", "embed", model_file, "--images", "-"]
        command += ["--out", str(tmp_path / out), "--shard-size", "10", "--batch-size", "4"]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ}
        )

    killed, facts = start("killed"), tmp_path / "killed" / "embedding.json"
    feed(killed, names[:35])  # the fourth shard waits for more
    end = time.monotonic() + 120
    while not facts.exists() or len(json.loads(facts.read_text())["images"]) < 3:
        assert time.monotonic() < end and killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(30) == -signal.SIGKILL
    before = contents(tmp_path / "killed")
    whole, again = start("whole"), start("killed")
    for process in (whole, again):
        feed(process, names)
        process.stdin.close()
    assert (whole.wait(120), again.wait(120)) == (0, 0)
    after = contents(tmp_path / "killed")
    assert after == contents(tmp_path / "whole") and len(after) == 12
    assert after["bad.tsv"].count(b"\n") == 3
    finished = [name for name in before if name.endswith((".npy", ".parquet"))]
    assert len(finished) == 6 and all(before[name] == after[name] for name in finished)


def test_what_was_written_before_its_shard_was_named_is_written_again(folder, capsys, model_file):
    arguments = ["embed", model_file, "--images", "photos", "--out", "found", "--shard-size", "4"]
    assert run(capsys, *arguments)[0] == 0
    whole = contents("found")
    facts = json.loads(whole["embedding.json"])
    facts["images"] = facts["images"][:1]  # killed before embedding.json, and after bad.tsv
    Path("found/embedding.json").write_text(json.dumps(facts))
    Path("found/img_emb/img_emb_2.npy").unlink()
    assert run(capsys, *arguments)[0] == 0 and contents("found") == whole
    code, _, error = run(capsys, *arguments)
    assert code == 0 and not error and contents("found") == whole  # nothing is embedded twice


def test_a_folder_of_something_else_is_not_gone_on_with(folder, capsys, model_file, tmp_path):
    arguments = ["embed", model_file, "--images", "photos", "--out", "found"]
    assert run(capsys, *arguments, "--shard-size", 4)[0] == 0
    other = perturbed(models.build_tower(ModelConfig(**SMALL), 32), seed=5)
    models.save_big_vision(other, tmp_path / "other.npz")
    for changed, sentence in (
        (["embed", "other.npz", *arguments[2:], "--shard-size", 4], "begun with weights_sha256"),
        ([*arguments, "--shard-size", 5], "begun with shard_size 4, and not 5"),
        ([*arguments, "--shard-size", 4, "--dtype", "float16"], "begun with dtype float32"),
        ([*arguments, "--shard-size", 4, "--preprocess", "fewshot"], "begun with preprocess"),
        (
            [*arguments[:3], "photos/1.png", *arguments[4:], "--shard-size", 4],
            "shard 0 of its pictures was made of other ones",
        ),
        (
            [*arguments[:3], *(f"photos/{n}.png" for n in range(4)), *arguments[4:]],
            "begun with shard_size",
        ),
    ):
        code, _, error = run(capsys, *changed)
        assert code == 2 and sentence in error and error.count("\n") == 1, (changed, error)


# --- what is refused, before the model is loaded -------------------------------------------------


def test_targets_and_inputs_that_cannot_work(folder, capsys, model_file, tmp_path):
    Path("file").write_text("")
    Path("empty").mkdir()
    images = ["--images", "photos"]
    for arguments, sentence in (
        (["--out", "x"], "there is nothing to embed"),
        ([*images, "--out", "no/x.npz"], "no/x.npz: there is no folder no; make it"),
        ([*images, "--out", "o.parquet"], "o.parquet: no .parquet is written; name a folder"),
        ([*images, "--out", "file"], "file: it is there already, as a file"),
        ([*images, "--out", "file/below"], "file/below"),
        ([*images, "--out", "https://x.org/y"], "addresses of the kind https:// are not supported"),
        ([*images, "--out", "x", "--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        ([*images, "--out", "x", "--batch-size", "-1"], "--batch-size is -1"),
        ([*images, "--out", "x", "--shard-size", "0"], "shard size is 0"),
        ([*images, "--out", "x", "--bad", "fail"], "5.jpg: it is no readable picture"),
        (["--images", "-", "--texts", "-", "--out", "x"], "standard input (-) was named twice"),
        (["--images", "absent", "--out", "x"], "absent: it does not exist"),
        (["--images", "empty", "--out", "x"], "empty: it holds no picture (.jpg"),
        (["--images", "{000..002}.tar", "--out", "x"], "there is no such file"),
        (["--images", "*.jpeg", "--out", "x"], "there is no such file"),
        (["--texts", "absent.txt", "--out", "x"], "absent.txt: it does not exist"),
        (["--texts", "photos", "--out", "x"], "photos: it is a folder, where a file is needed"),
    ):
        code, _, error = run(capsys, "embed", model_file, *arguments)
        assert code == 2 and sentence in error and error.startswith("error: "), (arguments, error)
        assert error.count("\n") == 1, error
    code, _, error = run(capsys, "embed", model_file, "--images", "photos/5.jpg", "--out", "y")
    assert (
        code == 2 and "y: nothing could be embedded; 1 items were left out (see y/bad.tsv)" in error
    )


def test_buckets_give_and_take(folder, capsys, model_file, s3):
    for path in Path("photos").rglob("*.png"):
        storage.upload(path, f"{s3}/{path}")
    for out in (f"{s3}/found", "found"):
        code, printed, error = run(
            capsys, "embed", model_file, "--images", f"{s3}/photos", "--out", out
        )
        assert code == 0 and f"{out}: 10 images" in printed, error
    for stat in storage.list_files(f"{s3}/found"):
        assert storage.read_bytes(stat.uri) == Path("found", stat.name).read_bytes(), stat.name
    assert run(capsys, "embed", model_file, "--images", "photos", "--out", f"{s3}/x.npz")[0] == 0
    Path("x.npz").write_bytes(storage.read_bytes(f"{s3}/x.npz"))
    with np.load("x.npz") as found:
        assert found["images"].shape == (10, 16)
