"""What the readers of benchmarks and results must make of every file: a refusal in one sentence, or
what an independent reading gives, twice; nothing written, and no file opened outside their folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from checks import Refused, check, outcome, same
from guard import alone, read

from clippo_core.data.sources.photos import coco_records, karpathy_records, xm3600_records
from clippo_core.evaluate import embed, results
from clippo_core.evaluate.gallery import usable
from clippo_core.evaluate.glue import files as glue
from clippo_core.evaluate.imagenet.class_names import load_class_names, multi_labels
from clippo_core.evaluate.imagenet.labelled import open_labelled
from clippo_core.evaluate.imagenet.prompts import canonical, canonical_name, load_templates
from clippo_core.evaluate.scores import Scores
from clippo_core.evaluate.vqa import files as vqa


def finite_json(data: bytes) -> Any:
    """The value of a json text by Python's own reader."""
    return json.loads(data.decode("utf-8-sig"))


@check("vqa")
def check_vqa(data: bytes) -> bool:
    asked = read("vqa.json", data, vqa.read_questions)
    found = read("vqa.json", data, vqa.read_annotations)
    if not isinstance(asked, Refused):
        expected = finite_json(data)["questions"]
        fields = [(q["question_id"], q["image_id"], q["question"]) for q in expected]
        assert [(q.question_id, q.image_id, q.text) for q in asked] == fields
        assert all(type(each) is int for ids in fields for each in ids[:2])
    if not isinstance(found, Refused):
        expected = finite_json(data)["annotations"]
        assert [a.question_id for a in found.values()] == [a["question_id"] for a in expected]
        for ours, theirs in zip(found.values(), expected, strict=True):
            assert ours.answers == tuple(answer["answer"] for answer in theirs["answers"])
            assert all(type(answer) is str for answer in ours.answers) and ours.answers
            same_fields = ("image_id", "multiple_choice_answer", "answer_type", "question_type")
            assert all(getattr(ours, name) == theirs[name] for name in same_fields)
    return not isinstance(asked, Refused) or not isinstance(found, Refused)


def _gallery_is_sound(records: Any, n: int) -> None:
    assert 0 < len(records) <= n and len({record.key for record in records}) == len(records)
    for record in records:
        assert record.texts and all(type(text) is str for text in record.texts)
        "".join(record.texts).encode()
        image = Path(record.image)
        assert image.is_relative_to("/nowhere/images") and ".." not in image.parts


@check("gallery-xm3600")
def check_xm3600(data: bytes) -> bool:
    def reader(uri: str) -> Any:
        return usable(list(xm3600_records(uri, "/nowhere/images", ("en", "de"))), uri)

    found = read("captions.jsonl", data, reader)
    if isinstance(found, Refused):
        return False
    lines = [json.loads(line) for line in data.decode("utf-8-sig").split("\n") if line.strip()]
    _gallery_is_sound(found, len(lines))
    for record, line in zip(found, lines, strict=True):
        expected = [(text, code) for code in ("de", "en") for text in _captions(line, code)]
        assert list(zip(record.texts, record.languages, strict=True)) == expected
        assert record.key == line["image/key"]
    return True


def _captions(line: dict[str, Any], code: str) -> list[str]:
    return list(line[code]["caption"]) if isinstance(line.get(code), dict) else []


@check("gallery-json")
def check_retrieval(data: bytes) -> bool:
    def karpathy(uri: str) -> Any:
        return usable(list(karpathy_records(uri, "/nowhere/images", "test")), uri)

    def coco(uri: str) -> Any:
        return usable(list(coco_records(uri, "/nowhere/images")), uri)

    found = [read("annotations.json", data, reader) for reader in (karpathy, coco)]
    accepted = [records for records in found if not isinstance(records, Refused)]
    for records in accepted:
        _gallery_is_sound(records, len(finite_json(data)["images"]))
    return bool(accepted)


@check("glue-tsv")
def check_glue_tsv(data: bytes) -> bool:
    accepted = []
    for name in ("RTE", "STS-B"):
        task = glue.TASKS[name]
        reader = lambda uri, task=task: glue.read_split(uri.rsplit("/", 2)[0], task, "dev")  # noqa: E731
        found = read(f"{name}/dev.tsv", data, reader)
        if isinstance(found, Refused):
            continue
        accepted.append(found)
        lines = data.decode("utf-8-sig").split("\n")
        cells = [line.removesuffix("\r").split("\t") for line in lines if line.strip()]
        cells = cells[1:] if "sentence1" in cells[0] else cells
        whole = [row for row in cells if len(row) > max(task.positions.get(len(cells[0]), (3,)))]
        assert len(found) + found.n_skipped == len(cells) and len(found) <= len(whole)
        assert found.labels.dtype == (np.int64 if task.labels else np.float64)
        assert np.isfinite(found.labels).all() and len(found.second) == len(found.first)
    return bool(accepted)


@check("glue-parquet")
def check_glue_parquet(data: bytes) -> bool:
    import pyarrow.parquet as pq

    def reader(uri: str) -> Any:
        return glue.read_split(uri.rsplit("/", 2)[0], glue.TASKS["RTE"], "dev")

    found = read("rte/validation.parquet", data, reader)
    if isinstance(found, Refused):
        return False
    leaves = ["sentence1", "sentence2", "label"]
    rows = pq.ParquetFile(io.BytesIO(data)).read(leaves).to_pylist()
    cells = [(row["sentence1"], row["sentence2"], row["label"]) for row in rows]
    expected = [row for row in cells if None not in row]
    ours = list(zip(found.first, found.second, found.labels.tolist(), strict=True))
    assert same(ours, expected), "pyarrow reads other values"
    assert found.n_skipped == len(rows) - len(expected)
    return True


