"""Files of benchmarks and results as a stranger may make them, by format.

Json formats are drawn whole, and then one value in them may become a lie.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies import JSON_VALUES, damaged, fuzzed, tar_file

TEXTS = st.text(max_size=6) | st.sampled_from(["a dog", "no", "it's 3,000", "é", "\u2028", "None"])
IDS = st.integers(0, 4) | st.sampled_from([-1, 2**31, 2**63 - 1])
ODD = JSON_VALUES | st.sampled_from(
    ["../x", "/etc/passwd", "s3://b/x", 1e400, -1e400, 2**64, 1.5, True, None, [], {}, "yes/no"]
)
_SEEDS = st.integers(0, 2**64 - 1)


def written(draw: DrawFn, value: Any) -> bytes:
    """A value as json, in one case of two with one lie: a value changed, lost or repeated."""
    if draw(st.booleans()):
        value = _with_a_lie(draw, value)
    is_ascii = draw(st.booleans())
    data = json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    return data.replace(b"-Infinity", b"-1e400").replace(b"Infinity", b"1e400")


def _with_a_lie(draw: DrawFn, value: Any) -> Any:
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 4)) == 0:
        return draw(ODD)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    found = dict(value) if isinstance(value, dict) else list(value)
    change = draw(st.integers(0, 5))
    if change == 0:
        del found[key]
    elif change == 1 and isinstance(found, list):
        found.append(found[key])
    else:
        found[key] = _with_a_lie(draw, value[key])
    return found


@fuzzed("vqa")
def vqa_json(draw: DrawFn) -> bytes:
    """Questions and annotations, in one file."""
    questions = st.fixed_dictionaries({"question_id": IDS, "image_id": IDS, "question": TEXTS})
    annotations = st.fixed_dictionaries(
        {
            "question_id": IDS,
            "image_id": IDS,
            "answers": st.lists(st.fixed_dictionaries({"answer": TEXTS}), min_size=1, max_size=3),
            "multiple_choice_answer": TEXTS,
            "answer_type": st.sampled_from(["yes/no", "number", "other"]),
            "question_type": TEXTS,
        }
    )
    by_id = {"unique_by": lambda item: item["question_id"], "min_size": 1, "max_size": 4}
    return written(
        draw,
        {
            "questions": draw(st.lists(questions, **by_id)),
            "annotations": draw(st.lists(annotations, **by_id)),
        },
    )


@fuzzed("gallery-xm3600")
def xm3600_lines(draw: DrawFn) -> bytes:
    """Lines of captions in some languages; a caption may be a text instead of a list of them."""
    captions = st.fixed_dictionaries({"caption": st.lists(TEXTS, min_size=1, max_size=3)})
    line = st.fixed_dictionaries(
        {"image/key": st.sampled_from(["a", "b", "c", "d", "é", "f"])},
        optional={"en": captions, "de": captions, "split": TEXTS, "image/locale": TEXTS},
    )
    by_key = {"unique_by": lambda value: value["image/key"], "min_size": 1, "max_size": 4}
    values = draw(st.lists(line, **by_key))
    if draw(st.integers(0, 3)) == 0:
        values[0]["image/key"] = draw(
            st.sampled_from(["x" * 201, "../a", "a\0", values[-1]["image/key"]])
        )
    lines = [json.dumps(value).encode() for value in values[1:]] + [written(draw, values[0])]
    return draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"])).join(lines)


@fuzzed("gallery-json")
def retrieval_json(draw: DrawFn) -> bytes:
    """Karpathy's json, or COCO's."""
    odd = ["../d.jpg", "x" * 300 + ".jpg"] if draw(st.integers(0, 4)) == 0 else []
    names = st.sampled_from(["a.jpg", "b.jpg", "c.png", "d/é.jpg", *odd])
    if draw(st.booleans()):
        sentences = st.lists(st.fixed_dictionaries({"raw": TEXTS}), min_size=1, max_size=3)
        image = st.fixed_dictionaries(
            {
                "filename": names,
                "sentences": sentences,
                "split": st.sampled_from(["test", "test", "test", "train", "restval"]),
            }
        )
        by_name = {"unique_by": lambda value: value["filename"], "min_size": 1, "max_size": 3}
        return written(draw, {"images": draw(st.lists(image, **by_name))})
    ids = st.integers(0, 2)
    image = st.fixed_dictionaries({"id": ids, "file_name": names})
    caption = st.fixed_dictionaries({"image_id": ids, "caption": TEXTS})
    return written(
        draw,
        {
            "images": draw(st.lists(image, max_size=3, unique_by=lambda value: value["id"])),
            "annotations": draw(st.lists(caption, max_size=6)),
        },
    )


@fuzzed("glue-tsv")
def glue_tsv(draw: DrawFn) -> bytes:
    """STS-B's or RTE's columns, with or without a header, with odd scores and short lines."""
    cell = TEXTS.filter(lambda text: "\t" not in text and "\n" not in text)
    last, labels = draw(
        st.sampled_from(
            [
                (b"label", ["entailment", "not_entailment", "1", "0"]),
                (b"score", ["3.5", "5", "0", ".5e1", "1e-400"]),
                (b"score", ["nan", "1_0", "1e400", "٣", "5.1", "-0.0"]),
                (b"label", ["-1", "2", "maybe", ""]),
            ]
        )
    )
    rows = draw(st.lists(st.tuples(st.just("1"), cell, cell, st.sampled_from(labels)), min_size=1))
    lines = ["\t".join(row).encode(errors="surrogatepass") for row in rows]
    lines.insert(0, draw(st.sampled_from([b"index\tsentence1\tsentence2\t" + last] * 5 + [b""])))
    odd = [b"cut", b"\xff", b"a\0b\t\t\t1", b"\xef\xbb\xbf", b"\t" * 300]
    lines += [draw(st.sampled_from(odd))] if draw(st.integers(0, 3)) == 0 else []
    return draw(st.sampled_from([b"\n", b"\r\n"])).join(lines)


@lru_cache
def table_files(kind: str) -> tuple[bytes, ...]:
    """Parquet files of pairs with labels, or of pictures with labels; some with gaps."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = 12
    labels = {"label": [i % 2 for i in range(n)]}
    if kind == "glue":
        texts = [f"a dog {i % 3}" for i in range(n)]
        changes = [
            {"sentence1": texts, "sentence2": texts},
            {"sentence1": texts, "sentence2": [None, *texts[1:]]},
            {"sentence1": texts, "sentence2": [text.encode() for text in texts]},
            {"sentence1": texts, "sentence2": pa.array([b"\xff"] * n).view(pa.string())},
            {"sentence1": texts, "sentence2": texts, "label": [0.5] * n},
            {"sentence1": texts, "sentence2": texts, "label": [-1, *labels["label"][1:]]},
            {"sentence1": texts},
        ]
    else:
        pictures = [bytes([i]) * 30 for i in range(n)]
        structs = [{"bytes": data, "path": None} for data in pictures]
        huge = pa.array([2**64 - 1] * n, "uint64")
        changes = [
            {"image": pictures},
            {"image": structs},
            {"image": [None, *structs[1:]]},
            {"image": ["x"] * n},
            {"image": pictures, "label": huge},
            {"image": pictures, "label": [None, *labels["label"][1:]]},
            {"image": pictures, "label": ["1"] * n},
            {"picture": pictures},
        ]
    found = []
    for columns in changes:
        for options in ({}, {"row_group_size": 5, "write_page_checksum": True}):
            target = io.BytesIO()
            pq.write_table(pa.table({**labels, **columns}), target, **options)
            found.append(target.getvalue())
    target = io.BytesIO()
    pq.write_table(pa.table({**labels, **changes[0]}).slice(0, 0), target)
    return (*found, target.getvalue())


