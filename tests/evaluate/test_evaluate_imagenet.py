"""Zero-shot and few-shot through the real tower, renderer and files: known answers, every layout,
bad input.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from drawn import WORDS, draw, evaluate_plan, noise, phrases, tiny_checkpoint
from found import flags, recomputed, score_rows, whys
from PIL import Image
from sklearn.linear_model import Ridge

from clippo_core.config import ImagenetConfig
from clippo_core.embedder import Clippo
from clippo_core.errors import ConfigError, DataError, EvaluationError
from clippo_core.evaluate.imagenet import few_shot, prompts
from clippo_core.evaluate.imagenet import protocol as imagenet
from clippo_core.evaluate.imagenet.class_names import load_class_names, multi_labels
from clippo_core.evaluate.imagenet.labelled import open_labelled
from clippo_core.run.records import EvalResult


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("tower"))


def write_names(folder: Path, names: list[str]) -> str:
    (folder / "names.json").write_text(json.dumps(names))
    return str(folder / "names.json")


def own_names(folder: Path, n: int = 12, **changes) -> ImagenetConfig:
    """n classes with one picture each: the drawing of the class's name."""
    names = phrases(n)
    for i, name in enumerate(names):
        draw(name, folder / "val" / f"{i:02d}" / f"v{i:02d}.png")
    fields = {"dataset": "drawn", "templates": "name", "n_classes": n, "expect_images": n} | changes
    return ImagenetConfig(str(folder / "val"), write_names(folder, names), **fields)


def columns(result: EvalResult, root: Path) -> dict[str, list]:
    """Columns of the zero-shot scores, one value per picture."""
    rows = score_rows(result, root)[f"{result.dataset}/zero_shot_top1"]
    return {name: [row[name] for row in rows] for name in rows[0]}


def run(checkpoint: str, root: Path, config: ImagenetConfig, **evaluate):
    return imagenet.run(
        checkpoint, evaluate_plan(root, imagenet=config, **evaluate), progress=False
    )


# --- prompts -------------------------------------------------------------------------------------


def test_the_template_sets_are_those_of_clip_and_of_the_papers_system(slices):
    listed = json.loads((slices / "imagenet_sample/clip_templates_imagenet1k.json").read_text())
    assert list(prompts.CLIP) == [template.replace("{c}", "{}") for template in listed]


def test_template_sets_and_canonical_form():
    assert [
        len(prompts.load_templates(name)) for name in ("clip_paper", "clip", "clip_best", "name")
    ] == [81, 80, 8, 1]
    assert len(set(prompts.load_templates("clip_paper"))) == 81
    assert "a closeup photo of a {}" in prompts.load_templates(
        "clip"
    ) and "{}" in prompts.load_templates("clip_best")
    assert prompts.canonical("A_close-up  photo, of a {}.", keep="{}") == "a closeup photo of a {}"
    assert prompts.canonical_name("Kite (bird of prey), glede") == "kite bird of prey"
    assert prompts.canonical_name("crane_bird") == "crane bird"


def test_own_templates_and_bad_ones(tmp_path):
    path = tmp_path / "templates.json"
    path.write_text(json.dumps(["A photo of {}!", "{c}"]))
    assert prompts.load_templates(str(path)) == ("a photo of {}", "{}")
    for content, word in [
        (["no place"], "exactly one"),
        (["{} {}"], "exactly one"),
        ([], "empty list"),
        ({"a": 1}, "is an object, and must be a list"),
        (["{}", None], r"template\[1\] is null, and must be a text"),
    ]:
        path.write_text(json.dumps(content))
        with pytest.raises(EvaluationError, match=word):
            prompts.load_templates(str(path))
    with pytest.raises(ConfigError, match="clip_paper"):
        prompts.load_templates("clip_papers")


# --- zero-shot -----------------------------------------------------------------------------------


