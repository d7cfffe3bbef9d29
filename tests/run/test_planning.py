"""Plans: what changes a stage's digest and what does not, what was lost runs again, what is missing
is named.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clippo_core.config import (
    Checked,
    DataConfig,
    EvaluateConfig,
    GateConfig,
    GlueConfig,
    ImagenetConfig,
    RunConfig,
    SourceConfig,
    digest,
    identity,
    presets,
    replace,
)
from clippo_core.data import shards
from clippo_core.data.validate.measure import measure
from clippo_core.data.write import write
from clippo_core.errors import ConfigError, DataError
from clippo_core.evaluate import results
from clippo_core.evaluate.registry import EVALUATIONS, evaluation
from clippo_core.evaluate.scores import Scores
from clippo_core.run import planned, promotion
from clippo_core.run.contents import benchmark_digest
from clippo_core.run.places import is_complete
from clippo_core.run.planning import RunPlan, make_plan
from clippo_core.run.records import CheckpointInfo, EvalResult, Metric, Part, ValidationReport
from clippo_core.run.resolving import fill_kickoff

SUNDAY = datetime.datetime(2026, 11, 22, 2, tzinfo=datetime.UTC)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run on one file of sentences."""
    (tmp_path / "sentences.txt").write_text("one\ntwo\nthree\n")
    data = DataConfig(
        (SourceConfig("sentences", str(tmp_path / "sentences.txt")),), text_pair_share=1.0
    )
    run = RunConfig("little", data, root=str(tmp_path / "runs"))
    return replace(run, train__steps=30_000)


def finish_render(plan: RunPlan) -> None:
    """Render without validating."""
    facts = [measure(plan.measure, part, False) for part in plan.partitions]
    lists = [write(plan.write, part, Part("", "", 0), False) for part in facts]
    report = ValidationReport(1, [], [], {}, {}, {}, "")
    shards.write_manifest(plan.render, report, lists)


def test_notes_and_manifests_that_nobody_wrote(config: RunConfig) -> None:
    plan = make_plan(config, SUNDAY)
    finish_render(plan)
    assert make_plan(config, SUNDAY).render == plan.render
    (note,) = Path(config.root, "stages").glob("render-*.json")
    manifest = Path(plan.render.stage.root, "shards", "manifest.json")
    odd = ["{", "[]", "null", "[" * 100_000, '{"files": 7, "root": 7}', '{"files": [7]}', "\0"]
    odd += ['{"files": [{"name": 7}]}', '{"files": [{"name": "00000.tar"}], "root": "/etc"}']
    odd += ['{"root": "/etc", "generation": "x", "files": [{"bytes": 10}]}']
    for path in (manifest, note):
        whole = path.read_text()
        for text in odd:
            path.write_text(text)
            found = make_plan(config, SUNDAY).render.stage
            assert found.root == plan.root and found.generation not in ("x", ""), text
            assert found.generation != plan.render.stage.generation, text
        path.write_text(whole)


def test_same_config_same_plan_once_complete(config: RunConfig) -> None:
    first = make_plan(config, SUNDAY)
    assert (
        make_plan(config, SUNDAY).render.stage.generation != first.render.stage.generation
    )  # nothing was finished
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
    same = make_plan(config, SUNDAY)
    assert (same.render, same.measure, same.write) == (plan.render, plan.measure, plan.write)
    next(Path(plan.render.prepared).glob("*.zst")).unlink()
    after = make_plan(config, SUNDAY)
    assert after.render.stage.generation != plan.render.stage.generation
    # No cache answers for what stands beside it either; each finds what is still there.
    generations = {after.measure.generation, after.write.generation, after.validate.generation}
    assert len(generations) == 1 and plan.measure.generation not in generations


def test_new_data_under_an_old_name_is_noticed(config: RunConfig) -> None:
    before = make_plan(config, SUNDAY)
    finish_render(before)
    Path(config.data.sources[0].path).write_text("one\ntwo\nfour!\n")
    after = make_plan(config, SUNDAY)
    assert (
        after.root != before.root
        and after.render.stage.data_digest != before.render.stage.data_digest
    )


def test_new_weights_or_a_new_font_under_an_old_name_are_noticed(
    config: RunConfig, tmp_path: Path
) -> None:
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
    missing = dataclasses.replace(
        config, data=DataConfig((SourceConfig("c4", "/nowhere/c4.json.gz"),), 1.0)
    )
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


# --- identity: which fields decide which stage ----------------------------------------------------

