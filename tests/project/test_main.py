"""The commands, run as a user runs them."""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tower_reference import SMALL, perturbed

from clippo_core import models
from clippo_core.cli import main as command_line
from clippo_core.config import ModelConfig
from clippo_core.embedder import Clippo
from clippo_core.evaluate.results import write_result
from clippo_core.rendering import Renderer
from clippo_core.run.records import EvalResult, Metric


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.save_big_vision(perturbed(models.build_tower(ModelConfig(**SMALL), 32)), "model.npz")
    for n in range(12):
        Image.fromarray(
            np.random.default_rng(n).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        ).save(f"{n}.png")
    (tmp_path / "texts.txt").write_text("a dog\nzwei Hunde\n", encoding="utf-8")
    return tmp_path


def run(capsys, *arguments):
    code = command_line.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_embed(folder, capsys):
    code, out, _ = run(
        capsys,
        "embed",
        "model.npz",
        "--texts",
        "texts.txt",
        "--images",
        "0.png",
        "1.png",
        "--out",
        "all.npz",
        "--device",
        "cpu",
    )
    assert code == 0 and "2 images, 2 texts, 16 numbers each" in out
    model = Clippo.load("model.npz", "cpu")
    with np.load("all.npz") as found:
        np.testing.assert_array_equal(found["texts"], model.embed_texts(["a dog", "zwei Hunde"]))
        np.testing.assert_array_equal(found["images"], model.embed_images(["0.png", "1.png"]))
        assert bytes(found["text_names"]).decode().split("\n") == ["a dog", "zwei Hunde"]
        assert bytes(found["image_names"]).decode().split("\n") == ["0.png", "1.png"]


def test_classify(folder, capsys):
    expected = Clippo.load("model.npz", "cpu").classify(["0.png"], ["dog", "cat"], ["a {}"])[0]
    code, out, _ = run(
        capsys,
        "classify",
        "model.npz",
        "0.png",
        "--names",
        "dog",
        "cat",
        "--template",
        "a {}",
        "--json",
        "--device",
        "cpu",
    )
    assert code == 0
    assert json.loads(out) == {
        "image": "0.png",
        "classes": pytest.approx(
            dict(zip(("dog", "cat"), expected.tolist(), strict=True)), abs=1e-5
        ),
    }
    code, out, _ = run(
        capsys, "classify", "model.npz", "0.png", "--names-file", "texts.txt", "--top", "1"
    )
    assert code == 0 and out.startswith("0.png\t") and out.count("%") == 1


def test_render(folder, capsys):
    assert (
        run(
            capsys,
            "render",
            "a dog",
            "--file",
            "texts.txt",
            "--image-px",
            "64",
            "--out",
            "pages.png",
        )[0]
        == 0
    )
    np.testing.assert_array_equal(
        np.asarray(Image.open("pages.png")).reshape(3, 64, 64),
        Renderer(64).render(["a dog", "a dog", "zwei Hunde"]),
    )
    _, out, _ = run(capsys, "render", "a dog", "x" * 800, "--image-px", "64", "--census")
    assert [line.split("\t")[1] for line in out.splitlines()[:2]] == ["cut", "0"]
    assert int(out.splitlines()[2].split("\t")[1]) > 600
    assert run(capsys, "render", "a")[0] == 2


def test_census_by_language(folder, capsys, monkeypatch):
    content = "en\ta dog\nja\t猫\r\nen\t" + "w" * 1000 + "\nxx\ta\u2028b\t\n"
    Path("texts.tsv").write_bytes(content.encode())
    code, out, _ = run(
        capsys, "render", "--file", "texts.tsv", "--tagged", "--census", "--image-px", "64"
    )
    assert code == 0 and [line.split() for line in out.splitlines()] == [
        ["language", "texts", "rows", "cut", "missing"],
        ["en", "2", "2.50", "50.0%", "0.0%"],
        ["ja", "1", "1.00", "0.0%", "0.0%"],
        ["xx", "1", "1.00", "0.0%", "0.0%"],
    ]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert (
        run(capsys, "render", "--file", "-", "--tagged", "--census", "--image-px", "64")[1] == out
    )
    Path("texts.tsv").write_text("en\tone\nno tab\n")
    assert (
        "texts.tsv, line 2: expected a language"
        in run(capsys, "render", "--file", "texts.tsv", "--tagged", "--census")[2]
    )
    assert (
        "--tagged is about the lines"
        in run(capsys, "render", "a", "--file", "texts.txt", "--tagged", "--census")[2]
    )


