"""Files of pairs as strangers may make them: annotations, texts, tars of photos, indexes, fonts."""

from __future__ import annotations

import contextlib
import io
import json
import random
import tarfile
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies import JSON_VALUES, damaged, damaged_page, fuzzed, picture_files

from clippo_core.data import shard_index
from clippo_core.data.index_file import packed

_TEXTS = st.sampled_from(
    [
        "a dog",
        "zwei Hunde.",
        "",
        " ",
        "\ud800",
        "\0",
        "x" * 300,
        "犬。猫",
        "é\u0301",
        "One. Two! 3?",
    ]
)
_NAMES = st.sampled_from(["0.jpg", "1.png"]) | st.sampled_from(
    ["0.jpg", "1.png", "none.jpg", "../0.jpg", "/etc/passwd", "d/0.jpg", "\udce9.jpg", "a\nb.jpg",
     "k" * 250 + ".jpg", "", ".", "x.tar#0+99999999999"]
)  # fmt: skip
_SCRAP = st.integers(0, 29)


def _value(draw: DrawFn, good: Any) -> Any:
    """`good` drawn, or one time in thirty any json value."""
    return draw(JSON_VALUES) if draw(_SCRAP) == 0 else draw(good)


def _entry(draw: DrawFn, **fields: Any) -> Any:
    """An object with most of the fields; or any json value."""
    entry = {name: _value(draw, good) for name, good in fields.items() if draw(_SCRAP)}
    return _value(draw, st.just(entry))


def _entries(draw: DrawFn, **fields: Any) -> Any:
    return _value(draw, st.just([_entry(draw, **fields) for _ in range(draw(st.integers(0, 4)))]))


def _json(draw: DrawFn, value: Any) -> bytes:
    is_ascii = draw(st.integers(0, 7)) > 0  # a lone surrogate as it is spoils the whole file
    return json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")


@fuzzed("karpathy")
def karpathy_file(draw: DrawFn) -> bytes:
    sentences = _entries(draw, raw=_TEXTS, language=st.sampled_from(["en", "\ud800", "X Y"]))
    images = _entries(
        draw, filename=_NAMES, split=st.sampled_from(["train", "restval", "val"]),
        sentences=st.just(sentences), filepath=st.sampled_from(["", ".", "..", "d"]),
        group=st.sampled_from(["g", 1, None]),
    )  # fmt: skip
    return _json(draw, _entry(draw, images=st.just(images), dataset=_TEXTS))


@fuzzed("coco")
def coco_file(draw: DrawFn) -> bytes:
    ids = st.integers(0, 3)
    images = _entries(draw, id=ids, file_name=_NAMES)
    annotations = _entries(draw, image_id=ids, caption=_TEXTS)
    return _json(draw, _entry(draw, images=st.just(images), annotations=st.just(annotations)))


@fuzzed("xm3600")
def xm3600_file(draw: DrawFn) -> bytes:
    lines = [
        _entry(
            draw, en=st.just(_entry(draw, caption=st.lists(_TEXTS, max_size=3))),
            **{"image/key": _NAMES, "split": st.just("test"), "\ud800": st.just({"caption": []})},
        )
        for _ in range(draw(st.integers(0, 4)))
    ]  # fmt: skip
    return b"\n".join(_json(draw, line) for line in lines)


@fuzzed("c4")
def c4_file(draw: DrawFn) -> bytes:
    lines = [_json(draw, _entry(draw, text=_TEXTS)) for _ in range(draw(st.integers(0, 4)))]
    odd = st.sampled_from(
        [b"[" * 100_000, b"", b'{"text": 1e999}', b"\xff", b'{"text": "' + b". " * 999]
    )
    return b"\n".join([*lines, draw(odd)])


