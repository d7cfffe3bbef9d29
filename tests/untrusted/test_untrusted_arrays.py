"""Arrays and tensors from outside: the bits of numpy and safetensors, and lies refused."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from clippo_core.errors import CheckpointError, ShardError
from clippo_core.untrusted.arrays import open_npz, read_npy
from clippo_core.untrusted.limits import Limits
from clippo_core.untrusted.tensors import open_safetensors

ARRAYS = {
    "params/head": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "bfloat16": np.arange(8, dtype=np.uint16).view("V2"),
    "big_endian": np.arange(5, dtype=">i4"),
    "half": np.ones((1, 2, 1), np.float16),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 3), np.uint8),
}


def npz(packed: bool = False, **arrays: np.ndarray) -> bytes:
    """An .npz as numpy writes it."""
    target = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(target, **arrays)  # type: ignore[arg-type]
    return target.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip of these members."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def npy(header: str, body: bytes = b"", length: int | None = None) -> bytes:
    """An .npy with this header text."""
    size = struct.pack("<H", len(header) if length is None else length)
    return b"\x93NUMPY\1\0" + size + header.encode() + body


@pytest.mark.parametrize("packed", [False, True])
def test_npz_as_numpy_reads_it(packed: bool) -> None:
    with open_npz(io.BytesIO(npz(packed, **ARRAYS)), "x.npz") as found:
        assert list(found.facts) == list(ARRAYS)
        for name, array in ARRAYS.items():
            read = found.read(name)
            assert (read.dtype, read.shape) == (array.dtype, array.shape)
            assert read.tobytes() == array.tobytes()
            assert found.facts[name].n_bytes == array.nbytes
        with pytest.raises(CheckpointError, match="array nothing is missing"):
            found.read("nothing")


def test_npy_as_numpy_reads_it() -> None:
    for array in ARRAYS.values():
        target = io.BytesIO()
        np.save(target, array)
        assert read_npy(target, "x.npy").tobytes() == array.tobytes()
        with pytest.raises(CheckpointError, match="x.npy: its array of shape"):
            read_npy(io.BytesIO(target.getvalue() + b"x"), "x.npy")


LONG = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(LONG % "(1000000000, 1000)"), "should have 4,000,000,000,000 bytes, and has 0"),
        (npy(LONG % "(2,)", b"1234567"), "should have 8 bytes, and has 7"),
        (npy(LONG % "(-1,)"), "header is damaged"),
        (npy(LONG % "(10**9,)"), "header is damaged"),
        (npy(LONG % ("(" * 900)), "header is damaged"),
        (npy(LONG % ("(" + "1," * 40 + ")"), b"1234"), "40 dimensions"),
        (npy(LONG % "(1,)", b"1234").replace(b"<f4", b"|O8"), "is not supported"),
        (
            npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", b"1234"),
            "structured",
        ),
        (npy("__import__('os').getpid()"), "header is damaged"),
        (npy(LONG % "(1,)", b"1234", length=9999), "header is damaged"),
        (npy(LONG % "(1,)", b"1234", length=65_000), "header claims 65,000 bytes"),
        (b"\x93NUMPY\1", "no array of numpy"),
        (b"pickle", "no array of numpy"),
    ],
)
def test_arrays_that_lie(content: bytes, words: str) -> None:
    tracemalloc.start()
    with (
        pytest.raises(CheckpointError) as caught,
        open_npz(io.BytesIO(zipped({"a.npy": content})), "x.npz"),
    ):
        pass
    assert words in str(caught.value) and str(caught.value).startswith("x.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_zips_that_lie() -> None:
    good = npz(a=np.zeros(1000, np.float32))
    first, entry = good.index(b"PK\3\4"), good.index(b"PK\1\2")

    def patched(place: int, new: bytes) -> bytes:
        return good[:place] + new + good[place + len(new) :]

    flipped = bytearray(good)
    flipped[2000] ^= 1
    for data, words in [
        (b"", "no .npz file"),
        (good[:-30], "no .npz file"),
        (b"x" + good, "no .npz file"),
        (patched(entry + 8, b"\1\0"), "array a: it is encrypted"),
        (patched(entry + 10, b"\x0c\0"), "a method that numpy does not use"),
        (patched(entry + 24, b"\xff\xff\xff\x7e"), "claims 2,130,706,431 bytes, packed into"),
        (patched(entry + 6, b"\xff\0"), "no .npz file, or damaged"),
        (patched(first + 26, b"\xff\xff"), "array a is damaged"),
        (patched(len(good) - 10, b"\xff\xff\xff\x7f"), "its directory claims"),
        (bytes(flipped), "array a is damaged"),
    ]:
        with pytest.raises(CheckpointError) as caught, open_npz(io.BytesIO(data), "x.npz") as found:
            found.read("a")
        assert words in str(caught.value), (words, str(caught.value))
    few = Limits(array_bytes=1000)
    with (
        pytest.raises(ShardError, match="its arrays have 4,128 bytes, more than 1,000"),
        open_npz(io.BytesIO(good), "x.npz", error=ShardError, limits=few),
    ):
        pass


def test_a_name_twice_is_refused() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.npy", npy(LONG % "(1,)", b"1234"))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy(LONG % "(1,)", b"4321"))
    with (
        pytest.raises(CheckpointError, match="array a: it occurs twice"),
        open_npz(target, "x.npz"),
    ):
        pass


@pytest.mark.parametrize("seed", range(3))
def test_every_flipped_bit_is_refused_or_harmless(seed: int) -> None:
    good = npz(a=np.arange(100, dtype=np.float32))
    rng = np.random.default_rng(seed)
    for bit in rng.integers(0, 8 * len(good), 100):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        try:
            with open_npz(io.BytesIO(bytes(data)), "x.npz") as found:
                assert all((found.read(name) == np.arange(100)).all() for name in found.facts)
        except CheckpointError:
            continue


def tensors(header: Any, body: bytes = b"", length: int | None = None) -> io.BytesIO:
    """A .safetensors with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return io.BytesIO(struct.pack("<Q", len(text) if length is None else length) + text + body)


