"""In what portions gradients are exchanged while backward still computes others.

    backward      head  block 11  block 10  ...  block 0
    exchange            ▶ bucket 0   ▶ bucket 1  ...     ▶ last bucket: alone, nothing hides it

A portion is sent when it is full. One as large as the model is sent when backward is over, so a
bucket is a 32nd of the model: what cannot hide is a 32nd too. (A 16th would often wait for the next
block, which is computed as one where blocks are compiled: see `benchmarks/overlap.py`.) Below a MiB
an exchange takes as long however small it is; above 32 MiB it gets no faster, and DeepSpeed keeps
two buffers of a bucket's size.
"""

from __future__ import annotations

SHARE = 32
"""Buckets that a model's gradients fill, between the two limits."""
SMALLEST_ELEMENTS = 2**18
LARGEST_ELEMENTS = 2**23
_BUFFERS = (0, 2, 2, 1)
"""Buffers of a bucket's size that DeepSpeed holds during backward, by ZeRO stage."""


def bucket_elements(parameters: int) -> int:
    """Gradients, in float32, that a bucket holds; `parameters`: elements of the whole model."""
    return min(max(parameters // SHARE, SMALLEST_ELEMENTS), LARGEST_ELEMENTS)


def buffer_bytes(zero_stage: int, parameters: int) -> int:
    """Memory that buckets take beside the gradients themselves."""
    return 4 * _BUFFERS[zero_stage] * bucket_elements(parameters)