STAGES = {"validate", "render", "pretrain", *EVALUATIONS}
ANOTHER = {
    "train.attention": "flash",
    "train.tracker": "tensorboard",
    "optim.name": "adamw",
    "optim.momentum_dtype": "float32",
    "train.precision": "float32",
    "train.memory": "cached",
    "train.timeout_seconds": 90.0,
    "evaluate.precision": "bfloat16",
    "evaluate.vqa.question_place": "above",
    "evaluate.xm3600.which_captions": "first",
    "render.layout": "shaped",
    "render.image_px": 96,
    "model.kind": "image_only",
    "model.width": 1536,
    "model.num_heads": 6,
    "evaluate.vqa.image_px": 96,
    "data.text_pair_share": None,  # with one source of texts alone only 1 is right
    "train.augment.share": None,  # below
    "data.sources": None,  # tried above, with other content
    "render.fonts": None,  # tried above
    "model.initial_weights": None,  # tried above
    "model.tokenizer": None,  # as initial_weights, a file
    "tokenizers": ("one=one.model",),
    "name": "another",
    "root": None,  # other folders by intent
    "promote_metric": "glue/mean",
    "gate.floors": ("glue/average",),
}
"""Field -> another value that works, where `another` finds none; None = not tried here."""


@pytest.fixture
def whole(config: RunConfig) -> RunConfig:
    """The run with all five evaluations, whose files are missing."""
    return replace(config, evaluate=presets.benchmarks("/nowhere"))


def another(path: str, value: Any) -> Any:
    """Another value for the field at `path`, or None where it is not to be tried."""
    if path in ANOTHER:
        return ANOTHER[path]
    if path == "evaluate.retrieval":
        return value[:1]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    return value + "x" if isinstance(value, str) else (*value, value[0])


def leaves(config: Checked, path: str = "", is_runtime: bool = False) -> Iterator[Any]:
    """(dotted path, value, whether it is marked as runtime) of every field that is no config."""
    for field in dataclasses.fields(config):
        inside = f"{path}.{field.name}" if path else field.name
        value, runtime = getattr(config, field.name), is_runtime or config.is_runtime(field.name)
        if isinstance(value, Checked):
            yield from leaves(value, inside, runtime)
        else:
            yield inside, value, runtime


def variants(config: RunConfig, runtime: bool) -> dict[str, RunConfig]:
    """Every single change to a field that is (or is not) marked as runtime, by its path."""
    changed = {
        path: another(path, value) for path, value, is_one in leaves(config) if is_one == runtime
    }
    return {
        path: replace(config, **{path.replace(".", "__"): value})
        for path, value in changed.items()
        if value is not None
    }


def noted(config: RunConfig) -> dict[str, str]:
    """Plan, and say which note (stage and digest) each stage has."""
    folder = Path(config.root) / "stages"
    shutil.rmtree(folder, ignore_errors=True)
    make_plan(config, SUNDAY)
    notes = {path.name.partition("-")[0]: path.name for path in folder.iterdir()}
    return {stage: note for stage, note in notes.items() if stage in STAGES}


def test_a_runtime_field_moves_no_stage(whole: RunConfig) -> None:
    before, plan = noted(whole), make_plan(whole, SUNDAY)
    changed = variants(whole, runtime=True)
    assert set(changed) == {
        "data.partition_bytes",
        "evaluate.batch_size",
        "gate.error",
        "gate.floors",
        "gate.margin",
        "gate.seed_noise",
        "name",
        "promote_metric",
        "tokenizers",
        *(
            f"train.{name}"
            for name in (
                "attention",
                "chunk_pairs",
                "compile",
                "keep_checkpoints",
                "loader_workers",
                "max_skipped_steps",
                "memory",
                "memory_gib",
                "save_every_steps",
                "timeout_seconds",
                "tracker",
                "tracker_uri",
                "zero_stage",
            )
        ),
    }
    for path, config in changed.items():
        assert noted(config) == before, path
        if path != "name":
            assert make_plan(config, SUNDAY).root == plan.root, path
        # What Flyte's own cache compares: these stages leave no bytes that would answer at once.
        again = make_plan(config, SUNDAY)
        assert (again.validate.data, again.render.data) == (
            plan.validate.data,
            plan.render.data,
        )


def moves(path: str, before: EvaluateConfig, after: EvaluateConfig) -> set[str]:
    """The stages that a change to the deciding field at `path` has to move."""
    part, _, rest = path.partition(".")
    if part in ("data", "render", "seed"):
        return STAGES
    if path == "train.batch_pairs":  # validation looks for what is too frequent for a batch
        return {"validate", "pretrain", *EVALUATIONS}
    if part in ("model", "optim", "train"):
        return {"pretrain", *EVALUATIONS}
    if part == "is_demo":
        return set(EVALUATIONS)
    one = rest.partition(".")[0]
    # Validation looks for evaluated photos among the training photos.
    validates = {"validate"} if shown(before) != shown(after) else set()
    return validates | ({one} if one in EVALUATIONS else set(EVALUATIONS))


