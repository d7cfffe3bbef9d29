"""Plans: what changes a stage's digest and what does not, what was lost runs again, what is missing is named."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from clippo_core.config import (
    DataConfig,
    EvaluateConfig,
    GlueConfig,
    ImagenetConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
    presets,
    replace,
)
from clippo_core.config.hints import field_hints
from clippo_core.errors import ConfigError, DataError
from clippo_core.evaluate.registry import EVALUATIONS, evaluation
from clippo_core.planning import RunPlan, benchmark_digest, fill_kickoff, make_plan

OTHERS = set(EVALUATIONS) - {"glue"}
SUNDAY = datetime.datetime(2026, 11, 22, 2, tzinfo=datetime.UTC)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run on one file of sentences."""
    (tmp_path / "sentences.txt").write_text("one\ntwo\nthree\n")
    data = DataConfig((SourceConfig("sentences", str(tmp_path / "sentences.txt")),), text_pair_share=1.0)
    run = RunConfig("little", data, root=str(tmp_path / "runs"))
    return replace(run, train__steps=30_000)


def finish_render(plan: RunPlan) -> None:
    """Leave what rendering leaves."""
    shards = Path(plan.render.stage.root, "shards")
    shards.mkdir(parents=True)
    (shards / "00000.tar").write_bytes(b"x" * 10)
    (shards / "manifest.json").write_text(json.dumps({"files": [{"name": "00000.tar", "bytes": 10}]}))


def test_same_config_same_plan_once_complete(config: RunConfig) -> None:
    first = make_plan(config, SUNDAY)
    assert make_plan(config, SUNDAY).render.stage.generation != first.render.stage.generation  # nothing was finished
    again = make_plan(config, SUNDAY)
    finish_render(again)
    third = make_plan(config, SUNDAY)
    assert third.root == first.root
    assert third.render == again.render


def test_a_new_learning_rate_keeps_the_shards(config: RunConfig) -> None:
    first = make_plan(config, SUNDAY)
    finish_render(first)
    other = make_plan(replace(config, optim__lr=5e-4), SUNDAY)
    assert other.render == first.render
    assert other.root != first.root and other.pretrain.stage.root == other.root


def test_lost_bytes_run_again(config: RunConfig) -> None:
    plan = make_plan(config, SUNDAY)
    finish_render(plan)
    assert make_plan(config, SUNDAY).render == plan.render
    (Path(plan.render.stage.root) / "shards" / "00000.tar").unlink()
    assert make_plan(config, SUNDAY).render.stage.generation != plan.render.stage.generation


def test_new_data_under_an_old_name_is_noticed(config: RunConfig) -> None:
    before = make_plan(config, SUNDAY)
    finish_render(before)
    Path(config.data.sources[0].path).write_text("one\ntwo\nfour!\n")
    after = make_plan(config, SUNDAY)
    assert after.root != before.root and after.render.stage.data_digest != before.render.stage.data_digest


def test_new_weights_or_a_new_font_under_an_old_name_are_noticed(config: RunConfig, tmp_path: Path) -> None:
    weights, font = tmp_path / "start.npz", tmp_path / "own.hex"
    weights.write_bytes(b"first")
    font.write_text("0041:" + "00" * 16 + "\n")
    config = replace(config, model__initial_weights=str(weights), render__fonts=(str(font),))
    before = make_plan(config, SUNDAY)
    finish_render(before)
    weights.write_bytes(b"other")
    after = make_plan(config, SUNDAY)
    assert after.render == before.render  # drawn text does not depend on weights
    assert after.pretrain.stage.root == after.root != before.root
    font.write_text("0041:" + "FF" * 16 + "\n")
    assert make_plan(config, SUNDAY).render.stage.root != before.render.stage.root


def test_missing_pairs_are_named_and_missing_benchmarks_wait(config: RunConfig) -> None:
    missing = dataclasses.replace(config, data=DataConfig((SourceConfig("c4", "/nowhere/c4.json.gz"),), 1.0))
    with pytest.raises(DataError, match="/nowhere/c4.json.gz: not found"):
        make_plan(missing, SUNDAY)
    later = make_plan(replace(config, evaluate__glue=GlueConfig("/nowhere/glue")), SUNDAY)
    assert later.evaluations["glue"].stage.data_digest.startswith("missing: /nowhere/glue")