def _table_file(draw: DrawFn, kind: str) -> bytes:
    """A file as it is, or damaged in its pages alone or its footer alone."""
    files = table_files(kind)
    whole = draw(st.sampled_from(files[:4] * 3 + files))
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    rng = random.Random(draw(_SEEDS))
    where = draw(st.sampled_from(["nowhere", "nowhere", "pages", "footer"]))
    if where == "pages":
        pages = bytearray(whole[:start])
        pages[rng.randrange(4, start)] ^= 1 << rng.randrange(8)
        return bytes(pages) + whole[start:]
    footer = damaged(whole[start:-8], rng) if where == "footer" else whole[start:-8]
    return whole[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@fuzzed("glue-parquet")
def glue_parquet(draw: DrawFn) -> bytes:
    """RTE as parquet."""
    return _table_file(draw, "glue")


@fuzzed("imagenet-parquet")
def imagenet_parquet(draw: DrawFn) -> bytes:
    """Pictures with labels as parquet."""
    return _table_file(draw, "imagenet")


@fuzzed("imagenet-tar")
def imagenet_tar(draw: DrawFn) -> bytes:
    """Pictures with .cls, .json or class folders; or any tar."""
    if draw(st.integers(0, 4)) == 0:
        return tar_file(draw)
    cls = st.sampled_from([b"0", b"1", b"12\n", b" 3 "])
    odd_cls = st.sampled_from([b"1_0", b"", b"-1", b"\xff", b"9" * 40, "٣".encode()])
    stems = st.sampled_from(["a", "b", "cat/c", "dog/d", "é", "a"])
    target = io.BytesIO()
    labels = draw(st.sampled_from([("cls",), ("json",), ("cls", "json"), ()]))
    with tarfile.open(fileobj=target, mode="w") as tar:
        for stem in draw(st.lists(stems, max_size=4, unique=draw(st.integers(0, 9)) > 0)):
            stem = f"../{stem}" if draw(st.integers(0, 19)) == 0 else stem
            members = {"png": draw(st.binary(max_size=9))}
            members |= {"cls": draw(cls if draw(st.integers(0, 9)) else odd_cls)}
            members |= {"json": written(draw, {"label": draw(st.integers(-1, 9))})}
            members = {kind: members[kind] for kind in ("png", *labels)}
            for ending, data in members.items():
                about = tarfile.TarInfo(f"{stem}.{ending}")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    return target.getvalue()


@fuzzed("real-labels")
def real_labels(draw: DrawFn) -> bytes:
    """Labels of a/x.png, b/x.png and b/y.png, or of three files in one folder; see the check."""
    labels = st.lists(st.integers(0, 9), max_size=3)
    if draw(st.booleans()):
        return written(draw, draw(st.lists(labels, min_size=3, max_size=3)))
    keys = draw(st.sampled_from([["a/x.png", "b/x.png", "b/y.png"], ["x.png", "y.png", "z.png"]]))
    return written(draw, {key: draw(labels) for key in keys})


@fuzzed("class-names")
def class_names(draw: DrawFn) -> bytes:
    """Two classes in each of the three forms, or templates."""
    name = st.sampled_from(["tench", "great_white", "Crane (bird), x", "...", "é", "{}"])
    one, two = draw(name), draw(name)
    forms = [
        [one, two],
        {"0": ["n1", one], "1": ["n2", two]},
        {"n2": one, "n1": two},
        ["a photo of a {}.", "{c}"],
    ]
    return written(draw, draw(st.sampled_from(forms)))


@fuzzed("result")
def result_json(draw: DrawFn) -> bytes:
    """A result.json of either schema."""
    number = st.floats(allow_nan=False, allow_infinity=False) | st.just(50.0)
    known = {"name": "glue", "dataset": "glue", "split": "dev", "protocol": "p", "n_examples": 2}
    whole = {"weights_sha256": "a" * 64, "counts": {"rows": 2}, "main_metrics": ["glue/x"]}
    if draw(st.booleans()):
        low, high = sorted((draw(number), draw(number)))
        metric = {"value": draw(number), "low": low, "high": high, "chance": 1.0, "n": 2}
        metrics = {"glue/x": metric, "glue/y": {"value": None, "why_not": "no data"}}
        scores = {"scores": "predictions.parquet", "scores_sha256": "b" * 64}
        value = {"schema_version": 2, **known, **whole, **scores, "metrics": metrics}
    else:
        old = {"metrics": {"glue/x": draw(number)}, "confidence": {"glue/x": [1.0, 2.0]}}
        old |= {"chance": {"glue/x": 1}, "n_by_metric": {}, "not_run": {"glue/y": "no data"}}
        value = {"schema_version": 1, **known, **whole, **old}
    return written(draw, value)


@fuzzed("features")
def features_file(draw: DrawFn) -> bytes:
    """Cached features: digest and array, of the right shape (3, 4) or another, also damaged."""
    shape = draw(st.sampled_from([(3, 4)] * 9 + [(4, 3), (12,), (3, 4, 1), (0, 4)]))
    dtype = draw(st.sampled_from(["f4"] * 9 + ["f8", "i4", "f2"]))
    rows = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    if rows.size and dtype != "i4" and draw(st.integers(0, 4)) == 0:
        rows.flat[0] = draw(st.sampled_from([np.nan, np.inf]))
    target = io.BytesIO()
    np.save(target, rows, allow_pickle=False)
    array = target.getvalue()
    if draw(st.booleans()):
        array = damaged(array, random.Random(draw(_SEEDS)))
    right = hashlib.sha256(array).digest()
    return draw(st.sampled_from([right] * 9 + [bytes(32), b""])) + array


@fuzzed("scores")
def scores_file(draw: DrawFn) -> bytes:
    """Per-example scores: of our own writing with any further columns, or another table."""
    from clippo_core.evaluate.scores import Scores

    if draw(st.integers(0, 3)) == 0:
        return _table_file(draw, draw(st.sampled_from(["glue", "imagenet"])))
    scores, n = Scores(), draw(st.integers(1, 4))
    column = st.sampled_from(
        [[None] * n, [True] * n, list(range(n)), ["é"] * n, [0.5] * n, [None, *range(n - 1)]]
    )
    further = {name: draw(column) for name in draw(st.sets(st.sampled_from(["a", "é", "metricx"])))}
    scores.add("x/y", range(n), draw(st.lists(st.none() | st.just(1.5), min_size=n, max_size=n)),
               **further)  # fmt: skip
    return damaged(scores.to_parquet(), random.Random(draw(_SEEDS)))
