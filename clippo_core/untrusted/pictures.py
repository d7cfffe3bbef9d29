"""Pictures from outside: opened within bounds, decoded within a memory budget of the whole process.

    with decoded(data, name) as picture:        a loaded PIL image
        pixels = np.asarray(picture.convert("RGB"))

How much memory decoding and converting takes is known from the header (size and mode) before a
pixel is decoded. Threads together take at most the budget: a thread waits until there is room, in
the order of asking. Colours, orientation and resizing are for data/images.py.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clippo_core.errors import ClippoError, ImageError
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import reason, refusal

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened; none of them calls another program. JPEG includes MPO."""
_BYTES_PER_PIXEL = {"RGB": 16, "L": 14, "1": 14, "P": 14}
_BYTES_PER_ODD_PIXEL = 28
"""Decoded pixels, their copies while they are converted and turned, and the result: measured."""
_REMEDY = "restore or remove it"


class DecodingBudget:
    """Bytes that are shared by all who decode, given out in the order of asking."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.taken_bytes = 0
        self.most_taken_bytes = 0
        """The most that was ever taken at one time."""
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, n_bytes: int) -> Iterator[None]:
        """Hold `n_bytes` (at most the total) for as long as the context lasts; waits for them."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._is_next(ticket, n_bytes))
                self.taken_bytes += n_bytes
                self.most_taken_bytes = max(self.most_taken_bytes, self.taken_bytes)
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.taken_bytes -= n_bytes
                self._changed.notify_all()

    def _is_next(self, ticket: object, n_bytes: int) -> bool:
        return self._queue[0] is ticket and self.taken_bytes + n_bytes <= self.total_bytes


BUDGET = DecodingBudget(LIMITS.decoding_bytes)
"""The budget of this process."""


@contextlib.contextmanager
def decoded(
    data: bytes,
    where: str,
    *,
    budget: DecodingBudget = BUDGET,
    error: type[ClippoError] = ImageError,
    limits: Limits = LIMITS,
) -> Iterator[Image.Image]:
    """The loaded picture (of an animation, the first frame), with its memory held until the end.

    What the context does with the picture (converting, turning, copying out as RGB) is within the
    estimate. The context must not decode another picture, which could wait for the first.
    Raises `error` for what is empty, of another format, damaged, or larger than the bounds.
    """
    picture = _opened(data, where, error, limits)
    width, height = picture.size
    n_bytes = memory_bytes(picture)
    if n_bytes > budget.total_bytes:
        fault = f"decoding {width} x {height} pixels takes {n_bytes:,} bytes of memory"
        remedy = f"shrink it, or allow more than {budget.total_bytes:,}"
        raise refusal(error, where, fault, remedy)
    with budget.taking(n_bytes), picture:
        try:
            picture.load()
        except MemoryError:
            raise
        except Exception as caught:  # OSError, SyntaxError, struct.error, ... as the reader likes
            fault = f"it is damaged or cut short ({reason(caught)})"
            raise refusal(error, where, fault, _REMEDY) from None
        if sorted(picture.size) != sorted((width, height)):  # PIL turns a TIFF by its EXIF
            fault = f"its header says {width} x {height} pixels, and its content differs"
            raise refusal(error, where, fault, _REMEDY)
        yield picture


def picture_size(
    data: bytes,
    where: str,
    *,
    error: type[ClippoError] = ImageError,
    limits: Limits = LIMITS,
) -> tuple[int, int]:
    """(width, height) in pixels from the header alone; nothing is decoded. Raises `error`."""
    with _opened(data, where, error, limits) as picture:
        return picture.size


def memory_bytes(picture: Image.Image) -> int:
    """Memory that decoding an opened picture and turning it into RGB takes, at most."""
    width, height = picture.size
    is_plain = picture.mode in _BYTES_PER_PIXEL and "transparency" not in picture.info
    per_pixel = _BYTES_PER_PIXEL[picture.mode] if is_plain else _BYTES_PER_ODD_PIXEL
    return width * height * per_pixel


def _opened(data: bytes, where: str, error: type[ClippoError], limits: Limits) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise refusal(error, where, "it is empty (0 bytes)", _REMEDY)
    if len(data) > limits.picture_bytes:
        fault = f"it has {len(data):,} bytes, more than {limits.picture_bytes:,}"
        raise refusal(error, where, fault, "shrink or remove it")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as caught:  # PIL's readers raise whatever a broken header makes them raise
        known = isinstance(caught, UnidentifiedImageError)
        words = "its header is none of theirs" if known else reason(caught)
        fault = f"it is no readable picture ({words})"
        raise refusal(error, where, fault, f"use {', '.join(FORMATS)}") from None
    width, height = picture.size
    if width < 1 or height < 1 or width * height > limits.picture_pixels:
        fault = f"it has {width} x {height} pixels; 1 to {limits.picture_pixels:,} are allowed"
        raise refusal(error, where, fault, "shrink or remove it")
    return picture
