"""Parquet files from outside: kinds, nulls, damage and bombs."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clippo_core.errors import DataError, EvaluationError
from clippo_core.untrusted.limits import Limits
from clippo_core.untrusted.parquet import Group, Kind, open_parquet

GLUE = {"sentence": Kind.TEXT, "label": Kind.WHOLE}


def written(columns: dict[str, Any], **options: Any) -> io.BytesIO:
    """A parquet file of these columns."""
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target, **options)
    return target


def groups(file: io.BytesIO, wanted: dict[str, Kind], **options: Any) -> list[Group]:
    """All row groups."""
    table = open_parquet(file, "x.parquet", wanted, **options)
    return [table.read_group(number) for number in range(len(table.group_rows))]


def test_columns_by_row_group() -> None:
    columns = {"sentence": ["a", "b", "a", "c"], "label": [0, 1, -1, 2], "idx": [1, 2, 3, 4]}
    found = groups(written(columns, row_group_size=3), GLUE)
    assert [group.columns for group in found] == [
        {"sentence": ["a", "b", "a"], "label": [0, 1, -1]},
        {"sentence": ["c"], "label": [2]},
    ]
    assert not any(group.problems for group in found)


def test_pictures_as_structs_or_bytes() -> None:
    structs = [{"bytes": b"1", "path": "a"}, None, {"bytes": None, "path": "b"}]
    for column in (structs, [b"1", None, None]):
        (found,) = groups(written({"image": column}), {"image": Kind.BYTES})
        assert found.columns["image"] == [b"1", None, None]
        assert found.problems == dict.fromkeys((1, 2), "its image is missing (null)")


def test_nulls_and_nans_are_problems_and_never_words() -> None:
    columns = {
        "sentence": ["a", None, "None"],
        "label": [1, 2, None],
        "score": [math.nan, 1.0, math.inf],
    }
    (found,) = groups(written(columns), {**GLUE, "score": Kind.REAL})
    assert found.columns["sentence"] == ["a", None, "None"]
    assert found.columns["score"] == [None, 1.0, None]
    assert found.problems == {
        0: "its score is not finite",
        1: "its sentence is missing (null)",
        2: "its label is missing (null)",
    }


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"sentence": [b"a"], "label": [1]}, "column sentence holds binary, and must hold texts"),
        (
            {"sentence": ["a"], "label": ["1"]},
            "column label holds string, and must hold whole numbers",
        ),
        ({"sentence": ["a"], "label": [True]}, "column label holds bool"),
        ({"sentence": [["a"]], "label": [1]}, "column sentence holds list"),
        ({"sentence": ["a"]}, "column label is missing; its columns are sentence; give one with"),
        (
            {"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int64())},
            "it holds no rows",
        ),
    ],
)
def test_columns_that_do_not_fit(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        groups(written(columns), GLUE, error=EvaluationError)
    assert str(caught.value).startswith("x.parquet: ") and words in str(caught.value)


def test_damage_is_a_sentence() -> None:
    whole = written(
        {"sentence": ["a dog"] * 50, "label": list(range(50))}, compression="gzip"
    ).getvalue()
    for data, words in [
        (b"", "no parquet file"),
        (whole[:-1], "no parquet file"),
        (b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1", "its footer claims"),
        (whole[:-40] + b"\xff" * 32 + whole[-8:], "its footer is damaged"),
        (whole[:4] + b"\xff" * 60 + whole[64:], "of row group 0 is damaged"),
    ]:
        with pytest.raises(DataError) as caught:
            groups(io.BytesIO(data), GLUE)
        assert words in str(caught.value), str(caught.value)


def test_texts_that_are_no_utf8() -> None:
    bad = pa.array([b"\xff"]).view(pa.string())
    with pytest.raises(DataError, match="column sentence of row group 0 is damaged"):
        groups(written({"sentence": bad, "label": [1]}), GLUE)


def test_a_repeated_text_is_kept_once() -> None:
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000), pa.array(["x" * 200_000]))
    file = written({"sentence": repeated, "label": [1] * 50_000}, store_schema=False)
    assert len(file.getvalue()) < 100_000  # and 10 GB of texts
    (found,) = groups(file, GLUE)
    assert len({id(text) for text in found.columns["sentence"]}) < 50


def test_repeated_bytes_are_kept_once() -> None:
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000), pa.array([b"x" * 200_000]))
    pair = pa.StructArray.from_arrays([repeated, pa.nulls(50_000, pa.string())], ["bytes", "path"])
    for column in (repeated, pair):
        (found,) = groups(written({"image": column}, store_schema=False), {"image": Kind.BYTES})
        assert len({id(data) for data in found.columns["image"]}) < 50


def test_texts_and_lists_of_them() -> None:
    plain, lists = ["a", None, "b"], [["a", "b"], None, []]
    for kind in (pa.string(), pa.large_string()):
        for column, expected in (
            (pa.array(plain, kind), [["a"], None, ["b"]]),
            (pa.array(lists, pa.list_(kind)), lists),
            (pa.array([["a", None], ["b"], []], pa.large_list(kind)), [None, ["b"], []]),
        ):
            (found,) = groups(written({"text": column}), {"text": Kind.TEXTS})
            assert found.columns["text"] == expected
            missing = [row for row, value in enumerate(expected) if value is None]
            assert found.problems == dict.fromkeys(missing, "its text is missing (null)")
    with pytest.raises(DataError, match="column text holds list.*must hold texts, or lists"):
        groups(written({"text": [[["a"]]]}), {"text": Kind.TEXTS})


def test_pictures_come_with_their_paths() -> None:
    structs = [{"path": "a", "bytes": b"1"}, None, {"path": "b", "bytes": None}]
    for column, paths in ((structs, ["a", "", "b"]), ([b"1", None, None], ["", "", ""])):
        (found,) = groups(written({"image": column}), {"image": Kind.PICTURE})
        assert found.columns["image"] == list(zip([b"1", b"", b""], paths, strict=True))
        assert not found.problems


def test_lists_of_a_repeated_text_keep_it_once() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000), pa.array(["x" * 200_000]))
    lists = pa.ListArray.from_arrays(pa.array([0, 20_000, 50_000]), texts)
    file = written({"text": lists}, store_schema=False)
    assert len(file.getvalue()) < 100_000  # and 10 GB of texts
    (found,) = groups(file, {"text": Kind.TEXTS})
    assert [len(texts) for texts in found.columns["text"]] == [20_000, 30_000]
    assert len({id(text) for texts in found.columns["text"] for text in texts}) < 50


def test_groups_that_are_too_large() -> None:
    columns = {"sentence": [f"{n:050}" for n in range(100)], "label": [1] * 100}
    for options in ({}, {"use_dictionary": False}):
        file = written(columns, **options)
        with pytest.raises(DataError, match="row group 0 has 100 rows; write it with smaller"):
            groups(file, GLUE, limits=Limits(parquet_group_rows=99))
        with pytest.raises(DataError, match="row group 0 is too large .at column sentence"):
            groups(file, GLUE, limits=Limits(parquet_group_bytes=1000))
        with pytest.raises(DataError, match="its footer claims 100 rows"):
            groups(file, GLUE, limits=Limits(parquet_rows=99))


def list_of_equal_texts(n: int) -> bytes:
    """One row with a list of n times the same text."""
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array(["a dog"]))
    lists = pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), texts)
    return written({"text": lists}, store_schema=False, data_page_size=1 << 30).getvalue()


def refused_in_little_memory(data: bytes, words: str) -> None:
    pool = pa.default_memory_pool()
    before = pool.max_memory()
    with pytest.raises(DataError, match=words):
        groups(io.BytesIO(data), {"text": Kind.TEXTS})
    assert pool.max_memory() <= max(before, pool.bytes_allocated() + (1 << 20))


def test_a_long_list_is_refused_before_it_is_read() -> None:
    data = list_of_equal_texts(11_000_000)
    assert len(data) < 2000
    refused_in_little_memory(data, "row group 0 is too large .at column text.")


def test_a_footer_that_belies_its_pages() -> None:
    n = 11_000_000
    data = list_of_equal_texts(n)
    number, n_zigzag = b"", 2 * n
    while n_zigzag:
        number += bytes([n_zigzag & 127 | (128 if n_zigzag > 127 else 0)])
        n_zigzag >>= 7
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    one = b"\x82" + b"\x80" * (len(number) - 2) + b"\x00"  # 1, as long as the true number
    assert number in data[:footer] and number in data[footer:]
    forged = data[:footer] + data[footer:].replace(number, one)
    refused_in_little_memory(forged, "row group 0 is too large .at column text.")


def test_values_written_as_differences() -> None:
    """Each value repeats 200,000 bytes of the one before it: 40 MB from 400 kB."""
    values = ["x" * 200_000 + chr(n) for n in range(200)]
    options = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}
    for version in ("1.0", "2.0"):
        data = written({"text": values}, data_page_version=version, **options).getvalue()
        assert len(data) < 500_000
        refused_in_little_memory(data, "as differences .* write it in another encoding")


def test_pages_of_every_kind() -> None:
    """Pages of both versions, many of them, nulls, nested columns and every codec: read as is."""
    pictures = [{"bytes": bytes([n % 251]) * 50, "path": f"{n}.png"} for n in range(3000)]
    columns = {"image": pictures, "text": [None if n % 3 else [f"{n}"] * 3 for n in range(3000)]}
    for version, codec in itertools.product(("1.0", "2.0"), ("NONE", "snappy", "gzip", "zstd")):
        file = written(
            columns, data_page_version=version, compression=codec, data_page_size=1000,
            row_group_size=1000,
        )  # fmt: skip
        found = groups(file, {"image": Kind.PICTURE, "text": Kind.TEXTS})
        assert [row for group in found for row in group.columns["text"]] == columns["text"]
        assert found[2].columns["image"][999] == (pictures[2999]["bytes"], "2999.png")


def test_deep_schemas_are_refused() -> None:
    kind = pa.int64()
    for _ in range(60):
        kind = pa.struct([("a", kind)])
    file = written({"sentence": ["a"], "label": [1], "deep": pa.nulls(1, kind)}, store_schema=False)
    with pytest.raises(DataError, match="its footer is damaged .*too deeply nested"):
        groups(file, GLUE)


def test_other_columns_are_read_by_their_own_kind() -> None:
    columns = {"metric": ["a", None], "n": [1, None], "hit": [True, False], "no": [None, None]}
    (found,) = groups(written(columns), {"metric": Kind.TEXT}, others=Kind.PLAIN)
    assert found.columns == columns and found.problems[1] == "its metric is missing (null)"
    with pytest.raises(DataError, match="column x holds list"):
        groups(written({"metric": ["a"], "x": [[1]]}), {"metric": Kind.TEXT}, others=Kind.PLAIN)
    with pytest.raises(DataError, match=r"its columns are g\\x00; give one with metric\.$"):
        groups(written({"g\0": ["a"]}), {"metric": Kind.TEXT}, others=Kind.PLAIN)
