"""Values that cross a task: what one stage of the pipeline hands to the next, all of them small,
frozen and JSON-able.

    RunConfig ─▶ plan ─▶ RunPlan (one sub-plan per stage) ─▶ Part per partition ─▶ ValidationReport
              ─▶ Manifest ─▶ CheckpointInfo ─▶ 5 × EvalResult ─▶ Verdict

Bulk bytes never stand here: a value carries their URI and sha256.

Annotations are real types here, without `from __future__ import annotations`: flytekit looks at a
field's type to read a list back from a Struct, and refuses a string.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from clippo_core.config import (
    Checked,
    DataConfig,
    EvaluateConfig,
    GateConfig,
    ModelConfig,
    OptimConfig,
    RenderConfig,
    TrainConfig,
    decode,
    parse_json,
)

RESULT_SCHEMA = 2
"""Version of EvalResult's JSON."""

T = TypeVar("T")


@dataclass(frozen=True)
class StagePlan(Checked):
    """What every stage needs to know: where the run lives, and the digest of everything that its
    result depends on.
    """

    root: str
    """The run's own folder or prefix."""
    seed: int
    """Seed of the run."""
    data_digest: str
    """sha256 over names, sizes and contents (etags or sha256) of the data that this stage reads."""
    generation: str = ""
    """Changes when this stage's bytes were lost or never completed, so that no cache can answer for
    them (`run/places.py`)."""


@dataclass(frozen=True)
class PartitionPlan(Checked):
    """What measuring and judging a partition need beside it: nothing of the other partitions, so
    that more data changes none of their cache's keys.
    """

    prepared: str
    """Folder of what is made of partitions, shared by all runs under a root."""
    render: RenderConfig
    fonts: str = ""
    """Digest of the fonts' content."""
    generation: str = ""
    """Changes when files of `prepared` were lost, so that no cache answers for them."""


@dataclass(frozen=True)
class WritePlan(Checked):
    """What writing the shards of a partition needs beside it."""

    prepared: str
    render: RenderConfig
    records_per_shard: int
    store_drawings: bool
    max_short_side_px: int
    generation: str = ""


@dataclass(frozen=True)
class EvaluatedPlan(Checked):
    """Input of the fingerprints of what is evaluated."""

    prepared: str
    evaluate: EvaluateConfig
    content: str = ""
    """Digest of the benchmarks' files."""
    generation: str = ""


@dataclass(frozen=True)
class ValidatePlan(Checked):
    """Input of the validation."""

    stage: StagePlan
    data: DataConfig
    prepared: str = ""
    generation: str = ""
    """Both as in PartitionPlan."""
    batch_pairs: int = 0
    """Pairs of a global batch, each of which has one place for a caption or photo; 0 = unknown."""


@dataclass(frozen=True)
class RenderPlan(Checked):
    """Input of rendering and sharding."""

    stage: StagePlan
    data: DataConfig
    render: RenderConfig
    prepared: str = ""
    """As in PartitionPlan."""


@dataclass(frozen=True)
class PretrainPlan(Checked):
    """Input of pretraining."""

    stage: StagePlan
    data: DataConfig
    render: RenderConfig
    model: ModelConfig
    optim: OptimConfig
    train: TrainConfig


@dataclass(frozen=True)
class EvaluatePlan(Checked):
    """Input of one evaluation: the whole EvaluateConfig with only the one evaluation set."""

    stage: StagePlan
    evaluate: EvaluateConfig
    is_demo: bool = False
    benchmarks: dict[str, StagePlan] = field(default_factory=dict)
    """Dataset -> the stage of that benchmark alone, where an evaluation has several: where its part
    stands and what it reads, so that a new benchmark beside it does not run it again. One that is
    not named here stands in `stage` and runs again with it."""


