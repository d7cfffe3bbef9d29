"""Linear probes on k pictures per class: fewshot_lsr of big_vision.

    x = features before the head, of the squashed and centrally cropped picture
    k shots per class, chosen by seed 0, 1, 2
    argmax of a ridge regression to +-1 targets on (whitened x, 100), l2 = 2^10, in closed form

The reference draws from the first 65,000 training pictures in the order of TFDS; here the pool is
`train_images` in the order of its names. A pool that is too small, or that holds pictures which are
evaluated, makes the metric `not_run`. It trains no tower.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clippo_core.evaluate.embed import Embedded, Pictures
from clippo_core.evaluate.harness import Session
from clippo_core.evaluate.imagenet.class_names import ClassNames
from clippo_core.evaluate.imagenet.classification import few_shot_predict
from clippo_core.evaluate.imagenet.labelled import LabelledPictures, open_labelled

SEEDS = (0, 1, 2)
"""Seeds of the drawn shots (big_vision evaluators/fewshot_lsr.py)."""


def few_shot(
    session: Session,
    labelled: LabelledPictures,
    classes: ClassNames,
    labels: np.ndarray,
    embedded: Embedded,
) -> None:
    """Note `<k>shot_top1` (mean of the seeds) and each seed's own, or why they are not run.

    labels int [n] and `embedded` are of the pictures that are evaluated.
    """
    shots = sorted(set(session.config.shots))
    if not session.config.train_images:
        _not_run(session, shots, "no training pictures are configured (train_images)")
        return
    pool = open_labelled(session.config.train_images)
    pool_labels = classes.index(pool)
    smallest = int(np.bincount(pool_labels, minlength=len(classes.names)).min())
    _not_run(
        session,
        [k for k in shots if k > smallest],
        f"a class has only {smallest} training pictures",
    )
    shots = [k for k in shots if k <= smallest]
    if not shots:
        return
    drawn = {seed: draw_shots(pool_labels, len(classes.names), max(shots), seed) for seed in SEEDS}
    needed = np.unique(np.concatenate([order.ravel() for order in drawn.values()]))
    train = session.store.pictures(
        Pictures([pool.names[i] for i in needed], lambda i: pool.pictures.read(int(needed[i]))),
        feature="probe",
    )
    leaked = len(set(train.digests) & set(embedded.digests))
    if leaked:
        _not_run(
            session,
            shots,
            f"{leaked} of the training pictures are evaluated, too: use another pool",
        )
        return
    test = session.store.pictures(labelled.pictures, feature="probe").features
    for k in shots:
        predicted = []
        for order in drawn.values():
            chosen = order[:, :k].ravel()
            rows = np.searchsorted(needed, chosen)
            predicted.append(few_shot_predict(train.features[rows], pool_labels[chosen], test))
        _note(session, k, labels, predicted, 100.0 / len(classes.names), labelled.names)


def draw_shots(labels: np.ndarray, n_classes: int, k: int, seed: int) -> np.ndarray:
    """Indices int64 [n_classes, k]: the first k of a permutation of each class, class by class from
    one generator.
    """
    random = np.random.default_rng(seed)
    return np.stack([random.permutation(np.flatnonzero(labels == c))[:k] for c in range(n_classes)])


def _note(
    session: Session,
    k: int,
    labels: np.ndarray,
    predicted: list[np.ndarray],
    chance: float,
    names: Sequence[str],
) -> None:
    correct = 100.0 * np.stack([values == labels for values in predicted])
    session.score(f"{k}shot_top1", correct.mean(axis=0), chance=chance)
    for seed, hits in zip(SEEDS, correct, strict=True):
        session.score(f"{k}shot_top1_seed{seed}", hits, chance=chance)
    said = {
        f"predicted_seed{seed}": values.tolist()
        for seed, values in zip(SEEDS, predicted, strict=True)
    }
    metric = session.named(f"{k}shot_top1")
    session.scores.add(metric, names, correct.mean(axis=0).tolist(), label=labels.tolist(), **said)
    if k == 10:
        session.main_metrics.append("10shot_top1")


def _not_run(session: Session, shots: list[int], reason: str) -> None:
    for k in shots:
        session.not_run(f"{k}shot_top1", reason)
