"""What every file from outside must lead to: a refusal in one sentence, or the right result, twice.

Each check decodes bytes with `clippo_core.untrusted` and, where that accepts them, with a library
that knows the format; both must agree. Where the rules are simple enough, the check also says what
must be accepted.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import math
import re
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np

from clippo_core.errors import ClippoError
from clippo_core.untrusted import arrays, numbers, parquet, pictures, tensors, text, zstd
from clippo_core.untrusted import json as untrusted_json
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import read_name
from clippo_core.untrusted.tar import tar_members

CHECKS: dict[str, Callable[[bytes], bool]] = {}
"""Format -> check of one file: true where it was accepted; AssertionError for anything wrong."""
WHERE = "s3://bucket/of a stranger/é.file"
SMALL = Limits(line_bytes=100, gzip_slack_bytes=2**20, zstd_bytes=10_000, picture_pixels=4_000_000)


class Refused:
    """A refusal, compared by its words."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused) and self.words == other.words


def outcome(decode: Callable[[], Any], where: str = WHERE) -> Any:
    """The value of `decode`, the same in two calls; or Refused, with a printable sentence that
    begins with `where`.
    """
    found = [_once(decode, where), _once(decode, where)]
    assert same(*found), f"two calls differ: {found!r}"[:2000]
    return found[0]


def _once(decode: Callable[[], Any], where: str) -> Any:
    try:
        return decode()
    except ClippoError as error:
        words = str(error)
        assert words.startswith(where), words
        assert words.isprintable() and len(words.encode()) < 1500 and words.endswith("."), words
        assert not re.search(r"0x[0-9a-f]{6,}>", words), words
        return Refused(words)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, NaNs too."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        return same(vars(one), vars(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or one != one and other != other)