@fuzzed("text")
def text_file(draw: DrawFn) -> bytes:
    """Lines of tab-separated cells."""
    cell = st.sampled_from(["en", "de", "a dog", "", "X Y", "\x85", "“q”", "\0"])
    lines = draw(st.lists(st.lists(cell, min_size=1, max_size=6).map("\t".join), max_size=6))
    return draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(lines).encode()


@fuzzed("templates")
def templates_file(draw: DrawFn) -> bytes:
    good = st.sampled_from(["a {}.", "{}", "é {}"])
    odd = st.sampled_from(["a {}.", "{c}", "{} {}", "none", "{0.__class__}", "{"])
    some = st.lists(good, min_size=1, max_size=4) | st.lists(odd, max_size=4)
    return _json(draw, _value(draw, some))


@fuzzed("web-tar")
def web_tar(draw: DrawFn) -> bytes:
    """Records of photos with txt or json, good ones and bad ones, in one of three kinds of tar."""
    names = st.sampled_from(["0", "1", "a/2", "../3", "\udce9", "k" * 210, "4.5", "", "é"])
    form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form, errors="surrogateescape") as tar:
        for name in draw(st.lists(names, max_size=5)):
            members = {
                "jpg": draw(st.sampled_from([picture_files()[7], b"", b"x" * 600])),
                "txt": draw(_TEXTS).encode(errors="surrogatepass"),
                "json": _json(draw, _entry(draw, caption=_TEXTS)),
                "TXT": b"twice",
                "text.0.png": b"",
            }
            for extension in draw(st.permutations(list(members)))[: draw(st.integers(1, 5))]:
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(members[extension])
                with contextlib.suppress(ValueError):  # a name that ustar cannot hold
                    tar.addfile(member, io.BytesIO(members[extension]))
    return target.getvalue()


@lru_cache
def _arrays(kind: int) -> dict[str, np.ndarray]:
    """An index of three photos, or text pairs, with four texts."""
    is_text = kind == shard_index.TEXT
    return {
        "kinds": np.array([1, 1, 1] if is_text else [0, 2, 3], np.uint8),
        "first": np.array([[0, 80], [0, 80], [80, 50]] if is_text else [[512, 20]] * 3),
        "second": np.array([[0, 0], [1, 0], [0, 0]] if is_text else [[600, 20]] * 3),
        "drawings": np.zeros((4, 2), np.int64),
        "keys": np.frombuffer(b"" if is_text else b"s/as/bs/\xc3\xa9", np.uint8),
        "key_ends": np.array([0, 0, 0] if is_text else [3, 6, 10]),
        **{name: np.arange(3, dtype=np.uint64) for name in ("key_hashes", "group_hashes")},
        "first_hashes": np.arange(3, dtype=np.uint64),
        "text_counts": np.array([1, 2, 1]),
        "text_hashes": np.arange(4, dtype=np.uint64),
    }


@fuzzed("index")
def index_file(draw: DrawFn) -> bytes:
    """A shard's index with other numbers, whose checks are right; or one with an array left out, of
    another type, or changed.
    """
    from safetensors.numpy import save

    known = dict(_arrays(draw(st.sampled_from([shard_index.PHOTO, shard_index.TEXT]))))
    rng = random.Random(draw(st.integers(0, 2**64 - 1)))
    number = rng.choice([0, 1, 2, 200, 2**31, 2**62]) * rng.choice([1, 1, -1])
    for name in draw(st.lists(st.sampled_from(["kinds", "first", "second"]), max_size=1)):
        known[name] = known[name].copy()
        place = rng.randrange(known[name].size)
        known[name].flat[place] = np.array(number).astype(known[name].dtype)
    try:
        arrays = packed(shard_index.ShardIndex(**known))
    except (ValueError, IndexError):  # what no writer could bring about
        arrays = packed(shard_index.ShardIndex(**_arrays(shard_index.PHOTO)))
    for name in draw(st.lists(st.sampled_from(sorted(arrays)), max_size=1)):
        array = arrays.pop(name)
        change = draw(st.sampled_from(["none", "type", "number", "shorter", "same"]))
        if change == "none":
            continue
        if change == "number" and array.size:
            array = array.copy()
            array.flat[rng.randrange(array.size)] = np.array(number).astype(array.dtype)
        changed = {"type": array.astype(np.float32), "shorter": array[:-1]}
        arrays[name] = changed.get(change, array)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    about = _entry(
        draw, inputs=st.just("x"), name=st.just("s-00000.tar"), sha256=st.just("0" * 64),
        bytes=st.just(draw(st.sampled_from(["3", "-1", "1_0"])) if draw(_SCRAP) == 0 else "10240"),
    )  # fmt: skip
    notes = {"about": _json(draw, about).decode(errors="replace")} if draw(_SCRAP) else None
    return save(arrays, metadata=notes)


