"""What each task shows in the Flyte console: one HTML fragment per task, small, self-contained,
with every foreign text escaped.

    plan_deck(config, root) · inspection_deck(facts, faults)
    validation_deck(report) · render_deck(manifest, render) · training_deck(journal)
    evaluation_deck(result, folder) · gate_deck(verdict)

A deck is uploaded whole at each publication, so its pictures are thumbnails. It knows no Flyte: the
task makes the `Deck`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clippo_core import storage
from clippo_core.config import RenderConfig, RunConfig
from clippo_core.errors import ClippoError, ConfigError, DataError, NotFoundError
from clippo_core.extras import optional_import
from clippo_core.measure.contact import ContactItem, safe_picture
from clippo_core.published import published
from clippo_core.report import digits
from clippo_core.report.differences import paper_run, recipe_differences
from clippo_core.report.figures import recall_by_language
from clippo_core.report.live import training_charts
from clippo_core.report.pages import deck, fragment
from clippo_core.report.rows import PublishedLookup, Trained, marks_of, rows_of
from clippo_core.run.folder import EXAMPLES, TIMINGS
from clippo_core.run.records import EvalResult, Manifest, ValidationReport, Verdict
from clippo_core.untrusted.json import load_json
from clippo_core.untrusted.limits import LIMITS

if TYPE_CHECKING:
    from markupsafe import Markup

CONTACT_ITEMS = 12
"""Pairs on a contact sheet."""


def plan_deck(
    config: RunConfig,
    root: str,
    place: Sequence[tuple[str, str]] = (),
    devices: tuple[str, int] | None = None,
) -> str:
    """What will run and where, for how long, and in what it differs from the paper.

    place: names and values of what it runs on. devices: the accelerator that trains ("" for CPUs)
    and how many, for the expected duration.
    """
    name, paper = paper_run(config)
    return deck(
        fragment(
            "heading",
            title=f"Run {config.name}",
            marks=["demo"] if config.is_demo else [],
            text=f"Folder: {root}",
        ),
        fragment("facts", entries=[*place, *_expected(config, devices)]),
        fragment("facts", entries=run_facts(config)),
        fragment("recipe", differences=recipe_differences(config, paper), paper_name=name),
    )


def inspection_deck(facts: Sequence[str], faults: Sequence[str]) -> str:
    """Whether the benchmarks of a run are there and their first pictures open, a line each."""
    marks = [f"{len(faults)} not usable"] if faults else []
    return deck(
        fragment("heading", title="Benchmarks", marks=marks, text=""),
        fragment("inspection", facts=facts, faults=faults),
    )


def validation_deck(report: ValidationReport) -> str:
    """Each expectation with what was checked, what failed and the three worst rows; what is left
    out; shares by source and language.
    """
    return deck(
        fragment("heading", title="Data validation", marks=[], text=""),
        fragment("expectations", report=report),
        fragment("data", data=report),
    )


def render_deck(
    manifest: Manifest, render: RenderConfig | None = None, samples: list[ContactItem] | None = None
) -> str:
    """The shards in numbers, and a contact sheet: photo beside rendered text, in every script.

    `samples` are read out of the shards and rendered with `render` where None is given; without
    both there is no contact sheet.
    """
    if samples is None and render is not None:
        from clippo_core.measure.contact import contact_items

        samples = contact_items(manifest, render, CONTACT_ITEMS)
    parts = [
        fragment("heading", title="Shards", marks=[], text=manifest.uri),
        fragment("facts", entries=manifest_facts(manifest)),
    ]
    if samples:
        parts.append(fragment("contact", items=samples))
    return deck(*parts)


def training_deck(records: list[dict[str, Any]], total_steps: int = 0) -> str:
    """The live page's curves, of the journal's lines so far."""
    with optional_import():
        from markupsafe import Markup

    return deck(
        fragment("heading", title="Training", marks=[], text=""),
        Markup(training_charts(records, total_steps)),
    )


def evaluation_deck(
    result: EvalResult,
    folder: str = "",
    examples: list[dict[str, Any]] | None = None,
    checkpoint: str = "",
) -> str:
    """All numbers of one evaluation with n, chance and the paper's, recall by language where there
    are languages, six hits and six misses.

    Examples are read from `folder`/examples.json where None are given; in what the model of
    `checkpoint` (its address) differs from the paper's, from there.
    """
    group = metric_group(result, _trained(checkpoint) if checkpoint else None, published)
    shown = read_examples(folder) if examples is None else clean_examples(examples)
    figures = [recall_by_language(result, kind) for kind in ("i2t_recall@1", "t2i_recall@1")]
    return deck(
        fragment(
            "heading", title=evaluation_title(result), marks=badges_of(result), text=result.protocol
        ),
        fragment("metrics", groups=[group], show_protocol=False),
        fragment("figures", figures=[figure for figure in figures if figure]),
        examples_part(shown),
        fragment("counts", counts=result.counts),
    )


def examples_part(shown: list[dict[str, Any]]) -> Markup:
    """Hits, then misses."""
    hits, misses = ([e for e in shown if e["hit"] is is_hit] for is_hit in (True, False))
    return fragment("examples", hits=hits, misses=misses)


def _expected(config: RunConfig, devices: tuple[str, int] | None) -> list[tuple[str, str]]:
    """About how long training takes there; empty where that cannot be told."""
    from clippo_core.train.costs import training_seconds

    if devices is None:
        return []
    try:
        seconds = training_seconds(config.train, config.model, config.render.image_px, *devices)
    except ConfigError:  # training will say it
        return []
    if seconds is None:
        return []
    return [("training, if nothing waits", f"about {digits.duration(seconds)}, computed")]


def _trained(checkpoint: str) -> Trained | None:
    """By what a checkpoint was made; None where it cannot be read."""
    from clippo_core.engine.checkpoint import trained_by

    try:
        return trained_by(checkpoint)
    except ClippoError:
        return None


def gate_deck(verdict: Verdict) -> str:
    """Promoted or not, the reason, and the numbers compared."""
    return deck(
        fragment("heading", title="Verdict", marks=[], text=""),
        fragment("verdict", verdict=verdict, reason=split_reason(verdict)),
        fragment(
            "facts",
            entries=[
                ("model", verdict.model_uri),
                ("promoted before", verdict.previous_uri or "none"),
            ],
        ),
    )


def evaluation_title(result: EvalResult) -> str:
    """`vqa on vqav2, val`."""
    where = ", ".join(part for part in (result.dataset, result.split) if part)
    return f"{result.name} on {where}" if where and where != result.name else result.name


def badges_of(result: EvalResult) -> list[str]:
    """The badges beside a result's title: its marks, and `failed`."""
    return [*marks_of(result), *(["failed"] if result.failure else [])]


