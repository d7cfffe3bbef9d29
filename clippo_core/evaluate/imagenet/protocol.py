"""ImageNet-1k: zero-shot with an ensemble of prompts, and few-shot linear probes (`few_shot.py`).

    class      = unit(mean over templates of unit(tower("a photo of a tench")))
    prediction = argmax_c <image, class_c>

big_vision evaluators/proj/image_text/discriminative_classifier.py: canonical names and prompts, the
first alias, pictures squashed to the tower's size. Two classes of one name can't be told apart; the
earlier one is predicted, as argmax does. Any set of pictures in classes is read, not only ImageNet.
It trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clippo_core.config import ImagenetConfig
from clippo_core.data.images import decode_image
from clippo_core.data.thumbnails import data_uri
from clippo_core.errors import EvaluationError
from clippo_core.evaluate import results
from clippo_core.evaluate.harness import Session, evaluate
from clippo_core.evaluate.imagenet.class_names import ClassNames, load_class_names, multi_labels
from clippo_core.evaluate.imagenet.classification import zero_shot_ranks
from clippo_core.evaluate.imagenet.few_shot import few_shot
from clippo_core.evaluate.imagenet.labelled import open_labelled
from clippo_core.evaluate.imagenet.prompts import load_templates
from clippo_core.evaluate.ranking import Ranking
from clippo_core.run.records import EvalResult, EvaluatePlan


def run(checkpoint: str, plan: EvaluatePlan, *, progress: bool = True) -> EvalResult:
    """Evaluate `checkpoint` as plan.evaluate.imagenet says, and write the result below
    plan.stage.root; a finished one is returned.

    Metrics: zero_shot_top1, _top5, _class_mean, _any_correct (given multi_labels), <k>shot_top1 and
    each seed's. Data and protocol errors become a result with its `failure`.
    """
    return evaluate("imagenet", checkpoint, plan, progress, _evaluate)


def _evaluate(session: Session) -> None:
    config: ImagenetConfig = session.config
    labelled = open_labelled(config.images)
    classes = load_class_names(config.class_names, config.n_classes)
    labels = classes.index(labelled)
    session.check_size(len(labels), config.images)
    _describe(session, classes, labels)
    with session.timed("images"):
        embedded = session.store.pictures(labelled.pictures)
    with session.timed("texts"):
        features = session.store.classes(classes.names, load_templates(config.templates))
    ranking = _zero_shot(session, classes, labels, labelled.names, embedded.features, features)
    with session.timed("few_shot"):
        few_shot(session, labelled, classes, labels, embedded)
    for i in results.hits_and_misses(ranking.ranks == 1, session.plan.stage.seed):
        session.examples.append(
            {
                "hit": bool(ranking.ranks[i] == 1),
                "pictures": [data_uri(decode_image(labelled.pictures.read(i)))],
                "asked": f"Which of {len(classes.names):,} classes?",
                "predicted": classes.names[ranking.top[i]],
                "truth": classes.names[labels[i]],
            }
        )


def _describe(session: Session, classes: ClassNames, labels: np.ndarray) -> None:
    config: ImagenetConfig = session.config
    n_templates = len(load_templates(config.templates))
    session.split = config.images.rstrip("/").rpartition("/")[2]
    session.protocol = (
        f"Zero-shot with {n_templates} template{'s' * (n_templates != 1)} ({config.templates}):"
        " names and prompts in canonical form, each prompt's embedding normalised, their mean"
        f" normalised again, pictures squashed to {session.model.image_px} px; the nearest class"
        " is the answer, and a tie is a miss. Few-shot: features before the head, pictures"
        " squashed and cropped to the centre, features whitened, bias 100, ridge regression (1024)"
        " in closed form, mean over seeds 0, 1, 2."
    )
    session.n_examples = len(labels)
    session.main_metrics = ["zero_shot_top1"]
    session.count(
        images=len(labels),
        classes=len(classes.names),
        classes_with_images=len(np.unique(labels)),
        classes_with_a_shared_name=len(classes.names) - len(set(classes.names)),
        templates=n_templates,
    )


def _zero_shot(
    session: Session,
    classes: ClassNames,
    labels: np.ndarray,
    names: Sequence[str],
    images: np.ndarray,
    texts: np.ndarray,
) -> Ranking:
    """Top-1, top-5, mean per class, and any-correct where several labels are given."""
    n_classes = len(classes.names)
    first = {name: number for number, name in reversed(list(enumerate(classes.names)))}
    twins = np.array([first[name] for name in classes.names])
    ranking = zero_shot_ranks(images, texts, labels, twins)
    correct = 100.0 * (ranking.ranks == 1)
    session.score("zero_shot_top1", correct, chance=100.0 / n_classes)
    if n_classes > 5:
        session.score("zero_shot_top5", 100.0 * (ranking.ranks <= 5), chance=500.0 / n_classes)
    else:
        session.not_run("zero_shot_top5", f"there are only {n_classes} classes")
    per_class = np.bincount(labels, minlength=n_classes)
    weight = len(labels) / (np.count_nonzero(per_class) * per_class[labels])
    session.score("zero_shot_class_mean", correct * weight, chance=100.0 / n_classes)
    if ranking.tie_share:
        session.flag(
            "zero_shot_top1",
            f"{100 * ranking.tie_share:.2f} % of the images tie between classes; ties are misses",
        )
    _any_correct(session, names, images, texts, twins)
    session.scores.add(
        session.named("zero_shot_top1"),
        names,
        correct.tolist(),
        label=labels.tolist(),
        label_name=[classes.names[i] for i in labels],
        predicted=ranking.top.tolist(),
        predicted_name=[classes.names[i] for i in ranking.top],
        rank=ranking.ranks.tolist(),
    )
    return ranking


def _any_correct(
    session: Session, names: Sequence[str], images: np.ndarray, texts: np.ndarray, twins: np.ndarray
) -> None:
    """ReaL: right is any of a picture's labels; pictures without a label are left out."""
    uri = session.config.multi_labels
    if not uri:
        return
    lists = multi_labels(uri, names)
    kept = [i for i, labels in enumerate(lists) if labels]
    if not kept:
        raise EvaluationError(f"{uri} has no label for any of the pictures.")
    table = np.full((len(kept), max(map(len, lists))), -1)
    for row, i in enumerate(kept):
        table[row, : len(lists[i])] = lists[i]
    ranking = zero_shot_ranks(images[kept], texts, table, twins)
    n_right = (table >= 0).sum(axis=1).mean()
    session.score(
        "zero_shot_any_correct", 100.0 * (ranking.ranks == 1), chance=100.0 * n_right / len(texts)
    )
