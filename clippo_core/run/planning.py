"""From a RunConfig to one sub-plan per stage, each with a digest of everything its result
depends on.

    stage digest  = sha256(identity of its configs, seed, data content, code,
                           digest of the stage before)
    run folder    = <root>/<name>-<first 12 digits of all stage digests together>

A stage whose digest was completed before, in whichever run's folder, is planned into that same
folder with the same `generation`, so that its inputs are equal and a cache answers. If the bytes
are gone or were never finished, it gets a new generation, and no cache can answer: it runs again,
and picks up whatever usable pieces lie in its folder. So new data under an old path retrains, a new
learning rate does not render the text again, and deleted shards are made again. What is made of the
partitions of the sources lies beside the runs' folders, for all of them (`data/partitions.py`).

The cache itself is Flyte's, keyed by these plans.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clippo_core import storage
from clippo_core.config import (
    DataConfig,
    EvaluateConfig,
    RunConfig,
    digest,
    identity,
)
from clippo_core.config.model import PROMOTED
from clippo_core.data import partitions
from clippo_core.data.partitions import Listed
from clippo_core.data.partitions import listed as listed_files
from clippo_core.data.prepare import write_plan
from clippo_core.errors import ConflictError
from clippo_core.evaluate.registry import EVALUATIONS, Input
from clippo_core.run import planned
from clippo_core.run.contents import benchmark_digest, content_digest, source_inputs
from clippo_core.run.evaluation_plans import benchmarks_of, parts_of
from clippo_core.run.folder import MANIFEST, BaseFolder, PreparedFolder, RunFolder
from clippo_core.run.places import is_complete, place_of
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import (
    EvaluatedPlan,
    EvaluatePlan,
    GatePlan,
    Part,
    PartitionPlan,
    PretrainPlan,
    RenderPlan,
    StagePlan,
    ValidatePlan,
    WritePlan,
)
from clippo_core.run.resolving import fill_kickoff, follow_promoted, pin

MEASURE, JUDGE, MERGE, WRITE = (
    "clippo_core.data.validate.measure",
    "clippo_core.data.validate.expectations",
    "clippo_core.data.validate.merge",
    "clippo_core.data.write",
)
VALIDATE, RENDER, PRETRAIN = (MEASURE, JUDGE, MERGE), (MEASURE, WRITE), ("clippo_core.train.loop",)
"""The modules behind each stage but the evaluations; their code is part of the stage's digest."""


@dataclass(frozen=True)
class RunPlan:
    """One sub-plan per stage."""

    root: str
    validate: ValidatePlan
    render: RenderPlan
    pretrain: PretrainPlan
    evaluations: dict[str, EvaluatePlan]
    gate: GatePlan
    partitions: list[Part]
    """What each partition of the sources holds."""
    measure: PartitionPlan
    evaluated: EvaluatedPlan
    write: WritePlan


def make_plan(config: RunConfig, kickoff_time: datetime.datetime) -> RunPlan:
    """Plan a run. `{kickoff:%Y-%m-%d}` in any path becomes the kickoff time. Raises DataError
    naming a file or folder that is missing: pairs, fonts, tokenizer, weights to start from. What
    `train.resume_from` names is not read: a committed checkpoint never changes.
    """
    config = pin(fill_kickoff(config, kickoff_time))
    read = _digest_inputs(config)
    digests = {"validate": _validated(config, read), "render": _rendered(config, read)}
    recipe = _trained(config, read, digests["render"], "", config.seed)
    start, order_seed = config.model.initial_weights, config.seed
    if start == PROMOTED:
        start, order_seed = follow_promoted(config, kickoff_time, recipe)
    digests["pretrain"] = _trained(config, read, digests["render"], start, order_seed)
    for name, one in EVALUATIONS.items():
        parts = (digests["pretrain"], read.only[name], read.benchmarks[name], config.is_demo)
        digests[name] = _digested((one.module,), config.seed, *parts)
    run = _sub_plans(config, read, digests, recipe, start, order_seed)
    _note(run)
    return run


@dataclass(frozen=True)
class _Read:
    """Digests of all that a run reads, taken once, and how its files are listed."""

    pairs: str
    fonts: str
    starts: str
    """Of the tokenizer and of weights to start from that are no promoted model."""
    benchmarks: dict[str, str]
    """Evaluation -> digest of its files."""
    only: dict[str, EvaluateConfig]
    """Evaluation -> the evaluations' config with no other one in it."""
    listed: Listed


def _digest_inputs(config: RunConfig) -> _Read:
    listed = functools.cache(listed_files)  # stages read the same folders
    starts = [uri for uri in (config.model.tokenizer, config.model.initial_weights) if uri]
    return _Read(
        pairs=content_digest(source_inputs(config.data), listed),
        fonts=content_digest(list(map(Input, config.render.fonts)), listed),
        starts=content_digest([Input(uri) for uri in starts if uri != PROMOTED], listed),
        benchmarks={name: benchmark_digest(config.evaluate, name, listed) for name in EVALUATIONS},
        only={name: one.only(config.evaluate) for name, one in EVALUATIONS.items()},
        listed=listed,
    )


def _digested(modules: tuple[str, ...], seed: int, *parts: Any) -> str:
    return digest([modules, code_digest(*modules), seed, *map(identity, parts)])


