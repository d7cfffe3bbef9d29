"""Bytes of a picture -> uint8 [h, w, 3] -> the tower's square, exactly as the reference resizes.

    bytes ─▶ decode_image ─▶ squash(image, 224)            training, zero-shot, retrieval, VQA
                          └▶ fewshot_crop(image, 224)      10-shot: squash to 256, central crop

`squash` is tf.image.resize(bilinear, antialias=False) cast back to uint8 by truncation: the aspect
ratio is not kept, and shrinking skips pixels rather than averaging them (big_vision pp/ops_image.py
`resize`). Decoding refuses what it cannot read whole, with an ImageError; a limit on pixels is
checked on the header, before a byte is decoded.

It is not bit-identical to TensorFlow's JPEG decoder (other inverse DCT, a level here and there),
applies EXIF orientation, and lays transparent pictures on white, where tf.io.decode_image ignores
orientation and drops alpha.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clippo_core.errors import ImageError, NotFoundError, TooLargeError
from clippo_core.untrusted import pictures
from clippo_core.untrusted.limits import LIMITS
from clippo_core.untrusted.names import reason, refusal

_REMEDY = "restore or remove it"


def decode_image(source: bytes | str | Path | Image.Image, name: str = "") -> np.ndarray:
    """uint8 [h, w, 3] of a picture given as bytes, path (or s3:// URI) or PIL image. Raises
    ImageError.

    Grey, palette and CMYK become RGB; 16 bits keep the high byte; transparency is laid on white; of
    an animation the first frame counts; EXIF orientation is applied. `name` is what errors call the
    picture.
    """
    if isinstance(source, Image.Image):
        with _explained(name or "the image"):
            source.load()
            return _pixels(source, name or "the image")
    name = name or (str(source) if isinstance(source, (str, Path)) else "the image")
    data = source if isinstance(source, bytes) else read_image_bytes(source)
    with decoded_image(data, name) as pixels:
        return pixels


@contextlib.contextmanager
def decoded_image(data: bytes, name: str) -> Iterator[np.ndarray]:
    """As `decode_image`, for threads: what all hold at one time stays within
    LIMITS.decoding_bytes. The context must not decode another picture.
    """
    with pictures.decoded(data, name) as picture:
        with _explained(name):
            pixels = _pixels(picture, name)
        yield pixels


def read_image_bytes(source: str | Path) -> bytes:
    """The bytes of a picture file or object. Raises ImageError where there is none, or it is too
    long.
    """
    if str(source).startswith("s3://"):
        from clippo_core import storage

        try:
            return storage.read_bytes(str(source), LIMITS.picture_bytes)
        except (NotFoundError, TooLargeError) as error:
            raise ImageError(str(error)) from error  # the picture's fault, not the network's
    try:
        with open(source, "rb", opener=_without_waiting) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise refusal(ImageError, str(source), "it is no file", _REMEDY)
            if facts.st_size > LIMITS.picture_bytes:
                fault = f"it has {facts.st_size:,} bytes, more than {LIMITS.picture_bytes:,}"
                raise refusal(ImageError, str(source), fault, "shrink or remove it")
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        fault = f"it cannot be read ({reason(error)})"
        raise refusal(ImageError, str(source), fault, _REMEDY) from error


def image_size(data: bytes, name: str = "the image") -> tuple[int, int]:
    """(width, height) from the header alone; nothing is decoded. Raises ImageError."""
    return pictures.picture_size(data, name)


def squash(image: np.ndarray, image_px: int) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [image_px, image_px, 3]: bilinear between the four nearest pixels,
    truncated. Aspect is not kept.

    in = (out + 1/2) * size / image_px - 1/2 in float32; horizontal, then vertical interpolation, as
    TensorFlow's kernel does.
    """
    height, width = image.shape[:2]
    if (height, width) == (image_px, image_px):
        return image
    left, right, across = _taps(width, image_px)
    top, bottom, down = _taps(height, image_px)
    if height > 2 * image_px:  # a picture of 8 x 8,000,000 would take 20 GB as it is
        image = image[np.stack([top, bottom], 1).ravel()]
        top, bottom = np.arange(0, 2 * image_px, 2), np.arange(1, 2 * image_px, 2)
        height = 2 * image_px
    rows = np.take(image, left, axis=1).reshape(height, -1).astype(np.float32)
    step = np.take(image, right, axis=1).reshape(height, -1).astype(np.float32)
    step -= rows
    step *= np.repeat(across, 3)
    rows += step
    out = np.empty((image_px, 3 * image_px), np.uint8)
    for start in range(0, image_px, 32):  # a strip at a time stays in the cache
        strip = slice(start, start + 32)
        upper, lower = rows[top[strip]], rows[bottom[strip]]
        lower -= upper
        lower *= down[strip, None]
        upper += lower
        out[strip] = upper
    return out.reshape(image_px, image_px, 3)


def fewshot_crop(image: np.ndarray, image_px: int = 224) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [image_px, image_px, 3]: squash to 256 and cut the middle 224 out
    (other sizes in proportion).

    big_vision configs/common_fewshot.py: `resize(256)|central_crop(224)`.
    """
    whole = round(image_px * 256 / 224)
    start = (whole - image_px) // 2
    return squash(image, whole)[start : start + image_px, start : start + image_px]


@functools.lru_cache(maxsize=4096)
def _taps(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper source index and float32 weight of the upper one, for each of `wanted`
    outputs along an axis.
    """
    scale = np.float32(size) / np.float32(wanted)
    place = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(place)
    lower = np.maximum(floor, 0).astype(np.intp)
    upper = np.minimum(np.ceil(place), size - 1).astype(np.intp)
    return lower, upper, place - floor


def _without_waiting(path: str, flags: int) -> int:
    """Open a path for `open`; a pipe without a writer does not block."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what PIL raises over a picture (OSError, SyntaxError, struct.error, ...) into a
    sentence.
    """
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        fault = f"it is damaged or cut short ({reason(error)})"
        raise refusal(ImageError, name, fault, _REMEDY) from error


def _pixels(picture: Image.Image, name: str) -> np.ndarray:
    """A loaded PIL image as uint8 [h, w, 3]."""
    width, height = picture.size
    if width < 1 or height < 1 or width * height > LIMITS.picture_pixels:
        fault = f"it has {width} x {height} pixels; 1 to {LIMITS.picture_pixels:,} are allowed"
        raise refusal(ImageError, name, fault, "shrink or remove it")
    return np.ascontiguousarray(_rgb(_upright(picture), name))


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; unreadable EXIF counts as none."""
    notes = " ".join(str(name).lower() for name in picture.info)
    if picture.format not in ("TIFF", "MPO") and "exif" not in notes and "xmp" not in notes:
        return picture  # asking PIL costs more than a small picture's decoding
    try:
        return ImageOps.exif_transpose(picture) or picture
    except Exception:  # broken EXIF raises as many kinds as a broken header
        return picture


def _rgb(picture: Image.Image, name: str) -> np.ndarray:
    mode = picture.mode
    if mode == "RGB":
        return np.asarray(picture)
    if mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 0xFFFF:
            fault = "it has pixel values outside 0..65535"
            raise refusal(ImageError, name, fault, "convert it to 8 or 16 bits")
        return np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if mode == "F":
        fault = "it has floating-point pixels, of which no range is known"
        raise refusal(ImageError, name, fault, "convert it to 8 bits")
    if "A" in mode or "a" in mode or "transparency" in picture.info:
        layers = picture.convert("RGBA")
        paper = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(paper, layers).convert("RGB"))
    return np.asarray(picture.convert("RGB"))
