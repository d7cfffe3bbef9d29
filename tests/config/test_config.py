"""Configs refuse what cannot work on every way in, survive JSON and Flyte, and presets build."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT

from clippo_core import config as config_package
from clippo_core.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    GateConfig,
    GlueConfig,
    ModelConfig,
    OptimConfig,
    RenderConfig,
    RetrievalConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
    VqaConfig,
    Xm3600Config,
    decode,
    digest,
    parse_json,
    presets,
    replace,
    to_json,
)
from clippo_core.config.hints import field_hints
from clippo_core.errors import ConfigError
from clippo_core.run.records import (
    EvalResult,
    EvaluatePlan,
    GatePlan,
    Metric,
    PretrainPlan,
    RenderPlan,
    StagePlan,
    ValidatePlan,
    dumps,
    from_dict,
    loads,
)

CONFIGS = [
    getattr(config_package, name) for name in config_package.__all__ if name.endswith("Config")
]

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
        (
            lambda: RunConfig("a", DataConfig((PHOTOS,)), train=TrainConfig(steps=100)),
            "fewer than warm-up",
        ),
        (lambda: RunConfig("a/b", DataConfig((PHOTOS,))), "names a folder"),
        (
            lambda: RunConfig("a", DataConfig((PHOTOS,)), tokenizers=("spiece.model",)),
            "a name, `=` and a SentencePiece file",
        ),
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
    run = build("data") if name in ("slices", "photos") else build()
    assert from_dict(RunConfig, json.loads(json.dumps(dataclasses.asdict(run)))) == run
    assert digest(run) != digest(replace(run, seed=1))


def test_only_the_photos_preset_reads_in_another_layout_than_the_paper() -> None:
    for name, build in presets.by_name().items():
        run = build("data") if name in ("slices", "photos") else build()
        is_ours = (run.render.layout, run.model.skip_blank_rows) == ("words", True)
        assert is_ours == (name == "photos"), name
        assert is_ours or run.render == RenderConfig(run.render.image_px), name


def test_the_photos_preset_trains_on_one_split_and_shows_another() -> None:
    run = presets.photos("data", steps=300)
    photos, captions = run.data.sources[:2], run.data.sources[2:]
    assert {source.split for source in run.data.sources} == {"train"}
    assert [source.path for source in captions] == [source.path for source in photos]
    assert {one.split for one in run.evaluate.retrieval} == {"test"}
    assert {one.annotations for one in run.evaluate.retrieval} == {one.path for one in photos}
    assert run.train.steps == 300 and run.optim.warmup_steps == 30 and not run.is_demo


@pytest.mark.parametrize(
    ("share", "steps"),
    [(0.0, 250_000), (0.25, 333_000), (0.5, 500_000), (0.75, 500_000), (1.0, 250_000)],
)
def test_paper_presets_have_the_papers_numbers(share: float, steps: int) -> None:
    for run in (presets.paper_b16(share), presets.paper_l16(share)):
        assert (run.train.steps, run.train.batch_pairs, run.data.text_pair_share) == (
            steps,
            10_240,
            share,
        )
        assert (run.optim.lr, run.optim.weight_decay, run.optim.warmup_steps) == (
            1e-3,
            1e-4,
            10_000,
        )


VQA = VqaConfig("q", "a", "i", "q")
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: ModelConfig(kind="clipo"), "model.kind is 'clipo'; use 'clippo', 'one_tower_clip', "),
    (
        lambda: OptimConfig(momentum_dtype="bf16"),
        "optim.momentum_dtype is 'bf16'; use 'bfloat16' or",
    ),
    (lambda: OptimConfig(adam_beta2=7), "optim.adam_beta2 is 7.0; use 0 to below 1."),
    (lambda: OptimConfig(lr=float("nan")), "optim.lr is nan; it must be a finite number."),
    (lambda: OptimConfig(lr=True), "optim.lr is True; it must be a finite number."),
    (lambda: OptimConfig(lr=10**400), "it must be a finite number."),
    (
        lambda: Xm3600Config("c", "i", which_captions="frist"),
        "evaluate.xm3600.which_captions is 'fr",
    ),
    (lambda: replace(VQA, question_place="bellow"), "evaluate.vqa.question_place is 'bellow'; use"),
    (lambda: replace(VQA, holdout_share=20), "evaluate.vqa.holdout_share is 20.0; it is a share"),
    (
        lambda: replace(VQA, image_px=100),
        "evaluate.vqa.image_px is 100; it must be 0, or a multiple",
    ),
    (
        lambda: replace(VQA, min_answer_count=0),
        "evaluate.vqa.min_answer_count is 0; it must be pos",
    ),
    (lambda: TrainConfig(steps=10.5), "train.steps is 10.5; it must be a whole number."),
    (lambda: TrainConfig(steps=True), "train.steps is True; it must be a whole number."),
    (lambda: TrainConfig(steps="10"), "train.steps is '10'; it must be a whole number."),
    (lambda: TrainConfig(compile="no"), "train.compile is 'no'; it must be true or false."),
    (
        lambda: TrainConfig(loader_workers=-3),
        "train.loader_workers is -3; it must not be negative.",
    ),
    (lambda: TrainConfig(timeout_seconds=0), "train.timeout_seconds is 0.0; it must be positive."),
    (lambda: TrainConfig(zero_stage=4), "train.zero_stage is 4; use 0, 1, 2 or 3."),
    (lambda: TrainConfig(zero_stage=True), "train.zero_stage is True; it must be a whole number."),
    (lambda: TrainConfig(augment={"noise": 3}), "train.augment.noise is 3.0; use 0 to 2, "),
    (
        lambda: TrainConfig(augment=OptimConfig()),
        "it must be an object with the fields of AugmentCo",
    ),
    (
        lambda: DataConfig((TEXTS,), text_pair_share=1.5),
        "data.text_pair_share is 1.5; it is a share",
    ),
    (lambda: DataConfig((TEXTS, "b.txt")), "data.sources[1] is 'b.txt'; it must be an object with"),
    (lambda: DataConfig(TEXTS), "data.sources is SourceConfig("),
    (
        lambda: SourceConfig("tsv", Path("a.tsv")),
        "source.path is PosixPath('a.tsv'); it must be text",
    ),
    (
        lambda: SourceConfig("tsv", "a.tsv", languages="en"),
        "source.languages is 'en'; it must be a l",
    ),
    (lambda: FinetuneConfig(learning_rates=()), "finetune.learning_rates is (); name at least one"),
    (
        lambda: FinetuneConfig(learning_rates=(1e-3, 0)),
        "finetune.learning_rates[1] is 0.0; it must",
    ),
    (
        lambda: FinetuneConfig(warmup_share=2),
        "finetune.warmup_share is 2.0; it is a share, 0 to 1.",
    ),
    (lambda: GlueConfig("glue", tasks=()), "evaluate.glue.tasks is (); name at least one."),
    (
        lambda: EvaluateConfig(bootstrap_samples=0),
        "evaluate.bootstrap_samples is 0; it must be pos",
    ),
    (
        lambda: RunConfig("a", DataConfig((PHOTOS,)), seed=-1),
        "seed is -1; it must not be negative.",
    ),
    (
        lambda: replace(presets.demo(), train__stpes=5),
        "train.stpes: there is no such field; did you",
    ),
    (lambda: replace(EvaluateConfig(), glue__root="a"), "evaluate.glue is None, without fields to"),
]


@pytest.mark.parametrize(("make", "start"), REFUSED, ids=[start[:40] for _, start in REFUSED])
def test_a_wrong_value_is_one_sentence_with_its_path(
    make: Callable[[], object], start: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        make()
    assert start in str(refusal.value) and "\n" not in str(refusal.value)


def misspelt(name: str) -> list[str]:
    """`name` with one letter changed, missing or doubled, or two exchanged, at each place."""
    changed = {name[:i] + letter + name[i + 1 :] for i in range(len(name)) for letter in "xq"}
    missing = {name[:i] + name[i + 1 :] for i in range(len(name))}
    doubled = {name[: i + 1] + name[i:] for i in range(len(name))}
    pairs = {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1)}
    return sorted((changed | missing | doubled | pairs) - {name, ""})


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_field_misspelt_by_one_letter_is_suggested(cls: type) -> None:
    for name in field_hints(cls):
        for wrong in misspelt(name):
            with pytest.raises(ConfigError) as refusal:
                decode(cls, {wrong: 0})
            path = f"{cls.PATH}.{wrong}" if cls.PATH else wrong
            sentence = f"{path}: there is no such field; did you mean `{name}`?"
            assert sentence in str(refusal.value).splitlines()


def test_all_faults_of_a_file_are_named_at_once() -> None:
    faulty = {
        "nam": "demo",
        "data": {"sources": [{"kind": "tsv", "path": "a"}, {"kind": "tvs", "pth": "b"}]},
        "train": {"stpes": 5, "steps": 730.7, "compile": "false"},
        "evaluate": {"vqa": {"finetune": {"epochs": 0}}},
    }
    with pytest.raises(ConfigError) as refusal:
        RunConfig.from_json(json.dumps(faulty))
    lines = str(refusal.value).splitlines()
    assert lines[:5] == [
        "nam: there is no such field; did you mean `name`?",
        "name is missing; it must be given.",
        "data.sources[1].pth: there is no such field; did you mean `path`?",
        (
            "data.sources[1].kind is 'tvs'; use 'karpathy', 'coco', 'xm3600', 'webdataset',"
            " 'csv', 'folder', 'hf', 'sentences', 'c4', 'moses', 'tsv' or 'captions'."
        ),
        "data.sources[1].path is missing; it must be given.",
    ]
    assert lines[5:8] == [
        "train.stpes: there is no such field; did you mean `steps`?",
        "train.steps is 730.7; it must be a whole number.",
        "train.compile is 'false'; it must be true or false.",
    ]
    assert "evaluate.vqa.finetune.epochs is 0; it must be positive." in lines[8:]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1]", "RunConfig is [1]; it must be an object with the fields of RunConfig."),
        ("{", "RunConfig: it is not valid json at line 1 column 2 (Expecting property name"),
        ("", "RunConfig: it is empty, and no json; correct it."),
        ("[" * 100_000 + "]" * 100_000, "RunConfig: its json is nested more than 64 deep"),
        ('{"seed": NaN}', "its json holds NaN, which is no number; correct it."),
        ('{"train": {"steps": 1, "steps": 2}}', "has the key 'steps' twice in one object"),
        ('{"seed": ' + "9" * 5000 + "}", "holds a whole number of thousands of digits"),
        ('{"seed": 1e400}', "its json holds 1e400, which is beyond every number"),
        ('{"name": "\\ud800"}', "its json holds a lone surrogate"),
        ('{"name": "' + "x" * 2**24 + '"}', "its json has 16,777,228 bytes, more than 16,777,216"),
        ('{"\\u001b[31m": 1}', "\\x1b[31m: there is no such field."),
        ('{"' + "x" * 10**6 + '": 1}', "xxx…"),
        (json.dumps({f"field{n}": n for n in range(10**5)}), "There are 99,952 more faults."),
    ],
)
def test_what_is_no_config_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        RunConfig.from_json(text)
    assert sentence in str(refusal.value) and len(str(refusal.value)) < 10_000
    assert all(line.isprintable() for line in str(refusal.value).split("\n"))


def test_a_config_of_another_version_says_what_to_do() -> None:
    plain = json.loads(to_json(presets.demo()))
    with pytest.raises(ConfigError) as refusal:
        decode(RunConfig, plain | {"train": plain["train"] | {"shuffle_window": 3}})
    lines = str(refusal.value).splitlines()
    assert lines[0] == "train.shuffle_window: there is no such field."
    assert "another version" in lines[1] and "make register" in lines[1]
    del plain["data"]
    with pytest.raises(ConfigError, match="data is missing; it must be given.\n.*another version"):
        decode(RunConfig, plain)
    del plain["train"]["loader_workers"]  # added later, with a default: that is what it did then
    plain["data"] = {"sources": [dataclasses.asdict(PHOTOS)]}
    assert decode(RunConfig, plain).train.loader_workers == TrainConfig().loader_workers


OLD_RETRIEVAL: list[Any] = [
    {"annotations": "a.json", "images": "a"},
    [{"annotations": "a.json", "images": "a"}],
    None,
    [],
]
"""What run.json held when there was one benchmark or none, and what it holds now."""


def retrieval_of(old: Any) -> tuple[RetrievalConfig, ...]:
    """The benchmarks that `old` means."""
    return (RetrievalConfig("a.json", "a"),) if old else ()


@pytest.mark.parametrize("old", OLD_RETRIEVAL)
def test_a_list_that_was_one_object_is_still_read(old: Any) -> None:
    expected = EvaluateConfig(retrieval=retrieval_of(old))
    assert decode(EvaluateConfig, {"retrieval": old}) == expected
    assert EvaluateConfig.from_json(json.dumps({"retrieval": old})) == expected
    assert from_dict(EvaluateConfig, {"retrieval": old}) == expected
    assert decode(EvaluateConfig, json.loads(to_json(expected))) == expected
    assert EvaluateConfig(retrieval=(retrieval_of(old) or (None,))[0]) == expected  # type: ignore[arg-type]
    plain = json.loads(to_json(presets.demo()))
    plain["evaluate"]["retrieval"] = old
    run = RunConfig.from_json(json.dumps(plain))
    assert run.evaluate.retrieval == expected.retrieval
    assert loads(RunConfig, json.dumps(plain)) == run
    for literal in literals(plain):
        assert through_flyte(literal, RunConfig) == run
    plan = json.loads(
        json.dumps(dataclasses.asdict(EvaluatePlan(StagePlan("r", 0, "d"), EvaluateConfig())))
    )
    plan["evaluate"]["retrieval"] = old
    del plan["benchmarks"]
    for literal in literals(plan):
        assert through_flyte(literal, EvaluatePlan).evaluate == expected


def test_an_absent_list_is_empty() -> None:
    assert decode(EvaluateConfig, {}).retrieval == EvaluateConfig().retrieval == ()


def test_faults_of_benchmarks_are_named_by_their_place() -> None:
    with pytest.raises(
        ConfigError, match="evaluate.retrieval\\[0\\].image: there is no such field"
    ):
        decode(EvaluateConfig, {"retrieval": {"image": "a"}})
    with pytest.raises(ConfigError, match="evaluate.retrieval\\[1\\].limit is -1"):
        decode(EvaluateConfig, {"retrieval": [OLD_RETRIEVAL[0], OLD_RETRIEVAL[0] | {"limit": -1}]})


def test_two_benchmarks_of_one_name_are_refused() -> None:
    coco, flickr = RetrievalConfig("a.json", "a"), RetrievalConfig("b.json", "b", "flickr30k")
    assert EvaluateConfig(retrieval=(coco, flickr)).retrieval == (coco, flickr)
    with pytest.raises(ConfigError) as refusal:
        EvaluateConfig(retrieval=(coco, flickr, replace(coco, images="c")))
    sentence = str(refusal.value)
    assert sentence.startswith("evaluate.retrieval has two benchmarks with the dataset 'coco'")
    plain = json.loads(to_json(presets.benchmarks("d")))
    plain["retrieval"][1]["dataset"] = "coco"
    for literal in literals(plain):
        with pytest.raises(ConfigError, match="two benchmarks with the dataset 'coco'"):
            through_flyte(literal, EvaluateConfig)


def literals(plain: dict[str, Any]) -> list[Any]:
    """`plain` as the two literals that Flyte knows: MessagePack, and the console's Struct."""
    import msgpack
    from flytekit.models.literals import Binary, Literal, Scalar
    from google.protobuf import json_format, struct_pb2

    packed = Binary(value=msgpack.packb(plain), tag="msgpack")
    struct = json_format.ParseDict(plain, struct_pb2.Struct())
    return [Literal(scalar=Scalar(binary=packed)), Literal(scalar=Scalar(generic=struct))]


