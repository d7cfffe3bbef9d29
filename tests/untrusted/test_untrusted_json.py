"""json from outside: what is refused, in which words, and typed access."""

from __future__ import annotations

import gc
import json
import re
import sys

import pytest

from clippo_core.errors import CheckpointError, ConfigError, DataError
from clippo_core.untrusted.json import at, field, load_json, optional
from clippo_core.untrusted.limits import LIMITS, Limits


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"\xef\xbb\xbf  ", "it is empty"),
        (b"[1, 2", "line 1 column 6"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
        (b'[{"]]]":"]\\"]]]",' * 40 + b'"a":1', "nested more than 64 deep"),
        (b"[NaN]", "NaN, which is no number"),
        (b"[-Infinity]", "-Infinity, which is no number"),
        (b"[1e400]", "1e400, which is beyond every number"),
        (b"9" * 5000, "a whole number of thousands of digits"),
        (b'"\\ud800"', "a lone surrogate"),
        (b'{"\\uDFFF": 1}', "a lone surrogate"),
        (b'"\\ud83d\\\\\\ude00"', "a lone surrogate"),
        (b'"\\ud83d\\ud83d\\ude00\\ude00"', "a lone surrogate"),
        ("\ud800", "a lone surrogate"),
        (b'"caf\xe9"', "not UTF-8 (at byte 4)"),
        ('"x"'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_is_refused(data: bytes | str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):  # which is a ValueError, too
        load_json(data, "run.json", error=ConfigError)
    with pytest.raises(DataError) as caught:
        load_json(data, "s3://b/x.json", remedy="take the official file")
    assert str(caught.value).startswith("s3://b/x.json: ")
    assert words in str(caught.value)
    assert str(caught.value).endswith("; take the official file.")


def test_what_is_read() -> None:
    assert load_json(b'\xef\xbb\xbf{"a": [1, 2.5, null]}', "x") == {"a": [1, 2.5, None]}
    assert load_json(b'["\\ud83d\\ude00", "\\\\ud800"]', "x") == ["😀", "\\ud800"]
    assert load_json('"[[["', "x") == "[[["
    assert load_json(b"[" * 64 + b"]" * 64, "x")
    brackets = json.dumps({"text": "[{" * 500 + '"\\'}).encode()
    assert load_json(brackets, "x") == json.loads(brackets)
    long = b'["' + b"[" * 2**22 + b"\\" * 2 + b'", 1]'  # an escape on the border of two steps
    assert load_json(long, "x") == json.loads(long)


def test_bounds_and_error_class() -> None:
    with pytest.raises(CheckpointError, match="has 12 bytes, more than 4"):
        load_json(b"[1, 2, 3, 4]", "x", error=CheckpointError, max_bytes=4)
    with pytest.raises(DataError, match="more than 3 values"):
        load_json(b"[1, 2, 3, 4]", "x", limits=Limits(json_values=3))
    with pytest.raises(DataError, match="the key 'a' twice"):
        load_json(b'{"a": 1, "a": 2}', "x", unique_keys=True)
    with pytest.raises(DataError) as caught:
        load_json(b"{", "s3://b/\udce9\n" + "x" * 5000)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_looking_before_parsing_calls_nothing_for_each_value() -> None:
    answers = [
        {"answer": f"a [{n}]", "answer_confidence": "yes", "answer_id": n} for n in range(10)
    ]
    data = json.dumps([{"question_id": n, "answers": answers} for n in range(20_000)]).encode()
    found = load_json(data, "x")  # imports what it needs
    calls: list[str] = []
    gc.disable()  # others may have asked to be called at each collection
    sys.setprofile(lambda frame, event, what: calls.append(event) if "call" in event else None)
    try:
        load_json(data, "x")
    finally:
        sys.setprofile(None)
        gc.enable()
    assert found == json.loads(data)
    assert len(calls) < 1_000  # for 640,000 values


def test_typed_access() -> None:
    value = load_json(b'{"images": [{"id": 1, "raw": "a"}, {"id": true}], "n": 2, "z": null}', "x")
    entries = field(value, "images", list[dict], "x")
    assert field(entries[0], "raw", str, "x") == "a"
    assert field(value, "n", float, "x") == 2.0
    assert (
        optional(value, "z", str, "none", "x") == optional(value, "q", str, "none", "x") == "none"
    )
    assert at({"a": 1}, dict[str, int], "x") == {"a": 1}
    assert at([1, "a"], list[object], "x") == [1, "a"]


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        ('{"images": [1]}', list[dict], r"images\[0\] is a whole number, and must be an object"),
        (
            '{"images": [{"a": [true]}]}',
            list[dict[str, list[int]]],
            r"images\[0\].a\[0\] is true or false",
        ),
        ('{"images": "a dog"}', list[str], "images is a text, 'a dog', and must be a list"),
        ('{"images": null}', str, "images is null, and must be a text"),
        ('{"images": 9223372036854775808}', int, "images is a number beyond 64 bits"),
        (f'{{"images": 1{"0" * 400}}}', float, "images is beyond every number"),
        ('{"other": 1}', str, "images is missing"),
        ("[]", str, "it is a list, and must be an object"),
    ],
)
def test_typed_access_names_the_place(data: str, kind: type, words: str) -> None:
    with pytest.raises(DataError, match=words):
        field(load_json(data, "x"), "images", kind, "x")


def test_the_default_bounds_take_the_benchmarks() -> None:
    vqa_annotations = 443_757  # with ten answers each, of 3 fields
    assert vqa_annotations * (6 + 10 * 4) < LIMITS.json_values
