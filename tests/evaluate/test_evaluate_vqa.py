"""VQAv2: official files, vocabulary and targets, the question on the photo, official scores, leaks
and other refusals.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from found import recomputed, score_rows, values, whys
from PIL import Image

from clippo_core import storage
from clippo_core.config import (
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    RenderConfig,
    VqaConfig,
    replace,
)
from clippo_core.embedder import Clippo
from clippo_core.errors import ConfigError, DataError, EvaluationError, ImageError, RenderError
from clippo_core.evaluate import results
from clippo_core.evaluate.harness import Session
from clippo_core.evaluate.vqa import photos
from clippo_core.evaluate.vqa import protocol as vqa
from clippo_core.evaluate.vqa.data import read_data
from clippo_core.evaluate.vqa.files import (
    Annotation,
    Question,
    find_pictures,
    read_annotations,
    read_questions,
    soft_targets,
    split_by_photo,
    vocabulary,
)
from clippo_core.evaluate.vqa.text import vqa_accuracy
from clippo_core.models import build_tower, train_tokenizer
from clippo_core.rendering import Renderer
from clippo_core.run.records import EvaluatePlan, StagePlan

MODEL = ModelConfig(width=32, depth=2, num_heads=2, mlp_dim=64, embed_dim=16)
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
PX = 48


def write_set(root, name, ids, folder="images"):
    """Plain pictures; each is asked for its colour and whether it is red. Ids below 10 have no
    second question.
    """
    (root / folder).mkdir(parents=True, exist_ok=True)
    questions, annotations = [], []
    for image_id in ids:
        colour = "red" if image_id % 2 else "blue"
        Image.new("RGB", (60, 40), COLOURS[colour]).save(
            root / folder / f"COCO_{name}_{image_id:012d}.jpg"
        )
        asked = [
            ("colour?", colour, "other", "what"),
            ("red?", "yes" if colour == "red" else "no", "yes/no", "is it"),
        ]
        for n, (text, answer, answer_type, question_type) in enumerate(
            asked if image_id >= 10 else asked[:1]
        ):
            facts = {"question_id": 1000 * image_id + n, "image_id": image_id}
            questions.append({**facts, "question": text})
            answers = [
                {"answer": answer, "answer_id": i + 1, "answer_confidence": "yes"}
                for i in range(10)
            ]
            chosen = {"answers": answers, "multiple_choice_answer": answer}
            annotations.append(
                {**facts, **chosen, "answer_type": answer_type, "question_type": question_type}
            )
    (root / f"{name}_questions.json").write_text(json.dumps({"info": {}, "questions": questions}))
    (root / f"{name}_annotations.json").write_text(
        json.dumps({"info": {}, "annotations": annotations})
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("vqa")
    write_set(root, "train", range(4, 44))
    write_set(root, "val", range(100, 120))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tower.safetensors"
    Clippo(build_tower(MODEL, PX, seed=0), RenderConfig(image_px=PX)).save(path)
    return str(path)


def config_of(data, **changes):
    tuning = FinetuneConfig(batch_size=16, epochs=2, learning_rates=(3e-3,))
    config = VqaConfig(
        train_questions=f"{data}/train_questions.json",
        train_annotations=f"{data}/train_annotations.json",
        train_images=f"{data}/images",
        questions=f"{data}/val_questions.json",
        annotations=f"{data}/val_annotations.json",
        images=f"{data}/images",
        finetune=tuning,
    )
    return replace(config, **changes)


def run(checkpoint, root, config):
    plan = EvaluatePlan(
        StagePlan(str(root), seed=0, data_digest="d"),
        EvaluateConfig(vqa=config, bootstrap_samples=50),
    )
    return vqa.run(checkpoint, plan, progress=False)


def out(root, name="result.json"):
    return Path(root) / "evaluations" / "vqa" / name


def test_learns_colours_on_unseen_photos(tmp_path, data, checkpoint):
    config = config_of(data, finetune__epochs=12)
    result = run(checkpoint, tmp_path, config)
    assert result.failure == "" and result.metrics["vqav2/overall"].value > 90
    assert (
        result.metrics["vqav2/overall"].chance == pytest.approx(50, abs=1)
        and result.split == "val_questions"
    )
    counted = {name: result.metrics[name].n for name in values(result)}
    assert counted == {f"vqav2/{name}": n for name, n in COUNTS.items()}
    assert whys(result) == {"vqav2/number": "no such question among the scored"}
    assert (
        result.is_partial
        and result.main_metrics == ["vqav2/overall"]
        and result.counts["answers"] == 4
    )
    rows = score_rows(result, tmp_path)["vqav2/overall"]
    ids = [int(row["example"]) for row in rows]
    truth = [read_annotations(config.annotations)[question_id] for question_id in ids]
    accuracies = [
        vqa_accuracy(row["answer"], t.answers) for row, t in zip(rows, truth, strict=True)
    ]
    assert [row["score"] for row in rows] == [100 * accuracy for accuracy in accuracies]
    assert [row["group"] for row in rows] == [str(t.image_id) for t in truth]
    again = recomputed(result, tmp_path)
    assert again == {"vqav2/overall": pytest.approx(result.metrics["vqav2/overall"].value)}
    assert result.metrics["vqav2/overall"].value == pytest.approx(100 * np.mean(accuracies))
    only = [a for a, t in zip(accuracies, truth, strict=True) if t.answer_type == "yes/no"]
    assert result.metrics["vqav2/yes_no"].value == pytest.approx(100 * np.mean(only))
    server = json.loads(out(tmp_path, "evalai.json").read_text())
    assert server == [
        {"question_id": question_id, "answer": row["answer"]}
        for question_id, row in zip(ids, rows, strict=True)
    ]


@pytest.mark.parametrize("kind", ["image_only", "one_tower_clip", "two_tower_clip"])
def test_baseline_towers_learn_colours_on_unseen_photos(tmp_path, data, kind):
    """The plain ViT and the image towers of 1T-CLIP and CLIP*: the question comes to them on the
    photo, as to CLIPPO.
    """
    tokenizer = (
        train_tokenizer([f"colour {n}?" for n in range(100)], str(tmp_path / "t.model"), 290)
        if kind != "image_only"
        else ""
    )
    model = replace(MODEL, kind=kind, tokenizer=tokenizer, text_tokens=9)
    Clippo(build_tower(model, PX, seed=0), RenderConfig(image_px=PX)).save(
        tmp_path / "tower.safetensors"
    )
    result = run(
        str(tmp_path / "tower.safetensors"), tmp_path, config_of(data, finetune__epochs=12)
    )
    assert (
        result.failure == ""
        and result.metrics["vqav2/overall"].low > result.metrics["vqav2/overall"].chance + 10
    )
    assert result.metrics["vqav2/overall"].value > 75


COUNTS = {
    "overall": 40,
    "other": 20,
    "yes_no": 20,
    "question_type/what": 20,
    "question_type/is it": 20,
}


def test_examples_are_the_canvas_with_the_question(tmp_path, data, checkpoint):
    import base64
    import io

    run(checkpoint, tmp_path, config_of(data))
    examples = json.loads(out(tmp_path, "examples.json").read_text())
    assert {e["hit"] for e in examples} <= {True, False} and len(examples) > 5
    for example in examples:
        content = base64.b64decode(example["pictures"][0].partition(",")[2])
        canvas = np.asarray(Image.open(io.BytesIO(content)))
        drawn = Renderer(PX).render([example["asked"]])[0]
        used = 16 * (1 + np.flatnonzero((drawn != 127).any(1))[-1] // 16)
        np.testing.assert_array_equal(canvas[:used], np.repeat(drawn[:used, :, None], 3, 2))
        below = canvas[used:].reshape(-1, 3).astype(int)
        assert (
            abs(below - np.array(COLOURS["red"])).max() < 9
            or abs(below - np.array(COLOURS["blue"])).max() < 9
        )


@pytest.mark.parametrize("place", ["overlay", "above"])
def test_the_question_is_read_and_not_only_the_photo(tmp_path, data, checkpoint, place):
    """The same photos are asked two questions with different answers: without reading, one of them
    fails.
    """
    config = config_of(data, question_place=place, finetune__epochs=12)
    result = run(checkpoint, tmp_path, config)
    assert result.metrics["vqav2/other"].value > 90 and result.metrics["vqav2/yes_no"].value > 90


def test_everything_in_a_bucket(s3, data, checkpoint, tmp_path):
    """Data, results and unfinished trials under s3://: the same bytes as in a folder."""
    for path in data.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{s3}/vqa/{path.relative_to(data).as_posix()}", path.read_bytes())
    run(checkpoint, f"{s3}/run", config_of(f"{s3}/vqa", finetune__epochs=1))
    run(checkpoint, tmp_path, config_of(data, finetune__epochs=1))
    for name in ("predictions.parquet", "evalai.json", "examples.json"):
        assert (
            storage.read_bytes(f"{s3}/run/evaluations/vqa/{name}")
            == out(tmp_path, name).read_bytes()
        )
    assert len(storage.list_files(f"{s3}/run")) == 5