def test_results_stand_beside_published_numbers(folder, capsys, tmp_path):
    name, metric = "glue/average", Metric(75.0, 74.0, 76.0, 40.0, 277)
    result = EvalResult(
        "glue",
        "glue",
        "dev",
        "p",
        277,
        {name: metric},
        main_metrics=[name],
        weights_sha256="a" * 64,
    )
    write_result("runs/x/evaluations/glue", result)
    code, out, _ = run(
        capsys, "analyse", "compare", "runs", "--beside", "BERT-Base", "--out", "side"
    )
    assert (
        code == 0
        and "| glue/average | aaaaaaaa | 75.0 [74.0, 76.0] | 40.0 | 277 | 83.1 BERT-Base" in out
    )
    assert sorted(path.name for path in (tmp_path / "side").iterdir()) == [
        "compare.csv",
        "compare.md",
        "compare.svg",
    ]
    wrong = run(capsys, "analyse", "compare", "runs", "--beside", "CLIP B16")[2]
    assert "nothing is published of 'CLIP B16'; there are: 1T-CLIP B/16;" in wrong
    assert "side holds no result" in run(capsys, "analyse", "compare", "side")[2]


def test_convert(folder, capsys):
    assert run(capsys, "convert", "model.npz", "model.safetensors")[0] == 0
    assert run(capsys, "convert", "model.safetensors", "again.npz")[0] == 0
    with np.load("model.npz") as before, np.load("again.npz") as after:
        assert set(before.files) == set(after.files)
        assert all(np.array_equal(before[name], after[name]) for name in before.files)
    _, out, _ = run(capsys, "convert", "model.npz", "large.safetensors", "--image-px", "64")
    assert (
        "clippo, width 32, depth 2, 64 px" in out
        and Clippo.load("large.safetensors").image_px == 64
    )
    _, out, _ = run(
        capsys, "convert", "model.npz", "vit.safetensors", "--image-only", "--image-px", "32"
    )
    assert "image_only" in out
    code, _, error = run(capsys, "convert", "vit.safetensors", "vit.npz")
    assert code == 2 and error.startswith("error: ") and "plain CLIPPO" in error
    assert run(capsys, "convert", "model.npz", "model.pt")[0] == 2


def test_analyse(folder, capsys, tmp_path):
    (tmp_path / "captions.tsv").write_text(
        "".join(f"{n}.png\tnumber {n}\n" for n in range(12)), encoding="utf-8"
    )
    code, out, _ = run(
        capsys, "analyse", "gap", "model.npz", "--images", ".", "--captions", "captions.tsv"
    )
    assert code == 0 and json.loads(out)["n_pairs"] == 12
    code, out, _ = run(
        capsys, "analyse", "patches", "model.npz", "--n", "9", "--out", "patches.html"
    )
    assert (
        code == 0
        and out.startswith("9 components")
        and "<svg" in (tmp_path / "patches.html").read_text()
    )
    models.train_tokenizer(
        [f"{n} dogs and a cat" for n in range(200)], "small.model", vocab_size=290
    )
    assert run(capsys, "analyse", "lengths", "--texts", "en=texts.txt")[0] == 0, (
        "CLIPPO's lengths alone"
    )
    code, out, _ = run(
        capsys,
        "analyse",
        "lengths",
        "--texts",
        "en=texts.txt",
        "--tokenizer",
        "small=small.model",
        "--out",
        "lengths.html",
    )
    assert code == 0 and "small" in out.splitlines()[0] and out.splitlines()[1].startswith("en")
    assert "<svg" in (tmp_path / "lengths.html").read_text()
    (tmp_path / "captions.tsv").write_text("0.png no tab\n", encoding="utf-8")
    code, _, error = run(
        capsys, "analyse", "gap", "model.npz", "--images", ".", "--captions", "captions.tsv"
    )
    assert code == 2 and "line 1" in error


def test_tokenizer(folder, capsys, tmp_path):
    (tmp_path / "lines.txt").write_text(
        "".join(f"Page {n} has a dog\n" for n in range(300)), encoding="utf-8"
    )
    code, out, _ = run(capsys, "tokenizer", "lines.txt", "--size", "300", "--out", "a.model")
    assert code == 0 and int(out.split()[1]) <= 300
    data = {"sources": [{"kind": "sentences", "path": "lines.txt"}], "text_pair_share": 1.0}
    optim = {"warmup_steps": 0, "cooldown_steps": 0}
    (tmp_path / "run.json").write_text(
        json.dumps({"name": "x", "data": data, "optim": optim}), encoding="utf-8"
    )
    assert (
        run(capsys, "tokenizer", "--config", "run.json", "--size", "300", "--out", "b.model")[0]
        == 0
    )
    encode = models.text.TokenEncoder("b.model", 8)
    pieces = [encode.processor.id_to_piece(int(token)) for token in encode(["PAGE dog"])[0]]
    assert "".join(pieces).startswith("▁page▁dog</s>") and pieces[-1] == "</s>"
    # Longer than the row: cut, and the last token is still the end of the sentence.
    assert encode(["dog " * 30])[0, -1] == 1 and (encode(["dog " * 30])[0, :-1] != 1).all()
    assert (encode([""]) == 1).all()
    assert "give text files, or --config" in run(capsys, "tokenizer", "--out", "c.model")[2]
    (tmp_path / "tiny.txt").write_text("a\n", encoding="utf-8")
    assert (
        "no tokenizer of 10 pieces"
        in run(capsys, "tokenizer", "tiny.txt", "--size", "10", "--out", "c.model")[2]
    )


