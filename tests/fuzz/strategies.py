"""Files as a stranger may make them, by format: valid ones, and the same with lies and damage.

Hypothesis draws what a file holds; a random generator, seeded by hypothesis, damages its bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

STRATEGIES: dict[str, SearchStrategy[bytes]] = {}
_SEEDS = st.integers(0, 2**64 - 1)
_NUMBERS = (0, 1, 2, 0x7F, 0xFF, 512, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1)


def damaged(data: bytes, rng: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """`data` as it is (one time in two), or after one to five random changes."""
    found = bytearray(data)
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2, 5))):
        place = rng.randrange(len(found) + 1)
        length = min(rng.choice((1, 2, 4, 8, 64, 512)), len(found) - place)
        change = rng.randrange(8)
        if change == 0 and place < len(found):
            found[place] ^= 1 << rng.randrange(8)
        elif change == 1 and place < len(found):
            found[place] = rng.choice((0, 0x22, 0x5C, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif change == 2:
            del found[place : place + length]
        elif change == 3:
            found[place:place] = found[place : place + length]
        elif change == 4:
            found[place:place] = rng.randbytes(length)
        elif change == 5:
            number = rng.choice(_NUMBERS) + rng.choice((-1, 0, 0, 1))
            size = rng.choice((2, 4, 8))
            order = rng.choice(("little", "big"))
            found[place : place + size] = (number % 256**size).to_bytes(size, order)
        elif change == 6:
            del found[place:]
        elif others:
            other = rng.choice(others)
            found[place:] = other[rng.randrange(len(other) + 1) :]
    return bytes(found)


def fuzzed(name: str) -> Callable[[Callable[[DrawFn], bytes]], Callable[[DrawFn], bytes]]:
    """Register a function that draws a valid or lying file; its bytes are damaged at random."""

    def register(build: Callable[[DrawFn], bytes]) -> Callable[[DrawFn], bytes]:
        @st.composite
        def file(draw: DrawFn) -> bytes:
            return damaged(build(draw), random.Random(draw(_SEEDS)))

        assert name not in STRATEGIES, f"two strategies are called {name}"
        STRATEGIES[name] = file()
        return build

    return register


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "\udc00x", "😀", "[[", '"', "\\", "\0", "\u2028"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["images", "filename", "sentences", "raw", "caption", "image/key", "label", "é", ""]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@fuzzed("json")
def json_text(draw: DrawFn) -> bytes:
    """A json value, also with lone surrogates; or one of the traps for parsers."""
    value = draw(JSON_VALUES)
    depth = draw(st.sampled_from([1, 60, 63, 64, 65, 500, 1000, 100_000]))
    escapes = st.lists(
        st.sampled_from(
            ["\\ud83d", "\\ude00", "\\\\", "\\ud800", "u", "\\u00e9", '\\"', "[", "x", "\\n"]
        ),
        max_size=6,
    )
    tricky = [
        json.dumps(value).encode(),
        json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"),
        b"\xef\xbb\xbf" + json.dumps(value).encode(),
        json.dumps({"images": [{"filename": "a.jpg", "sentences": [{"raw": value}]}]}).encode(),
        b"[" * depth + b"]" * depth,
        b'{"a":' * depth + b"1" + b"}" * depth,
        b'[{"]":"[[[\\"","a":' * min(depth, 2000) + b"1" + b"}]" * min(depth, 2000),
        ('["' + "".join(draw(escapes)) + '"]').encode(),
        b"["
        + draw(st.sampled_from([b"1e400", b"-1e999", b"NaN", b"-Infinity", b"9" * 5000]))
        + b"]",
        json.dumps(value).encode("utf-16"),
        b"",
    ]
    return draw(st.sampled_from(tricky))


@fuzzed("lines")
def lines_text(draw: DrawFn) -> bytes:
    """Lines of text, in any of the line ends, also broken UTF-8, NULs and long lines."""
    line = st.text(max_size=20).map(lambda text: text.encode(errors="surrogatepass"))
    odd = st.sampled_from(
        [b"\xff", b"\xc3", b"a\0b", b"x" * 150, b"x" * 3000, b"\xe2\x80\xa8", b"\r"]
    )
    ends = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b""])
    parts = draw(st.lists(st.tuples(line | odd, ends), max_size=12))
    start = draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe"]))
    return start + b"".join(text + end for text, end in parts)


@fuzzed("gzip")
def gzip_text(draw: DrawFn) -> bytes:
    """gzip members, empty ones and bombs among them, with padding or rubbish between."""
    member = (
        lines_text(draw),
        b"",
        b"word " * 2000,
        b"\0" * draw(st.sampled_from([10**5, 3 * 10**6])),
    )
    parts = draw(st.lists(st.sampled_from(member), max_size=4))
    between = draw(st.sampled_from([b"", b"\0\0", b"", b"x"]))
    return b"".join(gzip.compress(part, mtime=0) + between for part in parts)


@fuzzed("zstd")
def zstd_frames(draw: DrawFn) -> bytes:
    """A frame, now and then several or none, of lines or of very many zeros."""
    import pyarrow

    content = lines_text(draw), b"", bytes(draw(st.sampled_from([300, 9_999, 10_001, 10**6])))
    parts = draw(st.lists(st.sampled_from(content), min_size=1, max_size=2))
    data = b"".join(pyarrow.compress(part, "zstd", asbytes=True) for part in parts)
    return damaged(data, random.Random(draw(_SEEDS)))


@fuzzed("name")
def name_bytes(draw: DrawFn) -> bytes:
    """Parts of names between slashes."""
    part = st.text(max_size=8).map(lambda text: text.encode(errors="surrogatepass"))
    odd = st.sampled_from(
        [b"..", b".", b"", b"\xff", b"a\0", b"\x1b[31m", b"x" * 256, b"\xe9", b"\n"]
    )
    return b"/".join(draw(st.lists(part | odd | st.just(b"dog.jpg"), max_size=6)))


@fuzzed("number")
def number_text(draw: DrawFn) -> bytes:
    """Digits, and what Python takes for digits."""
    odd = [
        "1_0",
        "0x1",
        "+1",
        " 1",
        "nan",
        "inf",
        "1e400",
        "٣",
        "²",
        "-0",
        "9" * 5000,
        "1e5",
        ".5",
        "-",
    ]
    odd += ["1" + "0" * 400, "1e-400", "0b1", "1.", "", "1\n"]
    return draw(
        st.sampled_from(odd) | st.integers(-(2**70), 2**70).map(str) | st.floats().map(str)
    ).encode()


def _tar_header_lies(data: bytes, rng: random.Random) -> bytes:
    """Fields of random blocks changed, with checksums that fit."""
    found = bytearray(data)
    for _ in range(rng.choice((0, 0, 1, 2))):
        start = 512 * rng.randrange(max(1, len(found) // 512))
        header = found[start : start + 512]
        if len(header) < 512:
            continue
        field, values = rng.choice(
            [
                (
                    (124, 136),
                    [
                        b"00000000000\0",
                        b"77777777777\0",
                        b"\x80" + b"\xff" * 11,
                        b"1_0\0" * 3,
                        b"-0000000001\0",
                        b"\xff" * 12,
                        b"00000001000\0",
                        b"\0" * 12,
                    ],
                ),
                ((156, 157), [b"0", b"1", b"5", b"x", b"g", b"L", b"K", b"S", b"Z", b"\0", b"7"]),
                ((0, 8), [b"/etc/abc", b"../../x.", b"\xe9\xff.jpg\0", b"\0" * 8, b"a\nb.jpg\0"]),
                ((257, 265), [b"ustar\x0000", b"ustar  \0", b"\0" * 8]),
                ((345, 353), [b"prefix\0\0", b"..\0\0\0\0\0\0"]),
            ]
        )
        header[field[0] : field[1]] = rng.choice(values)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        found[start : start + 512] = header
    return bytes(found)


@fuzzed("tar")
def tar_file(draw: DrawFn) -> bytes:
    """Tars of all three formats with links, folders, long and strange names; also compressed."""
    kinds = st.sampled_from(
        [tarfile.REGTYPE] * 5
        + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
    )
    names = st.sampled_from(
        [
            "0.jpg",
            "0.txt",
            "1.json",
            "d/é.jpg",
            "x" * 120 + ".jpg",
            "../0.jpg",
            "/0.txt",
            "d/" * 60 + "x",
            "\udce9.jpg",
            "a\x07.jpg",
            "./0.png",
        ]
    )
    members = draw(st.lists(st.tuples(names, kinds, st.integers(0, 700)), max_size=5))
    form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    target = io.BytesIO()
    with tarfile.open(
        fileobj=target, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for name, kind, size in members:
            about = tarfile.TarInfo(name)
            about.type, about.size = kind, size if kind == tarfile.REGTYPE else 0
            try:
                tar.addfile(about, io.BytesIO(b"x" * size))
            except ValueError:  # a name that ustar cannot hold
                continue
    rng = random.Random(draw(_SEEDS))
    data = _tar_header_lies(target.getvalue(), rng)
    whole = rng.choice(
        (data,) * 8
        + (data + data, gzip.compress(data, mtime=0), data[:-10_240], data[: len(data) // 2])
    )
    return whole


def npy_bytes(draw: DrawFn) -> bytes:
    """An array; or one whose header lies about type, order, shape or length."""
    dtype = draw(
        st.sampled_from(
            ["<f4", ">f4", "<f2", "<f8", "<i4", "|u1", "V2", ">i8", "|b1", "<U3", "|O", "<c8"]
        )
    )
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    order = draw(st.sampled_from("CF"))
    target = io.BytesIO()
    values = np.frombuffer(bytes(range(200)) * 60, np.uint8)
    kind = np.dtype(dtype)
    n = int(np.prod(shape))
    if kind.hasobject:
        array = np.array([{}] * n, object).reshape(shape)
    else:
        array = (
            values[: n * kind.itemsize].view(kind).reshape(shape, order=order)
            if n
            else np.zeros(shape, kind)
        )
    np.lib.format.write_array(target, array)
    whole = target.getvalue()
    if draw(st.booleans()):
        return whole
    descr = draw(
        st.sampled_from(
            [
                "'<f4'",
                "'|V2'",
                "[('a', '<f4')]",
                "'<f99'",
                "'O'",
                "__import__('os')",
                "'" + "f" * 50 + "'",
                "'f4'",
            ]
        )
    )
    claimed = draw(
        st.sampled_from(
            [
                "()",
                "(3,)",
                "(10**9,)",
                "(4000000000, 1000)",
                "(-1,)",
                "(2, 3",
                "(1,)*9",
                "(3L,)",
                "3",
                "(9,)*9999",
                "(" + "1, " * 40 + ")",
                "(" * 900,
                "(0, 99999999999)",
            ]
        )
    )
    fortran = draw(st.sampled_from(["True", "False", "1"]))
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {claimed}, }}\n"
    header = text.encode()
    length = draw(st.sampled_from([len(header), 0, 65_535]))
    version = draw(st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\4\0"]))
    size = struct.pack("<H" if version == b"\1\0" else "<I", length)
    return b"\x93NUMPY" + version + size + header + b"\0" * draw(st.sampled_from([0, 12, 100]))


fuzzed("npy")(npy_bytes)


def _zip_lies(data: bytes, rng: random.Random) -> bytes:
    """Fields of the directory changed: versions, flags, methods, sizes, offsets, counts."""
    found = bytearray(data)
    for _ in range(rng.choice((0, 0, 1, 2))):
        magic, fields = rng.choice(
            [
                (b"PK\1\2", (4, 6, 8, 10, 16, 20, 24, 28, 30, 42)),
                (b"PK\3\4", (4, 6, 8, 14, 18, 22, 26, 28)),
                (b"PK\5\6", (8, 10, 12, 16, 20)),
            ]
        )
        starts = [match.start() for match in re.finditer(re.escape(magic), found)]
        if starts:
            place = rng.choice(starts) + rng.choice(fields)
            size = rng.choice((2, 4))
            found[place : place + size] = (rng.choice(_NUMBERS) % 256**size).to_bytes(
                size, "little"
            )
    return bytes(found)


@fuzzed("npz")
def npz_file(draw: DrawFn) -> bytes:
    """Zips of arrays, stored or packed, some with the same name, bombs or no arrays in them."""
    names = st.sampled_from(
        ["params/a.npy", "b.npy", "b", "c.txt", "é.npy", "../d.npy", "/e.npy", "x" * 300 + ".npy"]
    )
    target = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
    with zipfile.ZipFile(target, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in draw(st.lists(names, max_size=4)):
            archive.writestr(zipfile.ZipInfo(name), npy_bytes(draw), compress_type=method)
        if method == zipfile.ZIP_DEFLATED and draw(st.integers(0, 9)) == 0:
            bomb = io.BytesIO()
            np.save(bomb, np.zeros(3 * 10**6, np.float32))
            archive.writestr(zipfile.ZipInfo("z.npy"), bomb.getvalue(), compress_type=method)
    return _zip_lies(target.getvalue(), random.Random(draw(_SEEDS)))


@fuzzed("safetensors")
def safetensors_file(draw: DrawFn) -> bytes:
    """Headers that are right, and headers with one lie."""
    tensors: dict[str, Any] = {}
    place = 0
    for number in range(draw(st.integers(0, 4))):
        dtype, size = draw(
            st.sampled_from([("F32", 4), ("BF16", 2), ("U8", 1), ("I64", 8), ("F16", 2)])
        )
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        end = place + size * int(np.prod(shape))
        tensors[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [place, end]}
        place = end
    if draw(st.booleans()):
        tensors["__metadata__"] = draw(
            st.sampled_from([{"a": "b"}, {"a": 1}, "x", {"a": {"b": "c"}}, {}])
        )
    if tensors and draw(st.integers(0, 2)) == 0:
        name = draw(st.sampled_from(sorted(tensors)))
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))
        odd = draw(
            JSON_VALUES
            | st.sampled_from(
                [[2**62, 2**62], [0, 2**40], [-1, 3], [1e400], "BOOL", "F8_E4M3", [0] * 50]
            )
        )
        if isinstance(tensors[name], dict):
            tensors[name][field] = odd
    text = json.dumps(tensors).encode()
    text = draw(
        st.sampled_from(
            [text] * 6 + [text.replace(b"t1", b"t0"), b"[" * 5000, b"\xff" + text, text + b"   "]
        )
    )
    length = draw(st.sampled_from([len(text)] * 6 + [0, 2**63, len(text) + 1]))
    return (
        struct.pack("<Q", length)
        + text
        + bytes(range(256)) * (place // 256)
        + bytes(range(place % 256))
    )


@lru_cache
def parquet_files() -> tuple[bytes, ...]:
    """Files of every kind of column that is read, and of some that must be refused."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = pa.table(
        {
            "image": [{"bytes": bytes([i]) * 40, "path": None} for i in range(30)],
            "label": list(range(30)),
            "text": [f"a dog {i % 3}" for i in range(30)],
            "score": [i / 7 for i in range(30)],
        }
    )
    odd = pa.table(
        {
            "image": [None, {"bytes": None, "path": "x"}, {"bytes": b"", "path": None}],
            "label": [None, 1, -1],
            "text": [None, "", "é"],
            "score": [float("nan"), None, 1e308],
        }
    )
    wrong = pa.table({"image": ["x"], "label": ["1"], "text": [b"\xff"], "score": [True]})
    bad_text = pa.table(
        {
            "image": [b"\xff"],
            "label": [1],
            "text": pa.array([b"\xff"]).view(pa.string()),
            "score": [1.0],
        }
    )
    # One value of 200 kB for 60,000 rows: 12 GB of texts in a file of a few kB.
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 60_000), pa.array(["x" * 200_000]))
    bomb = pa.table(
        {"image": [b"x"] * 60_000, "label": [1] * 60_000, "text": repeated, "score": [1.0] * 60_000}
    )
    found = []
    for table in (plain, odd, wrong, bad_text, plain.slice(0, 0)):
        for options in (
            {},
            {"compression": "none", "use_dictionary": False},
            {"compression": "zstd", "write_page_checksum": True},
            {"data_page_version": "2.0", "compression": "gzip", "row_group_size": 7},
        ):
            target = io.BytesIO()
            pq.write_table(table, target, **options)
            found.append(target.getvalue())
    target = io.BytesIO()
    pq.write_table(bomb, target, store_schema=False)
    return (*found, target.getvalue())