def _validated(config: RunConfig, read: _Read) -> str:
    shown = [one.pictures(config.evaluate) for one in EVALUATIONS.values()]
    return _digested(
        VALIDATE,
        config.seed,
        *(read.pairs, _uncut(config.data), config.render, read.fonts),
        *(shown, read.benchmarks, config.train.batch_pairs),
    )


def _rendered(config: RunConfig, read: _Read) -> str:
    parts = (read.pairs, _uncut(config.data), config.render, read.fonts)
    return _digested(RENDER, config.seed, *parts)


def _trained(config: RunConfig, read: _Read, rendered: str, start: str, seed: int) -> str:
    """Digest of a training from the weights `start`, in the order of `seed`."""
    model = dataclasses.replace(config.model, initial_weights=start)
    return _digested(PRETRAIN, seed, rendered, model, read.starts, config.optim, config.train)


def _uncut(data: DataConfig) -> DataConfig:
    """Without how the sources are cut: stages are not told, or it would be a part of their cache's
    key.
    """
    return dataclasses.replace(data, partition_bytes=DataConfig.partition_bytes)


def _sub_plans(
    config: RunConfig,
    read: _Read,
    digests: dict[str, str],
    recipe: str,
    start: str,
    order_seed: int,
) -> RunPlan:
    """The sub-plan of every stage, each in the folder in which it was completed before, or in the
    run's own.
    """
    base, render, data = BaseFolder(config.root), config.render, _uncut(config.data)
    root, prepared = base.run(config.name, digest(digests)).root, base.prepared
    # Without what decides how they are run and judged, which touches no validation.
    shown = EvaluateConfig(**{name: getattr(config.evaluate, name) for name in EVALUATIONS})

    is_rendered = functools.cache(functools.partial(is_complete, "render"))  # lists all shards

    def stage(name: str, content: str) -> StagePlan:
        is_whole = is_rendered if name == "render" else None
        folder, generation = place_of(config.root, root, name, digests[name], is_whole)
        return StagePlan(root=folder, seed=config.seed, data_digest=content, generation=generation)

    rendered = stage("render", read.pairs)
    generation = _generation(prepared, rendered.root, is_rendered)
    evaluations = {
        name: EvaluatePlan(
            stage(name, read.benchmarks[name]),
            only,
            config.is_demo,
            parts_of(name, only, config.root, root, config.seed, digests["pretrain"], read.listed),
        )
        for name, only in read.only.items()
    }
    validated, batch_pairs = stage("validate", read.pairs), config.train.batch_pairs
    return RunPlan(
        root=root,
        validate=ValidatePlan(validated, data, prepared, generation, batch_pairs),
        render=RenderPlan(rendered, data, render, prepared),
        pretrain=PretrainPlan(
            dataclasses.replace(stage("pretrain", read.pairs), seed=order_seed),
            data,
            render,
            dataclasses.replace(config.model, initial_weights=start),
            config.optim,
            config.train,
        ),
        evaluations=evaluations,
        gate=_gate_plan(config, read, root, evaluations, (recipe, start, order_seed)),
        partitions=partitions.make_partitions(config.data, prepared, read.listed),
        measure=PartitionPlan(prepared, render, read.fonts, generation),
        evaluated=EvaluatedPlan(prepared, shown, digest(read.benchmarks), generation),
        write=write_plan(data, render, prepared, generation),
    )


def _gate_plan(
    config: RunConfig,
    read: _Read,
    root: str,
    evaluations: dict[str, EvaluatePlan],
    trained: tuple[str, str, int],
) -> GatePlan:
    """trained: what was trained, from which weights, in the order of which seed."""
    recipe, start, order_seed = trained
    return GatePlan(
        StagePlan(root, config.seed, read.pairs),
        name=config.name,
        promoted=BaseFolder(config.root).promoted(config.name),
        evaluations={
            name: RunFolder(plan.stage.root).evaluation(name) for name, plan in evaluations.items()
        },
        promote_metric=config.promote_metric,
        is_demo=config.is_demo,
        gate=config.gate,
        recipe=recipe,
        start=start,
        order_seed=order_seed,
        benchmarks=benchmarks_of(config.evaluate, read.listed),
    )


def _note(run: RunPlan) -> None:
    """Note in the run's folder what it names, so that retention keeps it."""
    stages = {"render": run.render.stage, "pretrain": run.pretrain.stage}
    for name, one in run.evaluations.items():
        stages[name] = one.stage
        parts = enumerate(one.benchmarks.values())
        stages |= {f"{name}/{number}": part for number, part in parts}
    places = {name: stage.root for name, stage in stages.items()}
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    starts = [uri for uri in (run.gate.start, run.pretrain.train.resume_from) if uri]
    planned.write(run.root, planned.Planned(run.gate.name, at, places, starts))


def _generation(prepared: str, root: str, is_rendered: Callable[[str], bool]) -> str:
    """The generation of what is made of partitions: a new one where the shards of this run were
    lost, and where it was dropped with something else that is gone (`data/parts.py`).
    """
    uri = PreparedFolder(prepared).generation
    begun = storage.join(RunFolder(root).shards, MANIFEST)
    if storage.exists(begun) and not is_rendered(root):
        storage.delete(uri)
    with contextlib.suppress(ConflictError):  # it is there, usually
        storage.write_text(uri, uuid.uuid4().hex[:12], if_absent=True)
    return storage.read_text(uri)
