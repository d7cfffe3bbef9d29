"""Configs refuse what cannot work, survive JSON, and every preset builds."""

from __future__ import annotations

import dataclasses
import json

import pytest

from clippo_core import presets
from clippo_core.config import DataConfig, OptimConfig, RenderConfig, RunConfig, SourceConfig, TrainConfig, digest, replace
from clippo_core.errors import ConfigError
from clippo_core.records import EvalResult, Metric, dumps, from_dict, loads

TEXTS = SourceConfig("sentences", "a.txt")
PHOTOS = SourceConfig("karpathy", "a.json", "images")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RenderConfig(image_px=100), "multiple of 16"),
        (lambda: SourceConfig("karpathy", "a.json"), "needs `images`"),
        (lambda: SourceConfig("moses", "a.en"), "needs `second_path`"),
        (lambda: DataConfig(()), "at least one source"),
        (lambda: DataConfig((PHOTOS,), text_pair_share=0.25), "no source gives text pairs"),
        (lambda: DataConfig((TEXTS,)), "no source gives photos"),
        (lambda: TrainConfig(batch_pairs=10).pairs_per_rank(4), "does not divide by 4 ranks"),
        (lambda: RunConfig("a", DataConfig((PHOTOS,)), train=TrainConfig(steps=100)), "fewer than warm-up"),
        (lambda: RunConfig("a/b", DataConfig((PHOTOS,))), "names a folder"),
        (lambda: RunConfig("a", DataConfig((PHOTOS,)), tokenizers=("spiece.model",)), "a name, `=` and a SentencePiece file"),
        (lambda: OptimConfig(lr=0), "must be positive"),
        (lambda: presets.paper_b16(0.3), "none of the paper's"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(make: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


@pytest.mark.parametrize("name", sorted(presets.by_name()))
def test_every_preset_builds_and_survives_json(name: str) -> None:
    build = presets.by_name()[name]
    run = build("data") if name == "slices" else build()
    assert from_dict(RunConfig, json.loads(json.dumps(dataclasses.asdict(run)))) == run
    assert digest(run) != digest(replace(run, seed=1))


@pytest.mark.parametrize(("share", "steps"), [(0.0, 250_000), (0.25, 333_000), (0.5, 500_000), (0.75, 500_000), (1.0, 250_000)])
def test_paper_presets_have_the_papers_numbers(share: float, steps: int) -> None:
    for run in (presets.paper_b16(share), presets.paper_l16(share)):
        assert (run.train.steps, run.train.batch_pairs, run.data.text_pair_share) == (steps, 10_240, share)
        assert (run.optim.lr, run.optim.weight_decay, run.optim.warmup_steps) == (1e-3, 1e-4, 10_000)


def test_whole_numbers_from_json_become_floats_again() -> None:
    assert from_dict(OptimConfig, {"lr": 1}).lr == 1.0 and isinstance(from_dict(OptimConfig, {"lr": 1}).lr, float)
    assert digest(OptimConfig(lr=1)) == digest(OptimConfig(lr=1.0))


def test_records_round_trip() -> None:
    metrics = {"vqav2/overall": Metric(50.0, 40.0, 60.0, None, 3), "a": Metric(why_not="b")}
    result = EvalResult("vqa", "vqav2", "val", "p", 3, metrics)
    assert loads(EvalResult, dumps(result)) == result
    with pytest.raises(ValueError):
        dumps(dataclasses.replace(result, metrics={"a": Metric(float("nan"))}))