@fuzzed("hex-font")
def hex_font(draw: DrawFn) -> bytes:
    code = st.sampled_from(["0041", "10FFFF", "110000", "D800", "0x41", "4_1", "-1", "", "٤"])
    bits = st.sampled_from(
        ["0" * 32, "f" * 64, "A5" * 16, "0" * 33, "0x" + "0" * 30, "_0" * 16, ""]
    )
    lines = draw(st.lists(st.tuples(code, bits).map(":".join), max_size=4))
    return "".join(
        ["0020:" + "0" * 32 + "\n" if draw(_SCRAP) else "", *(f"{x}\n" for x in lines)]
    ).encode()


@fuzzed("photo")
def photo_file(draw: DrawFn) -> bytes:
    """A picture of any mode and format, also one that is wide or tall."""
    from PIL import Image

    if draw(_SCRAP) > 5:
        return draw(st.sampled_from(picture_files()))
    size = draw(st.sampled_from([(1, 30_000), (30_000, 1), (3, 9_000), (700, 700)]))
    target = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(target, "PNG", compress_level=1)
    return target.getvalue()


@fuzzed("csv")
def csv_file(draw: DrawFn) -> bytes:
    """A table with quotes, line ends in cells, short rows and odd headers."""
    cell = st.sampled_from(["a dog", '"q ""x"""', '"two\nlines"', "", "é", '"', " x ", "\0", "b'c"])
    names = st.sampled_from(["0.jpg", "1.png"]) | _NAMES
    header = "filepath,title" if draw(_SCRAP) else draw(st.sampled_from(["", "title", '"filepath']))
    rows = draw(st.lists(st.tuples(names, cell, st.sampled_from(["", ",x", ",,"])), max_size=5))
    lines = [f"{name},{text}{more}" if draw(_SCRAP) else name for name, text, more in rows]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join([header, *lines]).encode(errors="surrogatepass")


@fuzzed("folder")
def folder_files(draw: DrawFn) -> bytes:
    """Pictures beside texts as one file, which `data_readers.folder_of` takes apart."""
    stems = st.sampled_from(["0", "1", "a/2", "é", "4.5", " ", "\udce9", "k" * 240, "a\tb", "-"])
    ends = st.sampled_from([".jpg", ".txt", ".PNG", ".TXT", ".jpeg", "", ".txt.jpg", ".webp"])
    texts = _TEXTS.map(lambda text: text.encode(errors="surrogatepass"))
    contents = texts | st.sampled_from([picture_files()[7], b"\xff", b"x" * 70_000, b"\n"])
    files = []
    for stem in draw(st.lists(stems, max_size=4)):
        both = [".jpg", ".txt"] if draw(_SCRAP) > 9 else draw(st.lists(ends, max_size=3))
        files += [(stem + end, draw(contents)) for end in both]
    parts = [name.encode(errors="surrogateescape") + b"\0" + data for name, data in files]
    return FILE_ENDS.join(parts)


FILE_ENDS = b"\0the next file\0"