def test_a_tower_that_is_given_the_answer_scores_100(tmp_path, checkpoint):
    result = run(checkpoint, tmp_path / "run", own_names(tmp_path))
    assert result.failure == "" and not result.is_partial
    for metric in ("zero_shot_top1", "zero_shot_top5", "zero_shot_class_mean"):
        assert result.metrics[f"drawn/{metric}"].value == 100.0
    assert result.metrics["drawn/zero_shot_top1"].chance == pytest.approx(100 / 12)
    assert result.metrics["drawn/zero_shot_top5"].chance == pytest.approx(500 / 12)
    assert whys(result) == {
        "drawn/10shot_top1": "no training pictures are configured (train_images)"
    }


def test_noise_is_at_chance_and_a_collapsed_tower_scores_0(tmp_path, checkpoint):
    config = own_names(tmp_path)
    rng = np.random.default_rng(0)
    for picture in (tmp_path / "val").glob("*/*.png"):
        picture.unlink()
    for i in range(240):
        noise(tmp_path / "val" / f"{rng.integers(12):02d}" / f"n{i:03d}.png", seed=i)
    config = ImagenetConfig(
        config.images,
        config.class_names,
        "drawn",
        templates="name",
        n_classes=12,
        expect_images=240,
    )
    result = run(checkpoint, tmp_path / "a", config)
    chance = result.metrics["drawn/zero_shot_top1"].chance
    assert abs(result.metrics["drawn/zero_shot_top1"].value - chance) <= 3 * np.sqrt(
        chance * (100 - chance) / 240
    )
    low, high = result.metrics["drawn/zero_shot_top1"].bounds
    assert low <= result.metrics["drawn/zero_shot_top1"].value <= high and low < high
    collapsed = run(tiny_checkpoint(tmp_path, collapse=True), tmp_path / "b", config)
    assert collapsed.metrics["drawn/zero_shot_top1"].value == 0.0
    assert collapsed.metrics["drawn/zero_shot_top1"].flag.startswith("100.00 % of the images tie")


def test_the_classifier_is_the_renormalised_mean_of_unit_prompts(tmp_path, checkpoint):
    config = own_names(tmp_path, templates="clip_best", shots=())
    result = run(checkpoint, tmp_path / "run", config)
    rows = columns(result, tmp_path / "run")
    model = Clippo.load(checkpoint, device="cpu")
    names = phrases(12)
    best = []
    for name in names:
        unit = model.embed_texts(
            [template.replace("{}", name) for template in prompts.load_templates("clip_best")]
        )
        assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
        mean = unit.astype(np.float64).mean(axis=0)
        best.append(mean / np.linalg.norm(mean))
    pictures = model.embed_images(
        [str(path) for path in sorted((tmp_path / "val").glob("*/*.png"))]
    )
    assert rows["predicted"] == (pictures @ np.stack(best).T).argmax(axis=1).tolist()
    assert rows["predicted_name"] == [names[i] for i in rows["predicted"]]


def test_class_mean_weighs_classes_and_not_images(tmp_path, checkpoint):
    config = own_names(tmp_path, n=6, expect_images=15)
    for i in range(9):  # nine more pictures of class 0, all of them drawings of class 1's name
        draw(phrases(6)[1], tmp_path / "val" / "00" / f"w{i}.png")
    result = run(checkpoint, tmp_path / "run", config)
    assert result.metrics["drawn/zero_shot_top1"].value == pytest.approx(100 * 6 / 15)
    assert result.metrics["drawn/zero_shot_class_mean"].value == pytest.approx(100 * (0.1 + 5) / 6)
    low, high = result.metrics["drawn/zero_shot_class_mean"].bounds
    assert low <= result.metrics["drawn/zero_shot_class_mean"].value <= high


