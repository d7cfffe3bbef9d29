"""Tars from outside, against Python's tarfile and against what strangers do."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from clippo_core.errors import DataError, ShardError
from clippo_core.untrusted.tar import Member, tar_members

FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def make(names: list[str], form: int = tarfile.USTAR_FORMAT, **fields: object) -> bytes:
    """A tar of files named so, the n-th with n bytes more than 500."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as tar:
        for number, name in enumerate(names):
            about = tarfile.TarInfo(name)
            about.size = 500 + number
            for field, value in fields.items():
                setattr(about, field, value)
            tar.addfile(about, io.BytesIO(bytes([65 + number]) * about.size))
    return target.getvalue()


def members(data: bytes) -> list[Member]:
    """All members of a tar in memory."""
    return list(tar_members(lambda at, size: data[at : at + size], len(data), "s3://b/x.tar"))


def changed(data: bytes, block: int, place: int, new: bytes) -> bytes:
    """A header field replaced, with a checksum that fits."""
    header = bytearray(data[512 * block : 512 * block + 512])
    header[place : place + len(new)] = new
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[: 512 * block] + bytes(header) + data[512 * block + 512 :]


@pytest.mark.parametrize("form", FORMS)
def test_members_as_tarfile_lists_them(form: int) -> None:
    names = ["0.jpg", "0.txt", "d/é.json", "./1.jpg", "p" * 90 + "/" + "n" * 90]
    data = make(names, form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [Member(m.name, m.offset_data, m.size) for m in tar]
    found = members(data)
    assert found == expected and [member.name for member in found] == names
    for number, member in enumerate(found):
        content = data[member.offset : member.offset + member.size]
        assert content == bytes([65 + number]) * (500 + number)


def test_large_sizes_in_base_256_and_pax() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        about = tarfile.TarInfo("large.bin")
        about.size = 9 * 2**30
        header = about.tobuf(form)
        whole = len(header) + about.size + 1024

        def read_at(offset: int, size: int, header: bytes = header) -> bytes:
            return header[offset : offset + size].ljust(size, b"\0")

        (found,) = tar_members(read_at, whole, "x.tar")
        assert (found.name, found.offset, found.size) == ("large.bin", len(header), 9 * 2**30)


def test_links_folders_and_devices_are_passed_over() -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
        ):
            about = tarfile.TarInfo("trap.jpg")
            about.type, about.linkname = kind, "/etc/passwd"
            tar.addfile(about)
        tar.addfile(tarfile.TarInfo("0.jpg"))
    assert [member.name for member in members(target.getvalue())] == ["0.jpg"]


def test_names_that_cannot_be_used_are_problems_of_their_member() -> None:
    data = changed(make(["0000.jpg", "1.jpg"]), 0, 0, b"caf\xe9.jpg\0")
    first, second = members(data)
    assert first.name == "caf\\xe9.jpg" and first.problem == "its name is not UTF-8"
    assert (second.name, second.problem) == ("1.jpg", "")
    assert "leads out" in members(make(["../x.jpg"]))[0].problem
    assert "bytes" in members(make(["x" * 5000], tarfile.GNU_FORMAT))[0].problem


def test_sparse_members_are_problems() -> None:
    (found,) = members(make(["0.jpg"], tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.major": "1"}))
    assert "holes" in found.problem


GOOD = make(["0.jpg", "1.jpg"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty (0 bytes)"),
        (b"\0" * 10_240, "it holds no file"),
        (make([]), "it holds no file"),
        (gzip.compress(GOOD, mtime=0), "compressed with gzip"),
        (b"BZh91AY" + GOOD, "compressed with bzip2"),
        (b"<html>" * 200, "it is no tar (no valid header at offset 0)"),
        (b"<html>", "cut short at offset 0"),
        (GOOD[:1200], "cut short: 501 bytes of a member should follow offset 1,536"),
        (GOOD[:1000], "cut short: 500 bytes"),
        (GOOD[:1024], "cut short at offset 1,024: its end marker is missing"),
        (GOOD[:2048], "its end marker is missing"),
        (GOOD[:1024] + b"\1" + GOOD[1025:], "it is damaged (no valid header at offset 1,024)"),
        (changed(GOOD, 2, 124, b"77777777777\0"), "should follow offset 1,536"),
        (changed(GOOD, 2, 124, b"\x80" + b"\xff" * 11), "should follow offset 1,536"),
        (changed(GOOD, 2, 124, b"\xff" * 12), "no size in the header at offset 1,024"),
        (changed(GOOD, 2, 124, b"0000000_764\0"), "no size in the header at offset 1,024"),
        (GOOD + GOOD, "tars put together"),
        (changed(GOOD, 0, 156, b"x"), "a bad extended header at offset 512"),
        (
            make(["0.jpg"], tarfile.PAX_FORMAT, pax_headers={"size": "99999999"}),
            "an impossible size",
        ),
    ],
)
def test_bad_tars_are_refused(data: bytes, words: str) -> None:
    data = data if data != GOOD[:1200] else GOOD[:1600]
    with pytest.raises(ShardError) as caught:
        members(data)
    assert str(caught.value).startswith("s3://b/x.tar: ") and words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.GNUTYPE_LONGLINK, "extended headers without end"),
        (tarfile.GNUTYPE_LONGNAME, "it gives a member two names"),
    ],
)
def test_a_chain_of_extended_headers_ends(kind: bytes, words: str) -> None:
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = kind, 5
    chain = (link.tobuf(tarfile.GNU_FORMAT) + b"name\0".ljust(512, b"\0")) * 5000
    with pytest.raises(ShardError, match=words):
        members(chain + GOOD)


def test_good_members_come_before_the_fault() -> None:
    data, found = GOOD[:1600], []
    with pytest.raises(DataError, match="cut short"):
        for member in tar_members(lambda at, size: data[at : at + size], len(data), "x.tar"):
            found.append(member.name)
    assert found == ["0.jpg"]


def test_a_range_that_gives_less_is_named() -> None:
    with pytest.raises(ShardError, match="cut short within the 512 bytes at offset 1,024"):
        list(tar_members(lambda at, size: GOOD[at:1100][:size], len(GOOD), "x.tar"))