def metric_group(
    result: EvalResult, config: Trained | None = None, published: PublishedLookup | None = None
) -> dict[str, Any]:
    """One evaluation's lines, as the template `metrics` takes them."""
    return {
        "title": evaluation_title(result),
        "marks": badges_of(result),
        "protocol": result.protocol,
        "rows": rows_of(result, config, published),
    }


def run_facts(config: RunConfig) -> list[tuple[str, str]]:
    """A run in a few numbers."""
    model, train = config.model, config.train
    return [
        ("tower", f"{model.kind}, width {model.width}, depth {model.depth}"),
        ("image", f"{config.render.image_px} × {config.render.image_px} px"),
        ("steps", digits.count(train.steps)),
        ("pairs per batch", digits.count(train.batch_pairs)),
        ("sentence pairs", f"{100 * config.data.text_pair_share:.0f} %"),
        ("optimizer", f"{config.optim.name}, lr {digits.value(config.optim.lr, 2)}"),
        ("seed", str(config.seed)),
    ]


def manifest_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Shards in a few numbers."""
    return [
        ("pairs", digits.count(manifest.n_pairs)),
        ("with a photo", digits.count(manifest.n_photo_pairs)),
        ("text and text", digits.count(manifest.n_pairs - manifest.n_photo_pairs)),
        ("shards", digits.count(manifest.n_shards)),
        ("size", digits.size(manifest.bytes)),
    ]


def split_reason(verdict: Verdict) -> tuple[str, str]:
    """The verdict's sentence as (what happened, why): `Promoted:` and the rest, or `Promoted.` and
    the whole.
    """
    for word in ("Promoted:", "Not promoted:"):
        if verdict.reason.startswith(word):
            return word, verdict.reason[len(word) :].strip()
    return ("Promoted." if verdict.promoted else "Not promoted."), verdict.reason


def read_examples(folder: str) -> list[dict[str, Any]]:
    """Hits and misses of an evaluation's folder, cleaned; empty where there are none or the file
    cannot be read.
    """
    return clean_examples(_read(folder, EXAMPLES)) if folder else []


def read_timings(folder: str) -> dict[str, float]:
    """Seconds by part of an evaluation's folder; empty where there are none or the file cannot be
    read.
    """
    found = _read(folder, TIMINGS)
    return {
        name.removesuffix("_seconds"): float(seconds)
        for name, seconds in (found.items() if isinstance(found, dict) else ())
        if name.endswith("_seconds") and type(seconds) in (int, float) and abs(seconds) < 2**63
    }


def _read(folder: str, file: str) -> Any:
    """What a json file of an evaluation's folder holds; None where it cannot be read."""
    uri = storage.join(folder, file)
    try:
        return load_json(storage.read_bytes(uri, LIMITS.json_bytes), uri)
    except (NotFoundError, DataError):
        return None


def clean_examples(examples: Any) -> list[dict[str, Any]]:
    """Only well-formed examples, and only pictures that are data URIs: the file may come from
    elsewhere.
    """
    return [
        {
            "hit": bool(example.get("hit")),
            "pictures": [uri for uri in map(safe_picture, _listed(example.get("pictures"))) if uri],
            "labels": [str(label) for label in _listed(example.get("labels"))],
            **{name: str(example.get(name) or "") for name in ("asked", "predicted", "truth")},
        }
        for example in _listed(examples)
        if isinstance(example, dict)
    ]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
