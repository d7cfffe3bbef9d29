"""From a RunConfig to one sub-plan a stage, each with a digest of everything its result depends on.

    stage digest  = sha256(identity of the sub-config, seed, data content, code of the stage,
                           digest of the stage before)
    run folder    = <root>/<name>-<first 12 digits of all stage digests together>

A stage whose digest was completed before, in whichever run's folder, is planned into that same folder with the same
`generation`, so that its inputs are equal and a cache answers. If the bytes are gone or were never finished, it gets a new
generation, and no cache can answer: it runs again, and picks up whatever usable pieces lie in its folder. So new data under an old
path retrains, a new learning rate does not draw the text again, and deleted shards are made again. More workers, another timeout or
saving more often change no digest: `identity` leaves such fields out.

It is not the cache: that is Flyte's, keyed by these plans.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

from clippo_core import storage
from clippo_core.config import DataConfig, EvaluateConfig, RunConfig, digest, identity, without_runtime
from clippo_core.errors import ConfigError, DataError, NotFoundError
from clippo_core.evaluate.results import evaluation_folder
from clippo_core.provenance import code_digest
from clippo_core.records import EVALUATIONS, CheckpointInfo, EvaluatePlan, GatePlan, PretrainPlan, RenderPlan, StagePlan, ValidatePlan

STAGE_CODE: dict[str, str] = {
    "validate": "clippo_core.data.expectations",
    "render": "clippo_core.data.shards",
    "pretrain": "clippo_core.train.loop",
    **{name: f"clippo_core.evaluate.{name}" for name in EVALUATIONS},
}
"""The core module behind each stage; its digest is part of the stage's."""


@dataclass(frozen=True)
class RunPlan:
    """One sub-plan a stage."""

    root: str
    validate: ValidatePlan
    render: RenderPlan
    pretrain: PretrainPlan
    evaluations: dict[str, EvaluatePlan]
    gate: GatePlan


def make_plan(config: RunConfig, kickoff_time: datetime.datetime) -> RunPlan:
    """Plan a run. `{kickoff:%Y-%m-%d}` in any path becomes the kickoff time. Raises DataError naming a file or folder that is missing:
    pairs, fonts, tokenizer, weights to start from. What `train.resume_from` names is not read: a committed checkpoint never changes."""
    config = fill_kickoff(config, kickoff_time)
    pairs = content_digest(source_uris(config.data))
    benchmarks = {name: benchmark_digest(config.evaluate, name) for name in EVALUATIONS}
    only = {name: only_evaluation(config.evaluate, name) for name in EVALUATIONS}
    data, render = config.data, config.render
    fonts = content_digest(list(render.fonts))
    model_files = content_digest([uri for uri in (config.model.tokenizer, config.model.initial_weights) if uri])

    stages: dict[str, str] = {}
    stages["validate"] = _digest("validate", config, pairs, data, render, fonts, config.evaluate, sorted(benchmarks.items()))
    stages["render"] = _digest("render", config, pairs, data, render, fonts)
    stages["pretrain"] = _digest("pretrain", config, stages["render"], config.model, model_files, config.optim, config.train)
    for name in EVALUATIONS:
        stages[name] = _digest(name, config, stages["pretrain"], only[name], benchmarks[name], config.is_demo)
    root = storage.join(config.root, f"{config.name}-{digest(stages)[:12]}")

    def stage(name: str, content: str) -> StagePlan:
        folder, generation = _place(config.root, root, name, stages[name])
        return StagePlan(root=folder, seed=config.seed, data_digest=content, generation=generation)

    evaluations = {name: EvaluatePlan(stage(name, benchmarks[name]), only[name], config.is_demo) for name in EVALUATIONS}
    return RunPlan(
        root=root,
        validate=ValidatePlan(stage("validate", pairs), data, render, without_runtime(config.evaluate)),
        render=RenderPlan(stage("render", pairs), data, render),
        pretrain=PretrainPlan(stage("pretrain", pairs), data, render, config.model, config.optim, config.train),
        evaluations=evaluations,
        gate=GatePlan(
            StagePlan(root, config.seed, pairs),
            name=config.name,
            promoted=storage.join(config.root, f"promoted-{config.name}.json"),
            evaluations={name: evaluation_folder(plan, name) for name, plan in evaluations.items()},
            promote_metric=config.promote_metric,
            is_demo=config.is_demo,
        ),
    )


def plan_evaluations(evaluate: EvaluateConfig, checkpoint: CheckpointInfo, root: str) -> dict[str, EvaluatePlan]:
    """Plans to evaluate a finished checkpoint, in one folder per weights under `root`."""
    folder = storage.join(root, f"evaluation-{checkpoint.weights_sha256[:12]}")
    plans = {}
    for name in EVALUATIONS:
        only, content = only_evaluation(evaluate, name), benchmark_digest(evaluate, name)
        stage_digest = digest([name, code_digest(STAGE_CODE[name]), identity(only), content, checkpoint.weights_sha256])
        place, generation = _place(root, storage.join(folder, stage_digest[:12]), name, stage_digest)
        plans[name] = EvaluatePlan(StagePlan(place, 0, content, generation), only)
    return plans


