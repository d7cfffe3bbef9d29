"""Other people's suites, in environments of their own: they give our numbers on the demo's world,
and onnxruntime our embeddings.
"""

from __future__ import annotations

import datetime
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import foreign_python, run_foreign
from forms import drawn_tower

from clippo_core.adapters.clip_benchmark import top_k_accuracy
from clippo_core.adapters.mteb import ClippoEncoder
from clippo_core.cli.main import main
from clippo_core.config import RenderConfig, presets, replace, to_json
from clippo_core.config.small import NUMBERS_FOLDER
from clippo_core.data.numbers.world import write_numbers
from clippo_core.embedder import Clippo
from clippo_core.errors import ConfigError
from clippo_core.neighbours import graphs
from clippo_core.run.planning import make_plan

TEXTS = ["a dog", "zwei Hunde", "", "七十", "x"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random tower that tells drawings apart, as a file."""
    path = str(tmp_path_factory.mktemp("tower") / "model.safetensors")
    Clippo(drawn_tower(), RenderConfig(), device="cpu").save(path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's files."""
    root = tmp_path_factory.mktemp("world")
    write_numbers(str(root / NUMBERS_FOLDER))
    return root / NUMBERS_FOLDER


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tower of the demo, trained for a minute: good enough that no rank hangs on the last bit."""
    from prepared import shards_of

    from clippo_core.train.loop import pretrain

    steps = {"train__steps": 150, "optim__warmup_steps": 20, "optim__cooldown_steps": 30}
    config = replace(presets.demo(str(world.parent)), **steps)
    plan = make_plan(config, datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))
    manifest = shards_of(world.parent, plan.render.data, plan.render.render)
    model = Clippo.load(pretrain(plan.pretrain, manifest).uri, "cpu")
    path = str(tmp_path_factory.mktemp("trained") / "model.safetensors")
    model.save(path)
    return path


@pytest.fixture(scope="module")
def ours(trained: str, world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Our own metrics of digits and numbers."""
    root = tmp_path_factory.mktemp("ours")
    asked = root / "evaluate.json"
    asked.write_text(to_json(presets.demo(str(world.parent)).evaluate))
    only = ["--only", "imagenet", "retrieval", "--root", str(root)]
    assert main(["evaluate", trained, str(asked), *only]) == 0
    (path,) = root.glob("evaluation-*/results.json")
    return {
        name: metric["value"]
        for result in json.loads(path.read_text())
        for name, metric in result["metrics"].items()
    }


def write_tars(folder: Path, rows: list[tuple[Path, str, str]], **files: str) -> str:
    """CLIP_benchmark's folder of webdataset shards: picture, ending and content of its text."""
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1")
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number, (picture, ending, text) in enumerate(rows):
            for suffix, data in ((picture.suffix, picture.read_bytes()), (ending, text.encode())):
                member = tarfile.TarInfo(f"{number:06d}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(folder)


@pytest.mark.slow
def test_clip_benchmark_gives_our_numbers(
    trained: str, world: Path, ours: dict[str, float], tmp_path: Path
) -> None:
    python = foreign_python("clip-benchmark==1.6.2", "open_clip_torch")

    def theirs(name: str, task: str) -> dict[str, float]:
        out = tmp_path / f"{name}.json"
        run_foreign(
            python, "-m", "clippo_core.adapters.clip_benchmark", "eval",
            "--model_type", "clippo", "--model", "clippo", "--pretrained", trained,
            "--dataset", f"wds/{name}", "--dataset_root", str(tmp_path / name), "--task", task,
            "--no_amp", "--num_workers", "0", "--recall_k", "1", "5", "10", "--output", str(out),
        )  # fmt: skip
        found: dict[str, float] = json.loads(out.read_text())["metrics"]
        return found

    names = json.loads((world / "imagenet/class_names.json").read_text())
    pictures = sorted((world / "imagenet/val").glob("*/*"))
    classes = sorted({path.parent.name for path in pictures})
    write_tars(
        tmp_path / "digits",
        [(path, ".cls", str(classes.index(path.parent.name))) for path in pictures],
        classnames="\n".join(names),
        zeroshot_classification_templates="{c}",
    )
    found = theirs("digits", "zeroshot_classification")
    assert abs(100 * found["acc1"] - ours["digits/zero_shot_top1"]) < 1e-6

    images = json.loads((world / "retrieval/dataset.json").read_text())["images"]
    rows = [
        (
            world / "retrieval/images" / one["filename"],
            ".txt",
            "\n".join(sentence["raw"] for sentence in one["sentences"]),
        )
        for one in images
        if one["split"] == "test"
    ]
    write_tars(tmp_path / "numbers", rows, dataset_type="retrieval")
    found = theirs("numbers", "zeroshot_retrieval")
    for k in (1, 5, 10):
        for way, direction in (("text", "i2t"), ("image", "t2i")):
            theirs_k = 100 * found[f"{way}_retrieval_recall@{k}"]
            assert abs(theirs_k - ours[f"numbers/{direction}_recall@{k}"]) < 1e-5, (way, k)


@pytest.mark.slow
def test_mteb_gives_our_numbers(
    trained: str, world: Path, ours: dict[str, float], tmp_path: Path
) -> None:
    python = foreign_python("mteb==2.26.24", "torchvision")
    script = Path(__file__).parents[1] / "support" / "mteb_demo.py"
    run_foreign(python, str(script), trained, str(world), str(tmp_path / "out.json"))
    found = json.loads((tmp_path / "out.json").read_text())
    assert abs(100 * found["digits"]["accuracy"] - ours["digits/zero_shot_top1"]) < 1e-6
    for direction in ("i2t", "t2i"):
        for k in (1, 5, 10):
            expected = ours[f"numbers/{direction}_recall@{k}"] / 100
            # mteb rounds to five digits.
            assert abs(found[direction][f"hit_rate_at_{k}"] - expected) < 6e-6, (direction, k)


@pytest.mark.slow
def test_onnxruntime_gives_our_embeddings(model: str, tmp_path: Path) -> None:
    python = foreign_python("onnx", "onnxruntime", "onnxscript")
    run_foreign(
        python, "-W", "ignore", "-m", "clippo_core", "convert", model, str(tmp_path) + "/",
        "--to", "onnx",
    )  # fmt: skip
    ours = Clippo.load(model, "cpu")
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 48, 48), dtype=np.uint8)
    np.savez(tmp_path / "given.npz", images=images, texts=ours.renderer.render(TEXTS))
    program = f"""
import numpy as np, onnxruntime
given, found = np.load("{tmp_path}/given.npz"), {{}}
for side, name in (("image", "images"), ("text", "texts")):
    session = onnxruntime.InferenceSession("{tmp_path}/" + side + ".onnx")
    for n in (1, 2, 5):
        found[f"{{side}}{{n}}"] = session.run(["embeddings"], {{name: given[name][:n]}})[0]
np.savez("{tmp_path}/found.npz", **found)
"""
    run_foreign(python, "-c", program)
    with np.load(tmp_path / "found.npz") as found:
        for side, rows in (
            ("image", ours.embed_prepared(images, "images")),
            ("text", ours.embed_texts(TEXTS)),
        ):
            for n in (1, 2, 5):
                np.testing.assert_allclose(found[f"{side}{n}"], rows[:n], atol=2e-6)


