"""Each metric against an independent reference: scikit-learn, scipy, naive loops, the official VQA
evaluator's own output.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score, matthews_corrcoef

from clippo_core.errors import EvaluationError
from clippo_core.evaluate import metrics
from clippo_core.evaluate.vqa.text import CONTRACTIONS, normalise

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


# --- recall --------------------------------------------------------------------------------------


def naive_rank(scores: list[float], right: set[int]) -> int:
    """1-based place of the best right item when every item that ties with it is put before it."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i in right))
    return 1 + min(place for place, item in enumerate(order) if item in right) if order else 0


def naive_recall(scores: np.ndarray, positives: list[set[int]], k: int) -> float:
    hits = 0
    for row, right in zip(scores.tolist(), positives, strict=True):
        hits += naive_rank(row, right) <= k
    return hits / len(positives)


def test_recall_equals_a_naive_double_loop_with_ties_and_several_captions() -> None:
    random = np.random.default_rng(0)
    for trial in range(30):
        n, m = random.integers(2, 40, 2)
        scores = random.integers(0, 6, (n, m)).astype(np.float32)  # few values: many ties
        positives = [
            set(random.choice(m, random.integers(1, min(5, m) + 1), replace=False).tolist())
            for _ in range(n)
        ]
        ks = (1, 2, 5, 10, 100)
        found = metrics.recall_at_k(scores, positives, ks)
        assert found == {k: naive_recall(scores, positives, k) for k in ks}, f"trial {trial}"


