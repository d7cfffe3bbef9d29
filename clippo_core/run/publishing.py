"""A trained model as the Hugging Face hub keeps them: a folder with a card that says how it was
trained and what its evaluations gave.

    publish("runs/demo-1a2b3c", "folder")       by hand: `clippo convert`
    publish_promoted(pointer, results)          after each promotion, beside the pointer
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from clippo_core import storage
from clippo_core.embedder import Clippo
from clippo_core.errors import ClippoError
from clippo_core.evaluate.registry import EVALUATIONS
from clippo_core.evaluate.results import whole_result
from clippo_core.hub import CONFIG
from clippo_core.opening import Found, find_model
from clippo_core.released import RELEASED
from clippo_core.run import history
from clippo_core.run.folder import POINTER, RunFolder, promoted_folder, run_of
from clippo_core.run.records import EvalResult
from clippo_core.untrusted.json import load_json, optional

_log = logging.getLogger(__name__)


def publish(
    source: str,
    folder: str,
    *,
    results: Sequence[EvalResult] | None = None,
    name: str = "",
    license: str = "",
    image_px: int = 0,
) -> Clippo:
    """Write the hub's folder of the model that `source` names, and return the model.

    results: for the card; None = those that lie in the model's run. license: of the weights, in the
    hub's words. Raises what Clippo.load and Clippo.save_pretrained do.
    """
    found = find_model(source)
    model = Clippo.load(found, "cpu", image_px=image_px)
    options = {"license": license} if license else {}
    if found.uri in RELEASED and not license:
        options = {"license": "apache-2.0"}  # big_vision's, which published them
    results = _results_of(found) if results is None else results
    own = [result for result in results if result.weights_sha256 == model.weights_sha256]
    model.save_pretrained(folder, results=own, training=_training(found), name=name, **options)
    return model


def publish_promoted(pointer: str, results: Sequence[EvalResult] | None = None) -> None:
    """Write the promoted model's folder beside its pointer, unless it is there. What goes wrong is
    logged: a promotion does not depend on it.
    """
    folder = promoted_folder(pointer)
    try:
        current = history.promoted(history.read(pointer))
        if current and _published(folder) != current.weights_sha256:
            name = folder.rpartition("/")[2].removeprefix(POINTER)
            publish(pointer, folder, results=results, name=name)
    except (ClippoError, OSError) as error:
        _log.warning("%s: the promoted model could not be written (%s)", folder, error)


def _published(folder: str) -> str:
    """sha256 of the weights that a folder says it holds; empty where it says nothing."""
    uri = storage.join(folder, CONFIG)
    if not storage.exists(uri):
        return ""
    found: str = optional(load_json(storage.read_bytes(uri), uri), "weights_sha256", str, "", uri)
    return found


def _results_of(found: Found) -> list[EvalResult]:
    """The evaluations that lie in the run of a checkpoint, in the paper's order."""
    run = run_of(found.uri) if found.checkpoint else ""
    folders = [RunFolder(run).evaluation(name) for name in EVALUATIONS] if run else []
    return [result for result in map(whole_result, folders) if result is not None]


def _training(found: Found) -> list[tuple[str, str]]:
    """How a model was trained, as far as its checkpoint or its name knows."""
    if found.uri in RELEASED:
        one = RELEASED[found.uri]
        return [("trained by", "CLIPPO's authors"), ("steps", f"{one.steps:,}"), ("data", one.data)]
    if found.checkpoint is None:
        return []
    progress, recipe = found.checkpoint.progress, found.checkpoint.manifest["recipe"]
    facts = [("steps", f"{progress.step:,}"), ("pairs seen", f"{progress.pairs_seen:,}")]
    return facts + [
        (name, value)
        for name, value in (
            ("data", _sources(recipe.get("data"))),
            ("digest of the data", str(recipe.get("data_digest", ""))),
            ("digest of the code", progress.code_digest),
        )
        if value
    ]


def _sources(data: Any) -> str:
    """The sources of a recipe's data, without their folders."""
    sources = data.get("sources") if isinstance(data, dict) else None
    found = [
        f"{str(one.get('path', '')).rstrip('/').rpartition('/')[2]} ({one.get('kind', '')})"
        for one in (sources if isinstance(sources, list) else [])
        if isinstance(one, dict)
    ]
    return ", ".join(found)
