"""Every kind of pair, from its own file through validation, shards, loader and training: held-out
pairs are found, GLUE tasks are scored.

Each run is the preset of its kind with the sources, the tower and the length that a test can
afford. What is learnt is compositional, so that it can be asked about pairs of which no training
record has a text: 100 phrases of two digits' names, 20 of them held out.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clippo_core.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    GlueConfig,
    ModelConfig,
    RunConfig,
    SourceConfig,
    presets,
    replace,
)
from clippo_core.data import prepare
from clippo_core.data.numbers.scribe import TRAIN_DIGITS, Scribe, load_digits
from clippo_core.data.numbers.tasks import glue_files, name
from clippo_core.embedder import Clippo
from clippo_core.evaluate.glue import protocol as glue
from clippo_core.run.records import EvaluatePlan, PretrainPlan, StagePlan
from clippo_core.train.loop import pretrain

SMALL = ModelConfig(width=64, depth=2, num_heads=2, mlp_dim=256, embed_dim=64)
PHRASES = [(a, b) for a in range(10) for b in range(10)]
HELD_OUT = [(a, (3 * a + shift) % 10) for a in range(10) for shift in (0, 5)]
TRAIN = [phrase for phrase in PHRASES if phrase not in HELD_OUT]


def words(phrase: tuple[int, int], language: str) -> str:
    return " ".join(name(digit, language) for digit in phrase)


def translated(phrase: tuple[int, int]) -> tuple[str, str]:
    return words(phrase, "en"), words(phrase, "de")


def back_translated(phrase: tuple[int, int]) -> tuple[str, str]:
    return words(phrase, "en"), f"{name(phrase[0], 'en')} and then {name(phrase[1], 'en')}"


def consecutive(phrase: tuple[int, int]) -> tuple[str, str]:
    return f"Here is {words(phrase, 'en')}.", f"Hier ist {words(phrase, 'de')}."


def write_c4(folder: Path) -> SourceConfig:
    with gzip.open(folder / "c4-train.00000.json.gz", "wt", encoding="utf-8") as file:
        for phrase in TRAIN:
            file.write(
                json.dumps(
                    {
                        "text": " ".join(consecutive(phrase)),
                        "url": f"https://x/{phrase}",
                        "timestamp": "2019",
                    }
                )
                + "\n"
            )
    return SourceConfig("c4", f"{folder}/*.json.gz", name="c4")


def write_moses(folder: Path) -> SourceConfig:
    for side, language in enumerate(("en", "de")):
        (folder / f"train.{language}").write_text(
            "".join(f"{translated(phrase)[side]}\n" for phrase in TRAIN), encoding="utf-8"
        )
    return SourceConfig(
        "moses",
        f"{folder}/train.en",
        second_path=f"{folder}/train.de",
        languages=("en", "de"),
        name="moses",
    )


def write_tsv(folder: Path) -> SourceConfig:
    (folder / "wmt19.tsv").write_text(
        "".join("en\tde\t{}\t{}\n".format(*translated(phrase)) for phrase in TRAIN),
        encoding="utf-8",
    )
    return SourceConfig("tsv", f"{folder}/*.tsv", name="wmt19")


def write_back(folder: Path) -> SourceConfig:
    (folder / "back.tsv").write_text(
        "".join("{}\t{}\n".format(*back_translated(phrase)) for phrase in TRAIN), encoding="utf-8"
    )
    return SourceConfig("tsv", f"{folder}/*.tsv", name="back_translated")


TEXT_KINDS: dict[str, Any] = {
    "consecutive sentences of C4": (presets.c4_only, write_c4, consecutive),
    "parallel sentences, Moses": (presets.parallel_only, write_moses, translated),
    "parallel sentences, TSV": (presets.parallel_only, write_tsv, translated),
    "back-translated": (presets.back_translated, write_back, back_translated),
}


def small(run: RunConfig, source: SourceConfig, steps: int, batch_pairs: int) -> RunConfig:
    """The preset `run` on one source, with a tower and a length that a test can afford; loss, share
    and optimizer are the preset's.
    """
    return replace(
        run,
        render__image_px=64,
        model=SMALL,
        data=DataConfig((source,), text_pair_share=run.data.text_pair_share),
        optim__warmup_steps=20,
        optim__timescale_steps=steps,
        optim__cooldown_steps=20,
        train=replace(
            presets.demo().train, steps=steps, batch_pairs=batch_pairs, save_every_steps=steps
        ),
    )


def trained(run: RunConfig, folder: Path) -> str:
    """Address of the checkpoint, by the pipeline's own stages."""
    stage = StagePlan(str(folder / "run"), run.seed, "d" * 64)
    judged = prepare.validate(stage, run.data, run.render)
    manifest = prepare.write_shards(stage, run.data, run.render, judged)
    return pretrain(
        PretrainPlan(stage, run.data, run.render, run.model, run.optim, run.train), manifest
    ).uri