def test_kickoff_time_fills_paths(config: RunConfig) -> None:
    source = SourceConfig("c4", "s3://b/{kickoff:%Y/%m}/c4-{kickoff}.json.gz")
    filled = fill_kickoff(dataclasses.replace(config, data=DataConfig((source,), 1.0)), SUNDAY)
    assert filled.data.sources[0].path == "s3://b/2026/11/c4-2026-11-22.json.gz"


def test_evaluations_are_kept_apart() -> None:
    evaluate = presets.benchmarks("d")
    only = evaluation("vqa").only(evaluate)
    assert only.glue is None and only.vqa == evaluate.vqa
    with pytest.raises(ConfigError, match="there is no evaluation 'snli'"):
        evaluation("snli")


RUNTIME = {
    "train__loader_workers": 7,
    "train__keep_checkpoints": 9,
    "train__save_every_steps": 77,
    "train__timeout_seconds": 11.0,
    "train__zero_stage": 2,
    "train__memory": "recompute",
    "train__chunk_pairs": 8,
    "train__memory_gib": 3.0,
    "train__compile": True,
    "train__max_skipped_steps": 1,
    "evaluate__batch_size": 3,
    "promote_metric": "coco/i2t_recall@1",
    "tokenizers": ("t5=spiece.model",),
}


def stage_folders(plan: RunPlan) -> dict[str, str]:
    """Stage -> the folder that it is planned into."""
    stages = {"render": plan.render, "pretrain": plan.pretrain, **plan.evaluations}
    return {name: one.stage.root for name, one in stages.items()}


@pytest.mark.parametrize("name", RUNTIME)
def test_a_field_that_decides_no_result_plans_the_same_run(config: RunConfig, name: str) -> None:
    before = make_plan(config, SUNDAY)
    other = replace(config, **{name: RUNTIME[name]})
    assert other != config
    assert stage_folders(make_plan(other, SUNDAY)) == stage_folders(before)


def test_every_runtime_field_is_tried() -> None:
    found = {
        f"{part}__{field}" if part else field
        for part, one in {"": RunConfig, "train": TrainConfig, "evaluate": EvaluateConfig}.items()
        for field in field_hints(one)
        if one.is_runtime(field)
    }
    assert found == set(RUNTIME) | {"name", "root"}  # these two name the folder itself


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ({"optim__lr": 5e-4}, {"render"}),
        ({"train__resume_from": "elsewhere/checkpoints"}, {"render"}),
        ({"train__precision": "float32"}, {"render"}),
        ({"seed": 1}, set()),
        ({"render__monospace": True}, set()),
        ({"evaluate__glue": GlueConfig("/nowhere/glue")}, {"render", "pretrain", *OTHERS}),
    ],
)
def test_a_field_that_decides_moves_its_stage_and_what_follows(config: RunConfig, change: dict[str, Any], stays: set[str]) -> None:
    before = digests(config)
    after = digests(replace(config, **change))
    assert {name for name in before if before[name] == after[name]} == stays


def digests(config: RunConfig) -> dict[str, str]:
    """Stage -> its digest, as `stages/` notes it."""
    make_plan(config, SUNDAY)
    folder = Path(config.root, "stages")
    found = dict(path.stem.rsplit("-", 1) for path in folder.iterdir())
    for path in folder.iterdir():
        path.unlink()
    return {name: value for name, value in found.items() if name != "validate"}


def test_files_that_decide_labels_are_part_of_the_data(config: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "imagenet"
    (folder / "val" / "a").mkdir(parents=True)
    (folder / "val" / "a" / "1.png").write_bytes(b"picture")
    (folder / "names.json").write_text('["cat", "dog"]')
    images = ImagenetConfig(str(folder / "val"), str(folder / "names.json"), n_classes=2)
    evaluate = EvaluateConfig(imagenet=images)
    before = benchmark_digest(evaluate, "imagenet")
    (folder / "LOC_synset_mapping.txt").write_text("a dog\nb cat\n")
    with_mapping = benchmark_digest(evaluate, "imagenet")
    (folder / "LOC_synset_mapping.txt").write_text("b dog\na cat\n")
    assert len({before, with_mapping, benchmark_digest(evaluate, "imagenet")}) == 3