@dataclass(frozen=True)
class GatePlan(Checked):
    """Input of gate and report."""

    stage: StagePlan
    name: str
    """The run's name; runs of one name compete for one promoted pointer."""
    promoted: str
    """URI of the pointer to the promoted model."""
    evaluations: dict[str, str] = field(default_factory=dict)
    """Evaluation -> folder of its result, predictions and examples."""
    promote_metric: str = ""
    is_demo: bool = False
    gate: GateConfig = GateConfig()
    """Margin, error and floors."""
    recipe: str = ""
    """Digest of data, code and settings of the training, without the weights that it starts from:
    a run with the recipe of the promoted model has nothing new."""
    start: str = ""
    """The weights that training starts from, as they were planned."""
    order_seed: int = 0
    """Seed of the training's order."""
    benchmarks: dict[str, str] = field(default_factory=dict)
    """Dataset -> digest of its config and files: models are compared example by example where it is
    the same."""


@dataclass(frozen=True)
class Expectation:
    """One line of a validation report."""

    name: str
    """What was expected, as a sentence."""
    checked: int
    """How many records were looked at."""
    failed: int
    """How many broke it."""
    allowed_share: float
    """Share of failures that is tolerated, 0..1."""
    worst: list[str]
    """Up to three offending rows: key and value."""

    @property
    def passed(self) -> bool:
        """Whether the failures stay within what is tolerated."""
        return self.failed <= self.allowed_share * max(self.checked, 1)


@dataclass(frozen=True)
class LeftOut:
    """Records and texts that are left out of the shards for one reason."""

    reason: str
    """The expectation that they broke first."""
    count: int
    examples: list[str]
    """Up to three of them: key and value."""


@dataclass(frozen=True)
class ValidationReport:
    """What validation found."""

    n_records: int
    expectations: list[Expectation]
    excluded: list[LeftOut]
    """What is left out of the shards, by reason; which records, stands in a file per partition."""
    shares_by_source: dict[str, float]
    cut_share_by_language: dict[str, float]
    """Share of texts that the page cuts off, by language."""
    missing_glyph_share_by_language: dict[str, float]
    """Share of texts with a glyph that the font lacks, by language."""
    data_digest: str
    mean_rows_by_language: dict[str, float] = field(default_factory=dict)
    """Mean number of text rows that a text fills on the page, by language."""
    n_excluded: int = 0
    """Records and texts that are left out."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a manifest."""

    name: str
    bytes: int
    sha256: str
    n_records: int = 0


@dataclass(frozen=True)
class Shard:
    """One shard of a manifest: a tar, and the index that says where everything lies in it."""

    tar: FileEntry
    index: FileEntry
    n_photos: int
    """Records with a photo; the others are text/text."""

    @property
    def n_records(self) -> int:
        """All of its records."""
        return self.tar.n_records


@dataclass(frozen=True)
class Part:
    """What one step made of one partition of the sources. A run has up to a thousand of them, so
    it holds an address, a digest and a count, and nothing else.
    """

    name: str
    """Of its file, below the folder `prepared` of the plan."""
    sha256: str
    """Of its file."""
    count: int
    """Records in it."""


@dataclass(frozen=True)
class Manifest:
    """Prepared shards in a few numbers; the shards themselves are listed in files.

    <uri>/manifest.json ─▶ one list per partition ─▶ its shards (`data.shards.shard_list`)
    """

    uri: str
    """Folder or prefix of manifest.json."""
    sha256: str
    """Of manifest.json."""
    store: str
    """Folder or prefix below which the names of lists and of our own shards lead."""
    n_pairs: int
    """Records, each of which gives one pair per epoch."""
    n_photo_pairs: int
    """Those with a photo; the others are text/text."""
    n_shards: int
    bytes: int
    """Of all tars and indexes."""
    render_digest: str
    data_digest: str
    shares_by_source: dict[str, float]
    left_out: str = ""
    """Fingerprint (hex) of all records and texts that are left out, the same in any order and
    partitions. They follow from the evaluations too, which no digest of a training covers."""


@dataclass(frozen=True)
class ManifestFile:
    """The content of manifest.json."""

    manifest: Manifest
    lists: list[Part]
    """One per partition: a file with a ShardList."""


@dataclass(frozen=True)
class ShardList:
    """The content of one list of a manifest."""

    shards: list[Shard]
    left_out: str = ""
    """As in Manifest, of this partition."""