def test_another_resolution(tmp_path, data, checkpoint):
    result = run(checkpoint, tmp_path, config_of(data, image_px=64, finetune__epochs=1))
    assert result.failure == "" and "64 px" in result.protocol
    assert (
        result.inputs_digest
        != run(checkpoint, tmp_path / "own", config_of(data, finetune__epochs=1)).inputs_digest
    )


def test_split_by_photo_where_both_files_are_one(tmp_path, data, checkpoint):
    config = config_of(
        data, questions=f"{data}/train_questions.json", annotations="", holdout_share=0.25
    )
    made = read_data(config, seed=3)
    train, asked = {q.image_id for q in made.train}, {q.image_id for q in made.asked}
    assert not train & asked and len(asked) == 10 and len(train) == 30 and made.dev is made.asked
    assert made.asked != read_data(config, seed=4).asked
    result = run(checkpoint, tmp_path, config)
    assert (
        result.split == "0.25 of the photos held out"
        and result.counts["photos"] == 10
        and "vqav2/overall" in result.metrics
    )


def test_scoring_what_was_trained_on_is_refused(tmp_path, data, checkpoint):
    write_set(tmp_path, "both", [*range(100, 104), *range(200, 216)])
    config = config_of(
        data,
        train_questions=f"{tmp_path}/both_questions.json",
        train_annotations=f"{tmp_path}/both_annotations.json",
    )
    result = run(checkpoint, tmp_path, config)
    assert (
        result.failure.startswith("EvaluationError: 8 of 40 questions to score were trained on")
        and not result.metrics
    )
    assert json.loads(out(tmp_path).read_text())["failure"] == result.failure


