"""Image-text retrieval on COCO, Flickr30k or both: recall@1, 5, 10 in both directions.

    image to text   hit if any of the image's captions is among the first k of all captions
    text to image   hit if the caption's image is among the first k images

big_vision evaluators/proj/image_text/retrieval.py: every caption counts, not the first five;
pictures squashed to the tower's size. The published numbers are of Karpathy's test split (5,000 and
1,000 images); another number of images is refused, or partial. Karpathy's json and COCO's own are
read.
"""

from __future__ import annotations

import numpy as np

from clippo_core.config import RetrievalConfig
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.sources.annotation_files import load_json
from clippo_core.data.sources.photos import coco_records, karpathy_records
from clippo_core.errors import DataError, EvaluationError
from clippo_core.evaluate.benchmarks import evaluate_each
from clippo_core.evaluate.gallery import add_scores, examples, record_pictures, usable
from clippo_core.evaluate.harness import Session
from clippo_core.evaluate.ranking import Ranking, chance_recall, retrieval_ranks
from clippo_core.run.records import EvalResult, EvaluatePlan
from clippo_core.untrusted.names import printable, refusal


def run(checkpoint: str, plan: EvaluatePlan, *, progress: bool = True) -> EvalResult:
    """Evaluate `checkpoint` on every benchmark of plan.evaluate.retrieval, and write one result
    below plan.stage.root; what is finished is not computed again.

    Metrics of each dataset: i2t_recall@1|5|10, t2i_recall@1|5|10, i2t_tie_share, t2i_tie_share.
    Data and protocol errors become a result with its `failure`.
    """
    return evaluate_each("retrieval", checkpoint, plan, progress, _evaluate)


def _evaluate(session: Session) -> None:
    config: RetrievalConfig = session.config
    records = _records(config)
    session.check_size(
        len(records),
        f"split {config.split or 'all'} of {config.annotations}",
        limited=bool(config.limit),
    )
    texts = [text for record in records for text in record.texts]
    n_texts = np.array([len(record.texts) for record in records])
    image_of_text = np.repeat(np.arange(len(records)), n_texts)
    session.split = config.split
    session.protocol = (
        "Every caption is a query and stands in the gallery; for an image, any of its captions is"
        " a hit. Equal scores rank the right item last. Pictures are squashed to"
        f" {session.model.image_px} px."
    )
    session.n_examples = len(records)
    session.main_metrics = ["i2t_recall@1", "t2i_recall@1"]
    session.count(
        images=len(records),
        texts=len(texts),
        fewest_texts_an_image=int(n_texts.min()),
        most_texts_an_image=int(n_texts.max()),
    )
    with session.timed("images"):
        images = session.store.pictures(record_pictures(records)).features
    with session.timed("texts"):
        text_features = session.store.texts(texts)
    with session.timed("scoring"):
        forward, backward = retrieval_ranks(images, text_features, image_of_text)
        _score(session, "i2t", forward, len(texts), n_texts, np.arange(len(records)))
        _score(session, "t2i", backward, len(records), np.ones(1), image_of_text)
    add_scores(session, records, forward, backward)
    session.examples = examples(
        session.plan.stage.seed, records, image_of_text, texts, forward, backward
    )


def _score(
    session: Session,
    prefix: str,
    ranking: Ranking,
    n_items: int,
    n_positives: np.ndarray,
    groups: np.ndarray,
) -> None:
    """Note `<prefix>_recall@1|5|10` and `<prefix>_tie_share`, in percent.

    Intervals are over groups (images); chance is exact.
    """
    for k in (1, 5, 10):
        chance = 100.0 * chance_recall(n_items, n_positives, k)
        hits = 100.0 * (ranking.ranks <= k)
        session.score(f"{prefix}_recall@{k}", hits, chance=chance, groups=groups)
    session.put(f"{prefix}_tie_share", 100.0 * ranking.tie_share, n=len(ranking.ranks))
    if ranking.tie_share:
        words = f"{100 * ranking.tie_share:.2f} % of the queries tie; ties rank last"
        session.flag(f"{prefix}_recall@1", words)


def _records(config: RetrievalConfig) -> list[PhotoRecord]:
    """The split's images with all their captions, from either json."""
    content = load_json(config.annotations)
    if not isinstance(content, dict):
        raise DataError(
            f"{config.annotations} is neither Karpathy's json nor COCO's; it holds a"
            f" {type(content).__name__}."
        )
    where = f"{config.annotations} (split {config.split or 'all'})"
    if "annotations" in content:
        return usable(list(coco_records(config.annotations, config.images)), where, config.limit)
    found = list(karpathy_records(config.annotations, config.images, config.split))
    if not found:
        known = sorted(
            {
                str(image.get("split"))
                for image in content.get("images", [])
                if isinstance(image, dict)
            }
        )
        fault = f"it has no split {config.split!r}"
        remedy = f"it has {', '.join(printable(split, 40) for split in known[:12]) or 'none'}"
        raise refusal(EvaluationError, config.annotations, fault, remedy)
    return usable(found, where, config.limit)
