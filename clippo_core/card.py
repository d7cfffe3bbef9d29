"""The model card: what somebody must know before using a model, from the model's own facts and the
results of its evaluations.

    model_card(about, results) -> README.md with the metadata that the Hugging Face hub reads

Each number stands with its n, its 95 % interval, what guessing gives, and its flags. What is not
known is said to be not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clippo_core.run.records import EvalResult, Metric

UNKNOWN = "unknown"
"""A licence that nobody has named; the hub knows the word."""
_TASKS = {
    "imagenet": ("zero-shot-image-classification", "Zero-shot image classification"),
    "retrieval": ("text-to-image", "Image and text retrieval"),
    "xm3600": ("text-to-image", "Image and text retrieval in many languages"),
    "vqa": ("visual-question-answering", "Visual question answering"),
    "glue": ("text-classification", "Language understanding"),
}
"""Evaluation -> the hub's word for its task, and ours."""

_EMBEDDINGS = (
    "It gives embeddings of unit length; the dot product of two, of photos or texts, is their"
    " cosine."
)
_BASELINE = f"A baseline of CLIPPO's paper: photos as patches, texts as tokens. {_EMBEDDINGS}"
_KINDS = {
    "clippo": "CLIPPO: one vision transformer for photos and for text. A text is drawn as a picture"
    f" and read by the same tower as a photo, so there is no tokenizer. {_EMBEDDINGS}",
    "image_only": "A vision transformer for photos, with features to fine-tune or probe.",
}
"""ModelConfig.kind -> what such a model is; `_BASELINE` for the others."""
_COSINES = 'model.embed_images(["dog.jpg"]) @ model.embed_texts(["a dog", "a cat"]).T'
_USE = {"image_only": 'model.pooled_images(["dog.jpg"])'}


@dataclass(frozen=True)
class About:
    """A model's own facts, as its card shows them."""

    name: str
    facts: tuple[tuple[str, str], ...]
    """What it is and how it was trained: name, value."""
    license: str = UNKNOWN
    """Of the weights, as the hub writes it (`apache-2.0`, `cc-by-4.0`, …)."""
    source: str = "."
    """What Clippo.from_pretrained takes."""
    kind: str = "clippo"
    """`ModelConfig.kind`."""


def model_card(about: About, results: Sequence[EvalResult] = ()) -> str:
    """The card as Markdown with YAML in front."""
    body = [
        f"# {about.name}",
        _KINDS.get(about.kind, _BASELINE),
        "## Use",
        "```python\nfrom clippo_core.embedder import Clippo    # pip install clippo-flyte\n\n"
        f'model = Clippo.from_pretrained("{about.source}")\n{_USE.get(about.kind, _COSINES)}\n```',
        "## The model",
        _table(("", ""), [(name, _cell(value)) for name, value in about.facts]),
        "## Results",
        *_results(results),
        "## Limits",
        _limits(about.kind, results),
        "## Licence",
        _licence(about.license),
    ]
    return f"---\n{_metadata(about, results)}\n---\n\n" + "\n\n".join(body) + "\n"


def _metadata(about: About, results: Sequence[EvalResult]) -> str:
    from huggingface_hub import EvalResult as HubResult
    from huggingface_hub import ModelCardData

    found = [
        HubResult(
            task_type=_TASKS[result.name][0],
            task_name=_TASKS[result.name][1],
            dataset_type=result.dataset or result.name,
            dataset_name=result.dataset or result.name,
            dataset_split=result.split or None,
            metric_type=name,
            metric_value=result.metrics[name].value,
        )
        for result in results
        for name in result.main_metrics
        if result.name in _TASKS
        and name in result.metrics
        and result.metrics[name].value is not None
    ]
    more: dict[str, Any] = {"model_name": about.name, "eval_results": found} if found else {}
    data = ModelCardData(
        license=about.license,
        library_name="clippo-flyte",
        pipeline_tag="zero-shot-image-classification",
        tags=["clippo", "feature-extraction", "image-text-retrieval", "multilingual"],
        **more,
    )
    return data.to_yaml().strip()


def _results(results: Sequence[EvalResult]) -> list[str]:
    parts = []
    for result in results:
        numbers = {name: one for name, one in result.metrics.items() if one.value is not None}
        where = ", ".join(part for part in (result.dataset, result.split) if part)
        if numbers or result.failure:
            parts.append(f"### {result.name}{f' on {_cell(where)}' if where else ''}")
        if result.failure:
            parts.append(f"It failed, at least in part: {_cell(result.failure)}")
        if not numbers:
            continue
        order = [name for name in result.main_metrics if name in numbers]
        order += sorted(set(numbers) - set(order))
        head = ("metric", "value", "95 % interval", "chance", "n", "note")
        parts.append(_table(head, [_row(name, numbers[name], result) for name in order]))
        if result.protocol:
            parts.append(f"How: {_cell(result.protocol)}")
    return parts or ["This model was not evaluated when its card was written."]


def _row(name: str, metric: Metric, result: EvalResult) -> tuple[str, ...]:
    bounds = metric.bounds
    notes = [metric.flag] if metric.flag else []
    if result.is_demo or result.is_partial:
        notes.append("not comparable: " + ("a demo" if result.is_demo else "part of the benchmark"))
    return (
        _cell(name),
        _number(metric.value),
        f"{_number(bounds[0])} to {_number(bounds[1])}" if bounds else "none",
        _number(metric.chance),
        f"{metric.n:,}",
        _cell("; ".join(notes)),
    )


def _limits(kind: str, results: Sequence[EvalResult]) -> str:
    lines = [
        "- It learnt from pairs of pictures and texts as they were found, with their errors and"
        " their prejudices; do not let it decide about people.",
        "- Scores run from 0 to 100. An interval covers the choice of examples, not that of data,"
        " seed or protocol.",
    ]
    if kind == "clippo":
        lines.insert(
            0,
            "- Text is read as 16-pixel characters on one page; what does not fit is cut off, and"
            " characters that the font lacks are boxes.",
        )
    if any(result.is_demo for result in results):
        lines.insert(0, "- **A demo**: trained for minutes on toy data; of no use beyond that.")
    if any(result.is_partial for result in results):
        lines.append("- Where a note says so, only a part of a benchmark was scored.")
    return "\n".join(lines)


def _licence(license: str) -> str:
    weights = (
        "Nobody has named a licence for these weights; ask whoever trained them, and look at the"
        " terms of the data."
        if license == UNKNOWN
        else f"The weights: {license}."
    )
    return f"{weights} The code that reads them: Apache-2.0."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def _cell(text: str) -> str:
    """Foreign text on one line, without what Markdown or HTML would read as its own."""
    words = " ".join(text.split())
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("[", "\\["), ("`", "'")):
        words = words.replace(sign, name)
    return words
