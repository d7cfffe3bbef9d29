"""A gallery of photos and captions, as retrieval and Crossmodal-3600 rank it.

    records ─▶ usable, record_pictures ─▶ embedded and ranked ─▶ add_scores, examples

Embedding and ranking stand with each evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clippo_core.data.images import decode_image, read_image_bytes
from clippo_core.data.pairs import PhotoRecord
from clippo_core.data.thumbnails import data_uri
from clippo_core.errors import DataError, EvaluationError
from clippo_core.evaluate import results
from clippo_core.evaluate.embed import Pictures
from clippo_core.evaluate.ranking import Ranking
from clippo_core.untrusted.json import at
from clippo_core.untrusted.names import printable, refusal

if TYPE_CHECKING:
    from clippo_core.evaluate.harness import Session


def record_pictures(records: Sequence[PhotoRecord]) -> Pictures:
    """The pictures of records."""
    return Pictures(
        [record.image for record in records], lambda i: read_image_bytes(records[i].image)
    )


def usable(records: Sequence[PhotoRecord], where: str, limit: int = 0) -> list[PhotoRecord]:
    """The first `limit` (0 = all) records, as a benchmark needs them: no gaps, no key twice. Raises
    DataError or EvaluationError.
    """
    records = list(records)[: limit or None]
    if not records:
        raise EvaluationError(f"{where} has no image; check the split and the languages.")
    for record in records:
        if record.problem:
            remedy = "restore the file, for a benchmark with a gap is another benchmark"
            raise refusal(DataError, where, record.problem.rstrip("."), remedy)
        path = f"image {printable(record.key, 60)}"
        if not at(list(record.texts), list[str], where, path):
            raise refusal(DataError, where, f"{path} has no caption", "leave it out, or add one")
    twice, times = Counter(record.key for record in records).most_common(1)[0]
    if times > 1:
        fault = f"image {printable(twice, 60)} is listed {times} times"
        remedy = "list it once: its captions would count as wrong answers for each other"
        raise refusal(DataError, where, fault, remedy)
    return records


def add_scores(
    session: Session,
    records: Sequence[PhotoRecord],
    forward: Ranking,
    backward: Ranking,
    prefix: str = "",
) -> None:
    """One row per query of either direction: whether its first answer is right.

    Captions of one photo are a group.
    prefix: what stands before `i2t_recall@1` in the metric's name.
    """
    keys = [record.key for record in records]
    captions = [(record.key, n) for record in records for n in range(len(record.texts))]
    texts = [text for record in records for text in record.texts]
    session.scores.add(
        session.named(f"{prefix}i2t_recall@1"),
        keys,
        (100.0 * (forward.ranks == 1)).tolist(),
        query=keys,
        rank=forward.ranks.tolist(),
        tied=forward.tied.tolist(),
        retrieved=[texts[i] for i in forward.top],
    )
    session.scores.add(
        session.named(f"{prefix}t2i_recall@1"),
        [f"{key}#{n}" for key, n in captions],
        (100.0 * (backward.ranks == 1)).tolist(),
        groups=[key for key, _ in captions],
        query=texts,
        rank=backward.ranks.tolist(),
        tied=backward.tied.tolist(),
        retrieved=[keys[i] for i in backward.top],
    )


def examples(
    seed: int,
    records: Sequence[PhotoRecord],
    image_of_text: np.ndarray,
    texts: Sequence[str],
    forward: Ranking,
    backward: Ranking,
    each: int = 3,
) -> list[dict[str, Any]]:
    """`each` hits and as many misses of each direction. Pictures: the query's, or the retrieved one
    and then the right one, with their labels.
    """
    found = []
    for i in results.hits_and_misses(forward.ranks == 1, seed, each=each):
        found.append(
            {
                "hit": bool(forward.ranks[i] == 1),
                "pictures": [_example(records[i])],
                "asked": "Which of all captions describes this picture?",
                "predicted": texts[forward.top[i]],
                "truth": records[i].texts[0],
            }
        )
    for i in results.hits_and_misses(backward.ranks == 1, seed, each=each):
        retrieved, right = records[backward.top[i]], records[image_of_text[i]]
        found.append(
            {
                "hit": bool(backward.ranks[i] == 1),
                "pictures": [_example(record) for record in dict.fromkeys((retrieved, right))],
                "labels": ["found", "right"] if retrieved != right else ["found and right"],
                "asked": f"Which picture shows: {texts[i]}",
                "predicted": f"picture {retrieved.key}",
                "truth": f"picture {right.key}",
            }
        )
    return sorted(found, key=lambda example: not example["hit"])


def _example(record: PhotoRecord) -> str:
    return data_uri(decode_image(read_image_bytes(record.image)))