@dataclass(frozen=True)
class CheckpointInfo:
    """A finished (or interrupted) training run's checkpoint."""

    uri: str
    """Folder or prefix of the checkpoint."""
    step: int
    """Optimizer steps done."""
    pairs_seen: int
    loss: float
    """Mean loss of the last steps, nats."""
    weights_sha256: str
    config_digest: str
    code_digest: str
    world_size: int
    journal: str = ""
    """URI of the journal with one JSON line per step."""


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation with what a reader needs to believe it, or why there is none."""

    value: float | None = None
    """In the metric's unit, shares as 0..100; None = it was not run, and `why_not` says why."""
    low: float | None = None
    """Lower end of the bootstrap's 95 % interval; None = there is no interval."""
    high: float | None = None
    chance: float | None = None
    """What guessing gives (or the majority class), in the metric's unit; None = not known."""
    n: int = 0
    """Number of examples behind the value."""
    flag: str = ""
    """What a reader must know: degenerate predictions, ties, trained on the scored split."""
    why_not: str = ""
    """Why there is no value."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(low, high) of the interval; None where there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class EvalResult:
    """The result of one evaluation: a pure function of weights, data, protocol and code.

    Timings stand elsewhere.
    """

    name: str
    """imagenet, retrieval, vqa, glue or xm3600."""
    dataset: str
    split: str
    protocol: str
    """How the numbers were made, in a sentence, with every choice that changes them."""
    n_examples: int
    metrics: dict[str, Metric] = field(default_factory=dict)
    """`set/metric` -> its number, or why it was not run; never averaged away."""
    counts: dict[str, int] = field(default_factory=dict)
    """Images, texts, classes, trials, ... as found."""
    main_metrics: list[str] = field(default_factory=list)
    """The metrics that stand for this evaluation in tables and at the gate."""
    weights_sha256: str = ""
    render_digest: str = ""
    code_digest: str = ""
    inputs_digest: str = ""
    """sha256 of everything above and the config, seed and data: a result with the same one is not
    made again."""
    scores: str = ""
    """Address of the per-example scores, relative to the folder of result.json, so that the result
    does not depend on where it is stored; empty = not paired: there are none to compare with."""
    scores_sha256: str = ""
    """Of that file's bytes."""
    is_partial: bool = False
    """Fewer examples than the benchmark has: not comparable with published numbers."""
    is_demo: bool = False
    failure: str = ""
    """Why the evaluation, or one of its benchmarks, has no numbers; empty = all have. The
    benchmarks that did not fail have theirs."""
    schema_version: int = RESULT_SCHEMA

    @classmethod
    def failed(cls, name: str, dataset: str, reason: str, **fields: Any) -> Self:
        """A result that says why there is none."""
        return cls(
            name=name,
            dataset=dataset,
            split="",
            protocol="",
            n_examples=0,
            failure=reason,
            **fields,
        )

    @classmethod
    def skipped(cls, name: str, reason: str) -> Self:
        """A result of an evaluation that was not asked for: no numbers, no failure."""
        metrics = {name: Metric(why_not=reason)}
        return cls(name=name, dataset="", split="", protocol="", n_examples=0, metrics=metrics)


@dataclass(frozen=True)
class Comparison:
    """One main metric beside that of the model that it is held against."""

    before: float
    """Of the model that it is held against, in the metric's unit."""
    now: float
    error: float
    """Standard error of `now - before`, for the choice of examples alone."""
    promotion: int = 0
    """Number of the promotion whose model it is held against."""
    unpaired: str = ""
    """Why the two were not compared example by example; empty = they were."""


@dataclass(frozen=True)
class Verdict:
    """Whether the model was promoted, and why."""

    promoted: bool
    reason: str
    """A sentence."""
    model_uri: str
    previous_uri: str
    """The model promoted before; empty = none."""
    compared: dict[str, Comparison] = field(default_factory=dict)
    """By metric."""


def dumps(record: Any) -> str:
    """A record as JSON, the same bytes for the same value."""
    return (
        json.dumps(
            dataclasses.asdict(record),
            indent=1,
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n"
    )


def loads(cls: type[T], text: str) -> T:
    """The record of type `cls` that `dumps` wrote, in this or another version: unknown fields are
    ignored, nothing is executed. Raises ConfigError for anything else."""
    return decode(cls, parse_json(text, cls.__name__), lenient=True)


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The record of type `cls` in plain dicts and lists; otherwise as `loads`."""
    return decode(cls, values, lenient=True)
