"""Lines, gzip, names and numbers from outside."""

from __future__ import annotations

import gzip
import io
import random
import time
import tracemalloc

import pytest

from clippo_core.errors import DataError, RenderError
from clippo_core.untrusted.limits import Limits
from clippo_core.untrusted.names import name_problem, printable, read_name, reason
from clippo_core.untrusted.numbers import real_number, whole_number
from clippo_core.untrusted.text import read_lines, read_text, read_whole, unpacked


def test_lines_and_their_problems() -> None:
    data = b"\xef\xbb\xbfa dog\r\n\ncaf\xe9\nx\0y\n" + b"z" * 11 + b"\n\xe2\x80\xa8last"
    for size in (1, 3, 1000):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        found = list(read_lines(pieces, "x.txt", limits=Limits(line_bytes=10)))
        assert [line.text for line in found] == ["a dog", "", "", "", "", "\u2028last"]
        assert [line.number for line in found] == [1, 2, 3, 4, 5, 6]
        assert [line.problem for line in found] == [
            "",
            "",
            "line 3 is not UTF-8 (unexpected end of data at byte 3)",
            "line 4 holds a NUL",
            "line 5 is longer than 10 bytes",
            "",
        ]


def test_a_line_without_end_takes_no_memory() -> None:
    pieces = (b"x" * 2**20 for _ in range(200))
    tracemalloc.start()
    (line,) = read_lines(pieces, "x.txt", limits=Limits(line_bytes=2**21))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "longer than" in line.problem and peak < 16 * 2**20


def test_gzip_members_and_padding() -> None:
    data = gzip.compress(b"one\ntwo") + gzip.compress(b"") + b"\0" * 100 + gzip.compress(b"\n3")
    found = read_lines(io.BytesIO(data), "x.gz", packed=True)
    assert [line.text for line in found] == ["one", "two", "3"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut short"),
        (b"plain text", "no gzip file"),
        (gzip.compress(b"abc" * 1000, mtime=0)[:-5], "cut short"),
        (gzip.compress(b"abc", mtime=0)[:-8] + b"\0" * 8, "damaged"),
        (gzip.compress(b"abc", mtime=0) + b"rubbish", "no gzip file, or damaged"),
    ],
)
def test_damaged_gzip(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"^x.gz: it is .*{words}"):
        list(unpacked(io.BytesIO(data), "x.gz"))


def test_a_gzip_bomb_is_refused_early() -> None:
    bomb = gzip.compress(b"\0" * 100 * 2**20)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(DataError, match="unpack to more than"):
        list(read_lines(io.BytesIO(bomb), "x.gz", packed=True))
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 5 and peak < 200 * 2**20
    with pytest.raises(DataError, match="has more than 1,000 bytes"):
        read_whole(io.BytesIO(bomb), "x.gz", packed=True, max_bytes=1000)


def test_many_empty_members_take_linear_time() -> None:
    seconds = []
    for count in (20_000, 80_000):
        data = gzip.compress(b"") * count
        start = time.process_time()
        assert list(unpacked(io.BytesIO(data), "x.gz")) == []
        seconds.append(time.process_time() - start)
    assert seconds[1] < 8 * seconds[0] + 0.5


def test_a_packed_text_is_the_text() -> None:
    words = random.Random(0).choices(["a", "dog", "é", "😀", "", "\n"], k=300_000)
    text = " ".join(words)
    assert read_text(io.BytesIO(gzip.compress(text.encode())), "x.gz", packed=True) == text
    with pytest.raises(DataError, match="not UTF-8"):
        read_text([b"\xff"], "x.txt")
    with pytest.raises(DataError, match="a NUL"):
        read_text([b"a\0"], "x.txt")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"caf\xe9.jpg", "not UTF-8"),
        ("caf\udce9.jpg", "a lone surrogate"),
        ("a\0b", "a control character"),
        ("a\nb", "a control character"),
        ("a\u2028b", "a line end"),
        ("x/" * 520 + "x", "1,041 bytes"),
        ("x" * 5000, "5,000 bytes"),
        ("d/" + "x" * 256, "more than 255 bytes"),
        ("/etc/passwd", "absolute"),
        ("a/../../b", "leads out"),
        ("", "empty"),
        ("folder/", "that of a folder"),
        ("folder/.", "that of a folder"),
    ],
)
def test_names_that_cannot_be_used(raw: str | bytes, problem: str) -> None:
    shown, found = read_name(raw)
    assert problem in found
    assert shown.isprintable() and len(shown) <= 200
    assert isinstance(raw, bytes) or name_problem(raw) == found


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "d/é 😀.jpg", "..a", "a..b/c", "日本.jpg"])
def test_names_that_can(name: str) -> None:
    assert read_name(name) == read_name(name.encode()) == (name, "")


def test_what_sentences_show() -> None:
    assert printable("a\x1b[31m\u202e") == "a\\x1b[31m\\u202e"
    assert len(printable("x" * 10**6)) == 200 and printable("x" * 10**6).endswith("…")
    assert (
        reason(OSError("cannot identify <_io.BytesIO object at 0x7f8a12345678>"))
        == "cannot identify the file"
    )
    assert reason(KeyError()) == "KeyError"


def test_numbers_are_plain_digits() -> None:
    assert whole_number("0017", "x") == 17
    assert whole_number("00fF", "x", base=16, maximum=0x10FFFF) == 255
    assert whole_number("-1", "x", minimum=-1) == -1
    assert real_number("-1.5e2", "x") == -150.0
    for digits in ("1_0", "0x1", "+1", " 1", "1\n", "٣", "", "-", "1" * 30, "5"):
        with pytest.raises(RenderError, match="no whole number of hexadecimal digits from 0 to 4"):
            whole_number(digits, "x", base=16, maximum=4, error=RenderError)
    for digits in ("nan", "inf", "1e400", "1_0", "", "٣", "6", "-1", "."):
        with pytest.raises(DataError, match="no finite number from 0 to 5"):
            real_number(digits, "x", minimum=0, maximum=5)