def assert_glue_above_chance(checkpoint: str, folder: Path) -> None:
    """Whether a number's name is well formed, about numbers of which no training row has one: the
    interval lies above guessing.
    """
    for path, content in glue_files(seed=0).items():
        if path.startswith("CoLA/"):
            (folder / "glue" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "glue" / path).write_text(content, encoding="utf-8")
    tuning = FinetuneConfig(batch_size=32, epochs=5, learning_rates=(1e-3,))
    config = EvaluateConfig(
        glue=GlueConfig(str(folder / "glue"), tasks=("CoLA",), finetune=tuning),
        bootstrap_samples=200,
    )
    result = glue.run(
        checkpoint, EvaluatePlan(StagePlan(str(folder), 0, "d" * 64), config), progress=False
    )
    low, _ = result.metrics["glue/cola_matthews"].bounds
    assert low > result.metrics["glue/cola_matthews"].chance == 0, result.metrics


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_sentence_pairs_alone(kind: str, tmp_path: Path) -> None:
    preset, write, sides = TEXT_KINDS[kind]
    run = preset()
    assert run.data.text_pair_share == 1
    checkpoint = trained(small(run, write(tmp_path), steps=300, batch_pairs=40), tmp_path)
    model = Clippo.load(checkpoint)
    first, second = (
        model.embed_texts([sides(phrase)[side] for phrase in HELD_OUT]) for side in (0, 1)
    )
    share = np.mean(
        [(first @ second.T).argmax(axis) == np.arange(len(HELD_OUT)) for axis in (0, 1)]
    )
    assert share >= 0.25, f"{share:.2f} of {len(HELD_OUT)} held-out pairs found; chance is 0.05"
    assert_glue_above_chance(checkpoint, tmp_path)


@pytest.mark.slow
def test_images_with_alt_text(tmp_path: Path) -> None:
    """A tar as img2dataset writes it: jpg, txt and json; asked about other writers' digits."""
    digits, labels = load_digits()
    chance = np.random.default_rng(0)
    train = Scribe(digits[:TRAIN_DIGITS], labels[:TRAIN_DIGITS], chance)
    others = Scribe(digits[TRAIN_DIGITS:], labels[TRAIN_DIGITS:], chance)
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for number in range(1000):
            digit, jpeg = number % 10, io.BytesIO()
            Image.fromarray(train.sample(digit, number // 10)).save(jpeg, "JPEG", quality=95)
            caption = name(digit, "en")
            members = {
                "jpg": jpeg.getvalue(),
                "txt": caption.encode(),
                "json": json.dumps({"caption": caption, "key": f"{number:05d}"}).encode(),
            }
            for ending, content in members.items():
                entry = tarfile.TarInfo(f"{number:05d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    source = SourceConfig("webdataset", f"{tmp_path}/*.tar", name="alt_text")
    checkpoint = trained(small(presets.paper_b16(), source, steps=250, batch_pairs=10), tmp_path)
    model = Clippo.load(checkpoint)
    photos = model.embed_images(
        [Image.fromarray(others.sample(digit, nth)) for digit in range(10) for nth in range(20)]
    )
    names = model.embed_texts([name(digit, "en") for digit in range(10)])
    share = np.mean((photos @ names.T).argmax(1) == np.repeat(np.arange(10), 20))
    assert share > 0.4, f"{share:.2f} of 200 held-out digits; chance is 0.1"
    assert_glue_above_chance(checkpoint, tmp_path)
