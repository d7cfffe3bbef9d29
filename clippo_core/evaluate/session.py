"""One evaluation under way: the model, its features on disk, and the result as it fills.

    evaluate(name, ...) = load the checkpoint ─▶ finished before? return that ─▶ work(session) ─▶ write result.json last

Shared by the evaluations that embed and do not train (imagenet, retrieval, xm3600). The result is a function of weights, data, protocol
and code; what takes time goes into timings.json. It is not the result's format (`results.py`), and holds no protocol.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from clippo_core import storage
from clippo_core.config import digest
from clippo_core.data.images import decode_image
from clippo_core.embedder import Clippo
from clippo_core.errors import ConfigError, EvaluationError, StorageError
from clippo_core.evaluate import results
from clippo_core.evaluate.embed import FeatureStore
from clippo_core.evaluate.ranking import Ranking, chance_recall
from clippo_core.provenance import code_digest
from clippo_core.records import EvalResult, EvaluatePlan

EXAMPLE_PX = 160
"""Longer side of the pictures in examples.json."""
_KINDS = ("metrics", "confidence", "chance", "n_by_metric", "not_run", "flags", "counts")


class Session:
    """What an evaluation works with. `fields` become the EvalResult."""

    def __init__(self, name: str, plan: EvaluatePlan, model: Clippo, folder: str, progress: bool) -> None:
        self.config = getattr(plan.evaluate, name)
        self.plan = plan
        self.model = model
        self.store = FeatureStore(model, storage.join(folder, "features"), batch_size=plan.evaluate.batch_size, progress=progress)
        self.fields: dict[str, Any] = {"name": name, "dataset": self.config.dataset, "split": "", **{kind: {} for kind in _KINDS}}
        self.predictions: dict[str, Any] = {}
        self.examples: list[dict[str, Any]] = []
        self.timings: dict[str, float] = {}

    def note(self, kind: str, metric: str, value: Any) -> None:
        """Put `value` under the metric's full name into one of the result's dicts."""
        self.fields[kind][f"{self.config.dataset}/{metric}"] = value

    def score(self, metric: str, values: np.ndarray, *, chance: float, groups: np.ndarray | None = None, n: int | None = None) -> None:
        """Note a metric = mean of `values`, its bootstrap interval over rows (or over `groups` of them), chance, and n.

        values and chance in the metric's unit (percent).
        """
        evaluate = self.plan.evaluate
        self.note("metrics", metric, float(np.mean(values)))
        labels = None if groups is None else groups.tolist()
        interval = results.bootstrap_interval(values, evaluate.bootstrap_samples, self.plan.stage.seed, groups=labels)
        self.note("confidence", metric, interval)
        self.note("chance", metric, float(chance))
        self.note("n_by_metric", metric, len(values) if n is None else n)

    def check_size(self, n_images: int, where: str, *, limited: bool = False) -> None:
        """Mark the result partial where it has fewer images than the benchmark. Raises EvaluationError for more: another split."""
        expected = self.config.expect_images
        if n_images > expected:
            raise EvaluationError(
                f"{where} holds {n_images:,} images, but {self.config.dataset} has {expected:,}: another split, or set expect_images."
            )
        self.fields["is_partial"] = limited or n_images < expected

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds of the block to timings.json."""
        started = time.monotonic()
        yield
        self.timings[f"{part}_seconds"] = self.timings.get(f"{part}_seconds", 0.0) + time.monotonic() - started


def evaluate(
    name: str,
    checkpoint: str,
    plan: EvaluatePlan,
    progress: bool,
    work: Callable[[Session], None],
    reads: Callable[[Any], list[str]],
) -> EvalResult:
    """Run `work` and write its result below plan.stage.root; one that is finished is returned as it is.

    reads: the URIs that the evaluation's config names; names and sizes of pictures, and the content of JSON, are part of the result's
    inputs. Data and protocol errors become a result with its `failure`. Raises ConfigError where the evaluation is not configured.
    """
    config = getattr(plan.evaluate, name)
    if config is None:
        raise ConfigError(f"evaluate.{name} is not set; name its data in EvaluateConfig.")
    folder = results.evaluation_folder(plan, name)
    known: dict[str, Any] = {"is_demo": plan.is_demo}

    def attempt() -> EvalResult:
        started = time.monotonic()
        model = Clippo.load(checkpoint)
        digests = {
            "weights_sha256": model.weights_sha256,
            "render_digest": model.render_digest,
            "code_digest": code_digest(f"clippo_core.evaluate.{name}"),
        }
        known.update(digests)
        wanted = results.inputs_digest(plan, name, **digests, files=digest([_content(uri) for uri in reads(config) if uri]))
        finished = results.finished_result(folder, wanted)
        if finished is not None:
            return finished
        session = Session(name, plan, model, folder, progress)
        work(session)
        result = EvalResult(**session.fields, **known, inputs_digest=wanted)
        session.timings |= {"total_seconds": time.monotonic() - started, "rows_embedded": float(session.store.computed)}
        results.write_result(folder, result, session.predictions, session.examples, session.timings)
        return result

    return results.guarded(name, config.dataset, folder, attempt, known)


def score_recall(session: Session, prefix: str, ranking: Ranking, n_items: int, n_positives: np.ndarray, groups: np.ndarray) -> None:
    """Note `<prefix>_recall@1|5|10` and `<prefix>_tie_share`, in percent; intervals over groups (images), chance exact."""
    for k in (1, 5, 10):
        chance = 100.0 * chance_recall(n_items, n_positives, k)
        session.score(f"{prefix}_recall@{k}", 100.0 * (ranking.ranks <= k), chance=chance, groups=groups)
    session.note("metrics", f"{prefix}_tie_share", 100.0 * ranking.tie_share)
    session.note("n_by_metric", f"{prefix}_tie_share", len(ranking.ranks))
    if ranking.tie_share:
        session.note("flags", f"{prefix}_recall@1", f"{100 * ranking.tie_share:.2f} % of the queries tie; ties rank last")


def example_picture(data: bytes) -> str:
    """A picture as a data: URI, no larger than EXAMPLE_PX, its aspect kept."""
    picture = Image.fromarray(decode_image(data))
    picture.thumbnail((EXAMPLE_PX, EXAMPLE_PX))
    return results.picture(np.asarray(picture))


def _content(uri: str) -> Any:
    """What stands for a file's or folder's content in a digest: the sha256 of a JSON file, names and sizes of pictures."""
    try:
        if uri.endswith((".json", ".jsonl")):
            return uri, storage.sha256_file(storage.fetch(uri))
        return uri, [(stat.name, stat.bytes) for stat in storage.list_files(uri)]
    except StorageError:
        return uri, "missing"