def test_a_photo_on_both_sides_is_refused(tmp_path, data, checkpoint):
    write_set(tmp_path, "other", range(100, 120))
    for kind in ("questions", "annotations"):
        path = tmp_path / f"other_{kind}.json"
        content = json.loads(path.read_text())
        for item in content[kind]:
            item["question_id"] += 500
        path.write_text(json.dumps(content))
    config = config_of(
        data,
        train_questions=f"{tmp_path}/other_questions.json",
        train_annotations=f"{tmp_path}/other_annotations.json",
    )
    with pytest.raises(EvaluationError, match="20 photos are both trained on and scored"):
        read_data(config, 0)


def test_without_annotations_only_the_servers_file_is_written(tmp_path, data, checkpoint):
    """Trials are then chosen on photos held out of training, never on what is to be answered."""
    for name, rates in (("one", (3e-3,)), ("two", (1e-3, 3e-3))):
        config = config_of(data, annotations="", finetune__learning_rates=rates)
        result = run(checkpoint, tmp_path / name, config)
        assert (
            values(result) == {}
            and "for the server" in result.metrics["vqav2/overall"].why_not
            and result.failure == ""
        )
        assert len(json.loads(out(tmp_path / name, "evalai.json").read_text())) == 40
        made = read_data(config, 0)
        assert (len(made.train) < 74) == (name == "two") and made.truth == []
        assert not {q.image_id for q in made.dev} & {q.image_id for q in made.train}


def test_questions_without_known_answer_are_scored_but_not_trained_on(tmp_path, data):
    path = tmp_path / "train_annotations.json"
    content = json.loads((data / "train_annotations.json").read_text())
    for item in content["annotations"][:5]:
        item["multiple_choice_answer"] = "mauve"
        item["answers"] = [{"answer": "mauve"}] * 10
    path.write_text(json.dumps(content))
    made = read_data(config_of(data, train_annotations=str(path)), 0)
    assert (
        made.n_unanswerable == 5
        and len(made.train) == 74 - 5
        and "mauve" not in made.answers
        and all(made.targets)
    )
    path = tmp_path / "val_annotations.json"
    content = json.loads((data / "val_annotations.json").read_text())
    content["annotations"][0]["answers"] = [{"answer": "mauve"}] * 10
    path.write_text(json.dumps(content))
    assert len(read_data(config_of(data, annotations=str(path)), 0).truth) == 40


def annotation(answer, n=10):
    return Annotation(1, 1, (answer,) * n, answer, "other", "what")


