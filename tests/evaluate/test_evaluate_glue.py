"""GLUE: the official files with their quirks, the nine numbers, and what becomes of missing, broken
and degenerate tasks.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from found import recomputed, score_rows, values, whys
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from clippo_core.config import (
    EvaluateConfig,
    FinetuneConfig,
    GlueConfig,
    ModelConfig,
    RenderConfig,
    replace,
)
from clippo_core.embedder import Clippo
from clippo_core.errors import ConfigError, DataError, NotFoundError
from clippo_core.evaluate.glue import protocol as glue
from clippo_core.evaluate.glue.files import TASKS, read_split
from clippo_core.evaluate.glue.scores import GLUE_METRICS, STATISTICS, glue_score
from clippo_core.evaluate.glue.tasks import baseline
from clippo_core.models import build_tower, train_tokenizer
from clippo_core.run.records import EvaluatePlan, Metric, StagePlan

MODEL = ModelConfig(width=32, depth=2, num_heads=2, mlp_dim=64, embed_dim=16)
MNLI_12 = [
    "index",
    "promptID",
    "pairID",
    "genre",
    "sentence1_binary_parse",
    "sentence2_binary_parse",
    "sentence1_parse",
    "sentence2_parse",
]
HEADERS = {
    "MNLI": [*MNLI_12, "sentence1", "sentence2", "label1", "gold_label"],
    "QQP": ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    "QNLI": ["index", "question", "sentence", "label"],
    "SST-2": ["sentence", "label"],
    "STS-B": [
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
        "score",
    ],
    "MRPC": ["\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
    "RTE": ["index", "sentence1", "sentence2", "label"],
}


def example(task, i):
    """(first, second, label): equal words mean yes, so that there is something to learn."""
    words = ["red", "blue", "tin", "oak"]
    first = f"{words[i % 4]} {i}"
    label = (i // 4) % (3 if task == "MNLI" else 2)
    second = f"{words[(i + label) % 4]} {i}"
    if task == "STS-B":
        return first, second, f"{5 * (1 - label) - (i % 3) / 10 * (1 - 2 * label):.3f}"
    return first, second, TASKS[task].labels[label]


def lines_of(task, n, columns=12):
    rows = []
    for i in range(n):
        first, second, label = example(task, i)
        rows.append(
            {
                "MNLI": [
                    str(i),
                    "p",
                    f"p{i}n",
                    "fiction",
                    *["( parse )"] * 4,
                    first,
                    second,
                    *["x"] * (columns - 11),
                    label,
                ],
                "QQP": [str(i), "1", "2", first, second, label],
                "QNLI": [str(i), first, second, label],
                "SST-2": [first, label],
                "CoLA": ["gj04", label, "*" if label == "0" else "", first],
                "STS-B": [str(i), "main", "MSR", "2012", "1", "none", "none", first, second, label],
                "MRPC": [label, "1", "2", first, second],
                "RTE": [str(i), first, second, label],
            }[task]
        )
    header = [] if task == "CoLA" else [HEADERS[task]]
    if task == "MNLI" and columns == 16:
        header = [
            [*HEADERS[task][:10], "label1", "label2", "label3", "label4", "label5", "gold_label"]
        ]
    return ["\t".join(row) for row in [*header, *rows]]


def write_task(root, task, n=24, split="dev", columns=12):
    (root / task).mkdir(parents=True, exist_ok=True)
    (root / task / f"{split}.tsv").write_text(
        "\n".join(lines_of(task, n, columns)) + "\n", encoding="utf-8"
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """All eight tasks, whole."""
    root = tmp_path_factory.mktemp("glue")
    for task in TASKS:
        write_task(root, task, 32, "train")
        for split in TASKS[task].dev:
            write_task(root, task, 24, split, 16)
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tower.safetensors"
    Clippo(build_tower(MODEL, 32, seed=0), RenderConfig(image_px=32)).save(path)
    return str(path)


def plan_of(root, data, **changes):
    tuning = FinetuneConfig(batch_size=8, epochs=2, learning_rates=(1e-3, 3e-3))
    evaluate = replace(
        EvaluateConfig(glue=GlueConfig(str(data), finetune=tuning), bootstrap_samples=50), **changes
    )
    return EvaluatePlan(StagePlan(str(root), seed=0, data_digest="d"), evaluate)


def run(checkpoint, root, data, **changes):
    return glue.run(checkpoint, plan_of(root, data, **changes), progress=False)


def test_all_nine_numbers_and_their_mean(tmp_path, data, checkpoint):
    result = run(checkpoint, tmp_path, data)
    assert (
        result.failure == ""
        and result.is_partial
        and set(whys(result)) <= {"glue/stsb_spearman", "glue/average"}
    )
    rows = pyarrow.parquet.read_table(tmp_path / "evaluations/glue/predictions.parquet").to_pylist()
    by_metric = score_rows(result, tmp_path)
    assert result.n_examples == len(rows) == 24 * 9
    references = {"accuracy": accuracy_score, "matthews": matthews_corrcoef}
    references |= {
        "f1": lambda t, p: f1_score(t, p, pos_label="1"),
        "spearman": lambda t, p: spearmanr(t, p).statistic,
    }
    for task, metric in GLUE_METRICS.items():
        name = f"glue/{task}_{metric}"
        kind = float if metric == "spearman" else str
        truth, said = (
            [kind(row[column]) for row in by_metric[name]] for column in ("truth", "prediction")
        )
        assert result.metrics[name].value == pytest.approx(
            100 * references[metric](truth, said), abs=0.05
        )
        low, high = result.metrics[name].bounds
        assert (
            low <= result.metrics[name].value + 1e-9 and result.metrics[name].value <= high + 1e-9
        )
        assert result.metrics[name].n == 24 and result.metrics[name].chance is not None
    names = [f"glue/{task}_{metric}" for task, metric in GLUE_METRICS.items()]
    assert recomputed(result, tmp_path) == {name: result.metrics[name].value for name in names}
    assert result.metrics["glue/average"].value == pytest.approx(
        np.mean([result.metrics[name].value for name in names])
    )
    assert result.main_metrics == ["glue/average"] and result.metrics["glue/average"].n == 216
    assert "of 2 trials counts" in result.protocol and result.counts["mnli_trials"] == 2
    examples = json.loads((tmp_path / "evaluations/glue/examples.json").read_text())
    assert 0 < sum(e["hit"] for e in examples) <= 6 and all(
        e["pictures"][0].startswith("data:image/png;base64,") for e in examples
    )
    assert sorted(path.name for path in (tmp_path / "evaluations/glue").iterdir()) == [
        "examples.json",
        "predictions.parquet",
        "result.json",
        "timings.json",
    ]


def test_again_is_skipped_and_other_settings_are_not(tmp_path, data, checkpoint, monkeypatch):
    settings = {"glue__tasks": ("RTE",), "glue__finetune__epochs": 1}
    first = run(checkpoint, tmp_path, data, **settings)
    calls = []
    monkeypatch.setattr(glue, "fine_tune", lambda *args, **options: calls.append(1) or 1 / 0)
    assert run(checkpoint, tmp_path, data, **settings) == first and not calls
    with pytest.raises(ZeroDivisionError):
        run(checkpoint, tmp_path, data, **{**settings, "glue__separator": "|"})


def test_a_tower_that_reads_the_answer_gets_100(tmp_path, checkpoint):
    words = {"0": "no", "1": "yes"}
    for task, split, n in (("SST-2", "train", 96), ("SST-2", "dev", 40)):
        (tmp_path / task).mkdir(exist_ok=True)
        rows = [f"{words[str(i % 2)] * 3} {i * 7 % 50}\t{i % 2}" for i in range(n)]
        (tmp_path / task / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    tuning = FinetuneConfig(batch_size=16, epochs=12, learning_rates=(3e-3,))
    result = run(
        checkpoint, tmp_path / "out", tmp_path, glue__tasks=("SST-2",), glue__finetune=tuning
    )
    assert (
        result.metrics["glue/sst2_accuracy"].value == 100.0
        and result.metrics["glue/sst2_accuracy"].chance == 50.0
    )
    assert result.metrics["glue/sst2_accuracy"].bounds == (100.0, 100.0)


def test_shuffled_labels_give_chance(tmp_path, checkpoint):
    random_labels = np.random.default_rng(0).integers(0, 2, 400)
    (tmp_path / "SST-2").mkdir()
    for split, labels in (("train", random_labels[:200]), ("dev", random_labels[200:])):
        rows = [f"word {i}\t{label}" for i, label in enumerate(labels)]
        (tmp_path / "SST-2" / f"{split}.tsv").write_text(
            "\n".join(["sentence\tlabel", *rows]) + "\n"
        )
    tuning = FinetuneConfig(batch_size=20, epochs=2, learning_rates=(1e-3,))
    result = run(
        checkpoint, tmp_path / "out", tmp_path, glue__tasks=("SST-2",), glue__finetune=tuning
    )
    assert abs(result.metrics["glue/sst2_accuracy"].value - 50) < 3 * 100 * np.sqrt(0.25 / 200)


def test_missing_mismatched_dev_is_not_run_and_gives_no_mean(tmp_path, data, checkpoint):
    root = tmp_path / "data"
    for split in ("train", "dev_matched"):
        write_task(root, "MNLI", 16, split)
    write_task(root, "RTE", 16, "train")
    result = run(checkpoint, tmp_path, root, glue__finetune__epochs=1)
    assert set(values(result)) == {"glue/mnli_m_accuracy"} and result.main_metrics == [
        "glue/mnli_m_accuracy"
    ]
    assert "no MNLI/dev_mismatched.tsv" in result.metrics["glue/mnli_mm_accuracy"].why_not
    assert "no RTE/dev.tsv" in result.metrics["glue/rte_accuracy"].why_not
    assert "no QQP/train.tsv" in result.metrics["glue/qqp_f1"].why_not
    assert (
        result.metrics["glue/average"].why_not
        == "it is the mean of nine numbers, and 1 of them are there"
    )


def test_nothing_to_run_is_a_failure_with_reasons(tmp_path, checkpoint):
    result = run(checkpoint, tmp_path, tmp_path / "nowhere")
    assert (
        result.failure.startswith(
            "DataError: no task of GLUE can be run: there is no MNLI/train.tsv"
        )
        and not result.metrics
    )
    assert (
        len(result.weights_sha256) == 64
        and json.loads((tmp_path / "evaluations/glue/result.json").read_text())["failure"]
    )


def test_no_checkpoint_is_a_failure_and_an_unknown_task_an_error(tmp_path, data, checkpoint):
    assert "NotFoundError" in run(str(tmp_path / "none.safetensors"), tmp_path, data).failure
    with pytest.raises(ConfigError, match="WNLI"):
        run(checkpoint, tmp_path, data, glue__tasks=("WNLI",))


def test_degenerate_predictions_are_flagged(tmp_path, data, checkpoint):
    """A rate of almost 0 leaves a head that says the same of everything."""
    settings = FinetuneConfig(batch_size=16, epochs=1, learning_rates=(1e-12, 1e-11))
    root = tmp_path / "data"
    for task in ("CoLA", "STS-B", "QNLI"):
        write_task(root, task, 16, "train")
        (root / task / "dev.tsv").write_text(
            "\n".join([*lines_of(task, 12)[:1] * (task != "CoLA"), *lines_of(task, 2)[-1:] * 6])
            + "\n"
        )
    result = run(checkpoint, tmp_path, root, glue__finetune=settings)
    assert result.metrics["glue/cola_matthews"].value == 0.0 and result.metrics[
        "glue/cola_matthews"
    ].bounds == (0.0, 0.0)
    assert (
        result.metrics["glue/cola_matthews"].flag.startswith("degenerate: every prediction is")
        and "2 of 2 trials" in result.metrics["glue/cola_matthews"].flag
    )
    spearman = result.metrics["glue/stsb_spearman"]
    assert "no rank correlation" in spearman.why_not
    assert spearman == Metric(why_not=spearman.why_not)


def test_texts_that_the_page_cuts_off_are_counted_and_flagged(tmp_path, checkpoint):
    (tmp_path / "SST-2").mkdir()
    for split in ("train", "dev"):
        rows = [f"{'word ' * (40 if i < 5 else 1)}{i}\t{i % 2}" for i in range(20)]
        (tmp_path / "SST-2" / f"{split}.tsv").write_text(
            "\n".join(["sentence\tlabel", *rows]) + "\n"
        )
    result = run(
        checkpoint, tmp_path / "out", tmp_path, glue__tasks=("SST-2",), glue__finetune__epochs=1
    )
    assert result.counts["sst2_dev_rows_cut_by_the_page"] == 5
    assert result.metrics["glue/sst2_accuracy"].flag.endswith("the page cuts off 25 % of its texts")


def test_token_tower_reads_tokens(tmp_path, data):
    texts = [f"{word} {i}" for i in range(60) for word in ("red", "blue", "tin", "oak")]
    tokenizer = train_tokenizer(texts, str(tmp_path / "tokenizer.model"), vocab_size=400)
    for kind in ("one_tower_clip", "two_tower_clip"):
        model = replace(MODEL, kind=kind, tokenizer=tokenizer, text_tokens=16)
        Clippo(build_tower(model, 32, seed=0), RenderConfig(image_px=32)).save(
            tmp_path / f"{kind}.safetensors"
        )
        settings = {"glue__tasks": ("RTE",), "glue__finetune__epochs": 1}
        result = run(str(tmp_path / f"{kind}.safetensors"), tmp_path / kind, data, **settings)
        assert result.failure == "" and 0 <= result.metrics["glue/rte_accuracy"].value <= 100
        assert all(
            e["pictures"] == []
            for e in json.loads((tmp_path / kind / "evaluations/glue/examples.json").read_text())
        )


KILLED = """
import sys
sys.path[:0] = [{tests!r}, {project!r}]
import test_evaluate_glue as t
print("ready", flush=True)
t.run(sys.argv[1], sys.argv[2], sys.argv[3], glue__tasks=("RTE", "CoLA", "STS-B"))
"""


@pytest.mark.slow
def test_five_random_kills_do_not_change_a_byte(tmp_path, data, checkpoint):
    settings = {"glue__tasks": ("RTE", "CoLA", "STS-B")}
    started = time.monotonic()
    run(checkpoint, tmp_path / "whole", data, **settings)
    seconds = time.monotonic() - started
    here = Path(__file__).resolve()
    code = KILLED.format(tests=str(here.parent), project=str(here.parents[2]))
    chance = random.Random(0)
    for _ in range(5):
        command = [sys.executable, "-c", code, checkpoint, str(tmp_path / "killed"), str(data)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.2, 0.6 * seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(checkpoint, tmp_path / "killed", data, **settings)
    for name in ("result.json", "predictions.parquet", "examples.json"):
        whole, killed = (
            (tmp_path / folder / "evaluations/glue" / name).read_bytes()
            for folder in ("whole", "killed")
        )
        assert whole == killed


# The files


@pytest.mark.parametrize("task", TASKS)
def test_official_layouts_with_and_without_header(tmp_path, task):
    wanted = [example(task, i) for i in range(8)]
    for columns in (12, 16) if task == "MNLI" else (0,):
        lines = lines_of(task, 8, columns)
        for headless in (False, True):
            body = lines[1:] if headless and task != "CoLA" else lines
            (tmp_path / task).mkdir(exist_ok=True)
            (tmp_path / task / "train.tsv").write_bytes("\r\n".join([*body, ""]).encode())
            rows = read_split(str(tmp_path), TASKS[task], "train")
            assert rows.first == [first for first, _, _ in wanted] and rows.n_skipped == 0
            assert rows.second == (
                [second for _, second, _ in wanted] if TASKS[task].is_pair else []
            )
            labels = [
                float(label) if task == "STS-B" else TASKS[task].labels.index(label)
                for _, _, label in wanted
            ]
            assert rows.labels.tolist() == labels


def test_quotes_and_line_separators_are_ordinary_characters(tmp_path):
    (tmp_path / "RTE").mkdir()
    odd = ['He said "no', "a\u2028b\x85c", '""']
    lines = [f"{i}\t{text}\tplain\tentailment" for i, text in enumerate(odd)]
    (tmp_path / "RTE/dev.tsv").write_text(
        "\n".join(["index\tsentence1\tsentence2\tlabel", *lines]), encoding="utf-8", newline=""
    )
    assert read_split(str(tmp_path), TASKS["RTE"], "dev").first == odd


def test_short_rows_are_counted_and_many_are_refused(tmp_path):
    write_task(tmp_path, "QQP", 30)
    path = tmp_path / "QQP/dev.tsv"
    path.write_text(path.read_text() + "31\t1\t2\tcut\n")
    rows = read_split(str(tmp_path), TASKS["QQP"], "dev")
    assert len(rows) == 30 and rows.n_skipped == 1
    path.write_text(path.read_text() + "32\t1\t2\tcut\n33\tcut\n")
    with pytest.raises(DataError, match="3 of 33 rows have too few cells"):
        read_split(str(tmp_path), TASKS["QQP"], "dev")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\tb\tc\n1\t2\t3\n", "needs the columns sentence1, sentence2, label"),
        (
            "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n",
            "label 'maybe'; RTE has entailment, not_entailment",
        ),
        ("index\tsentence1\tsentence2\tlabel\n", "there are no rows"),
        ("", "there are no rows"),
    ],
)
def test_wrong_files_are_refused_with_a_reason(tmp_path, content, words):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/dev.tsv").write_text(content)
    with pytest.raises(DataError, match=words):
        read_split(str(tmp_path), TASKS["RTE"], "dev")


def test_scores_out_of_range_other_bytes_and_no_file(tmp_path):
    for score in ("nan", "6", "x", "1_0", "٣", "1e400", ""):
        write_task(tmp_path, "STS-B", 3)
        path = tmp_path / "STS-B/dev.tsv"
        path.write_text(path.read_text().rstrip("\n").rpartition("\t")[0] + f"\t{score}\n")
        with pytest.raises(DataError, match="no finite number from 0 to 5"):
            read_split(str(tmp_path), TASKS["STS-B"], "dev")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_split(str(tmp_path), TASKS["STS-B"], "dev")
    with pytest.raises(NotFoundError, match="no STS-B/train.tsv"):
        read_split(str(tmp_path), TASKS["STS-B"], "train")


def test_parquet_as_hugging_face_lays_it_out(tmp_path):
    (tmp_path / "mnli").mkdir()
    (tmp_path / "sst2").mkdir()
    table = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, 0], "idx": [0, 1]}
    for name in (
        "train-00000-of-00002",
        "train-00001-of-00002",
        "validation_matched-00000-of-00001",
    ):
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / f"mnli/{name}.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table({"sentence": ["x"], "label": [1], "idx": [0]}),
        tmp_path / "sst2/validation.parquet",
    )
    rows = read_split(str(tmp_path), TASKS["MNLI"], "train")
    assert (
        rows.first == ["a", "b"] * 2
        and rows.second == ["c", "d"] * 2
        and rows.labels.tolist() == [2, 0] * 2
    )
    assert len(read_split(str(tmp_path), TASKS["MNLI"], "dev_matched")) == 2
    assert read_split(str(tmp_path), TASKS["SST-2"], "dev").labels.tolist() == [1]
    with pytest.raises(NotFoundError):
        read_split(str(tmp_path), TASKS["MNLI"], "dev_mismatched")
    pyarrow.parquet.write_table(
        pyarrow.table({"sentence": ["x"], "label": [-1]}), tmp_path / "sst2/validation.parquet"
    )
    with pytest.raises(DataError, match="label '-1'"):
        read_split(str(tmp_path), TASKS["SST-2"], "dev")
    (tmp_path / "sst2/validation.parquet").unlink()
    (tmp_path / "sst2/validation.parquet").mkdir()
    (tmp_path / "sst2/validation.parquet/x.parquet").write_bytes(b"")
    with pytest.raises(NotFoundError):
        read_split(str(tmp_path), TASKS["SST-2"], "dev")
    shutil.rmtree(tmp_path / "sst2/validation.parquet")
    (tmp_path / "sst2/validation.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="no parquet file"):
        read_split(str(tmp_path), TASKS["SST-2"], "dev")


def test_null_cells_are_counted_and_other_types_refused(tmp_path):
    (tmp_path / "rte").mkdir()

    def read(**changes):
        columns = {
            "sentence1": [f"a{i}" for i in range(300)],
            "sentence2": [f"b{i}" for i in range(300)],
            "label": [i % 2 for i in range(300)],
        }
        table = pyarrow.table(columns | changes)
        pyarrow.parquet.write_table(table, tmp_path / "rte/validation.parquet", row_group_size=7)
        return read_split(str(tmp_path), TASKS["RTE"], "dev")

    whole = read()
    rows = read(sentence2=[None, *whole.second[1:]])
    assert (rows.n_skipped, rows.first, rows.second) == (1, whole.first[1:], whole.second[1:])
    assert rows.labels.tolist() == whole.labels.tolist()[1:]
    assert read(label=[*whole.labels.tolist()[:-1], None]).n_skipped == 1
    with pytest.raises(DataError, match="2 of 300 rows have too few cells"):
        read(sentence1=[*whole.first[:-2], None, None])
    for odd in ([b"a"] * 300, [1] * 300, [["a"]] * 300):
        with pytest.raises(DataError, match="its column sentence1 holds .*, and must hold texts"):
            read(sentence1=odd)
    with pytest.raises(DataError, match="its column label holds string"):
        read(label=["entailment"] * 300)


def test_real_slices(slices):
    """Rows counted with another tool; the smaller official MNLI files are completed by their
    `_lite` ones.
    """
    wanted = {
        "MNLI": (180 + 2000, {"dev_matched": 180 + 750}),
        "QQP": (2000, {"dev": 1000}),
        "QNLI": (2000, {"dev": 1000}),
        "SST-2": (2000, {"dev": 611}),
        "CoLA": (2000, {"dev": 731}),
        "STS-B": (2000, {"dev": 1000}),
        "MRPC": (2000, {"dev": 286}),
        "RTE": (994, {"dev": 194}),
    }
    root = str(slices / "glue")
    for task, (n_train, devs) in wanted.items():
        assert len(read_split(root, TASKS[task], "train")) == n_train
        for split, n in devs.items():
            rows = read_split(root, TASKS[task], split)
            assert len(rows) == n and rows.n_skipped == 0 and all(rows.first)
            assert task == "STS-B" or set(rows.labels.tolist()) == set(
                range(len(TASKS[task].labels))
            )
    assert (
        read_split(root, TASKS["CoLA"], "dev").first[0]
        == "The sailors rode the breeze clear of the rocks."
    )
    assert read_split(root, TASKS["MRPC"], "dev").labels[:3].tolist() == [0, 0, 1]
    with pytest.raises(NotFoundError):
        read_split(root, TASKS["MNLI"], "dev_mismatched")


# Intervals and baselines


@pytest.mark.parametrize("task", ["rte", "qqp", "cola", "stsb"])
def test_a_resample_by_counts_scores_as_the_rows_themselves(task):
    chance = np.random.default_rng(2)
    for _ in range(20):
        n = int(chance.integers(5, 60))
        labels = (
            chance.integers(0, 2, n).astype(float)
            if task != "stsb"
            else np.round(chance.uniform(0, 5, n), 1)
        )
        predicted = (
            chance.integers(0, 2, n).astype(float)
            if task != "stsb"
            else np.round(labels + chance.normal(size=n), 1)
        )
        rows, counts = np.unique(np.stack([predicted, labels], 1), axis=0, return_counts=True)
        drawn = chance.multinomial(n, counts / n)
        again = np.repeat(rows, drawn, axis=0)
        if len(np.unique(again[:, 0])) > 1 and len(np.unique(again[:, 1])) > 1:
            wanted = glue_score(task, again[:, 0], again[:, 1])
            assert STATISTICS[GLUE_METRICS[task]](rows, drawn) == pytest.approx(wanted, abs=1e-12)


def test_baselines_need_no_reading():
    labels, train = np.array([1, 1, 1, 0]), np.array([0, 0, 1])
    assert baseline("accuracy", labels, train) == 0.25  # the training set's majority
    assert baseline("f1", labels, train) == pytest.approx(f1_score(labels, np.ones(4)))
    assert baseline("matthews", labels, train) == baseline("spearman", labels, train) == 0.0