def shown(evaluate: EvaluateConfig) -> list[Any]:
    """What the evaluations read, and what they show of it."""
    return [
        (benchmark_digest(evaluate, name), one.pictures(evaluate))
        for name, one in EVALUATIONS.items()
    ]


def test_a_deciding_field_moves_its_stages_and_no_other(whole: RunConfig) -> None:
    before, changed = noted(whole), variants(whole, runtime=False)
    assert len(changed) > 70 and {"train.resume_from", "data.store_drawings"} <= set(changed)
    for path, config in changed.items():
        after = noted(config)
        expected = moves(path, whole.evaluate, config.evaluate)
        assert {name for name in STAGES if after[name] != before[name]} == expected, path


def test_an_augmentation_that_is_off_decides_nothing(config: RunConfig) -> None:
    assert noted(replace(config, train__augment__share=0.5)) == noted(config)


def test_two_configs_are_one_run_when_their_identities_are_equal(whole: RunConfig) -> None:
    busy = replace(whole, train__loader_workers=9, evaluate__batch_size=1, name="other")
    assert identity(busy) == identity(whole) and digest(busy) != digest(whole)
    assert identity(replace(whole, seed=7)) != identity(whole)
    assert json.loads(json.dumps(identity(whole))) == identity(whole)


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


def test_one_more_benchmark_leaves_the_finished_one_where_it_is(config: RunConfig) -> None:
    coco, flickr = presets.benchmarks("/nowhere").retrieval
    before = make_plan(replace(config, evaluate__retrieval=(coco,)), SUNDAY)
    coco_before = before.evaluations["retrieval"].benchmarks["coco"]
    part = Path(coco_before.root, "evaluations", "retrieval", "benchmark-coco")
    results.write_result(str(part), EvalResult("retrieval", "coco", "", "", 1), record="part.json")
    after = make_plan(replace(config, evaluate__retrieval=(coco, flickr)), SUNDAY)
    assert after.evaluations["retrieval"].stage.root != before.evaluations["retrieval"].stage.root
    assert after.evaluations["retrieval"].benchmarks["coco"] == coco_before
    assert after.evaluations["retrieval"].benchmarks["flickr30k"].root == after.root


def test_an_evaluation_whose_scores_are_lost_or_changed_is_not_complete(tmp_path: Path) -> None:
    folder, scores = tmp_path / "evaluations" / "glue", Scores()
    assert not is_complete("glue", str(tmp_path))
    scores.add("glue/cola_matthews", [1, 2], [0.0, 1.0])
    result = EvalResult("glue", "glue", "dev", "", 2)
    results.write_result(str(folder), result, scores)
    assert is_complete("glue", str(tmp_path))
    table = folder / "predictions.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:-1] + b"\0")
    assert not is_complete("glue", str(tmp_path))
    table.unlink()
    assert not is_complete("glue", str(tmp_path))
    table.write_bytes(whole)
    assert is_complete("glue", str(tmp_path))
    for changes in ({"failure": "no data"}, {"scores": "../glue/predictions.parquet"}):
        written = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**written, **changes}))
        assert not is_complete("glue", str(tmp_path)), changes
        (folder / "result.json").write_text(json.dumps(written))
    (folder / "result.json").write_text("[" * 100_000)
    assert not is_complete("glue", str(tmp_path))


# --- week after week ------------------------------------------------------------------------------


@pytest.fixture
def warm(config: RunConfig) -> RunConfig:
    """The run with the promoted model as its start."""
    return replace(config, model__initial_weights="promoted")


def promote(plan: RunPlan, name: str) -> str:
    """Promote what `plan` trained; the checkpoint's address."""
    folder = Path(plan.pretrain.stage.root, "checkpoints", "step-00000006")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    metric = Metric(40.0, 38.0, 42.0, 1.0, 100)
    result = EvalResult(
        "glue", "glue", "dev", "p", 9, {"glue/average": metric}, main_metrics=["glue/average"]
    )
    info = CheckpointInfo(str(folder), 6, 48, 1.0, f"sha-{name}", "c", "k", 1)
    gate = replace(GateConfig(), margin=9.0)
    assert promotion.decide(dataclasses.replace(plan.gate, gate=gate), info, [result]).promoted
    return str(folder)


def test_before_the_first_promotion_there_is_nothing_to_start_from(warm: RunConfig) -> None:
    with pytest.raises(DataError, match="nothing is promoted under the name little yet; train"):
        make_plan(warm, SUNDAY)