def test_vocabulary_is_normalised_and_in_first_seen_order():
    said = ["Tree"] * 9 + ["two"] * 5 + ["a dog"] * 20 + ["2."] * 4 + ["cat"] * 8
    assert vocabulary(map(annotation, said), 9) == ["tree", "2", "dog"]
    with pytest.raises(EvaluationError, match="no answer occurs in 99 of the 46 questions"):
        vocabulary(map(annotation, said), 99)


def test_extra_annotations_count_towards_the_vocabulary_only(data, tmp_path):
    content = json.loads((data / "val_annotations.json").read_text())
    for item in content["annotations"]:
        item["multiple_choice_answer"] = "green"
    (tmp_path / "more.json").write_text(json.dumps(content))
    made = read_data(config_of(data, vocabulary_annotations=(str(tmp_path / "more.json"),)), 0)
    assert made.answers == ["blue", "red", "no", "yes", "green"] and len(made.train) == 74


def test_soft_targets_count_raw_strings():
    classes = {"yes": 0, "no": 1, "2": 2}
    assert soft_targets(["yes"] * 3 + ["Yes"] * 2 + ["no"] * 5, classes) == {0: 0.9, 1: 1.0}
    assert soft_targets(["two"] * 9 + ["2"], classes) == {2: 0.3}
    assert soft_targets(["maybe"] * 10, classes) == {}


def test_a_question_that_the_released_weights_saw_drawn_otherwise_warns(data):
    """As the embedder does for released weights; and raises under strict_font."""
    made = read_data(config_of(data), 0)
    asked = [Question(1, made.train[0].image_id, "m³?")]
    tower = build_tower(MODEL, PX, seed=0)
    canvas = vqa.Canvas(
        config_of(data), made, Clippo(tower, RenderConfig(image_px=PX), warn_font=True), 2 * PX
    )
    with pytest.warns(UserWarning, match=r"U\+00B3.*9\.0\.06"):
        canvas.inputs(asked)
    own = vqa.Canvas(config_of(data), made, Clippo(tower, RenderConfig(image_px=PX)), PX)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own.inputs(asked)
    strict = vqa.Canvas(
        config_of(data), made, Clippo(tower, RenderConfig(image_px=PX, strict_font=True)), 2 * PX
    )
    with pytest.raises(RenderError, match="9.0.06"):
        strict.inputs(asked)


def test_loss_is_bce_summed_over_answers(data, checkpoint):
    made = read_data(config_of(data), 0)
    problem = vqa._problem(made, vqa.Canvas(config_of(data), made, Clippo.load(checkpoint), PX))
    outputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    found = problem.loss(outputs, np.array([0, 7, 9]))
    for row, i in enumerate((0, 7, 9)):
        wanted = 0.0
        for answer in range(4):
            target, p = (
                made.targets[i].get(answer, 0.0),
                1 / (1 + np.exp(-float(outputs[row, answer]))),
            )
            wanted -= target * np.log(p) + (1 - target) * np.log(1 - p)
        assert float(found[row]) == pytest.approx(wanted, rel=1e-5)


# The official scores


@pytest.mark.parametrize("part", ["", "textonly"])
def test_official_evaluator_agrees(slices, part, checkpoint):
    """The numbers that the benchmark's own vqaEval.py gave to a made-up results file."""
    folder = slices / "vqav2" / part
    reference = json.loads((folder / "reference/official_accuracy.json").read_text())
    said = json.loads(
        (folder / "reference/v2_OpenEnded_mscoco_train2014_fake_results.json").read_text()
    )
    answers = {item["question_id"]: item["answer"] for item in said}
    questions = read_questions(str(folder / "v2_OpenEnded_mscoco_train2014_questions.json"))
    annotations = read_annotations(str(folder / "v2_mscoco_train2014_annotations.json"))
    truth = [annotations[q.question_id] for q in questions]
    accuracies = np.array(
        [
            vqa_accuracy(answers[q.question_id], t.answers)
            for q, t in zip(questions, truth, strict=True)
        ]
    )
    evaluate = EvaluateConfig(vqa=TEXT_ONLY(folder), bootstrap_samples=2)
    plan = EvaluatePlan(StagePlan("", seed=0, data_digest=""), evaluate)
    session = Session("vqa", plan, Clippo.load(checkpoint), "d", progress=False)
    made = read_data(TEXT_ONLY(folder), 0)
    vqa._score(session, replace(made, asked=questions, truth=truth), accuracies)
    found = values(session.result("vqa", {}))
    rounded = {name: round(value, 2) for name, value in found.items()}
    assert rounded["vqav2/overall"] == reference["accuracy"]["overall"] in (50.11, 49.49)
    for kind, value in reference["accuracy"]["perAnswerType"].items():
        assert rounded[f"vqav2/{kind.replace('/', '_')}"] == value
    for kind, value in reference["accuracy"]["perQuestionType"].items():
        assert rounded[f"vqav2/question_type/{kind}"] == value