def test_preset(capsys):
    from clippo_core.config import RunConfig, presets
    from clippo_core.run import records

    code, out, _ = run(
        capsys,
        "preset",
        "slices",
        "--data",
        "DATA",
        "--set",
        "steps=900",
        "--set",
        "train__batch_pairs=32",
        "--set",
        "seed=4",
    )
    expected = presets.slices("DATA", steps=900)
    found = records.from_dict(RunConfig, json.loads(out))
    assert code == 0 and found.seed == 4 and found.train.batch_pairs == 32
    assert (found.train.steps, found.data, found.evaluate) == (
        expected.train.steps,
        expected.data,
        expected.evaluate,
    )
    assert len(run(capsys, "preset")[1].splitlines()) == len(presets.by_name())
    assert "no preset slice;" in run(capsys, "preset", "slice")[2]
    step, kind = "train__step=3", "model__kind=clipo"
    refused = run(capsys, "preset", "demo", "--set", step)
    assert (
        refused[0] == 2
        and "train.step: there is no such field; did you mean `steps`?" in refused[2]
    )
    assert (
        "model.kind is 'clipo'; use 'clippo', " in run(capsys, "preset", "demo", "--set", kind)[2]
    )
    half = run(capsys, "preset", "demo", "--set", "train__steps=730.5")
    assert half[:2] == (2, "") and "train.steps is 730.5; it must be a whole number." in half[2]
    missing = run(capsys, "preset", "slices")
    assert missing == (2, "", "error: preset slices needs data; add --data FOLDER.\n")
    assert "c4_share 0.3" in run(capsys, "preset", "paper_b16", "--set", "c4_share=0.3")[2]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("steps=abc", "preset slices: steps is a text, 'abc', and must be a whole number"),
        ("steps=1.5", "steps is a number, 1.5, and must be a whole number"),
        ("steps=true", "steps is true or false, True, and must be a whole number"),
        ("steps=" + "9" * 5000, "steps is a text"),
        ("steps=-5", "optim.warmup_steps is -1; it must not be negative"),
        ("image_px=[1]", "image_px is a list, and must be a whole number"),
        ("root={}", "root is an object, and must be a text"),
        ("train=5", "train is 5; it must be"),
        ("train__steps__x=1", "train.steps is 600, without fields to set"),
        ("train__lr=[" + "[" * 100_000, "train.lr: there is no such field"),
        ("=5", "there is no such field"),
        ("steps", "expected NAME="),
        ("data__sources=[1]", "data.sources[0] is 1; it must be an object"),
        ("seed=1e400", "seed is '1e400'; it must be a whole number"),
        ("name=\ud800", "it names a folder"),
        ("name=a\x1bb", "it names a folder"),
    ],
)
def test_settings_of_a_preset_that_are_wrong(capsys, setting, sentence):
    code, out, error = run(capsys, "preset", "slices", "--data", "DATA", "--set", setting)
    assert (code, out) == (2, "") and sentence in error
    assert all(line.isprintable() for line in error.split("\n"))


def test_arguments_of_a_preset_keep_their_types(capsys):
    words = ("preset", "paper_b16", "--set", "c4_share=1", "--set", "name=2024", "--data", "7")
    found = json.loads(run(capsys, *words)[1])
    assert found["name"] == "2024" and found["data"]["sources"][0]["path"].startswith("7/")
    assert (
        "large is a text, 'no'" in run(capsys, "preset", "one_tower_clip", "--set", "large=no")[2]
    )
    code, _, error = run(capsys, "preset", "demo", "--root", "\udcff")
    assert code == 2
    assert error == "error: preset demo: root holds a lone surrogate; correct it.\n"


