"""Sub-plans of the evaluations: of a checkpoint that is there already, and of each benchmark where
an evaluation takes several.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

from clippo_core import storage
from clippo_core.config import EvaluateConfig, digest, identity
from clippo_core.data.partitions import Listed
from clippo_core.data.partitions import listed as listed_files
from clippo_core.evaluate.registry import EVALUATIONS
from clippo_core.evaluate.results import whole_result
from clippo_core.run.contents import benchmark_digest
from clippo_core.run.folder import PART, BaseFolder, RunFolder
from clippo_core.run.places import place_of
from clippo_core.run.provenance import code_digest
from clippo_core.run.records import CheckpointInfo, EvaluatePlan, StagePlan


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
        benchmarks = parts_of(name, only, root, here, 0, weights, listed)
        plans[name] = EvaluatePlan(stage, only, benchmarks=benchmarks)
    return plans


def parts_of(
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


def benchmarks_of(evaluate: EvaluateConfig, listed: Listed) -> dict[str, str]:
    """Dataset -> digest of its config and of what it reads, for every benchmark of a run."""
    found = {}
    for name in EVALUATIONS:
        for config, alone in _alone(evaluate, name):
            content = benchmark_digest(alone, name, listed)
            found[config.dataset] = digest([identity(config), content])
    return found


def _alone(evaluate: EvaluateConfig, name: str) -> Iterator[tuple[Any, EvaluateConfig]]:
    """Each benchmark of the evaluation `name`: its config, and `evaluate` with no other of them."""
    for config in EVALUATIONS[name].configs(evaluate):
        taken = (config,) if isinstance(getattr(evaluate, name), tuple) else config
        changes: dict[str, Any] = {name: taken}
        yield config, dataclasses.replace(evaluate, **changes)