def test_what_onnx_needs_is_said(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="onnx and onnxscript is not installed; `pip install"):
        graphs.write_onnx(Clippo.load(model, "cpu"), str(tmp_path))


def test_an_encoder_without_its_suite(model: str) -> None:
    encoder = ClippoEncoder(model, device="cpu")
    pixels = torch.zeros(2, 3, 9, 9, dtype=torch.uint8)
    batches = [{"text": ["a", "b"]}, {"text": ["c"]}]
    texts = encoder.encode(batches, task_metadata=None, hf_split="test", hf_subset="default")
    np.testing.assert_allclose(texts, encoder.model.embed_texts(["a", "b", "c"]), atol=1e-6)
    both = encoder.encode([{"text": ["a", "b"], "image": pixels}])
    np.testing.assert_allclose(both, texts[:2] + encoder.model.embed_images(pixels), atol=1e-6)
    cosines = encoder.similarity(texts, texts)
    np.testing.assert_allclose(cosines.diagonal(), 1, atol=1e-6)
    pairs = encoder.similarity_pairwise(texts, texts[[1, 2, 0]])
    np.testing.assert_allclose(pairs, cosines[[0, 1, 2], [1, 2, 0]], atol=1e-6)
    for batches, sentence in (([{"audio": []}], "CLIPPO reads text and image"), ([], "no batch")):
        with pytest.raises(ConfigError, match=sentence):
            encoder.encode(batches)
    with pytest.raises(ConfigError, match="has no revisions"):
        ClippoEncoder(model, "main")


def test_shares_of_the_k_largest() -> None:
    scores = torch.tensor([[3.0, 2, 1], [1, 2, 3], [1, 3, 2]])
    assert top_k_accuracy(scores, torch.tensor([0, 0, 2]), (1, 2, 3)) == [1 / 3, 2 / 3, 1.0]
