"""A model as the hub keeps it: the folder, the card, a round trip through a hub on loopback, what
plain timm reads, and graphs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forms import drawn_tower, point_to, save_run
from hub_double import hub
from test_embedder import SENTENCES

from clippo_core import models
from clippo_core.cli.main import main
from clippo_core.config import ModelConfig, RenderConfig
from clippo_core.embedder import Clippo
from clippo_core.errors import ConfigError
from clippo_core.neighbours import graphs
from clippo_core.run.folder import promoted_folder
from clippo_core.run.promotion import decide
from clippo_core.run.publishing import publish_promoted
from clippo_core.run.records import CheckpointInfo, EvalResult, GatePlan, Metric, StagePlan

TEXTS = ["a dog", "zwei Hunde", "", "七十", "x"]


@pytest.fixture(scope="module")
def model() -> Clippo:
    """A small model."""
    return Clippo(drawn_tower(), RenderConfig(), device="cpu")


def result(sha256: str, **changes: object) -> EvalResult:
    """A result with every property that a card shows."""
    metrics = {
        "coco/i2t_recall@1": Metric(40.25, 38.1, 42.3, 0.1, 5000, "ties | rank <last>"),
        "coco/t2i_recall@1": Metric(30.5, None, None, None, 25000),
        "coco/other": Metric(why_not="no files"),
    }
    return EvalResult(
        "retrieval", "coco", "test", "all pairs", 5000, metrics, main_metrics=[*metrics][:2],
        weights_sha256=sha256, **changes,
    )  # fmt: skip


def parsed(card: str) -> object:
    """The card as huggingface_hub reads it; what is wrong with its metadata raises."""
    from huggingface_hub import ModelCard

    found = ModelCard(card, ignore_metadata_errors=False)
    assert "More Information Needed" not in found.text
    return found.data


def test_a_folder_goes_round(model: Clippo, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "one", results=[result(model.weights_sha256)], license="mit")
    for loaded in (Clippo.from_pretrained(tmp_path / "one"), Clippo.load(f"{tmp_path}/one/")):
        np.testing.assert_array_equal(loaded.embed_texts(TEXTS), model.embed_texts(TEXTS))
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert files == {"model.safetensors", "config.json", "README.md"}
    about = json.loads((tmp_path / "one/config.json").read_text())
    assert about["model"]["width"] == 48 and about["weights_sha256"] == model.weights_sha256
    loaded.save_pretrained(tmp_path / "two", results=[result(model.weights_sha256)], license="mit",
                           name="one", source="one")  # fmt: skip
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_card_says_what_a_reader_needs(model: Clippo, tmp_path: Path) -> None:
    found = [result(model.weights_sha256, is_partial=True), EvalResult.failed("vqa", "v", "gone")]
    model.save_pretrained(tmp_path / "m", results=found, training=[("steps", "9")], license="mit")
    card = (tmp_path / "m/README.md").read_text()
    data = parsed(card)
    assert data.license == "mit" and data.pipeline_tag == "zero-shot-image-classification"
    values = {one.metric_type: one.metric_value for one in data.eval_results}
    assert values == {"coco/i2t_recall@1": 40.25, "coco/t2i_recall@1": 30.5}
    row = next(line for line in card.splitlines() if line.startswith("| coco/i2t"))
    assert row == (
        r"| coco/i2t_recall@1 | 40.25 | 38.1 to 42.3 | 0.1 | 5,000 | ties \| rank &lt;last>;"
        " not comparable: part of the benchmark |"
    )
    for words in ("| steps | 9 |", "failed, at least in part: gone", "Limits", "The weights: mit",
                  model.render_digest):  # fmt: skip
        assert words in card
    model.save_pretrained(tmp_path / "bare")
    card = (tmp_path / "bare/README.md").read_text()
    assert parsed(card).eval_results is None and "Nobody has named a licence" in card
    assert "was not evaluated when its card was written" in card


def test_a_card_speaks_of_its_kind_of_tower(tmp_path: Path) -> None:
    config = ModelConfig("image_only", width=48, depth=1, num_heads=2, mlp_dim=96, embed_dim=32)
    vit = Clippo(models.build_tower(config, 48), RenderConfig(), device="cpu")
    vit.save_pretrained(tmp_path / "vit")
    card = (tmp_path / "vit/README.md").read_text()
    assert "pooled_images" in card and "embed_texts" not in card
    assert Clippo.load(tmp_path / "vit").weights_sha256 == vit.weights_sha256


def test_each_promotion_leaves_a_folder(tmp_path: Path) -> None:
    pointer = str(tmp_path / "runs/promoted-small.json")
    plan = GatePlan(StagePlan(str(tmp_path / "runs/x"), 0, "d"), "small", pointer)
    for seed in (0, 1):
        info = save_run(drawn_tower(seed), str(tmp_path / f"runs/small-{seed}"))
        value = 40.0 + 9 * seed
        better = {"coco/i2t_recall@1": Metric(value, value - 1, value + 1, 1, 500)}
        gave = EvalResult("retrieval", "coco", "test", "p", 500, better,
                          main_metrics=[*better], weights_sha256=info.weights_sha256)  # fmt: skip
        assert decide(plan, info, [gave]).promoted
        folder = Path(promoted_folder(pointer))
        assert Clippo.load(folder, "cpu").weights_sha256 == info.weights_sha256
        card = (folder / "README.md").read_text()
        assert card.count(f"| coco/i2t_recall@1 | {value:g} |") == 1
        assert "# small\n" in card and "| steps | 1 |" in card and "x.txt (sentences)" in card
    written = (folder / "README.md").stat().st_mtime_ns
    publish_promoted(pointer)
    assert (folder / "README.md").stat().st_mtime_ns == written


def test_a_promotion_does_not_depend_on_its_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = CheckpointInfo(str(tmp_path / "gone"), 1, 2, 0.5, "f" * 64, "", "", 1)
    point_to(str(tmp_path / "promoted-x.json"), info)
    publish_promoted(str(tmp_path / "promoted-x.json"))
    assert "could not be written" in caplog.text and not (tmp_path / "promoted-x").exists()


def test_convert_writes_every_form(
    model: Clippo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    save_run(model.tower, "runs/small-1")
    for target in ("a.npz", "a.safetensors", "folder/"):
        assert main(["convert", "runs/small-1", target]) == 0
        loaded = Clippo.load(target, "cpu")
        np.testing.assert_array_equal(loaded.embed_texts(TEXTS), model.embed_texts(TEXTS))
    assert "| steps | 1 |" in Path("folder/README.md").read_text()
    assert main(["convert", "a.npz", "b/", "--license", "apache-2.0"]) == 0
    assert parsed(Path("b/README.md").read_text()).license == "apache-2.0"
    capsys.readouterr()
    for words in (["a.npz", "--to", "timm"], ["plain"], ["x/", "--to", "onnx", "--license", "mit"]):
        assert main(["convert", "runs/small-1", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_timm_reads_the_folder_to_the_last_bit(model: Clippo, tmp_path: Path) -> None:
    timm = models.load_timm()
    model.save(tmp_path / "m.safetensors")
    words = [str(tmp_path / "m.safetensors"), str(tmp_path / "timm"), "--to", "timm"]
    assert main(["convert", *words]) == 0
    plain = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True).eval()
    noise = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    batch = torch.stack([model.preprocess(one) for one in noise])
    with torch.no_grad():
        ours = model.tower.head(model.tower.pooled(batch))
        assert torch.equal(plain(batch), ours)
        features = plain.forward_head(plain.forward_features(batch), pre_logits=True)
        assert torch.equal(features, model.tower.pooled(batch))
    data = timm.data.resolve_model_data_config(plain)
    assert data["input_size"] == (3, 48, 48) and data["crop_mode"] == "squash"
    assert [*data["mean"], *data["std"]] == [0.5] * 6


@pytest.mark.parametrize("kind", ["clippo", "one_tower_clip", "two_tower_clip"])
def test_both_sides_export_with_any_batch(kind: str, tmp_path: Path, model: Clippo) -> None:
    if kind != "clippo":
        tokenizer = models.train_tokenizer(SENTENCES, str(tmp_path / "t.model"), vocab_size=300)
        config = ModelConfig(kind, width=48, depth=1, num_heads=2, mlp_dim=96, embed_dim=32,
                             tokenizer=tokenizer, text_tokens=7)  # fmt: skip
        model = Clippo(models.build_tower(config, 48), RenderConfig(), device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (5, 3, 48, 48), dtype=np.uint8)
    texts = model.renderer.render(TEXTS) if kind == "clippo" else model.draw(TEXTS).numpy()
    for name, given, expected in (
        ("image", noise, model.embed_prepared(noise, "images")),
        ("text", texts, model.embed_texts(TEXTS)),
    ):
        graph = graphs.export_side(model, name).module()
        for n in (1, 2, 5):
            found = graph(torch.from_numpy(given[:n])).detach().numpy()
            np.testing.assert_allclose(found, expected[:n], atol=1e-6)


def test_a_side_that_no_graph_can_be_is_refused() -> None:
    config = ModelConfig(width=48, depth=1, num_heads=2, mlp_dim=96, embed_dim=32,
                         skip_blank_rows=True)  # fmt: skip
    model = Clippo(models.build_tower(config, 48), RenderConfig(), device="cpu")
    with pytest.raises(ConfigError, match="only its image side"):
        graphs.side(model, "text")
    graphs.export_side(model, "image")


TRAFFIC = """
import sys
from clippo_core.embedder import Clippo
from clippo_core.errors import ClippoError
names = sys.argv[1:]
if names[0].endswith(".safetensors"):
    model = Clippo.load(names.pop(0), "cpu")
    names.append(model.push_to_hub("someone/small", license="mit", token="hf_secret"))
    print(names[-1])
