"""Classification of pictures from their features, zero-shot and few-shot.

    zero-shot    argmax_c <image, class_c>
    few-shot     argmax_c of a ridge regression on whitened features

Sources: big_vision evaluators discriminative_classifier.py and fewshot_lsr.py.
"""

from __future__ import annotations

import numpy as np

from clippo_core.errors import EvaluationError
from clippo_core.evaluate.checks import finite
from clippo_core.evaluate.ranking import Ranking

WHITEN_EPSILON = 1e-5
_ROWS = 1024


def zero_shot_accuracy(
    image_features: np.ndarray, class_features: np.ndarray, labels: np.ndarray
) -> float:
    """Share of images, 0..1, whose highest dot product is with a right class; a tie with a wrong
    class is a miss.

    image_features [n, d], class_features [c, d] (unit rows), labels int [n], or [n, m] padded with
    -1 where any of several classes is right (ReaL). Raises EvaluationError for non-finite features
    or labels outside the classes.
    """
    return zero_shot_ranks(image_features, class_features, labels).recall(1)


def zero_shot_ranks(
    image_features: np.ndarray,
    class_features: np.ndarray,
    labels: np.ndarray,
    twins: np.ndarray | None = None,
) -> Ranking:
    """Rank of the best right class of each image, ties last; top-k accuracy is `.recall(k)`.

    twins int [c]: the first class of the same name (ImageNet has two "missile"s). Nothing can tell
    twins apart, so the earlier one is taken as predicted first, as argmax does, and that is not
    counted as a tie.
    """
    finite("image features", image_features, ndim=2)
    finite("class features", class_features, ndim=2)
    labels = _label_table(labels, len(image_features), len(class_features))
    order = np.arange(len(class_features))
    first = order if twins is None else np.asarray(twins)
    columns = np.asarray(class_features, np.float64).T
    ranks, tied, top = [], [], []
    for i in range(0, len(image_features), _ROWS):
        scores = (np.asarray(image_features[i : i + _ROWS], np.float64) @ columns).astype(
            np.float32
        )[:, first]
        right, later_twin = np.zeros(scores.shape, bool), np.zeros(scores.shape, bool)
        for label in labels[i : i + _ROWS].T:
            right |= order == label[:, None]
            later_twin |= (
                (label[:, None] >= 0) & (first == first[label][:, None]) & (order > label[:, None])
            )
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        equal = np.count_nonzero((scores == best) & ~right & ~later_twin, axis=1)
        ranks.append(1 + np.count_nonzero((scores > best) & ~right, axis=1) + equal)
        tied.append(
            np.any(
                (scores == best) & ~right & (first != _twin_of_best(scores, best, right, first)),
                axis=1,
            )
        )
        top.append(scores.argmax(axis=1))
    return Ranking(np.concatenate(ranks), np.concatenate(tied), np.concatenate(top))


def few_shot_ridge(
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    l2: float = 1024.0,
    bias: float = 100.0,
) -> float:
    """Accuracy, 0..1, on (x_test, y_test) of a closed-form ridge classifier fitted to (x, y) [n,
    d], int [n].
    """
    y_test = np.asarray(y_test)
    predicted = few_shot_predict(x, y, x_test, l2, bias)
    if y_test.shape != predicted.shape:
        raise EvaluationError(
            f"{len(predicted)} test rows have labels of shape {y_test.shape}; give one label per"
            " row."
        )
    return float((predicted == y_test).mean())


def few_shot_predict(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, l2: float = 1024.0, bias: float = 100.0
) -> np.ndarray:
    """Predicted labels [n_test]: argmax of X_test W, W = (X^T X + l2 I)^-1 X^T (2 onehot(y) - 1),
    in float64.

    X holds the features whitened with mean and population standard deviation (+1e-5) of the shots,
    and one constant feature `bias`: so large that the ridge hardly touches it. With fewer rows than
    columns the same W comes from the dual, X^T (X X^T + l2 I)^-1.
    """
    finite("few-shot features", x, ndim=2)
    finite("test features", x_test, ndim=2)
    x, x_test, y = np.asarray(x, np.float64), np.asarray(x_test), np.asarray(y)
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise EvaluationError(
            f"{len(x)} few-shot rows have labels of shape {y.shape} and type {y.dtype}; give one"
            " integer per row."
        )
    mean, std = x.mean(axis=0), x.std(axis=0) + WHITEN_EPSILON

    def designed(values: np.ndarray) -> np.ndarray:
        return np.pad((values - mean) / std, ((0, 0), (0, 1)), constant_values=bias)

    design = designed(x)
    classes, index = np.unique(y, return_inverse=True)
    targets = 2.0 * np.eye(len(classes))[index] - 1.0
    n, d = design.shape
    if n >= d:
        weights = np.linalg.solve(design.T @ design + l2 * np.eye(d), design.T @ targets)
    else:
        weights = design.T @ np.linalg.solve(design @ design.T + l2 * np.eye(n), targets)
    best = [
        (designed(x_test[i : i + _ROWS].astype(np.float64)) @ weights).argmax(axis=1)
        for i in range(0, len(x_test), _ROWS)
    ]
    return classes[np.concatenate(best)]


def _label_table(labels: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    """int64 [n, m], -1 = padding."""
    labels = np.asarray(labels)
    table = labels[:, None] if labels.ndim == 1 else labels
    if table.ndim != 2 or len(table) != n or table.dtype.kind not in "iu":
        raise EvaluationError(
            f"labels have shape {labels.shape} and type {labels.dtype}; give one integer (or row of"
            f" them) for {n} images."
        )
    table = table.astype(np.int64)
    if table.max() >= n_classes or table.min() < -1:
        raise EvaluationError(
            f"labels lie in {table.min()}..{table.max()}, but there are {n_classes} classes; check"
            " the class list."
        )
    empty = np.flatnonzero((table < 0).all(axis=1))
    if len(empty):
        raise EvaluationError(
            f"{len(empty)} images have no label (the first is image {empty[0]}); leave them out."
        )
    return table


def _twin_of_best(
    scores: np.ndarray, best: np.ndarray, right: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """[n, 1]: the first class of the name of the best right class."""
    return first[np.where(right & (scores == best), 1, 0).argmax(axis=1)][:, None]