def damaged_page(whole: bytes, rng: random.Random) -> bytes:
    """A parquet file with damage in the header of one page, or in the numbers behind it."""
    import pyarrow.parquet as pq

    about = pq.read_metadata(io.BytesIO(whole))
    if not about.num_row_groups:
        return whole
    column = about.row_group(rng.randrange(about.num_row_groups)).column(
        rng.randrange(about.num_columns)
    )
    starts = [column.data_page_offset, column.dictionary_page_offset or column.data_page_offset]
    start = rng.choice(starts)
    end = start + rng.choice((12, 40, 100))
    return whole[:start] + damaged(whole[start:end], rng) + whole[end:]


@fuzzed("parquet")
def parquet_file(draw: DrawFn) -> bytes:
    """A small parquet file, as it is, cut together from two, or damaged in its footer or in a page
    alone.
    """
    files = parquet_files()
    whole = draw(st.sampled_from(files[:8] * 3 + files))
    rng = random.Random(draw(_SEEDS))
    where = draw(st.sampled_from(["anywhere", "footer", "footer", "page", "page", "nowhere"]))
    if where == "anywhere":
        return damaged(whole, rng, files)
    if where == "page":
        return damaged_page(whole, rng)
    if where == "footer":
        start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
        footer = damaged(whole[start:-8], rng)
        return whole[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    return whole


@lru_cache
def picture_files() -> tuple[bytes, ...]:
    """Small pictures of every format, in the modes that it has."""
    from PIL import Image

    modes = {
        "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        "JPEG": ("RGB", "L", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P", "L"),
        "BMP": ("RGB", "1", "P"),
        "TIFF": ("RGB", "F", "CMYK", "LAB", "I;16"),
    }
    found = []
    for form, each in modes.items():
        for mode in each:
            target = io.BytesIO()
            Image.linear_gradient("L").resize((17, 11)).convert("L").convert(
                mode if ";" not in mode else "I"
            ).convert(mode).save(target, form)
            found.append(target.getvalue())
    return tuple(found)


@fuzzed("picture")
def picture_file(draw: DrawFn) -> bytes:
    """A picture; or a PNG whose header claims another size or mode, with a checksum that fits."""
    whole = draw(st.sampled_from(picture_files()))
    if draw(st.integers(0, 3)) == 0:
        sizes = st.sampled_from([0, 1, 17, 8000, 50_000, 2**31 - 1, 2**32 - 1])
        depth, colour = draw(
            st.sampled_from([(8, 2), (8, 6), (16, 0), (1, 0), (8, 3), (16, 6), (3, 9)])
        )
        header = struct.pack(
            ">IIBBBBB", draw(sizes), draw(sizes), depth, colour, 0, 0, draw(st.integers(0, 1))
        )
        png = picture_files()[0]
        whole = png[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:]
    return whole