def benchmark_digest(evaluate: EvaluateConfig, name: str) -> str:
    """Digest of what an evaluation reads. A missing file stops neither plan nor training: that evaluation's result will say so."""
    try:
        return content_digest(evaluation_uris(evaluate, name))
    except DataError as error:
        return f"missing: {error}"


def only_evaluation(evaluate: EvaluateConfig, name: str) -> EvaluateConfig:
    """`evaluate` with every evaluation but `name` left out, so that a change to one does not touch the others."""
    if name not in EVALUATIONS:
        raise ConfigError(f"there is no evaluation {name!r}; the five are {', '.join(EVALUATIONS)}.")
    others: dict[str, Any] = {other: None for other in EVALUATIONS if other != name}
    return dataclasses.replace(evaluate, **others)


def fill_kickoff(config: Any, kickoff_time: datetime.datetime) -> Any:
    """`config` with `{kickoff}` or `{kickoff:%Y-%m-%d}` (strftime) filled in, in every string of it."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {f.name: fill_kickoff(getattr(config, f.name), kickoff_time) for f in dataclasses.fields(config)}
        return dataclasses.replace(config, **values)
    if isinstance(config, tuple):
        return tuple(fill_kickoff(item, kickoff_time) for item in config)
    if isinstance(config, str):
        return re.sub(r"\{kickoff(?::([^}]*))?\}", lambda m: kickoff_time.strftime(m[1] or "%Y-%m-%d"), config)
    return config


def source_uris(data: DataConfig) -> list[str]:
    """Files and folders that the sources read."""
    found = []
    for source in data.sources:
        found += [source.path, source.second_path, source.images]
    return [uri for uri in found if uri]


def evaluation_uris(evaluate: EvaluateConfig, name: str) -> list[str]:
    """Files and folders that the evaluation `name` reads; empty where it is not configured."""
    config = getattr(evaluate, name)
    if config is None:
        return []
    fields = (
        "images",
        "class_names",
        "train_images",
        "annotations",
        "train_questions",
        "train_annotations",
        "questions",
        "root",
        "captions",
        "multi_labels",
    )
    found = [getattr(config, field, "") for field in fields]
    found += list(getattr(config, "vocabulary_annotations", ()))
    found += [name for name in (getattr(config, "templates", ""),) if name.endswith(".json")]
    return [uri for uri in found if uri]


def content_digest(uris: list[str]) -> str:
    """sha256 over names, sizes and contents (a bucket's etags, a folder's sha256) of files, folders and `*` patterns.

    Raises DataError naming the first that does not exist.
    """
    entries = []
    for uri in sorted(set(uris)):
        try:
            files = storage.list_files(uri)
        except NotFoundError as error:
            raise DataError(f"{uri}: not found; check the path in the run's config.") from error
        if not files:
            raise DataError(f"{uri}: not found, or an empty folder; check the path in the run's config.")
        entries.append([uri, [[file.name, file.bytes, file.etag] for file in files]])
    return digest(entries)


def is_complete(stage: str, root: str) -> bool:
    """Whether the bytes that `stage` leaves under `root` are all there, by name and size."""
    try:
        if stage == "validate":
            return True  # its result is a value: there are no bytes to lose
        if stage == "render":
            return _files_present(storage.join(root, "shards"), "manifest.json")
        if stage == "pretrain":
            latest = json.loads(storage.read_text(storage.join(root, "checkpoints", "latest.json")))
            return bool(latest.get("finished")) and _files_present(storage.join(root, "checkpoints", latest["name"]), "manifest.json")
        result = json.loads(storage.read_text(storage.join(root, "evaluations", stage, "result.json")))
        return not result["failure"]
    except (NotFoundError, KeyError, ValueError):
        return False


def _files_present(folder: str, manifest: str) -> bool:
    listed = json.loads(storage.read_text(storage.join(folder, manifest)))["files"]
    sizes = {file.name: file.bytes for file in storage.list_files(folder)}
    return all(sizes.get(file["name"]) == file["bytes"] for file in listed)


def _digest(stage: str, config: RunConfig, *parts: Any) -> str:
    return digest([stage, config.seed, code_digest(STAGE_CODE[stage]), identity(parts)])


def _place(base: str, root: str, stage: str, stage_digest: str) -> tuple[str, str]:
    """Folder and generation of a stage: those of its last completion if the bytes are still there, else this run's and a new one."""
    note = storage.join(base, "stages", f"{stage}-{stage_digest[:32]}.json")
    try:
        placed = json.loads(storage.read_text(note))
        if is_complete(stage, placed["root"]):
            return placed["root"], placed["generation"]
    except NotFoundError:
        pass
    generation = uuid.uuid4().hex[:12]
    storage.write_text(note, json.dumps({"root": root, "generation": generation}) + "\n")
    return root, generation