def test_safetensors_as_the_library_reads_them() -> None:
    arrays = {
        name: np.ascontiguousarray(a)
        for name, a in ARRAYS.items()
        if name not in ("bfloat16", "big_endian")
    }
    data = safetensors.numpy.save(arrays, metadata={"clippo": "{}"})
    found = open_safetensors(io.BytesIO(data), "x.safetensors")
    assert found.metadata == {"clippo": "{}"} and found.facts.keys() == arrays.keys()
    for name, array in arrays.items():
        read = found.read(name)
        assert (read.dtype, read.shape, read.tobytes()) == (
            array.dtype,
            array.shape,
            array.tobytes(),
        )
    with pytest.raises(CheckpointError, match="tensor nothing is missing"):
        found.read("nothing")


def test_bfloat16_comes_as_its_bits() -> None:
    import torch
    from safetensors.torch import save

    value = torch.randn(3, 4).bfloat16()
    read = open_safetensors(io.BytesIO(save({"a": value})), "x").read("a")
    assert torch.equal(torch.from_numpy(read).view(torch.bfloat16), value)


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """An entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (io.BytesIO(b""), "no safetensors file"),
        (tensors({}, length=2**63), "its header claims"),
        (tensors(b"[" * 50_000), "nested more than"),
        (tensors(b'{"a":1,"a":2}'), "the key 'a' twice"),
        (tensors([]), "must be an object"),
        (tensors({"a": 1}), "a is a whole number, and must be an object"),
        (tensors({"__metadata__": {"a": 1}}), "__metadata__.a is a whole number"),
        (tensors({"a": one(dtype="F8_E4M3")}, b"x" * 8), "not supported"),
        (tensors({"a": one(shape=[-2])}, b"x" * 8), "not supported"),
        (tensors({"a": one(shape=[1] * 50)}, b"x" * 8), "not supported"),
        (
            tensors({"a": one(shape=[2**40])}, b"x" * 8),
            "should have 4,398,046,511,104 bytes, and has 8",
        ),
        (tensors({"a": one(shape=["2"])}, b"x" * 8), r"a.shape[0] is a text"),
        (tensors({"a": one(offsets=[8, 16])}, b"x" * 16), "a gap or overlap"),
        (tensors({"a": one(), "b": one()}, b"x" * 8), "a gap or overlap"),
        (tensors({"a": one()}, b"x" * 9), "end at byte"),
        (tensors({"a": one()}, b"x" * 7), "end at byte"),
    ],
)
def test_headers_that_lie(file: io.BytesIO, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_safetensors(file, "x.safetensors")
    assert words in str(caught.value) and str(caught.value).startswith("x.safetensors")
