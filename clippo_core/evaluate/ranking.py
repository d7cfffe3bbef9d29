"""Recall at k: at which rank does a query find its first right item?

    rank     = 1 + #(wrong items that score higher) + #(wrong items that score the same)
    recall@k = share of queries with rank <= k

Ties count against the query, so a collapsed tower scores 0 and not chance, and the share of queries
with a tie is reported beside the recall. Scores are computed in float64 and rounded to float32, so
that equal vectors tie, and no digit depends on how the matrix was cut into tiles. One right
item in the first k is a hit; this recall is not the share of all right items found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from clippo_core.errors import EvaluationError
from clippo_core.evaluate.checks import finite

TILE_IMAGES, TILE_TEXTS = 512, 2048
"""Shape of one tile of the score matrix: about 20 MB at work."""


@dataclass(frozen=True)
class Ranking:
    """What became of each query of one direction."""

    ranks: np.ndarray
    """int64 [n]: rank of the best right item, from 1; ties last."""
    tied: np.ndarray
    """bool [n]: some wrong item scores the same as the best right one."""
    top: np.ndarray
    """int64 [n]: index of the item with the highest score (the first of them)."""

    def recall(self, k: int) -> float:
        """Share of queries with a hit among the first k, 0..1."""
        return float((self.ranks <= k).mean())

    @property
    def tie_share(self) -> float:
        """Share of queries with a tie, 0..1."""
        return float(self.tied.mean())


def recall_at_k(
    scores: np.ndarray, positives: Sequence[set[int]], ks: Iterable[int] = (1, 5, 10)
) -> dict[int, float]:
    """{k: share of queries, 0..1, with any of their right items among the first k}; ties rank last;
    k may exceed the gallery.

    scores float [n_queries, n_items]; positives: the right items of each query. The definition;
    `retrieval_ranks` is the fast path. Raises EvaluationError for non-finite scores, a query
    without a right item, or an item outside the gallery.
    """
    scores = np.asarray(scores)
    finite("scores", scores, ndim=2)
    if len(positives) != len(scores):
        raise EvaluationError(
            f"scores have {len(scores)} queries, but positives name {len(positives)}."
        )
    ranks = np.array(
        [
            _rank(row, right, query)
            for query, (row, right) in enumerate(zip(scores, positives, strict=True))
        ]
    )
    return {k: float((ranks <= k).mean()) for k in ks}


def retrieval_ranks(
    image_features: np.ndarray,
    text_features: np.ndarray,
    image_of_text: np.ndarray,
    *,
    tile: tuple[int, int] = (TILE_IMAGES, TILE_TEXTS),
) -> tuple[Ranking, Ranking]:
    """(image to text, text to image) over all pairs, tile by tile: memory O(tile), one matrix
    product for both directions.

    image_features [n, d], text_features [m, d], image_of_text int [m]: the image that each text
    describes; every image needs a text.
    """
    image_of_text = np.asarray(image_of_text)
    finite("image features", image_features, ndim=2)
    finite("text features", text_features, ndim=2)
    _check_pairs(image_features, text_features, image_of_text)
    own = _own_scores(image_features, text_features, image_of_text)
    best = np.full(len(image_features), -np.inf, np.float32)
    np.maximum.at(best, image_of_text, own)

    images, texts = _Counter(best), _Counter(own)
    for i in range(0, len(image_features), tile[0]):
        rows = slice(i, min(i + tile[0], len(image_features)))
        left = np.asarray(image_features[rows], np.float64)
        for j in range(0, len(text_features), tile[1]):
            columns = slice(j, min(j + tile[1], len(text_features)))
            scores = (left @ np.asarray(text_features[columns], np.float64).T).astype(np.float32)
            images.note_top(rows, scores, first_item=j)
            texts.note_top(columns, scores.T, first_item=i)
            here = np.flatnonzero(
                (image_of_text[columns] >= rows.start) & (image_of_text[columns] < rows.stop)
            )
            scores[image_of_text[columns][here] - i, here] = -np.inf
            images.count(rows, scores)
            texts.count(columns, scores.T)
    return images.ranking(), texts.ranking()


def chance_recall(n_items: int, n_positives: np.ndarray | Sequence[int], k: int) -> float:
    """Recall@k, 0..1, of a random order of n_items of which n_positives (one number per query)
    are right: 1 - C(N-c, k) / C(N, k), averaged.
    """
    counts = np.asarray(n_positives, dtype=np.float64)
    missed = np.ones_like(counts)
    for drawn in range(min(k, n_items)):
        missed *= np.maximum(n_items - counts - drawn, 0) / (n_items - drawn)
    return float((1 - missed).mean())


class _Counter:
    """Higher and equal wrong items of each query, and its best item, gathered over tiles."""

    def __init__(self, best: np.ndarray) -> None:
        self.best = best
        self.above = np.zeros(len(best), np.int64)
        self.equal = np.zeros(len(best), np.int64)
        self.top = np.zeros(len(best), np.int64)
        self.top_score = np.full(len(best), -np.inf, np.float32)

    def note_top(self, queries: slice, scores: np.ndarray, first_item: int) -> None:
        """scores [queries, items of the tile], all pairs. An earlier item keeps its place in a
        tie.
        """
        found = scores.argmax(axis=1)
        value = scores[np.arange(len(scores)), found]
        better = value > self.top_score[queries]
        self.top[queries] = np.where(better, found + first_item, self.top[queries])
        self.top_score[queries] = np.where(better, value, self.top_score[queries])

    def count(self, queries: slice, scores: np.ndarray) -> None:
        """scores [queries, items of the tile], right pairs at -inf."""
        best = self.best[queries, None]
        self.above[queries] += np.count_nonzero(scores > best, axis=1)
        self.equal[queries] += np.count_nonzero(scores == best, axis=1)

    def ranking(self) -> Ranking:
        return Ranking(ranks=1 + self.above + self.equal, tied=self.equal > 0, top=self.top)


def _rank(row: np.ndarray, right: Iterable[int], query: int) -> int:
    items = np.array(sorted(set(right)), dtype=np.int64)
    if not len(items) or items[0] < 0 or items[-1] >= len(row):
        raise EvaluationError(
            f"query {query} has the right items {items.tolist()}; it needs at least one within"
            f" 0..{len(row) - 1}."
        )
    best = row[items].max()
    return 1 + int(np.count_nonzero(row >= best)) - int(np.count_nonzero(row[items] == best))


def _own_scores(
    image_features: np.ndarray, text_features: np.ndarray, image_of_text: np.ndarray
) -> np.ndarray:
    """float32 [m]: the score of each text with its own image."""
    own = np.empty(len(text_features), np.float32)
    for j in range(0, len(own), TILE_TEXTS):
        part = slice(j, j + TILE_TEXTS)
        left = np.asarray(image_features[image_of_text[part]], np.float64)
        own[part] = np.einsum("nd,nd->n", left, np.asarray(text_features[part], np.float64))
    return own


def _check_pairs(
    image_features: np.ndarray, text_features: np.ndarray, image_of_text: np.ndarray
) -> None:
    n, m = len(image_features), len(text_features)
    if image_features.shape[1] != text_features.shape[1]:
        raise EvaluationError(
            f"image features are {image_features.shape[1]} wide and text features"
            f" {text_features.shape[1]}."
        )
    if image_of_text.shape != (m,) or image_of_text.min() < 0 or image_of_text.max() >= n:
        raise EvaluationError(
            f"image_of_text must name one of the {n} images for each of the {m} texts."
        )
    missing = np.flatnonzero(np.bincount(image_of_text, minlength=n) == 0)
    if len(missing):
        raise EvaluationError(
            f"{len(missing)} images have no text (the first is image {missing[0]}); leave them out"
            " of the gallery."
        )