def test_the_pointer_is_followed_once_to_a_checkpoint(config: RunConfig, warm: RunConfig) -> None:
    scratch = make_plan(config, SUNDAY)
    first = promote(scratch, "first")
    Path(config.data.sources[0].path).write_text("one\ntwo\nthree\nfour\n")
    plan = make_plan(warm, SUNDAY)
    assert plan.pretrain.model.initial_weights == first == plan.gate.start
    assert plan.pretrain.model == replace(config.model, initial_weights=first)
    shutil.rmtree(first)
    with pytest.raises(DataError, match="the promoted model is gone"):
        make_plan(warm, SUNDAY)


def test_an_order_of_its_own_each_week_and_nothing_else(config: RunConfig, warm: RunConfig) -> None:
    promote(make_plan(config, SUNDAY), "first")
    Path(config.data.sources[0].path).write_text("one\ntwo\nthree\nfour\n")
    plan, again = make_plan(warm, SUNDAY), make_plan(warm, SUNDAY)
    next_week = make_plan(warm, SUNDAY + datetime.timedelta(days=7))
    by_hand = make_plan(warm, datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))
    seeds = [one.pretrain.stage.seed for one in (plan, again, next_week, by_hand)]
    assert seeds[0] == seeds[1] == plan.gate.order_seed and seeds[3] == warm.seed
    assert len(set(seeds)) == 3 and again.root == plan.root != next_week.root
    for one in (plan, next_week):
        others = (one.render.stage, one.validate.stage, one.gate.stage)
        assert {stage.seed for stage in others} == {warm.seed}
        assert {each.stage.seed for each in one.evaluations.values()} == {warm.seed}
    assert make_plan(config, SUNDAY).pretrain.stage.seed == config.seed  # from scratch


def test_nothing_new_is_the_promoted_models_own_plan(config: RunConfig, warm: RunConfig) -> None:
    pairs = Path(config.data.sources[0].path)
    promote(make_plan(config, SUNDAY), "first")
    pairs.write_text("one\ntwo\nthree\nfour\n")
    week = make_plan(warm, SUNDAY)
    second = promote(week, "second")
    later = SUNDAY + datetime.timedelta(days=7)
    same = make_plan(warm, later)
    assert same.root == week.root and same.pretrain.stage.root == week.pretrain.stage.root
    assert same.pretrain.stage.seed == week.pretrain.stage.seed
    assert same.pretrain.model == week.pretrain.model
    # Evaluations are no part of what is trained; settings and data are.
    judged = make_plan(replace(warm, evaluate__glue=GlueConfig("/nowhere")), later)
    assert (judged.gate.start, judged.gate.order_seed, judged.gate.recipe) == (
        week.gate.start,
        week.gate.order_seed,
        week.gate.recipe,
    )
    assert make_plan(replace(warm, optim__lr=5e-4), later).gate.start == second
    pairs.write_text("one\ntwo\nthree\nfour\nfive\n")
    new = make_plan(warm, later)
    assert new.gate.start == second and new.root != week.root


def test_a_series_from_scratch_with_the_same_recipe_has_nothing_new_either(
    config: RunConfig, warm: RunConfig
) -> None:
    scratch = make_plan(config, SUNDAY)
    promote(scratch, "first")
    assert make_plan(warm, SUNDAY + datetime.timedelta(days=7)).root == scratch.root


def test_the_weekly_presets_share_a_pointer_and_all_but_the_start_and_the_schedule() -> None:
    warm, scratch = presets.weekly(), presets.weekly_from_scratch()
    assert warm.model.initial_weights == "promoted" and scratch.model.initial_weights == ""
    assert warm.train.steps < scratch.train.steps and warm.optim.lr < scratch.optim.lr
    kept = dataclasses.replace(warm, optim=scratch.optim, train=scratch.train, model=scratch.model)
    assert kept == scratch


def test_a_run_notes_what_it_names(config: RunConfig, warm: RunConfig) -> None:
    first = promote(make_plan(config, SUNDAY), "first")
    Path(config.data.sources[0].path).write_text("one\ntwo\nthree\nfour\n")
    plan = make_plan(replace(warm, train__resume_from="s3://elsewhere/run"), SUNDAY)
    found = planned.read(plan.root)
    assert (found.name, found.starts) == (config.name, [first, "s3://elsewhere/run"])
    assert found.places["render"] == plan.render.stage.root
    assert {"pretrain", *plan.evaluations} <= set(found.places)
    parts = plan.evaluations["retrieval"].benchmarks
    assert len([name for name in found.places if name.startswith("retrieval/")]) == len(parts)