def test_any_of_several_labels(tmp_path, checkpoint):
    config = own_names(tmp_path, n=6, multi_labels=str(tmp_path / "real.json"))
    # v00 is right by its second label, v01 wrong, v02 has no label and is left out, the others are
    # right.
    Path(config.multi_labels).write_text(json.dumps([[3, 0], [2], [], [3], [4], [5]]))
    result = run(checkpoint, tmp_path / "a", config)
    assert result.metrics["drawn/zero_shot_any_correct"].value == pytest.approx(80.0)
    assert result.metrics["drawn/zero_shot_any_correct"].n == 5
    assert result.metrics["drawn/zero_shot_any_correct"].chance == pytest.approx(100 * 6 / 5 / 6)
    by_name = {f"v{i:02d}.png": labels for i, labels in enumerate([[3, 0], [2], [], [3], [4], [5]])}
    Path(config.multi_labels).write_text(json.dumps(by_name))
    assert run(checkpoint, tmp_path / "b", config).metrics == result.metrics
    Path(config.multi_labels).write_text("[[0]]")
    assert (
        "labels for 1 pictures, but there are 6" in run(checkpoint, tmp_path / "c", config).failure
    )


def test_two_classes_of_one_name_are_the_earlier_one(tmp_path, checkpoint):
    names = ["missile", "cat", "Missile.", "dog", "sun", "map", "key"]
    for i in (0, 1, 2):
        draw(prompts.canonical_name(names[i]), tmp_path / "val" / f"{i}" / "x.png")
    for i in (3, 4, 5, 6):
        draw(names[i], tmp_path / "val" / f"{i}" / "x.png")
    config = ImagenetConfig(
        str(tmp_path / "val"), write_names(tmp_path, names), "drawn", "", "name", (), 7, 7
    )
    result = run(checkpoint, tmp_path / "run", config)
    assert result.metrics["drawn/zero_shot_top1"].value == pytest.approx(100 * 6 / 7)
    assert result.metrics["drawn/zero_shot_top5"].value == 100.0, "the twin is second"
    assert result.counts["classes_with_a_shared_name"] == 1 and not flags(result)


def test_no_digit_depends_on_the_batch_size(tmp_path, checkpoint):
    config = own_names(tmp_path, n=30, templates="clip_best", shots=())
    results = [
        run(checkpoint, tmp_path / str(size), config, batch_size=size) for size in (1, 7, 256)
    ]
    assert results[0] == results[1] == results[2]
    written = [
        (tmp_path / str(size) / "evaluations/imagenet/predictions.parquet").read_bytes()
        for size in (1, 7, 256)
    ]
    assert written[0] == written[1] == written[2]


def test_embeddings_in_bfloat16_are_said_and_near(tmp_path, checkpoint):
    config = own_names(tmp_path, n=30, shots=())
    exact, tf32, fast = (
        run(checkpoint, tmp_path / name, config, precision=name)
        for name in ("float32", "tf32", "bfloat16")
    )
    assert "computed in" not in exact.protocol
    assert fast.protocol == f"{exact.protocol}; embeddings computed in bfloat16"
    assert len({exact.inputs_digest, tf32.inputs_digest, fast.inputs_digest}) == 3
    assert tf32.metrics == exact.metrics  # on a CPU
    pictures = [str(path) for path in sorted((tmp_path / "val").rglob("*.png"))]
    rows = [
        Clippo.load(checkpoint, "cpu", precision=precision).embed_images(pictures)
        for precision in ("float32", "bfloat16")
    ]
    assert not np.array_equal(*rows) and (rows[0] * rows[1]).sum(1).min() > 0.999
    names = [
        {path.name for path in (tmp_path / name / "evaluations/imagenet/features").glob("*")}
        for name in ("float32", "bfloat16")
    ]
    assert names[0] and names[0].isdisjoint(names[1])  # neither reads the other's features
    found = fast.metrics["drawn/zero_shot_top1"].value
    assert found == pytest.approx(exact.metrics["drawn/zero_shot_top1"].value, abs=10)


# --- few-shot ------------------------------------------------------------------------------------