def test_a_tokenizers_mistakes(folder, capsys):
    Path("folder").mkdir()
    Path("odd.json").write_bytes(b'{"name": "\xff"}')
    Path("deep.json").write_text("[" * 100_000)
    Path("typo.json").write_text('{"name": "x", "data": {"sources": [{"kind": "tsv"}]}}')
    data = {"sources": [{"kind": "tsv", "path": "absent.tsv"}], "text_pair_share": 1.0}
    run_of = {"name": "x", "data": data, "optim": {"warmup_steps": 0, "cooldown_steps": 0}}
    Path("absent.json").write_text(json.dumps(run_of))
    Path("lines.txt").write_text("".join(f"Page {n} has a dog\n" for n in range(300)))
    Path("nul.txt").write_bytes(b"a\0b\n")
    for arguments, sentence in (
        (("--config", "folder"), "folder: it is a folder"),
        (("--config", "none.json"), "none.json: it does not exist"),
        (("--config", "odd.json"), "odd.json: it is not UTF-8"),
        (("--config", "deep.json"), "deep.json: RunConfig: its json is nested more than 64 deep"),
        (("--config", "typo.json"), "typo.json: data.sources[0].path is missing"),
        (("--config", "absent.json"), "absent.tsv"),
        (("--config", "gs://bucket/run.json"), "gs:// are not supported"),
        (("folder",), "folder: it is a folder"),
        (("nul.txt",), "nul.txt: line 1 holds a NUL"),
        (("lines.txt", "--size", "-5"), "no tokenizer of -5 pieces"),
        (("lines.txt", "--size", "99999999999"), "no tokenizer of 99999999999 pieces"),
        (("lines.txt", "--out", "lines.txt/x.model"), "lines.txt/x.model: it does not exist"),
        (("lines.txt", "--size", "300", "--out", "folder"), "folder: it is a folder"),
    ):
        out = () if "--out" in arguments else ("--out", "x.model")
        code, _, error = run(capsys, "tokenizer", *arguments, *out)
        assert code == 2 and error.startswith("error: ") and sentence in error, (arguments, error)
    assert not Path("x.model").exists()
    code, _, error = run(capsys, "embed", "model.npz", "--texts", "texts.txt", "--out", "no/x.npz")
    assert code == 2 and "no/x.npz: there is no folder no; make it" in error


def test_what_is_wrong_is_said_in_a_sentence(folder, capsys, tmp_path):
    for arguments, sentence in (
        (("embed", "model.npz", "--out", "x.npz"), "nothing to embed"),
        (("embed", "absent.npz", "--texts", "texts.txt", "--out", "x.npz"), "absent.npz"),
        (
            ("embed", "model.npz", "--texts", "absent.txt", "--out", "x.npz"),
            "absent.txt: it does not exist; check the path",
        ),
        (
            ("embed", "model.npz", "--images", "texts.txt", "--out", "x.npz"),
            "x.npz: nothing could be embedded; 2 items were left out",
        ),
        (("classify", "model.npz", "0.png"), "at least one class name"),
        (("analyse", "lengths", "--texts", "en", "--tokenizer", "a=b"), "expected NAME=FILE"),
    ):
        code, _, error = run(capsys, *arguments)
        assert code == 2 and sentence in error and "Traceback" not in error, arguments
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    assert (
        "latin.txt: line 1 is not UTF-8 (unexpected end of data at byte 3); convert it to UTF-8"
        in run(capsys, "embed", "model.npz", "--texts", "latin.txt", "--out", "x.npz")[2]
    )


@pytest.mark.parametrize("module", command_line.COMMANDS, ids=lambda module: module.__name__)
def test_help_teaches_with_examples_that_parse(module, capsys):
    whole = argparse.ArgumentParser()
    names = whole.add_subparsers()
    module.add(names)
    assert names.choices
    for command in names.choices:
        with pytest.raises(SystemExit) as stop:
            whole.parse_args([command, "--help"])
        text = capsys.readouterr().out
        examples = [line for line in command_lines(text) if line.startswith(f"clippo {command}")]
        assert stop.value.code == 0 and examples, f"clippo {command} --help shows no example"
        for example in examples:
            words = shlex.split(example.partition(" > ")[0])
            assert command_line.parser().parse_args(words[1:]).run, example


def command_lines(text: str) -> list[str]:
    """The command lines of a help's examples: what is indented by two spaces and says clippo."""
    joined = text.replace("\\\n", " ")
    shown = [line for line in joined.splitlines() if re.match(r"  \S.*", line)]
    return [part.strip() for line in shown for part in line.split(" | ") if "clippo " in part]


def test_bare_and_version(capsys):
    for words, shown in (([], "preset "), (["--version"], "clippo 0.")):
        with pytest.raises(SystemExit) as stop:
            command_line.main(words)
        assert stop.value.code == 0 and shown in capsys.readouterr().out


def test_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "clippo_core", "released"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("trained on") == 6 and "imagenet/zero_shot_top1 43.4" in done.stdout
