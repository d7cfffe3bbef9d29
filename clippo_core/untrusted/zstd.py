"""One zstd frame from outside, unpacked in bounded memory.

    unpacked(data, "numbers-00000.jsonl.zst, bytes 0 to 7,828")

The frame's own header says how large its content is, and is read before memory is taken. What the
content means is for its reader to know.
"""

from __future__ import annotations

from clippo_core.errors import ClippoError, DataError
from clippo_core.extras import optional_import
from clippo_core.untrusted.limits import LIMITS, Limits
from clippo_core.untrusted.names import reason, refusal

_MAGIC = b"\x28\xb5\x2f\xfd"
_REMEDY = "fetch or write it again"


def unpacked(
    data: bytes,
    where: str,
    *,
    error: type[ClippoError] = DataError,
    remedy: str = _REMEDY,
    limits: Limits = LIMITS,
) -> bytes:
    """The content of a frame. Raises `error` for what is no frame, does not say its size, is larger
    than limits.zstd_bytes, or is damaged.
    """
    size = _content_size(data)
    if size is None:
        fault = "it is no zstd frame that says how large it is"
    elif size > limits.zstd_bytes:
        fault = f"its zstd frame claims {size:,} bytes, more than {limits.zstd_bytes:,}"
    else:
        with optional_import():
            import pyarrow

        try:
            return bytes(pyarrow.decompress(data, size, codec="zstd", asbytes=True))
        except (OSError, ValueError, MemoryError) as caught:
            fault = f"its zstd frame is damaged ({reason(caught)})"
    raise refusal(error, where, fault, remedy)


def _content_size(data: bytes) -> int | None:
    """What a frame's header gives (RFC 8878, 3.1.1.1); None where it gives none."""
    if len(data) < 6 or data[:4] != _MAGIC or data[4] & 0b1000:
        return None
    is_single = data[4] >> 5 & 1
    length = (is_single, 2, 4, 8)[data[4] >> 6]
    start = 5 + (not is_single) + (0, 1, 2, 4)[data[4] & 3]
    field = data[start : start + length]
    if not length or len(field) < length:
        return None
    return int.from_bytes(field, "little") + (256 if length == 2 else 0)