def _pairs_table(draw: DrawFn) -> Any:
    """A table of pictures and texts; often with a type that is not read, or a note that lies."""
    import pyarrow as pa

    n = draw(st.integers(0, 5))
    photos = st.sampled_from([*picture_files()[5:9], picture_files()[0], b"", b"x", None])
    names = (_NAMES | st.none()).map(lambda name: name and name.encode(errors="ignore").decode())
    contents, paths = [draw(photos) for _ in range(n)], [draw(names) for _ in range(n)]
    structs = [{"bytes": one, "path": path} for one, path in zip(contents, paths, strict=True)]
    whole = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = {
        "struct": pa.array(structs, whole),
        "large": pa.array(
            structs, pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])
        ),
        "binary": pa.array(contents, pa.binary()),
        "null struct": pa.array([None, *structs][:n], whole),
        "path alone": pa.array(structs, pa.struct([("path", pa.string())])),
        "path a number": pa.array(
            [{"bytes": one, "path": 1} for one in contents],
            pa.struct([("bytes", pa.binary()), ("path", pa.int64())]),
        ),
        "text": pa.array(["x"] * n, pa.string()),
    }
    good = _TEXTS.map(lambda text: text.encode(errors="ignore").decode())
    good = st.sampled_from(["a dog", "é", "犬"]) | good
    nulls = st.none() if draw(st.booleans()) else good
    lists = [draw(st.lists(good | nulls, min_size=1, max_size=3)) for _ in range(n)]
    plain = [draw(good | nulls) for _ in range(n)]
    texts = {
        "plain": pa.array(plain, pa.string()),
        "large": pa.array(plain, pa.large_string()),
        "lists": pa.array(lists, pa.list_(pa.string())),
        "large lists": pa.array(lists, pa.large_list(pa.large_string())),
        "shared": pa.array(plain, pa.string()).dictionary_encode(),
        "numbers": pa.array([1] * n, pa.int64()),
        "bytes": pa.array([b"\xff"] * n, pa.binary()),
        "not utf-8": pa.array([b"\xff"] * n, pa.binary()).view(pa.string()),
        "pictures": pa.array(structs, whole),
        "lists of lists": pa.array([[["a"]]] * n, pa.list_(pa.list_(pa.string()))),
    }
    image = draw(st.sampled_from(["struct", "binary"] * 6 + sorted(images)))
    text = draw(st.sampled_from(["plain", "lists"] * 8 + sorted(texts)))
    columns = {"image": images[image], "text": texts[text], "id": pa.array(range(n))}
    if draw(_SCRAP) == 0:
        columns.pop(draw(st.sampled_from(sorted(columns))))
    kinds = st.sampled_from(["Image", "Audio", "Video", "Value", "Pdf", "ClassLabel", "Nothing"])
    features = {name: {"_type": draw(kinds), "dtype": "string"} for name in columns}
    note = draw(st.sampled_from([json.dumps({"info": {"features": features}}), "{", "[" * 9999]))
    return pa.table(columns).replace_schema_metadata(
        {"huggingface": note} if draw(st.booleans()) else None
    )


@fuzzed("hf-parquet")
def hf_parquet(draw: DrawFn) -> bytes:
    """A table of pairs as people share them, or damaged in its footer or in a page alone."""
    import pyarrow.parquet as pq

    target = io.BytesIO()
    pq.write_table(
        _pairs_table(draw), target, compression=draw(st.sampled_from(["none", "snappy", "zstd"])),
        row_group_size=draw(st.sampled_from([1, 2, 100])), use_dictionary=draw(st.booleans()),
        store_schema=draw(st.booleans()),
    )  # fmt: skip
    whole = target.getvalue()
    if draw(_SCRAP) > 9:
        return whole
    rng = random.Random(draw(st.integers(0, 2**64 - 1)))
    if draw(st.booleans()):
        return damaged_page(whole, rng)
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    footer = damaged(whole[start:-8], rng)
    return whole[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