def through_flyte(literal: Any, cls: type) -> Any:
    """What a task that takes a `cls` gets for `literal`."""
    from flytekit import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine

    return TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, cls)


@pytest.mark.parametrize("place", [0, 1], ids=["MessagePack", "Struct"])
def test_flytes_literals_are_as_strict(place: int) -> None:
    run = presets.demo()
    plain = json.loads(to_json(run))
    assert through_flyte(literals(plain)[place], RunConfig) == run
    evaluate = plain["evaluate"] | {"glue": {"rot": "a"}}
    faulty = plain | {"evaluate": evaluate}
    faulty["train"] = plain["train"] | {"stpes": 5, "steps": 730.7, "zero_stage": 4}
    with pytest.raises(ConfigError) as refusal:
        through_flyte(literals(faulty)[place], RunConfig)
    lines = set(str(refusal.value).splitlines())
    assert lines >= {
        "train.stpes: there is no such field; did you mean `steps`?",
        "train.steps is 730.7; it must be a whole number.",
        "evaluate.glue.rot: there is no such field; did you mean `root`?",
        "evaluate.glue.root is missing; it must be given.",
    }
    assert any(line.startswith("train.zero_stage is 4") for line in lines)
    assert any("another version" in line for line in lines)
    with pytest.raises(ConfigError, match="evaluate.vqa.epochs: there is no such field"):
        through_flyte(literals({"vqa": {"epochs": 1}})[place], EvaluateConfig)