def check(name: str) -> Callable[[Callable[[bytes], bool]], Callable[[bytes], bool]]:
    """Register a check."""

    def register(function: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        assert name not in CHECKS, f"two checks are called {name}"
        CHECKS[name] = function
        return function

    return register


@check("json")
def check_json(data: bytes) -> bool:
    found = outcome(lambda: untrusted_json.load_json(data, WHERE))
    try:
        expected = json.loads(data.decode("utf-8-sig"))
        is_fine = _is_sound(expected)
    except (ValueError, RecursionError):
        is_fine = False
    assert is_fine != isinstance(found, Refused), getattr(found, "words", "accepted")
    if not is_fine:
        return False
    assert same(found, expected)
    for kind in (list[dict], dict[str, list], str, int, float, list[str], dict[str, float]):
        outcome(lambda kind=kind: untrusted_json.at(found, kind, WHERE, "top"))
    for field in ("images", "", "é"):
        outcome(lambda field=field: untrusted_json.field(found, field, list[dict[str, int]], WHERE))
        outcome(lambda field=field: untrusted_json.optional(found, field, float, 1.0, WHERE))
    return True


def _is_sound(value: Any) -> bool:
    """Whether a json value is within what is promised, walked value by value."""
    todo = [(value, 0)]
    while todo:
        one, depth = todo.pop()
        if isinstance(one, (list, dict)):
            if depth == LIMITS.json_depth:
                return False
            todo += [(each, depth + 1) for each in (one.values() if isinstance(one, dict) else one)]
            todo += [(each, depth + 1) for each in one if isinstance(one, dict)]
        if isinstance(one, float) and not math.isfinite(one):
            return False
        if isinstance(one, str) and any("\ud800" <= letter <= "\udfff" for letter in one):
            return False
    return True


@check("lines")
def check_lines(data: bytes) -> bool:
    size = 1 + len(data) % 37
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    found = outcome(lambda: list(text.read_lines(pieces, WHERE, limits=SMALL)))
    raw = data.split(b"\n")
    raw = raw[:-1] if raw[-1] == b"" else raw
    assert len(found) == len(raw)
    for number, (line, whole) in enumerate(zip(found, raw, strict=True), 1):
        whole = whole.removesuffix(b"\r")
        whole = whole.removeprefix(b"\xef\xbb\xbf") if number == 1 else whole
        good = len(whole) <= SMALL.line_bytes and b"\0" not in whole
        try:
            expected = whole.decode() if good else ""
        except UnicodeDecodeError:
            expected, good = "", False
        assert (line.number, line.text, not line.problem) == (number, expected, good), line
    outcome(lambda: text.read_text(pieces, WHERE))
    return True


@check("zstd")
def check_zstd(data: bytes) -> bool:
    import pyarrow

    found = outcome(lambda: zstd.unpacked(data, WHERE, limits=SMALL))
    try:
        # Two frames of what is allowed at most; a damaged one may claim to hold gigabytes.
        expected = pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd").read(20_000)
    except OSError:
        assert isinstance(found, Refused), "a damaged frame was read"
        return False
    assert isinstance(found, Refused) or found == expected
    return not isinstance(found, Refused)


@check("gzip")
def check_gzip(data: bytes) -> bool:
    found = outcome(lambda: b"".join(text.unpacked(io.BytesIO(data), WHERE, limits=SMALL)))
    try:
        expected = gzip.decompress(data)
    except Exception:
        assert isinstance(found, Refused), "a damaged gzip file was read"
        return False
    if isinstance(found, Refused):
        bound = max(SMALL.gzip_slack_bytes, SMALL.gzip_ratio * len(data))
        assert not data or len(expected) > SMALL.gzip_slack_bytes or len(expected) > bound, (
            found.words
        )
        return False
    assert found == expected
    return True


@check("name")
def check_name(data: bytes) -> bool:
    found = outcome(lambda: read_name(data))
    assert found[0].isprintable() or not found[1]
    assert len(found[0]) <= 200 or not found[1]
    if found[1]:
        return False
    parts = data.split(b"/")
    assert found[0].encode() == data and data and parts[0] and parts[-1] not in (b"", b".")
    assert b".." not in parts and max(map(len, parts)) <= 255
    assert not any(letter < " " or "\x7f" <= letter <= "\x9f" for letter in found[0])
    return True


@check("number")
def check_number(data: bytes) -> bool:
    digits = data.decode(errors="replace")
    whole = outcome(lambda: numbers.whole_number(digits, WHERE, minimum=-(2**62), maximum=2**62))
    real = outcome(lambda: numbers.real_number(digits, WHERE))
    for base in (8, 16):
        outcome(lambda base=base: numbers.whole_number(digits, WHERE, base=base))
    is_whole = re.fullmatch("-?[0-9]{1,19}", digits, re.ASCII) and abs(int(digits)) <= 2**62
    assert isinstance(whole, Refused) != bool(is_whole)
    assert isinstance(whole, Refused) or str(whole) == digits or digits[:1] in "-0"
    assert isinstance(real, Refused) or math.isfinite(real) and real == float(digits)
    return not isinstance(whole, Refused)


@check("tar")
def check_tar(data: bytes) -> bool:
    def read_at(offset: int, size: int) -> bytes:
        assert 0 <= size <= max(len(data), 512)
        return data[offset : offset + size]

    found = outcome(lambda: list(tar_members(read_at, len(data), WHERE)))
    if isinstance(found, Refused):
        return False
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8") as tar:
        expected = [member for member in tar if member.isreg()]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.offset + ours.size <= len(data)
        if ours.problem:
            continue
        assert (ours.offset, ours.size) == (theirs.offset_data, theirs.size)
        is_posix = data[ours.offset - 255 : ours.offset - 249] == b"ustar\0"
        # tarfile reads a prefix where GNU's headers have times.
        with_times = not is_posix and theirs.name.endswith(f"/{ours.name}")
        assert ours.name == theirs.name or with_times
    return True


@check("npy")
def check_npy(data: bytes) -> bool:
    found = outcome(lambda: arrays.read_npy(io.BytesIO(data), WHERE))
    if isinstance(found, Refused):
        return False
    assert same(found, np.load(io.BytesIO(data), allow_pickle=False))
    return True


@check("npz")
def check_npz(data: bytes) -> bool:
    def decode() -> dict[str, np.ndarray]:
        with arrays.open_npz(io.BytesIO(data), WHERE) as file:
            assert sum(facts.n_bytes for facts in file.facts.values()) <= 1100 * len(data) + 2**20
            return {name: file.read(name) for name in file.facts}

    found = outcome(decode)
    if isinstance(found, Refused):
        return False
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        expected = {name: file[name] for name in found}
    assert same(found, expected)
    return True


@check("safetensors")
def check_safetensors(data: bytes) -> bool:
    import safetensors

    def decode() -> dict[str, np.ndarray]:
        file = tensors.open_safetensors(io.BytesIO(data), WHERE)
        return {name: file.read(name) for name in file.facts}

    found = outcome(decode)
    if isinstance(found, Refused):
        return False
    expected = {name: about for name, about in safetensors.deserialize(data)}
    assert found.keys() == expected.keys()
    for name, values in found.items():
        about = expected[name]
        assert values.tobytes() == bytes(about["data"]) and list(values.shape) == list(
            about["shape"]
        )
        assert tensors.DTYPES[about["dtype"]] == values.dtype.newbyteorder("<").str
    return True


@check("parquet")
def check_parquet(data: bytes) -> bool:
    kinds = {
        "image": parquet.Kind.BYTES,
        "label": parquet.Kind.WHOLE,
        "text": parquet.Kind.TEXT,
        "score": parquet.Kind.REAL,
    }

    def decode() -> list[Any]:
        table = parquet.open_parquet(io.BytesIO(data), WHERE, kinds)
        groups = [table.read_group(number) for number in range(len(table.group_rows))]
        return [(group.columns, group.problems) for group in groups]

    found = outcome(decode)
    if isinstance(found, Refused):
        return False
    for columns, problems in found:
        wanted = {"image": bytes, "label": int, "text": str, "score": float}
        for name, kind in wanted.items():
            for row, value in enumerate(columns[name]):
                assert type(value) is kind or value is None and row in problems
    if sum(len(columns["label"]) for columns, _ in found) < 1000:
        assert same(found, _with_pyarrow(data)), "pyarrow reads other values"
    return True


def _with_pyarrow(data: bytes) -> list[Any]:
    """The same from pyarrow's own conversion, a row group at a time."""
    import pyarrow.parquet as pq

    groups = []
    file = pq.ParquetFile(io.BytesIO(data))
    for number in range(file.num_row_groups):
        image = file.schema_arrow.field("image").type
        leaf = "image.bytes" if image.num_fields else "image"
        rows = file.read_row_group(number, [leaf, "label", "text", "score"]).to_pylist()
        image = [
            row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
            for row in rows
        ]
        score = [row["score"] for row in rows]
        score = [float(s) if s is not None and math.isfinite(s) else None for s in score]
        columns = {
            "image": image,
            "label": [row["label"] for row in rows],
            "text": [row["text"] for row in rows],
            "score": score,
        }
        problems: dict[int, str] = {}
        for name, values in columns.items():
            for row, value in enumerate(values):
                if value is None:
                    word = (
                        "is missing (null)"
                        if rows[row][name] is None or name == "image"
                        else "is not finite"
                    )
                    problems.setdefault(row, f"its {name} {word}")
        groups.append((columns, dict(sorted(problems.items()))))
    return groups


@check("picture")
def check_picture(data: bytes) -> bool:
    budget = pictures.DecodingBudget(64 * 2**20)

    def decode() -> tuple[Any, ...]:
        with pictures.decoded(data, WHERE, budget=budget, limits=SMALL) as picture:
            assert picture.width * picture.height <= SMALL.picture_pixels
            assert 0 < budget.taken_bytes <= budget.total_bytes
            return picture.size, picture.mode, picture.tobytes()

    found = outcome(decode)
    assert budget.taken_bytes == 0
    size = outcome(lambda: pictures.picture_size(data, WHERE, limits=SMALL))
    if isinstance(found, Refused):
        return False
    assert sorted(size) == sorted(found[0])
    return True