def shot_data(folder: Path, n_classes: int = 4, train: int = 12, val: int = 10) -> ImagenetConfig:
    """Classes told apart by their brightest corner, under noise."""
    rng = np.random.default_rng(3)
    for part, count in (("train", train), ("val", val)):
        for c in range(n_classes):
            for i in range(count):
                image = rng.integers(0, 120, (48, 48, 3))
                rows, columns = (
                    slice(24 * (c // 2), 24 * (c // 2) + 24),
                    slice(24 * (c % 2), 24 * (c % 2) + 24),
                )
                image[rows, columns] += rng.integers(0, 120)
                path = folder / part / f"c{c}" / f"{part}{i:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.astype(np.uint8)).save(path)
    return ImagenetConfig(
        str(folder / "val"),
        write_names(folder, list(WORDS[:n_classes])),
        "corners",
        str(folder / "train"),
        "name",
        (1, 5, 10, 25),
        n_classes,
        n_classes * val,
    )


def test_few_shot_equals_scikit_learn_on_the_same_shots(tmp_path, checkpoint):
    config = shot_data(tmp_path)
    result = run(checkpoint, tmp_path / "run", config)
    assert result.failure == ""
    assert result.metrics["corners/25shot_top1"].why_not == "a class has only 12 training pictures"
    assert result.main_metrics == ["corners/zero_shot_top1", "corners/10shot_top1"]
    model = Clippo.load(checkpoint, device="cpu")
    train, val = (sorted((tmp_path / part).glob("*/*.png")) for part in ("train", "val"))
    labels = np.array([int(path.parent.name[1:]) for path in train])
    truth = np.array([int(path.parent.name[1:]) for path in val])
    x, x_test = (
        model.pooled_images([str(p) for p in paths], preprocess="fewshot").astype(np.float64)
        for paths in (train, val)
    )
    for k in (1, 5, 10):
        by_seed = []
        for seed in (0, 1, 2):
            rng = np.random.default_rng(seed)
            chosen = np.concatenate(
                [rng.permutation(np.where(labels == c)[0])[:k] for c in range(4)]
            )
            shots = x[chosen]
            mean, std = shots.mean(0), shots.std(0) + 1e-5
            design = [
                np.concatenate([(v - mean) / std, np.full((len(v), 1), 100.0)], axis=1)
                for v in (shots, x_test)
            ]
            ridge = Ridge(alpha=1024, fit_intercept=False).fit(
                design[0], 2 * np.eye(4)[labels[chosen]] - 1
            )
            by_seed.append(100 * (ridge.predict(design[1]).argmax(1) == truth).mean())
            assert result.metrics[f"corners/{k}shot_top1_seed{seed}"].value == pytest.approx(
                by_seed[-1]
            )
        assert result.metrics[f"corners/{k}shot_top1"].value == pytest.approx(np.mean(by_seed))
        assert result.metrics[f"corners/{k}shot_top1"].chance == 25.0
    again = recomputed(result, tmp_path / "run")
    assert again == {name: pytest.approx(result.metrics[name].value, abs=1e-12) for name in again}
    assert set(result.main_metrics) < set(again)
    assert result.metrics["corners/10shot_top1"].low > 25, "corners can be told apart"


def test_shots_are_drawn_class_by_class_from_one_generator():
    labels = np.array([0, 1, 0, 1, 0, 1, 1])
    drawn = few_shot.draw_shots(labels, 2, 3, seed=1)
    rng = np.random.default_rng(1)
    expected = [rng.permutation(np.where(labels == c)[0])[:3].tolist() for c in range(2)]
    assert drawn.tolist() == expected


def test_the_same_picture_in_training_and_evaluation_is_refused(tmp_path, checkpoint):
    config = shot_data(tmp_path, train=5)
    (tmp_path / "train/c0/train00.png").write_bytes((tmp_path / "val/c0/val00.png").read_bytes())
    result = run(checkpoint, tmp_path / "run", ImagenetConfig(**{**vars(config), "shots": (5,)}))
    assert (
        result.metrics["corners/5shot_top1"].why_not
        == "1 of the training pictures are evaluated, too: use another pool"
    )
    assert "corners/zero_shot_top1" in result.metrics


# --- layouts and bad input -----------------------------------------------------------------------


def test_parquet_and_tars_give_the_numbers_of_the_folder(tmp_path, checkpoint):
    config = own_names(tmp_path, n=8, shots=())
    reference = run(checkpoint, tmp_path / "0", config)
    paths = sorted((tmp_path / "val").glob("*/*.png"))
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": path.name}, "label": i}
        for i, path in enumerate(paths)
    ]
    (tmp_path / "parquet").mkdir()
    for part in (0, 1):
        table = pyarrow.Table.from_pylist(rows[4 * part : 4 * part + 4])
        pyarrow.parquet.write_table(
            table,
            tmp_path / "parquet" / f"validation-{part:05d}-of-00002.parquet",
            row_group_size=3,
        )
    (tmp_path / "tars").mkdir()
    (tmp_path / "folder_tars").mkdir()
    with (
        tarfile.open(tmp_path / "tars" / "00.tar", "w") as tar,
        tarfile.open(tmp_path / "folder_tars" / "val.tar", "w") as folder_tar,
    ):
        for i, path in enumerate(paths):
            add(tar, f"{i:04d}.png", path.read_bytes())
            add(tar, f"{i:04d}.cls", str(i).encode())
            add(tar, f"{i:04d}.json", b"{}")
            add(folder_tar, f"val/{path.parent.name}/{path.name}", path.read_bytes())
    assert [
        open_labelled(str(tmp_path / kind)).by_number for kind in ("val", "parquet", "tars")
    ] == [False, True, True]
    kinds = ("parquet", "tars", "tars/00.tar", "parquet/*.parquet", "folder_tars")
    for number, kind in enumerate(kinds, start=1):
        changed = ImagenetConfig(**{**vars(config), "images": str(tmp_path / kind)})
        assert run(checkpoint, tmp_path / str(number), changed).metrics == reference.metrics, kind


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def test_bad_sets_are_refused(tmp_path):
    for name, content, word in [
        ("x.parquet", b"PAR1 no", "no parquet file"),
        ("x.tar", b"no tar", "x.tar: it is cut short at offset 0"),
        ("x.tar", b"", "x.tar: it is empty"),
        ("x.tar", b"\x1f\x8b" + bytes(600), "compressed with gzip"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=word):
            open_labelled(str(tmp_path / name))
    table = pyarrow.Table.from_pylist([{"picture": b"", "label": 1}])
    pyarrow.parquet.write_table(table.drop(["label"]), tmp_path / "y.parquet")
    with pytest.raises(DataError, match="y.parquet"):
        open_labelled(str(tmp_path / "y.parquet"))
    with tarfile.open(tmp_path / "z.tar", "w") as tar:
        add(tar, "a.png", b"")
        add(tar, "b.png", b"")
        add(tar, "a.cls", b"3")
    with pytest.raises(DataError, match="b.png.*has no .cls"):
        open_labelled(str(tmp_path / "z.tar"))
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        open_labelled(str(tmp_path / "folder.tar"))
    with pytest.raises(DataError, match="check `images`"):
        open_labelled(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").write_text("x")
    with pytest.raises(DataError, match="no pictures in class folders"):
        open_labelled(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.png", b""), ("a.json", b"[]")], "a.json: it is a list, and must be an object"),
        ([("a.png", b""), ("a.json", b'{"label": 1e400}')], "1e400, which is beyond every number"),
        ([("a.png", b""), ("a.json", b'{"label": "3"}')], "label is a text, '3', and must be a"),
        ([("a.png", b""), ("a.json", b"[" * 9999)], "a.json: its json is nested more than 64"),
        ([("a.png", b""), ("a.json", b'{"label": 99999999999999999999}')], "beyond 64 bits"),
        ([("a.png", b""), ("a.cls", b"1_0")], "a.cls: '1_0' is no whole number"),
        ([("a.png", b""), ("a.cls", "\u0663".encode())], "no whole number"),
        ([("a.png", b""), ("a.cls", b"\xff")], "no whole number"),
        ([("a.png", b""), ("a.cls", b"1" * 2**21)], "more than 1,048,576 bytes"),
        ([("d/../../a.png", b"")], "leads out of its folder"),
        ([("d/a.png", b"1"), ("d/a.png", b"2")], "occurs twice"),
    ],
)
def test_labels_and_names_in_tars_that_cannot_be_used(tmp_path, members, words):
    with tarfile.open(tmp_path / "z.tar", "w") as tar:
        for name, data in members:
            add(tar, name, data)
    with pytest.raises(DataError, match=words):
        open_labelled(str(tmp_path / "z.tar"))


def test_a_cls_wins_over_a_json_and_equal_names_in_two_tars_stay_apart(tmp_path):
    for folder, label in (("a", b"1\n"), ("b", b"2")):
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "z.tar", "w") as tar:
            add(tar, "x.json", b'{"label": 7}')
            add(tar, "x.png", folder.encode())
            add(tar, "x.cls", label)
    found = open_labelled(str(tmp_path))
    assert list(found.names) == ["a/z.tar/x.png", "b/z.tar/x.png"]
    assert list(found.classes) == ["1", "2"]
    assert [found.pictures.read(i) for i in (0, 1)] == [b"a", b"b"]


def test_parquet_without_rows_or_pictures_or_with_a_damaged_page_is_refused(tmp_path):
    def refused(words: str, **columns: list) -> None:
        table = pyarrow.table(columns)
        pyarrow.parquet.write_table(table, tmp_path / "x.parquet", write_page_checksum=True)
        with pytest.raises(DataError, match=words):
            found = open_labelled(str(tmp_path / "x.parquet"))
            [found.pictures.read(i) for i in range(len(found))]

    refused("it holds no rows", image=pyarrow.array([], "binary"), label=pyarrow.array([], "int64"))
    refused(
        "row 1 of row group 0 cannot be used: its label is missing",
        image=[b"", b""],
        label=[1, None],
    )
    refused("its image is missing", image=[{"bytes": b"x", "path": "a"}, None], label=[1, 2])
    refused("its image is missing", image=[{"bytes": None}, {"bytes": b"x"}], label=[1, 2])
    refused("column label holds double", image=[b"x"], label=[1.5])
    refused("column image holds string", image=["x"], label=[1])
    refused("column image is missing", label=[1])
    table = pyarrow.table({"image": [bytes(range(256)) * 40], "label": [1]})
    pyarrow.parquet.write_table(
        table, tmp_path / "y.parquet", write_page_checksum=True, compression="none",
        use_dictionary=False,
    )  # fmt: skip
    data = bytearray((tmp_path / "y.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "y.parquet").write_bytes(data)
    found = open_labelled(str(tmp_path / "y.parquet"))
    with pytest.raises(DataError, match="y.parquet: column image of row group 0 is damaged"):
        found.pictures.read(0)


def test_labels_beyond_every_class_are_refused(tmp_path):
    table = pyarrow.table({"image": [b"x"], "label": pyarrow.array([2**64 - 1], "uint64")})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "names.json").write_text(json.dumps(["a", "b"]))
    with pytest.raises(EvaluationError, match="labels lie in 18446744073709551615"):
        load_class_names(str(tmp_path / "names.json"), 2).index(
            open_labelled(str(tmp_path / "x.parquet"))
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[0], [1]]", "1 pictures have the file name of another one"),
        ('{"x.png": [0]}', "1 pictures have the file name of another one"),
        ('{"a/x.png": [1], "b/x.png": [2, 0]}', ""),
        ('{"a/x.png": [1]}', "1 pictures have the file name of another one"),
        ('{"a/x.png": [1], "b/x.png": [1e400]}', "beyond every number"),
        ('{"a/x.png": [1], "b/x.png": [0.5]}', r"b/x.png\[0\] is a number, 0.5, and must be"),
        ('{"a/x.png": [1], "b/x.png": [-1]}', "has the label -1"),
        ('{"a/x.png": [1], "b/x.png": 1}', "must be a list"),
        ("[[0]]", "labels for 1 pictures, but there are 2"),
        ("3", "must be an object"),
    ],
)
def test_labels_of_files_with_equal_names_are_refused_or_assigned_rightly(tmp_path, content, words):
    (tmp_path / "real.json").write_text(content)
    names = ["a/x.png", "b/x.png"]
    if words:
        with pytest.raises((DataError, EvaluationError), match=words):
            multi_labels(str(tmp_path / "real.json"), names)
    else:
        assert multi_labels(str(tmp_path / "real.json"), names) == [[1], [0, 2]]


