"""Every tower, and every kind of pair, learns: small towers on handwritten digits and on sentence
files, far above chance.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from clippo_core import models
from clippo_core.config import ModelConfig, OptimConfig, RenderConfig, SourceConfig
from clippo_core.data.numbers.scribe import TRAIN_DIGITS, Scribe, load_digits
from clippo_core.data.numbers.tasks import name
from clippo_core.data.sources.kinds import read_source
from clippo_core.engine import contrastive_step, make_engine

RENDER = RenderConfig(image_px=64)
SMALL = ModelConfig(width=64, depth=2, num_heads=2, mlp_dim=256, embed_dim=32)
WORDS = [name(number, "en") for number in range(10)]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    sentences = [
        f"{name(number, language)} ." for number in range(100) for language in ("en", "de")
    ]
    return models.train_tokenizer(
        sentences, str(tmp_path_factory.mktemp("tokenizer") / "numbers.model"), vocab_size=320
    )


@pytest.fixture(scope="session")
def handwriting():
    """Pictures uint8 [10, n, 3, 64, 64] of each digit: training writers', and held-out writers'."""
    digits, labels = load_digits()
    train = Scribe(digits[:TRAIN_DIGITS], labels[:TRAIN_DIGITS], np.random.default_rng(0))
    held_out = Scribe(digits[TRAIN_DIGITS:], labels[TRAIN_DIGITS:], np.random.default_rng(0))

    def pictures(scribe, n):
        drawn = np.stack([[scribe.sample(digit, nth) for nth in range(n)] for digit in range(10)])
        return torch.from_numpy(drawn)[:, :, None].expand(-1, -1, 3, -1, -1)

    return pictures(train, 100), pictures(held_out, 20)


def train(tower, batch_of, steps):
    """`steps` steps of the reference's optimizer with a constant learning rate."""
    engine = make_engine(
        tower,
        OptimConfig(lr=1e-3, warmup_steps=0, cooldown_steps=0),
        decayed=tower.decayed,
        views=tower.views,
        device="cpu",
    )
    for step in range(steps):
        output = contrastive_step(engine, *batch_of(step))
        assert output.finite
        engine.update(min(1.0, (step + 1) / 20))
    return output


TOWERS = {
    "clippo": SMALL,
    "separate patch embeddings": dataclasses.replace(SMALL, separate_patch_embeddings=True),
    "separate heads": dataclasses.replace(SMALL, separate_heads=True),
    "separate patch embeddings and heads": dataclasses.replace(
        SMALL, separate_patch_embeddings=True, separate_heads=True
    ),
    "1T-CLIP": dataclasses.replace(SMALL, kind="one_tower_clip", tokenizer="below", text_tokens=16),
    "CLIP*": dataclasses.replace(SMALL, kind="two_tower_clip", tokenizer="below", text_tokens=8),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "clippo")) for kind in TOWERS]
)
def test_every_tower_reads_held_out_handwriting(kind, handwriting, tokenizer):
    seen, held_out = handwriting
    config = TOWERS[kind]
    config = dataclasses.replace(config, tokenizer=tokenizer) if config.tokenizer else config
    tower = models.build_tower(config, 64, seed=0)
    words = torch.from_numpy(models.text_encoder(config, RENDER)(WORDS))
    train(tower, lambda step: (seen[:, step % seen.shape[1]].contiguous(), words[:0], words), 200)
    with torch.inference_mode():
        scores = (
            tower.embed(models.normalise(held_out.reshape(-1, 3, 64, 64)))
            @ tower.embed_encoded_text(words).T
        )
    share = (scores.argmax(1) == torch.arange(10).repeat_interleave(20)).float().mean().item()
    assert share > 0.5, f"{share:.2f} of 200 held-out digits; chance is 0.1"


def pair_files(folder):
    """The same twelve facts as every kind of text pair; the true answer is that line i goes with
    line i.
    """
    first = [name(number, "en") for number in range(20, 44)]
    second = [name(number, "de") for number in range(20, 44)]
    (folder / "a.en").write_text("\n".join(first) + "\n", encoding="utf-8")
    (folder / "a.de").write_text("\n".join(second) + "\n", encoding="utf-8")
    (folder / "pairs.tsv").write_text(
        "".join(f"{a}\t{b}\n" for a, b in zip(first, second, strict=True)), encoding="utf-8"
    )
    (folder / "back.tsv").write_text(
        "".join(f"{a}\tso {a} it is\n" for a in first), encoding="utf-8"
    )
    with open(folder / "c4.jsonl", "w", encoding="utf-8") as file:
        for number, word in enumerate(first):
            file.write(
                json.dumps(
                    {
                        "text": f"This one is called {word}. It says {number + 20} on its back.",
                        "url": f"u{number}",
                    }
                )
                + "\n"
            )
    (folder / "lines.txt").write_text(
        "".join(f"{a}\n{b}\n\n" for a, b in zip(first, second, strict=True)), encoding="utf-8"
    )


KINDS = {
    "consecutive sentences of C4": lambda folder: SourceConfig("c4", f"{folder}/c4.jsonl"),
    "consecutive lines": lambda folder: SourceConfig("sentences", f"{folder}/lines.txt"),
    "parallel sentences, Moses": lambda folder: SourceConfig(
        "moses", f"{folder}/a.en", second_path=f"{folder}/a.de", languages=("en", "de")
    ),
    "parallel sentences, TSV": lambda folder: SourceConfig(
        "tsv", f"{folder}/pairs.tsv", languages=("en", "de")
    ),
    "back-translated": lambda folder: SourceConfig(
        "tsv", f"{folder}/back.tsv", languages=("en", "en")
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_text_pair_is_learnt_without_a_photo(kind, tmp_path):
    pair_files(tmp_path)
    records = [record for record in read_source(KINDS[kind](tmp_path)) if not record.problem]
    assert len(records) >= 20
    encode = models.text_encoder(SMALL, RENDER)
    first = torch.from_numpy(encode([record.first for record in records]))
    second = torch.from_numpy(encode([record.texts[0] for record in records]))
    tower = models.build_tower(SMALL, 64, seed=0)
    none = torch.zeros(0, 3, 64, 64, dtype=torch.uint8)
    output = train(tower, lambda step: (none, first, second), 40)
    assert output.accuracy > 0.5, (
        f"{output.accuracy:.2f} of {len(records)} pairs found; chance is {1 / len(records):.2f}"
    )


@pytest.mark.slow
def test_photos_and_sentences_are_learnt_in_one_batch(handwriting, tmp_path):
    seen, held_out = handwriting
    encode = models.text_encoder(SMALL, RENDER)
    names = torch.from_numpy(encode(WORDS))
    first = torch.from_numpy(encode([name(number, "en") for number in range(20, 26)]))
    second = torch.cat(
        [names, torch.from_numpy(encode([name(number, "de") for number in range(20, 26)]))]
    )
    tower = models.build_tower(SMALL, 64, seed=0)
    output = train(
        tower, lambda step: (seen[:, step % seen.shape[1]].contiguous(), first, second), 200
    )
    with torch.inference_mode():
        scores = (
            tower.embed(models.normalise(held_out.reshape(-1, 3, 64, 64)))
            @ tower.embed_encoded_text(names).T
        )
    share = (scores.argmax(1) == torch.arange(10).repeat_interleave(20)).float().mean().item()
    assert share > 0.4 and output.accuracy > 0.4, (
        f"{share:.2f} of held-out digits (chance 0.1), {output.accuracy:.2f} of a batch (0.06)"
    )