def TEXT_ONLY(folder):
    questions = str(folder / "v2_OpenEnded_mscoco_train2014_questions.json")
    annotations = str(folder / "v2_mscoco_train2014_annotations.json")
    return VqaConfig(questions, annotations, "no-pictures-are-read", questions, min_answer_count=1)


def test_real_slice(slices, tmp_path, checkpoint):
    folder = slices / "vqav2"
    questions = str(folder / "v2_OpenEnded_mscoco_train2014_questions.json")
    extra = (str(folder / "textonly/v2_mscoco_train2014_annotations.json"),)
    config = VqaConfig(
        questions,
        str(folder / "v2_mscoco_train2014_annotations.json"),
        str(folder / "train2014"),
        questions,
        vocabulary_annotations=extra,
        finetune=FinetuneConfig(batch_size=16, epochs=1, learning_rates=(1e-3,)),
    )
    result = run(checkpoint, tmp_path, config)
    assert (
        result.failure == ""
        and result.is_partial
        and result.counts["photos"] == 12
        and result.counts["answers"] == 46
    )
    assert (
        result.n_examples
        == result.metrics["vqav2/overall"].n
        == 88 - len(read_data(config, 0).train) - result.counts[UNKNOWN]
    )
    assert results.read_result(str(out(tmp_path).parent)) == result


UNKNOWN = "train_questions_without_known_answer"


def test_synthetic_pack_in_the_official_format(slices, tmp_path, checkpoint):
    """Pictures under names of their own get the ids of the questions by links."""
    folder = slices / "emoji36"
    ids = json.loads((folder / "vqa_image_ids.json").read_text())
    for image_id, key in list(ids.items())[:60]:
        found = next((folder / "images").glob(f"{key}.*"))
        (tmp_path / f"{image_id}{found.suffix}").symlink_to(found)
    for kind in ("questions", "annotations"):
        content = json.loads((folder / f"vqa_{kind}.json").read_text())
        content[kind] = [item for item in content[kind] if item["image_id"] < 60]
        (tmp_path / f"{kind}.json").write_text(json.dumps(content))
    questions = f"{tmp_path}/questions.json"
    tuning = FinetuneConfig(batch_size=16, epochs=1, learning_rates=(1e-3,))
    config = VqaConfig(
        questions,
        f"{tmp_path}/annotations.json",
        str(tmp_path),
        questions,
        finetune=tuning,
        dataset="emoji_vqa",
    )
    result = run(checkpoint, tmp_path / "out", config)
    assert (
        result.failure == ""
        and result.counts["photos"] == 12
        and "emoji_vqa/yes_no" in result.metrics
    )


# Bad input


def changed(data, tmp_path, kind, change):
    content = json.loads((data / f"train_{kind}.json").read_text())
    change(content)
    path = tmp_path / f"bad_{kind}.json"
    path.write_text(json.dumps(content))
    return config_of(data, **{f"train_{kind}": str(path)})


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("questions", lambda c: c.pop("questions"), "questions is missing"),
        (
            "questions",
            lambda c: c["questions"][3].pop("question"),
            r"questions\[3\].question is missing",
        ),
        (
            "questions",
            lambda c: c["questions"][3].update(image_id="12"),
            r"questions\[3\].image_id is a text, '12', and must be a whole number",
        ),
        ("questions", lambda c: c["questions"].append(c["questions"][0]), "occur twice"),
        ("annotations", lambda c: c["annotations"].pop(), "1 questions have no annotation"),
        (
            "annotations",
            lambda c: c["annotations"][0].update(answers=[]),
            r"annotations\[0\].answers is empty",
        ),
        ("annotations", lambda c: c["annotations"][0].update(image_id=7), "not of one set"),
        (
            "annotations",
            lambda c: c["annotations"][0].update(answer_type="overall"),
            "answer_type is 'overall'; it must be one of yes/no",
        ),
        (
            "annotations",
            lambda c: c["annotations"][0]["answers"][1].update(answer=["no"]),
            "answer is a list",
        ),
        ("questions", lambda c: c["questions"][0].update(image_id=2**70), "beyond 64 bits"),
        ("questions", lambda c: c.update(questions={}), "questions is an object"),
        ("questions", lambda c: c.update(questions=[1]), r"questions\[0\] is a whole number"),
        (
            "annotations",
            lambda c: c["annotations"][0].update(answer_type=None),
            r"annotations\[0\].answer_type is null",
        ),
    ],
)
def test_broken_files_are_refused_with_a_reason(data, tmp_path, kind, change, words):
    with pytest.raises(DataError, match=words):
        read_data(changed(data, tmp_path, kind, change), 0)