@pytest.mark.parametrize("place", [0, 1], ids=["MessagePack", "Struct"])
def test_plans_cross_tasks(place: int) -> None:
    run, stage = presets.demo(), StagePlan("runs/demo", 3, "0" * 64, "g")
    plans: list[Any] = [
        ValidatePlan(stage, run.data),
        RenderPlan(stage, run.data, run.render),
        PretrainPlan(stage, run.data, run.render, run.model, run.optim, run.train),
        EvaluatePlan(stage, run.evaluate, True, {"coco": stage, "flickr30k": stage}),
        EvaluatePlan(stage, presets.benchmarks("d")),
        GatePlan(stage, "demo", "promoted.json", {"glue": "folder"}, "m", True),
        GatePlan(stage, "demo", "p.json", gate=GateConfig(2, floors=("m",)), benchmarks={"d": "s"}),
    ]
    for plan in plans:
        plain = json.loads(json.dumps(dataclasses.asdict(plan)))
        assert through_flyte(literals(plain)[place], type(plan)) == plan
        plain["stage"]["sed"] = 1
        with pytest.raises(
            ConfigError, match="stage.sed: there is no such field; did you mean `se"
        ):
            through_flyte(literals(plain)[place], type(plan))


def test_pyflyte_run_refuses_a_misspelt_field(tmp_path: Path, flyte_home: Path) -> None:
    plain = json.loads(to_json(presets.demo(str(tmp_path / "runs"))))
    plain["train"]["stpes"] = plain["train"].pop("steps")
    (tmp_path / "run.json").write_text(json.dumps(plain))
    pyflyte = Path(sys.executable).with_name("pyflyte")
    words = [pyflyte, "run", "workflows", "demo", "--config", tmp_path / "run.json"]
    done = subprocess.run(
        words, cwd=PROJECT, env=os.environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "train.stpes: there is no such field; did you mean `steps`?" in said
    assert not (tmp_path / "runs").exists()


def test_training_without_flyte_refuses_a_misspelt_field(tmp_path: Path) -> None:
    run = presets.demo()
    plan = PretrainPlan(
        StagePlan("r", 0, "d"), run.data, run.render, run.model, run.optim, run.train
    )
    plain = dataclasses.asdict(plan)
    plain["optim"]["warmup_step"] = plain["optim"].pop("warmup_steps")
    (tmp_path / "plan.json").write_text(json.dumps(plain))
    words = [sys.executable, "-m", "clippo_core.train", tmp_path / "plan.json", tmp_path]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    expected = "optim.warmup_step: there is no such field; did you mean `warmup_steps`?"
    assert done.stderr.startswith(f"ConfigError: {expected}")


def test_records_of_another_version_are_read() -> None:
    assert from_dict(OptimConfig, {"lr": 2e-3, "no_such": 1}) == OptimConfig(lr=2e-3)
    with pytest.raises(ConfigError, match="optim.lr is 'fast'; it must be a finite number"):
        from_dict(OptimConfig, {"lr": "fast"})
    with pytest.raises(ConfigError, match="StagePlan: it is not valid json"):
        loads(StagePlan, "{")
    with pytest.raises(ConfigError, match="it: its json holds Infinity"):
        parse_json("[Infinity]", "it")


def test_whole_numbers_from_json_become_floats_again() -> None:
    assert from_dict(OptimConfig, {"lr": 1}).lr == 1.0 and isinstance(
        from_dict(OptimConfig, {"lr": 1}).lr, float
    )
    assert digest(OptimConfig(lr=1)) == digest(OptimConfig(lr=1.0))
    steps = decode(TrainConfig, {"steps": 30.0, "zero_stage": 2.0})  # a console's doubles
    assert (repr(steps.steps), repr(steps.zero_stage)) == ("30", "2")


def test_records_round_trip() -> None:
    metrics = {"vqav2/overall": Metric(50.0, 40.0, 60.0, None, 3), "a": Metric(why_not="b")}
    result = EvalResult("vqa", "vqav2", "val", "p", 3, metrics)
    assert loads(EvalResult, dumps(result)) == result
    with pytest.raises(ValueError):
        dumps(dataclasses.replace(result, metrics={"a": Metric(float("nan"))}))
