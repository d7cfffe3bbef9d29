"""Where embeddings lie, and what the patch embedding looks for: modality gap, separability,
principal components of the kernel.

    gap = ‖ mean of unit image embeddings − mean of unit text embeddings ‖,  0 to 2

(Liang et al., 2022; the paper's Fig. 5.) The gap is 0 for equal clouds and does not change under
rotation or scale. Separability says whether a plane divides the two kinds on pairs that it was not
fitted on: 1/2 where it cannot, 1 for CLIP.
Numbers only; figures stand in `figures.py` and `pictures.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clippo_core.errors import EvaluationError

if TYPE_CHECKING:
    from clippo_core.embedder import Clippo


@dataclass(frozen=True)
class Geometry:
    """How two clouds of matched embeddings lie to each other."""

    n_pairs: int
    modality_gap: float
    """Distance of the means, 0..2."""
    matched_cosine: float
    """Mean cosine of an image and its text."""
    other_cosine: float
    """Mean cosine of an image and another image's text: what `matched_cosine` is to be compared
    with."""
    linear_separability: float
    """Share of held-out points that a linear classifier puts on the right side, 0..1."""


def measure(
    model: Clippo, images: Sequence[Any], texts: Sequence[str], *, batch_size: int = 256
) -> Geometry:
    """Geometry of a model's embeddings of matched `images` (as `Clippo.embed_images` takes them)
    and `texts`.
    """
    pictures = model.embed_images(images, batch_size=batch_size)
    return geometry(pictures, model.embed_texts(texts, batch_size=batch_size))


def geometry(image_features: np.ndarray, text_features: np.ndarray) -> Geometry:
    """Gap, matched cosine and separability of matched features [n, d], [n, d]; at least 10
    pairs.
    """
    images, texts = _unit(image_features, "image"), _unit(text_features, "text")
    if images.shape != texts.shape:
        raise EvaluationError(
            f"{images.shape} image and {texts.shape} text features are not matched pairs."
        )
    n, separability = len(images), linear_separability(images, texts)
    matched = (images * texts).sum(1)
    # The sum over all n² cosines is the product of the sums.
    others = (images.sum(0) @ texts.sum(0) - matched.sum()) / (n * (n - 1))
    return Geometry(
        n, modality_gap(images, texts), float(matched.mean()), float(others), separability
    )


def modality_gap(image_features: np.ndarray, text_features: np.ndarray) -> float:
    """Distance of the means of L2-normalised features [n, d] and [m, d], 0..2. Raises
    EvaluationError for zero or non-finite rows.
    """
    return float(
        np.linalg.norm(
            _unit(image_features, "image").mean(0) - _unit(text_features, "text").mean(0)
        )
    )


def linear_separability(
    image_features: np.ndarray, text_features: np.ndarray, folds: int = 5, seed: int = 0
) -> float:
    """Accuracy, 0..1, of telling images from texts by ridge regression onto ±1, on pairs held out
    in turn (`folds` times).
    """
    images, texts = _unit(image_features, "image"), _unit(text_features, "text")
    n = min(len(images), len(texts))
    if n < 2 * folds:
        raise EvaluationError(
            f"linear separability needs at least {2 * folds} pairs; there are {n}."
        )
    fold_of = np.random.default_rng(seed).permutation(n) % folds
    right = 0
    for fold in range(folds):
        held = fold_of == fold
        x = np.concatenate([images[:n][~held], texts[:n][~held]])
        middle = x.mean(0)
        target = np.repeat([1.0, -1.0], (~held).sum())
        weights = np.linalg.solve(
            (x - middle).T @ (x - middle) + 1e-3 * np.eye(x.shape[1]), (x - middle).T @ target
        )
        right += int(
            ((images[:n][held] - middle) @ weights > 0).sum()
            + ((texts[:n][held] - middle) @ weights < 0).sum()
        )
    return right / (2 * n)


def principal_plane(
    images: np.ndarray, texts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matched features [n, d], [n, d] -> their points [n, 2], [n, 2] on the first two principal
    components of both together, and the components' shares of the variance [2], 0..1. Signs are
    fixed: the largest entry of each component is positive.
    """
    both = np.concatenate([images, texts]).astype(np.float64)
    centred = both - both.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    directions = directions * np.sign(
        np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    )
    points = centred @ directions.T
    explained = singular[:2] ** 2 / max(float((singular**2).sum()), 1e-300)
    return points[: len(images)], points[len(images) :], explained


def patch_components(
    kernel: np.ndarray, n: int = 30
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first principal components of a patch embedding kernel [d, 3, 16, 16], its d filters
    taken as samples.

    Returns components [n, 3, 16, 16], unit length, largest entry positive (a component's sign means
    nothing), and their shares of the variance [n], 0..1; fewer where there are not so many.
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim != 4 or not np.isfinite(kernel).all():
        raise EvaluationError(
            f"a patch kernel is finite and has shape [d, 3, 16, 16]; this one has {kernel.shape}."
        )
    filters = kernel.reshape(len(kernel), -1)
    _, singular, directions = np.linalg.svd(filters - filters.mean(0), full_matrices=False)
    n = min(n, len(directions))
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    shares = singular**2 / max(float((singular**2).sum()), 1e-300)
    return (directions * np.sign(largest))[:n].reshape(n, *kernel.shape[1:]), shares[:n]


def _unit(features: np.ndarray, what: str) -> NDArray[np.float64]:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not len(features):
        raise EvaluationError(
            f"{what} features have shape {features.shape}; expected [n, d] with at least one row."
        )
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.min() > 0):
        raise EvaluationError(
            f"{what} features have rows that are zero or not finite; they have no direction."
        )
    return features / norms