def test_wrong_class_lists_become_results_that_say_why(tmp_path, checkpoint):
    config = own_names(tmp_path)

    def failure(names: object, **changes) -> str:
        (tmp_path / "names.json").write_text(json.dumps(names))
        return run(
            checkpoint, tmp_path / "run", ImagenetConfig(**{**vars(config), **changes})
        ).failure

    assert "lists 11 classes, but the benchmark has 12" in failure(phrases(11))
    assert "12 class folders, but there are 13 class names" in failure(phrases(13), n_classes=13)
    assert "nothing is left of class name '...'" in failure([*phrases(11), "..."])
    assert "class[0] is a whole number, and must be a text" in failure([1, 2])
    twins = {str(i): ["00" if i < 2 else f"{i:02d}", n] for i, n in enumerate(phrases(12))}
    assert "class folder '00' belongs to two classes" in failure(twins)
    assert "class 3 has 3 entries" in failure(twins | {"3": ["03", "a", "b"]})
    assert "class folder '11' (and 0 more) is none of the 12" in failure(
        {f"{i:02d}" if i < 11 else "zz": n for i, n in enumerate(phrases(12))}
    )
    assert "holds 12 images, but drawn has 11" in failure(phrases(12), expect_images=11)
    (tmp_path / "names.json").write_text("{")
    assert "is not valid json" in run(checkpoint, tmp_path / "run", config).failure
    (tmp_path / "names.json").unlink()
    assert "names.json" in run(checkpoint, tmp_path / "run", config).failure