def _pictures(uri: str) -> tuple[list[str], list[str], list[bytes]]:
    found = open_labelled(uri)
    data = [found.pictures.read(i) for i in range(len(found))]
    return list(found.names), list(found.classes), data


@check("imagenet-parquet")
def check_imagenet_parquet(data: bytes) -> bool:
    import pyarrow.parquet as pq

    found = read("val.parquet", data, _pictures)
    if isinstance(found, Refused):
        return False
    is_struct = pq.read_schema(io.BytesIO(data)).field("image").type.num_fields > 0
    leaves = ["image.bytes" if is_struct else "image", "label"]  # a path beside may be damaged
    rows = pq.ParquetFile(io.BytesIO(data)).read(leaves).to_pylist()
    images = [row["image"]["bytes"] if is_struct else row["image"] for row in rows]
    assert found[1:] == ([str(row["label"]) for row in rows], images)
    assert len(set(found[0])) == len(rows)
    two_names = json.dumps(["cat", "dog"]).encode()
    with alone({"val.parquet": data}) as folder:
        path = folder / "val.parquet"
        labelled = open_labelled(str(path))
    with alone({"names.json": two_names}) as folder:
        path = folder / "names.json"
        classes = load_class_names(str(path), 2)
    outcome(lambda: classes.index(labelled), "")
    return True


@check("imagenet-tar")
def check_imagenet_tar(data: bytes) -> bool:
    found = read("val.tar", data, _pictures, named=False)
    if isinstance(found, Refused):
        return False
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}
    names, classes, pictures = found
    ends = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    assert names == sorted(f"val.tar/{name}" for name in members if name.lower().endswith(ends))
    for name, label, picture in zip(names, classes, pictures, strict=True):
        inside = name.removeprefix("val.tar/")
        stem = inside.rpartition(".")[0]
        assert picture == members[inside]
        if f"{stem}.cls" in members:
            assert int(members[f"{stem}.cls"]) == int(label)
        elif f"{stem}.json" in members and "label" in finite_json(members[f"{stem}.json"]):
            known = finite_json(members[f"{stem}.json"])["label"]
            assert known in (None, -1) or str(known) == label or not label.isdigit()
    return True


@check("real-labels")
def check_real_labels(data: bytes) -> bool:
    accepted = False
    for names in (["a/x.png", "b/x.png", "b/y.png"], ["a/z.png", "b/x.png", "b/y.png"]):
        found = read("real.json", data, lambda uri, names=names: multi_labels(uri, names))
        if isinstance(found, Refused):
            continue
        accepted, content = True, finite_json(data)
        files = [name.rpartition("/")[2] for name in names]
        if isinstance(content, list):
            assert len(set(files)) == 3
            content = dict(zip(sorted(files), content, strict=True))
        keys = names if all(name in content for name in names) else files
        assert len(set(keys)) == 3, "two pictures share one entry"
        assert found == [sorted(set(content[key])) for key in keys]
        assert all(type(label) is int and label >= 0 for labels in found for label in labels)
    return accepted


@check("class-names")
def check_class_names(data: bytes) -> bool:
    found = read("names.json", data, lambda uri: load_class_names(uri, 2))
    templates = read("names.json", data, load_templates)
    if not isinstance(templates, Refused):
        content = [template.replace("{c}", "{}") for template in finite_json(data)]
        assert list(templates) == [canonical(template, keep="{}") for template in content]
    if isinstance(found, Refused):
        return not isinstance(templates, Refused)
    content = finite_json(data)
    if isinstance(content, list):
        names = content
    elif all(type(name) is str for name in content.values()):
        names = [content[folder] for folder in sorted(content)]
    else:
        names = [content[str(number)][1] for number in range(len(content))]
    assert found.names == tuple(canonical_name(name) for name in names) and all(found.names)
    return True


@check("result")
def check_result(data: bytes) -> bool:
    def reader(uri: str) -> Any:
        return results.read_result(uri.rpartition("/")[0])

    found = read("result.json", data, reader)
    if isinstance(found, Refused):
        return False
    content = finite_json(data)
    for name in ("name", "dataset", "split", "protocol", "n_examples"):
        assert getattr(found, name) == content[name]
    assert found.scores in ("", "predictions.parquet")
    for name, metric in found.metrics.items():
        assert (metric.value is None) == bool(metric.why_not), name
        numbers = (metric.value, metric.low, metric.high, metric.chance)
        assert all(number is None or math.isfinite(number) for number in numbers)
    with alone({"result.json": data}) as folder:
        path = folder / "result.json"
        assert results.whole_result(str(path.parent)) is None or not found.scores
    return True


@check("features")
def check_features(data: bytes) -> bool:
    with alone({"texts-0.rows": data}) as folder:
        path = folder / "texts-0.rows"
        found = outcome(lambda: embed._unpack(str(path), (3, 4)), str(path))
    assert not isinstance(found, Refused)
    if found is None:
        return False
    assert hashlib.sha256(data[32:]).digest() == data[:32]
    assert same(found, np.load(io.BytesIO(data[32:]), allow_pickle=False))
    assert found.dtype == np.float32 and found.shape == (3, 4) and np.isfinite(found).all()
    return True


@check("scores")
def check_scores(data: bytes) -> bool:
    import pyarrow.parquet as pq

    def reader(uri: str) -> Any:
        scores = Scores()
        scores.add_parquet(Path(uri).read_bytes(), uri)
        return scores.columns

    found = read("predictions.parquet", data, reader)
    if isinstance(found, Refused):
        return False
    assert same(found, pq.read_table(io.BytesIO(data)).to_pydict()), "pyarrow reads other values"
    return True
