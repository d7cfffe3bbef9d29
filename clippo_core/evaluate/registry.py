"""The evaluations, one value each: whatever must know which evaluations there are asks this table.

    EVALUATIONS["retrieval"].configs(evaluate)      its benchmarks in this run; () = not asked for
                            .inputs(evaluate)       every file and folder that decides its result
                            .pictures(evaluate)     what it shows, for the search for leaks
                            .run(checkpoint, plan)  imports its module (torch), and runs it

Planning digests `inputs`, so a file that decides a number has to be named here. Nothing heavy is
imported: `pyflyte` and the plan task load this file without torch.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from clippo_core.config import (
    EvaluateConfig,
    GlueConfig,
    ImagenetConfig,
    RetrievalConfig,
    VqaConfig,
    Xm3600Config,
)
from clippo_core.config.evaluate import CLASS_MAPPINGS
from clippo_core.errors import ConfigError

if TYPE_CHECKING:
    from clippo_core.run.records import CheckpointInfo, EvalResult, EvaluatePlan


class Input(NamedTuple):
    """A file or folder (local or s3://) that an evaluation reads."""

    uri: str
    is_optional: bool = False
    """Whether the evaluation also runs without it; that it is absent is then part of the digest."""


class Pictures(NamedTuple):
    """A set of pictures that an evaluation shows, by the format of the file that lists them."""

    format: Literal["folder", "captions", "questions", "xm3600"]
    """`folder`: all files below `images`. `captions`: Karpathy's or COCO's json. `questions`:
    VQA's json. `xm3600`: captions.jsonl."""
    images: str
    """Folder of the pictures."""
    listed_in: str = ""
    """The file that lists them; empty for a folder."""
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluation."""

    name: str
    """Its field of EvaluateConfig, its Flyte task, and the folder of its result."""
    config: type
    """The class of its config."""
    module: str
    """The module with its `run(checkpoint, plan, *, progress)`."""
    reads: Callable[[Any], list[Input]]
    """Config -> every file and folder that decides the result."""
    shows: Callable[[Any], list[Pictures]]
    """Config -> the pictures that it is scored on. Splits that it trains on itself do not count."""
    benchmark: str
    """The benchmark whose published numbers stand beside a dataset that nobody published on."""

    def configs(self, evaluate: EvaluateConfig) -> tuple[Any, ...]:
        """Its configs in a run: none where it was not asked for, several for several benchmarks."""
        value = getattr(evaluate, self.name)
        return value if isinstance(value, tuple) else () if value is None else (value,)

    def inputs(self, evaluate: EvaluateConfig) -> list[Input]:
        """What it reads in a run."""
        return [one for config in self.configs(evaluate) for one in self.reads(config) if one.uri]

    def pictures(self, evaluate: EvaluateConfig) -> list[Pictures]:
        """What it shows in a run."""
        return [one for config in self.configs(evaluate) for one in self.shows(config)]

    def only(self, evaluate: EvaluateConfig) -> EvaluateConfig:
        """`evaluate` with this evaluation alone, so that no other one's config is in its digest."""
        empty: dict[str, Any] = {
            other: () if isinstance(getattr(evaluate, other), tuple) else None
            for other in EVALUATIONS
            if other != self.name
        }
        return dataclasses.replace(evaluate, **empty)

    def run(self, checkpoint: str, plan: EvaluatePlan, *, progress: bool = True) -> EvalResult:
        """Evaluate the checkpoint at this address, and write the result below plan.stage.root."""
        result: EvalResult = importlib.import_module(self.module).run(
            checkpoint, plan, progress=progress
        )
        return result

    def attempt(self, model: CheckpointInfo, plan: EvaluatePlan) -> EvalResult:
        """As `run`, but a failure becomes a result that says why, so that the other evaluations and
        the report go on; and so does an evaluation that the plan does not ask for.
        """
        from clippo_core.run.records import EvalResult

        if not self.configs(plan.evaluate):
            return EvalResult.skipped(self.name, "not configured for this run")
        try:
            return self.run(model.uri, plan)
        # Anything at all, an exhausted GPU too: the other evaluations of a week's training must not
        # be lost with this one.
        except Exception as error:
            logging.getLogger(__name__).exception("evaluation %s failed", self.name)
            return self.failed(model, plan, f"{type(error).__name__}: {error}")

    def failed(self, model: CheckpointInfo, plan: EvaluatePlan, why: str) -> EvalResult:
        """A result that says why there is none, of an evaluation that the plan asks for."""
        from clippo_core.run.records import EvalResult

        dataset, sha256 = self.configs(plan.evaluate)[0].dataset, model.weights_sha256
        return EvalResult.failed(
            self.name, dataset, why, weights_sha256=sha256, is_demo=plan.is_demo
        )


def _imagenet_inputs(config: ImagenetConfig) -> list[Input]:
    folder = config.class_names.rpartition("/")[0] or "."
    templates = config.templates if config.templates.endswith(".json") else ""
    required = (
        config.images,
        config.class_names,
        config.train_images,
        config.multi_labels,
        templates,
    )
    return [
        *map(Input, required),
        *(Input(f"{folder}/{name}", is_optional=True) for name in CLASS_MAPPINGS),
    ]


def _vqa_inputs(config: VqaConfig) -> list[Input]:
    return [
        Input(uri)
        for uri in (
            config.train_questions,
            config.train_annotations,
            config.train_images,
            config.questions,
            config.annotations,
            config.images,
            *config.vocabulary_annotations,
        )
    ]


EVALUATIONS: dict[str, Evaluation] = {
    one.name: one
    for one in (
        Evaluation(
            name="imagenet",
            config=ImagenetConfig,
            module="clippo_core.evaluate.imagenet.protocol",
            reads=_imagenet_inputs,
            shows=lambda config: [Pictures("folder", config.images)],
            benchmark="imagenet",
        ),
        Evaluation(
            name="retrieval",
            config=RetrievalConfig,
            module="clippo_core.evaluate.retrieval.protocol",
            reads=lambda config: [Input(config.annotations), Input(config.images)],
            shows=lambda config: [
                Pictures("captions", config.images, config.annotations, config.split)
            ],
            benchmark="coco",
        ),
        Evaluation(
            name="vqa",
            config=VqaConfig,
            module="clippo_core.evaluate.vqa.protocol",
            reads=_vqa_inputs,
            shows=lambda config: [
                Pictures("questions", config.images or config.train_images, config.questions)
            ],
            benchmark="vqav2",
        ),
        Evaluation(
            name="glue",
            config=GlueConfig,
            module="clippo_core.evaluate.glue.protocol",
            reads=lambda config: [Input(config.root)],
            shows=lambda config: [],
            benchmark="glue",
        ),
        Evaluation(
            name="xm3600",
            config=Xm3600Config,
            module="clippo_core.evaluate.xm3600.protocol",
            reads=lambda config: [Input(config.captions), Input(config.images)],
            shows=lambda config: [Pictures("xm3600", config.images, config.captions)],
            benchmark="xm3600",
        ),
    )
}
"""The five evaluations, in the order of the paper."""


def evaluation(name: str) -> Evaluation:
    """The evaluation `name`. Raises ConfigError naming those that there are."""
    if name not in EVALUATIONS:
        known = ", ".join(EVALUATIONS)
        raise ConfigError(f"there is no evaluation {name!r}; there are {known}.")
    return EVALUATIONS[name]


def asked_for(plans: Mapping[str, EvaluatePlan]) -> dict[str, list[EvaluatePlan]]:
    """Evaluation -> its plan alone in a list, or an empty one where the run does not ask for it: a
    map over that list starts no pod.
    """
    return {
        name: [plan] if evaluation(name).configs(plan.evaluate) else []
        for name, plan in plans.items()
    }


def check_complete(known: typing.Iterable[str], where: str) -> None:
    """Raise TypeError unless `known`, in the order of the table, names every evaluation.

    Called at import by each place that has one line per evaluation, so that a forgotten line
    stops the first start and never becomes an evaluation that silently does not run.
    """
    if list(known) != list(EVALUATIONS):
        raise TypeError(
            f"{where} has {', '.join(known) or 'none'}, and evaluate/registry.py has"
            f" {', '.join(EVALUATIONS)}; give each evaluation its line, in that order."
        )


def _config_fields() -> list[str]:
    """The fields of EvaluateConfig that hold an evaluation's config."""
    hints = typing.get_type_hints(EvaluateConfig)
    return [
        field.name
        for field in dataclasses.fields(EvaluateConfig)
        if any(map(dataclasses.is_dataclass, typing.get_args(hints[field.name])))
    ]


check_complete(_config_fields(), "config.EvaluateConfig")
