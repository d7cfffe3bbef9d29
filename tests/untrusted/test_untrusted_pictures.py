"""Pictures from outside, and the memory that all threads share."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

from clippo_core.errors import ImageError
from clippo_core.untrusted.limits import Limits
from clippo_core.untrusted.pictures import DecodingBudget, decoded, memory_bytes, picture_size


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """A picture's file."""
    target = io.BytesIO()
    picture.save(target, form, **options)
    return target.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A small PNG whose header claims this size, with a checksum that fits."""
    whole = encoded(Image.new("RGB", (1, 1)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return whole[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + whole[33:]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pixels_as_pil_reads_them(form: str) -> None:
    data = encoded(Image.linear_gradient("L").convert("RGB").resize((40, 30)), form)
    with decoded(data, "x") as picture:
        found = np.asarray(picture.convert("RGB"))
    assert (found == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()
    assert picture_size(data, "x") == (40, 30)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty (0 bytes)"),
        (b"<html>", "no readable picture (its header is none of theirs)"),
        (png_claiming(50_000, 1000), "is damaged or cut short"),
        (png_claiming(8001, 8000), "8001 x 8000 pixels; 1 to 64,000,000 are allowed"),
        (png_claiming(0, 5), "no readable picture"),
        (encoded(Image.effect_noise((99, 99), 9), "JPEG")[:500], "is damaged or cut short"),
    ],
)
def test_what_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ImageError) as caught, decoded(data, "x.png"):
        pass
    assert str(caught.value).startswith("x.png: ") and words in str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_bounds_are_arguments() -> None:
    data = encoded(Image.new("RGB", (100, 100)))
    with pytest.raises(ImageError, match="1 to 99 are allowed"):
        picture_size(data, "x", limits=Limits(picture_pixels=99))
    with pytest.raises(ImageError, match="more than 10; shrink"):
        picture_size(data, "x", limits=Limits(picture_bytes=10))
    with (
        pytest.raises(ImageError, match="takes 160,000 bytes of memory; shrink it, or allow more"),
        decoded(data, "x", budget=DecodingBudget(100_000)),
    ):
        pass


def test_threads_stay_within_the_budget() -> None:
    data = encoded(Image.effect_noise((300, 200), 50).convert("RGB"))
    need = memory_bytes(Image.open(io.BytesIO(data)))
    budget, at_once, most = DecodingBudget(3 * need), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        for _ in range(5):
            with decoded(data, "x", budget=budget):
                with lock:
                    at_once[0] += 1
                    most[0] = max(most[0], at_once[0])
                time.sleep(0.005)
                with lock:
                    at_once[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert 2 <= most[0] <= 3
    assert budget.taken_bytes == 0 and budget.most_taken_bytes <= budget.total_bytes


def test_a_large_picture_is_not_passed_by_small_ones() -> None:
    budget, order = DecodingBudget(10), []
    started = threading.Barrier(2)

    def take(name: str, n_bytes: int, first: bool) -> None:
        if first:
            started.wait()
        with budget.taking(n_bytes):
            order.append(name)

    with budget.taking(6):
        large = threading.Thread(target=take, args=("large", 9, True))
        large.start()
        started.wait()
        while not budget._queue:
            time.sleep(0.001)
        small = threading.Thread(target=take, args=("small", 2, False))
        small.start()
        time.sleep(0.05)
        assert order == []
    large.join(10)
    small.join(10)
    assert order == ["large", "small"]


def test_a_failure_gives_its_memory_back() -> None:
    budget = DecodingBudget(10**6)
    for _ in range(3):
        with pytest.raises(ImageError), decoded(png_claiming(100, 100), "x", budget=budget):
            pass
        with (
            pytest.raises(ZeroDivisionError),
            decoded(encoded(Image.new("L", (9, 9))), "x", budget=budget),
        ):
            raise ZeroDivisionError
    assert budget.taken_bytes == 0


MEASURE = """
import io, resource, sys
from PIL import Image
from clippo_core.data.images import decode_image
from clippo_core.untrusted.pictures import memory_bytes
data = sys.stdin.buffer.read()
small = io.BytesIO()
Image.new("RGBA", (8, 8)).save(small, "PNG")
decode_image(small.getvalue())
estimate = memory_bytes(Image.open(io.BytesIO(data)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode_image(data)
print(estimate, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.parametrize(
    ("form", "mode", "turned"),
    [
        ("JPEG", "RGB", True),
        ("PNG", "RGBA", True),
        pytest.param("JPEG", "L", False, marks=pytest.mark.slow),
        pytest.param("JPEG", "CMYK", False, marks=pytest.mark.slow),
        pytest.param("PNG", "P", False, marks=pytest.mark.slow),
        pytest.param("PNG", "I;16", False, marks=pytest.mark.slow),
        pytest.param("WEBP", "RGB", False, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_covers_decoding_and_conversion(form: str, mode: str, turned: bool) -> None:
    notes = Image.Exif()
    notes[0x0112] = 6
    options = {"exif": notes} if turned else {}
    options |= {"progressive": True} if form == "JPEG" else {"compress_level": 1}
    picture = Image.linear_gradient("L").resize((4000, 3000))
    picture = picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=encoded(picture, form, **options),
        capture_output=True,
        cwd=PROJECT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    estimate, taken = map(int, done.stdout.split())
    assert taken < estimate + 20 * 2**20, (
        f"{taken / 12e6:.1f} against {estimate / 12e6:.1f} a pixel"
    )