for name in names:
    try:
        print(Clippo.from_pretrained(name).weights_sha256)
    except ClippoError as error:
        print(error)
"""


def test_a_hub_gives_back_what_was_pushed(model: Clippo, tmp_path: Path) -> None:
    path = str(tmp_path / "m.safetensors")
    model.save(path)

    def said(*words: str, **environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", TRAFFIC, *words], capture_output=True, text=True, timeout=300,
            env=os.environ | {"HF_HOME": str(tmp_path / "home")} | environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    with hub() as server:
        names = ["someone/small", "hf-hub:someone/none", "hf-hub:someone/small@v9"]
        address, *found = said(path, *names, HF_ENDPOINT=server.url)
    assert re.fullmatch(r"hf-hub:someone/small@[0-9a-f]{40}", address)
    assert server.token == "hf_secret" and parsed(server.cards[0]).license == "mit"
    assert 'from_pretrained("someone/small")' in server.cards[0]
    assert found[0] == found[3] == model.weights_sha256
    assert all("no such repository or revision" in line for line in found[1:3])
    # Without a network, what was fetched once is there, and the rest is said.
    offline = said(address, "someone/other", HF_HUB_OFFLINE="1")
    assert offline[0] == model.weights_sha256 and "the hub cannot be reached" in offline[1]
