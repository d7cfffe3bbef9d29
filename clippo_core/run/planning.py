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
import re
import uuid
from collections.abc import Callable, Iterator
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
from clippo_core.errors import ConflictError, DataError
from clippo_core.evaluate.registry import EVALUATIONS, Input
from clippo_core.evaluate.results import whole_result
from clippo_core.run import history, planned
from clippo_core.run.contents import benchmark_digest, content_digest, source_inputs
from clippo_core.run.folder import MANIFEST, PART, BaseFolder, PreparedFolder, RunFolder
from clippo_core.run.places import is_complete, place_of
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import (
    CheckpointInfo,
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
    config = _pinned(fill_kickoff(config, kickoff_time))
    read = _digest_inputs(config)
    digests = {"validate": _validated(config, read), "render": _rendered(config, read)}
    recipe = _trained(config, read, digests["render"], "", config.seed)
    start, order_seed = config.model.initial_weights, config.seed
    if start == PROMOTED:
        start, order_seed = _follow_promoted(config, kickoff_time, recipe)
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
            _parts(name, only, config.root, root, config.seed, digests["pretrain"], read.listed),
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
        benchmarks=_benchmarks(config.evaluate, read.listed),
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


def _follow_promoted(
    config: RunConfig, kickoff_time: datetime.datetime, recipe: str
) -> tuple[str, int]:
    """(checkpoint to start from, seed of the order) of a run that starts from the promoted model.

    Where that was trained with the same `recipe`, there is nothing new: its own start and seed, so
    that the plan is the same as then. Otherwise the model itself, and an order of the kickoff's
    own, or the same pairs would come in the same order each week. Raises DataError where nothing
    was promoted, or the model is gone.
    """
    pointer = BaseFolder(config.root).promoted(config.name)
    current = history.promoted(history.read(pointer))
    if current is None:
        raise DataError(
            f"{pointer}: nothing is promoted under the name {config.name} yet; train a first model"
            " from scratch (model.initial_weights empty, as in the preset weekly_from_scratch)."
        )
    if current.recipe == recipe:
        return current.start, current.order_seed
    uri, seed = current.verdict.model_uri, config.seed
    if not storage.exists(storage.join(uri, MANIFEST)):
        raise DataError(f"{uri}: the promoted model is gone; promote another one (docs/gate.md).")
    if kickoff_time.year > 1970:  # scheduled
        seed = int(digest([config.seed, kickoff_time.isoformat()])[:8], 16)
    return uri, seed


def plan_evaluations(
    evaluate: EvaluateConfig, checkpoint: CheckpointInfo, root: str
) -> dict[str, EvaluatePlan]:
    """Plans to evaluate a finished checkpoint, in one folder per weights under `root`; to evaluate
    nothing where it has no address.
    """
    evaluate = evaluate if checkpoint.uri else EvaluateConfig()
    folder = BaseFolder(root).evaluation_of(checkpoint.weights_sha256)
    listed = functools.cache(listed_files)
    plans = {}
    for name, one in EVALUATIONS.items():
        only, content = one.only(evaluate), benchmark_digest(evaluate, name, listed)
        weights = checkpoint.weights_sha256
        parts = [one.module, code_digest(one.module), identity(only), content, weights]
        stage_digest = digest(parts)
        here = storage.join(folder, stage_digest[:12])
        place, generation = place_of(root, here, name, stage_digest)
        stage = StagePlan(place, 0, content, generation)
        benchmarks = _parts(name, only, root, here, 0, weights, listed)
        plans[name] = EvaluatePlan(stage, only, benchmarks=benchmarks)
    return plans


def _parts(
    name: str,
    only: EvaluateConfig,
    base: str,
    root: str,
    seed: int,
    model: str,
    listed: Listed,
) -> dict[str, StagePlan]:
    """A stage per benchmark of an evaluation that takes several, so that one more runs alone.

    model: digest of what was trained. Empty for an evaluation of one benchmark.
    """
    one, found = EVALUATIONS[name], {}
    for config, alone in _alone(only, name) if isinstance(getattr(only, name), tuple) else ():
        content = benchmark_digest(alone, name, listed)
        part = digest([one.module, code_digest(one.module), seed, model, identity(alone), content])

        def is_whole(at: str, dataset: str = config.dataset) -> bool:
            return whole_result(RunFolder(at).benchmark(name, dataset), PART) is not None

        stage = f"{name}_{re.sub(r'[^A-Za-z0-9]', '_', config.dataset)}"
        folder, generation = place_of(base, root, stage, part, is_whole)
        found[config.dataset] = StagePlan(folder, seed, content, generation)
    return found


def _alone(evaluate: EvaluateConfig, name: str) -> Iterator[tuple[Any, EvaluateConfig]]:
    """Each benchmark of the evaluation `name`: its config, and `evaluate` with no other of them."""
    for config in EVALUATIONS[name].configs(evaluate):
        taken = (config,) if isinstance(getattr(evaluate, name), tuple) else config
        changes: dict[str, Any] = {name: taken}
        yield config, dataclasses.replace(evaluate, **changes)


def _benchmarks(evaluate: EvaluateConfig, listed: Listed) -> dict[str, str]:
    """Dataset -> digest of its config and of what it reads, for every benchmark of a run."""
    found = {}
    for name in EVALUATIONS:
        for config, alone in _alone(evaluate, name):
            content = benchmark_digest(alone, name, listed)
            found[config.dataset] = digest([identity(config), content])
    return found


def fill_kickoff(config: Any, kickoff_time: datetime.datetime) -> Any:
    """`config` with `{kickoff}` or `{kickoff:%Y-%m-%d}` (strftime) filled in, in every string of
    it.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {
            f.name: fill_kickoff(getattr(config, f.name), kickoff_time)
            for f in dataclasses.fields(config)
        }
        return dataclasses.replace(config, **values)
    if isinstance(config, tuple):
        return tuple(fill_kickoff(item, kickoff_time) for item in config)
    if isinstance(config, str):
        return re.sub(
            r"\{kickoff(?::([^}]*))?\}", lambda m: kickoff_time.strftime(m[1] or "%Y-%m-%d"), config
        )
    return config


def _pinned(config: RunConfig) -> RunConfig:
    """`config` with the commit of each source on a hub, so that all stages read the same."""
    from clippo_core.data.sources.hub import pinned

    sources = tuple(
        dataclasses.replace(source, revision=pinned(source)) if source.on_hub else source
        for source in config.data.sources
    )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources))