@pytest.mark.parametrize("tile", [(512, 2048), (1, 1), (7, 13), (1000, 3)])
def test_the_tiled_ranks_equal_the_definition(tile: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    images = random.integers(-2, 3, (37, 6)).astype(np.float32)  # exact products, many ties
    image_of_text = np.concatenate([np.arange(37), random.integers(0, 37, 60)])
    texts = random.integers(-2, 3, (97, 6)).astype(np.float32)
    scores = images @ texts.T
    of_image: list[set[int]] = [set(np.flatnonzero(image_of_text == i).tolist()) for i in range(37)]
    of_text = [{int(i)} for i in image_of_text]
    forward, backward = metrics.retrieval_ranks(images, texts, image_of_text, tile=tile)
    assert forward.ranks.tolist() == [
        naive_rank(row, right) for row, right in zip(scores.tolist(), of_image, strict=True)
    ]
    assert backward.ranks.tolist() == [
        naive_rank(row, right) for row, right in zip(scores.T.tolist(), of_text, strict=True)
    ]
    assert (
        forward.top.tolist() == scores.argmax(1).tolist()
        and backward.top.tolist() == scores.T.argmax(1).tolist()
    )
    for k in (1, 5, 10):
        assert forward.recall(k) == metrics.recall_at_k(scores, of_image, (k,))[k]
        assert backward.recall(k) == metrics.recall_at_k(scores.T, of_text, (k,))[k]


def unit(random: np.random.Generator, n: int, d: int) -> np.ndarray:
    values = random.standard_normal((n, d)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_no_digit_depends_on_the_tile() -> None:
    random = np.random.default_rng(2)
    images, texts, image_of_text = (
        unit(random, 300, 64),
        unit(random, 900, 64),
        np.arange(900) % 300,
    )
    texts[:50] = texts[300:350]  # equal captions of one photo, and equal photos: exact ties
    images[7] = images[8]
    expected = metrics.retrieval_ranks(images, texts, image_of_text)
    for tile in [(300, 900), (64, 64), (33, 101), (1, 900)]:
        for got, want in zip(
            metrics.retrieval_ranks(images, texts, image_of_text, tile=tile), expected, strict=True
        ):
            assert (
                np.array_equal(got.ranks, want.ranks)
                and np.array_equal(got.tied, want.tied)
                and np.array_equal(got.top, want.top)
            )
    assert expected[1].tied[7] and expected[1].tied[8], "equal photos must tie for their captions"


def test_sanity_of_recall_shuffled_perfect_and_constant_towers() -> None:
    random = np.random.default_rng(3)
    n, per_image = 400, 5
    image_of_text = np.repeat(np.arange(n), per_image)
    images = unit(random, n, 128)
    perfect = metrics.retrieval_ranks(images, images[image_of_text], image_of_text)
    assert [r.recall(1) for r in perfect] == [1.0, 1.0]
    shuffled = metrics.retrieval_ranks(images, unit(random, n * per_image, 128), image_of_text)
    for ranking, gallery, right in ((shuffled[0], n * per_image, per_image), (shuffled[1], n, 1)):
        for k in (1, 5, 10):
            chance = metrics.chance_recall(gallery, [right], k)
            sigma = np.sqrt(chance * (1 - chance) / n)
            assert abs(ranking.recall(k) - chance) <= 3 * sigma
    constant = metrics.retrieval_ranks(np.ones((n, 4)), np.ones((n * per_image, 4)), image_of_text)
    assert [r.recall(10) for r in constant] == [0.0, 0.0] and [r.tie_share for r in constant] == [
        1.0,
        1.0,
    ]


def test_chance_of_any_of_several_captions_is_exact() -> None:
    random = np.random.default_rng(4)
    drawn = np.array([random.permutation(20)[:5] for _ in range(20_000)])
    simulated = (
        (drawn < 3).any(axis=1).mean()
    )  # three right items of twenty, any of them in the first five
    assert metrics.chance_recall(20, [3], 5) == pytest.approx(
        simulated, abs=3 * 0.5 / np.sqrt(20_000)
    )
    assert metrics.chance_recall(10, [1, 2], 1) == pytest.approx(0.15)
    assert metrics.chance_recall(4, [1], 10) == 1.0


def test_bad_scores_are_refused() -> None:
    scores = np.eye(3)
    for bad, positives, word in [
        (np.full((3, 3), np.nan), [{0}, {1}, {2}], "non-finite"),
        (np.full((3, 3), np.inf), [{0}, {1}, {2}], "non-finite"),
        (scores, [{0}, {1}], "positives name 2"),
        (scores, [{0}, {1}, set()], "query 2"),
        (scores, [{0}, {1}, {3}], "query 2"),
        (np.zeros((0, 3)), [], "empty"),
    ]:
        with pytest.raises(EvaluationError, match=word):
            metrics.recall_at_k(bad, positives)
    good = np.eye(4)
    with pytest.raises(EvaluationError, match="text features hold 1 non-finite"):
        metrics.retrieval_ranks(
            good, np.where(np.arange(16).reshape(4, 4) == 5, np.nan, good), np.arange(4)
        )
    with pytest.raises(EvaluationError, match="1 images have no text"):
        metrics.retrieval_ranks(good, good, np.array([0, 1, 2, 2]))
    with pytest.raises(EvaluationError, match="image_of_text"):
        metrics.retrieval_ranks(good, good, np.array([0, 1, 2, 4]))
    with pytest.raises(EvaluationError, match="wide"):
        metrics.retrieval_ranks(good, np.eye(4)[:, :3], np.arange(4))


# --- zero-shot -----------------------------------------------------------------------------------


def test_zero_shot_is_the_argmax_and_top_five() -> None:
    random = np.random.default_rng(5)
    images, classes, labels = (
        unit(random, 3000, 16),
        unit(random, 30, 16),
        random.integers(0, 30, 3000),
    )
    scores = images.astype(np.float64) @ classes.astype(np.float64).T
    assert (
        metrics.zero_shot_accuracy(images, classes, labels) == (scores.argmax(1) == labels).mean()
    )
    top5 = (np.argsort(-scores, axis=1)[:, :5] == labels[:, None]).any(axis=1).mean()
    ranking = metrics.zero_shot_ranks(images, classes, labels)
    assert ranking.recall(5) == top5 and ranking.top.tolist() == scores.argmax(1).tolist()
    assert abs(ranking.recall(1) - 1 / 30) <= 3 * np.sqrt(1 / 30 * 29 / 30 / 3000), (
        "unrelated features are at chance"
    )


def test_zero_shot_any_of_several_labels() -> None:
    images = np.eye(3)
    classes = np.eye(3)
    labels = np.array([[0, -1], [2, 1], [0, 1]])
    assert metrics.zero_shot_accuracy(images, classes, labels) == pytest.approx(2 / 3)
    random = np.random.default_rng(6)
    images, classes = unit(random, 500, 8), unit(random, 20, 8)
    table = random.integers(-1, 20, (500, 3))
    table[:, 0] = random.integers(0, 20, 500)
    expected = np.mean(
        [best in set(row) for best, row in zip((images @ classes.T).argmax(1), table, strict=True)]
    )
    assert metrics.zero_shot_accuracy(images, classes, table) == expected


def test_collapsed_towers_score_zero_and_twins_go_to_the_first_name() -> None:
    constant = metrics.zero_shot_ranks(np.ones((10, 4)), np.ones((5, 4)), np.arange(10) % 5)
    assert constant.recall(1) == 0.0 and constant.tie_share == 1.0
    classes = np.eye(4)[[0, 1, 2, 1]]  # classes 1 and 3 have the same name
    ranking = metrics.zero_shot_ranks(
        np.eye(4)[[0, 1, 1, 2]], classes, np.array([0, 1, 3, 2]), twins=np.array([0, 1, 2, 1])
    )
    assert ranking.ranks.tolist() == [1, 1, 2, 1], "argmax takes the first of two equal classes"
    assert ranking.tie_share == 0.0


def test_bad_labels_and_features_are_refused() -> None:
    good = np.eye(3)
    for features, classes, labels, word in [
        (np.full((3, 3), np.nan), good, np.arange(3), "non-finite"),
        (good, good, np.array([0, 1, 3]), "check the class list"),
        (good, good, np.arange(2), "labels have shape"),
        (good, good, np.array([0.0, 1.0, 2.0]), "labels have shape"),
        (good, good, np.array([[0], [1], [-1]]), "no label"),
    ]:
        with pytest.raises(EvaluationError, match=word):
            metrics.zero_shot_accuracy(features, classes, labels)


# --- few-shot ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shots", "width"), [(10, 12), (1, 40), (5, 32)])
def test_few_shot_equals_scikit_learns_ridge_on_whitened_features_and_bias(
    shots: int, width: int
) -> None:
    random = np.random.default_rng(shots)
    n_classes = 8
    centres = random.standard_normal((n_classes, width)) * 3 + 5
    y = np.repeat(np.arange(n_classes), shots)
    x = centres[y] + random.standard_normal((len(y), width)) * 4
    y_test = random.integers(0, n_classes, 500)
    x_test = centres[y_test] + random.standard_normal((500, width)) * 4
    mean, std = x.mean(0), x.std(0) + 1e-5

    def design(values: np.ndarray) -> np.ndarray:
        return np.concatenate([(values - mean) / std, np.full((len(values), 1), 100.0)], axis=1)

    ridge = Ridge(alpha=1024, fit_intercept=False, solver="cholesky").fit(
        design(x), 2 * np.eye(n_classes)[y] - 1
    )
    expected = ridge.predict(design(x_test)).argmax(1)
    assert metrics.few_shot_predict(x, y, x_test).tolist() == expected.tolist()
    accuracy = metrics.few_shot_ridge(x, y, x_test, y_test)
    assert accuracy == (expected == y_test).mean() and 0.2 < accuracy < 1


def test_few_shot_labels_need_not_be_contiguous_and_bad_ones_are_refused() -> None:
    x = np.eye(4)
    assert metrics.few_shot_predict(x, np.array([3, 3, 9, 9]), x).tolist() == [3, 3, 9, 9]
    with pytest.raises(EvaluationError, match="one integer per row"):
        metrics.few_shot_ridge(x, np.array([0, 1]), x, np.arange(4))
    with pytest.raises(EvaluationError, match="non-finite"):
        metrics.few_shot_ridge(x, np.arange(4), np.full((4, 4), np.inf), np.arange(4))
    with pytest.raises(EvaluationError, match="one label per row"):
        metrics.few_shot_ridge(x, np.arange(4), x, np.arange(3))


# --- VQA -----------------------------------------------------------------------------------------


def test_vqa_accuracy_by_number_of_matches() -> None:
    expected = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9, 4: 1.0, 9: 1.0}
    for matches, accuracy in expected.items():
        humans = ["cat"] * matches + [f"other {i}" for i in range(10 - matches)]
        assert metrics.vqa_accuracy("cat", humans) == pytest.approx(accuracy)


def test_vqa_answers_are_normalised_only_where_humans_differ() -> None:
    assert metrics.vqa_accuracy("yes", ["Yes"] * 10) == 0.0
    assert metrics.vqa_accuracy("yes\n", ["yes"] * 10) == 1.0
    assert metrics.vqa_accuracy("YES.", ["yes"] * 9 + ["no"]) == 1.0
    with pytest.raises(EvaluationError, match="no human answers"):
        metrics.vqa_accuracy("yes", [])


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("The Cat", "cat"),
        ("a+b", "b"),
        ("1/2", "1 2"),
        ("-5", "5"),
        ("none", "0"),
        ("Ten dogs", "10 dogs"),
        ("1,000", "1000"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("3.5 m.", "3.5 m"),
        ("it's 5 o'clock.", "it's 5 o'clock"),
        ("dont know", "don't know"),
        ("Im here", "im here"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("yes\tno", "yes no"),
        ("left-hand side", "left hand side"),
        ("left - hand-side", "left handside"),
    ],
)
def test_official_normal_form(raw: str, normal: str) -> None:
    # "left - hand-side": the mark touches a space once, so every one of its kind goes without a
    # trace, and two spaces become one.
    assert normalise(raw) == normal


def test_the_contractions_are_the_evaluators() -> None:
    assert len(CONTRACTIONS) == 114
    assert (
        CONTRACTIONS["y'allll"] == "y'all'll"
        and CONTRACTIONS["ow's'at"] == "'ow's'at"
        and "lets" not in CONTRACTIONS
    )


@pytest.mark.parametrize(("folder", "overall"), [("vqav2", 50.11), ("vqav2/textonly", 49.49)])
def test_vqa_scores_of_the_official_evaluator(folder: str, overall: float) -> None:
    root = DATA / folder
    if not root.exists():
        pytest.skip(f"{root} is not there")
    annotations = json.loads((root / "v2_mscoco_train2014_annotations.json").read_text())[
        "annotations"
    ]
    results = json.loads(
        (root / "reference" / "v2_OpenEnded_mscoco_train2014_fake_results.json").read_text()
    )
    official = json.loads((root / "reference" / "official_accuracy.json").read_text())["accuracy"]
    answers = {row["question_id"]: row["answer"] for row in results}
    scores: dict[str, list[float]] = {}
    for row in annotations:
        score = metrics.vqa_accuracy(
            answers[row["question_id"]], [human["answer"] for human in row["answers"]]
        )
        for kind in ("overall", f"answer {row['answer_type']}", f"question {row['question_type']}"):
            scores.setdefault(kind, []).append(score)
    found = {kind: round(100 * sum(values) / len(values), 2) for kind, values in scores.items()}
    assert found["overall"] == official["overall"] == overall
    assert {
        k.removeprefix("answer "): v for k, v in found.items() if k.startswith("answer ")
    } == official["perAnswerType"]
    assert {
        k.removeprefix("question "): v for k, v in found.items() if k.startswith("question ")
    } == official["perQuestionType"]


# --- GLUE ----------------------------------------------------------------------------------------


def test_glue_scores_equal_scikit_learn_and_scipy() -> None:
    random = np.random.default_rng(7)
    for _ in range(20):
        n = int(random.integers(5, 200))
        labels = random.integers(0, 2, n)
        predictions = np.where(random.random(n) < 0.7, labels, 1 - labels)
        assert metrics.glue_score("CoLA", predictions, labels) == pytest.approx(
            matthews_corrcoef(labels, predictions), abs=1e-12
        )
        for task in ("QQP", "mrpc"):
            assert metrics.glue_score(task, predictions, labels) == pytest.approx(
                f1_score(labels, predictions, zero_division=0), abs=1e-12
            )
        for task in ("SST-2", "qnli", "RTE", "MNLI", "mnli_m", "MNLI-mm"):
            assert metrics.glue_score(task, predictions, labels) == pytest.approx(
                (labels == predictions).mean()
            )
        truth = np.round(random.random(n) * 5 * 4) / 4  # with ties
        guess = truth + random.standard_normal(n)
        assert metrics.glue_score("STS-B", guess, truth) == pytest.approx(
            stats.spearmanr(guess, truth).statistic, abs=1e-12
        )


def test_degenerate_glue_predictions() -> None:
    labels = np.array([0, 1, 1, 0])
    assert (
        metrics.glue_score("cola", np.ones(4, int), labels)
        == 0.0
        == matthews_corrcoef(labels, np.ones(4))
    )
    assert metrics.glue_score("mrpc", np.zeros(4, int), labels) == 0.0
    assert metrics.is_constant(np.ones(4)) and not metrics.is_constant(labels)
    with pytest.raises(EvaluationError, match="no rank correlation"):
        metrics.glue_score("stsb", np.full(4, 2.5), np.array([1.0, 2.0, 3.0, 4.0]))
    with pytest.raises(EvaluationError, match="non-finite"):
        metrics.glue_score("stsb", np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    with pytest.raises(EvaluationError, match="classes 0 and 1"):
        metrics.glue_score("qqp", np.array([0, 2]), np.array([0, 1]))
    with pytest.raises(EvaluationError, match="none of GLUE"):
        metrics.glue_score("wnli", labels, labels)


# big_vision configs/proj/clippo/README.md: M, MM, QQP, QNLI, SST-2, CoLA, STS-B, MRPC, RTE -> avg
PUBLISHED = [
    ([71.3, 71.5, 79.1, 67.9, 85.7, 0.0, 14.0, 83.4, 54.9], 58.6),
    ([70.0, 70.1, 83.7, 81.6, 86.1, 0.0, 18.5, 83.0, 53.1], 60.7),
    ([75.7, 75.1, 85.2, 83.5, 89.6, 0.0, 82.3, 82.7, 52.7], 69.7),
    ([77.4, 77.4, 86.0, 83.9, 91.7, 34.5, 84.5, 85.1, 56.3], 75.2),
    ([79.8, 79.1, 86.5, 84.3, 92.0, 44.5, 85.3, 88.2, 58.5], 77.6),
    ([79.9, 80.2, 86.7, 85.2, 93.3, 50.9, 84.7, 86.3, 58.5], 78.4),
]
NAMES = ["MNLI-m", "MNLI-mm", "QQP", "QNLI", "SST-2", "CoLA", "STS-B", "MRPC", "RTE"]


def test_the_published_averages_are_the_mean_of_nine_numbers_and_not_of_eight() -> None:
    exact = 0
    for row, published in PUBLISHED:
        nine = metrics.glue_average(dict(zip(NAMES, row, strict=True)))
        assert abs(nine - published) < 0.06  # one row reads 69.7 for 69.644
        exact += round(nine, 1) == published
        eight = (sum(row[:2]) / 2 + sum(row[2:])) / 8
        assert abs(eight - published) > 0.15
    assert exact >= 5


def test_the_mean_takes_nine_finite_numbers_and_nothing_less() -> None:
    keys = [f"glue/{task}_{metric}" for task, metric in metrics.GLUE_METRICS.items()]
    full = dict.fromkeys(keys, 50.0)
    assert metrics.glue_average(full) == 50.0
    with pytest.raises(EvaluationError, match="cola is missing"):
        metrics.glue_average({k: v for k, v in full.items() if "cola" not in k})
    with pytest.raises(EvaluationError, match="nan"):
        metrics.glue_average({**full, "glue/cola_matthews": float("nan")})
    with pytest.raises(EvaluationError, match="none of GLUE"):
        metrics.glue_average({**full, "wnli": 56.3})
    with pytest.raises(EvaluationError, match="two scores of cola"):
        metrics.glue_average({**full, "CoLA": 1.0})