def test_missing_file_pictures_and_config(data, tmp_path, checkpoint):
    result = run(checkpoint, tmp_path, config_of(data, train_questions=f"{tmp_path}/none.json"))
    assert "none.json" in result.failure and len(result.weights_sha256) == 64
    with pytest.raises(
        DataError, match=r"2 of the questions' pictures are not there, e.g. \[998, 999\]"
    ):
        find_pictures(f"{data}/images", [100, 998, 999])
    assert (
        "there is no such"
        in run(checkpoint, tmp_path, config_of(data, train_images=f"{tmp_path}/nowhere")).failure
    )
    plan = EvaluatePlan(StagePlan(str(tmp_path), seed=0, data_digest=""), EvaluateConfig())
    with pytest.raises(ConfigError, match=r"evaluate\.vqa is not set"):
        vqa.run(checkpoint, plan)


def test_two_pictures_of_one_number_are_refused(tmp_path):
    for name in ("a/COCO_train_0042.jpg", "b/42.png", "b/7.png", "b/c7.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="two pictures have the number 42, and one of them is b/42"):
        find_pictures(str(tmp_path), [42])
    (tmp_path / "b/42.png").unlink()
    assert find_pictures(str(tmp_path), [42]) == {42: f"{tmp_path}/a/COCO_train_0042.jpg"}
    (tmp_path / ("1" + "0" * 17 + "42.jpg")).write_bytes(b"")
    (tmp_path / ("9" * 30 + "5.jpg")).write_bytes(b"")
    with pytest.raises(DataError, match="not there"):
        find_pictures(str(tmp_path), [5])


def test_a_cut_picture_is_named(data, tmp_path):
    (tmp_path / "1.jpg").write_bytes((data / "images/COCO_val_000000000100.jpg").read_bytes()[:200])
    with pytest.raises(ImageError, match=r"1\.jpg"):
        photos.Photos({1: str(tmp_path / "1.jpg")}, 32)


def test_a_split_that_leaves_nothing_is_refused(data):
    questions = read_questions(f"{data}/train_questions.json")
    for share in (0.0, 0.001, 1.0):
        with pytest.raises(EvaluationError, match="cannot be split"):
            split_by_photo(questions, share, 0)


def test_photos_are_the_same_in_memory_and_in_a_file(data, monkeypatch):
    pictures = find_pictures(f"{data}/images", range(100, 110))
    held = photos.Photos(pictures, 32).batch([103, 100, 103])
    monkeypatch.setattr(photos, "MEMORY_BYTES", 0)
    assert torch.equal(held, photos.Photos(pictures, 32).batch([103, 100, 103])) and held.shape == (
        3,
        3,
        32,
        32,
    )


KILLED = """
import sys
sys.path[:0] = [{tests!r}, {project!r}]
import test_evaluate_vqa as t
print("ready", flush=True)
t.run(sys.argv[1], sys.argv[2], t.killed_config(sys.argv[3]))
"""


def killed_config(data):
    return config_of(
        data,
        finetune__learning_rates=(1e-3, 2e-3, 3e-3),
        finetune__patience_epochs=3,
        finetune__epochs=4,
    )


@pytest.mark.slow
def test_five_random_kills_do_not_change_a_byte(tmp_path, data, checkpoint):
    started = time.monotonic()
    run(checkpoint, tmp_path / "whole", killed_config(data))
    seconds = time.monotonic() - started
    here = Path(__file__).resolve()
    code = KILLED.format(tests=str(here.parent), project=str(here.parents[2]))
    chance = random.Random(1)
    for _ in range(5):
        command = [sys.executable, "-c", code, checkpoint, str(tmp_path / "killed"), str(data)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.2, 0.6 * seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(checkpoint, tmp_path / "killed", killed_config(data))
    for name in ("result.json", "predictions.parquet", "examples.json", "evalai.json"):
        assert (
            out(tmp_path / "whole", name).read_bytes()
            == out(tmp_path / "killed", name).read_bytes()
        )