def test_class_names_by_folder_and_by_index(tmp_path):
    uri = tmp_path / "names.json"
    uri.write_text(json.dumps({"n02": "Dog", "n01": "cat, kitty"}))
    assert load_class_names(str(uri), 2).names == ("cat", "dog") and load_class_names(
        str(uri), 2
    ).folders == ("n01", "n02")
    uri.write_text(json.dumps({"0": ["n05", "great_white"], "1": ["n02", "Dog"]}))
    assert load_class_names(str(uri), 2).names == ("great white", "dog") and load_class_names(
        str(uri), 2
    ).folders == ("n05", "n02")
    uri.write_text(json.dumps(["a", "b"]))
    (tmp_path / "LOC_synset_mapping.txt").write_text("n07 a thing\nn08 b thing\n")
    assert load_class_names(str(uri), 2).folders == ("n07", "n08")


def test_the_imagenet_sample_has_800_of_1000_classes(tmp_path, checkpoint, slices):
    pack = slices / "imagenet_sample"
    names = str(pack / "en_classnames_imagenet1k.json")
    config = ImagenetConfig(str(pack / "val"), names, templates="name")
    result = run(checkpoint, tmp_path, config)
    assert result.failure == "" and result.is_partial
    assert result.counts == {
        "images": 800,
        "classes": 1000,
        "classes_with_images": 800,
        "classes_with_a_shared_name": 2,
        "templates": 1,
    }
    rows = columns(result, tmp_path)
    listed = [line.split("\t") for line in (pack / "labels.tsv").read_text().splitlines()[1:]]
    assert dict(zip(rows["example"], rows["label"], strict=True)) == {
        row[0].removeprefix("val/"): int(row[1]) for row in listed
    }
    shots = run(
        checkpoint,
        tmp_path / "shots",
        ImagenetConfig(**{**vars(config), "train_images": config.images}),
    )
    assert shots.metrics["imagenet/10shot_top1"].why_not == "a class has only 0 training pictures"
