"""The pictures of a fine-tuning, decoded and squashed once, then read as often as the epochs want.

    {image_id: address} ─▶ uint8 [n, 3, px, px] ─▶ batch by image_id

The array is in memory, or above MEMORY_BYTES in an unnamed temporary file. Pretraining streams its
shards instead (`data/loader.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from clippo_core.data.images import decode_image, squash

MEMORY_BYTES = 4 * 2**30
"""Pictures up to this size stay in memory: 28,000 at 224 px. VQAv2's 123,000 at 224 px need 19 GB
of temporary disk."""
_THREADS = 8


class Photos:
    """Squashed pictures, by image id."""

    def __init__(self, pictures: Mapping[int, str], image_px: int) -> None:
        """pictures: image_id -> path or s3:// address. Raises ImageError for one that cannot be
        decoded, naming it.
        """
        self._row = {image_id: row for row, image_id in enumerate(pictures)}
        shape = (len(pictures), 3, image_px, image_px)
        if np.prod(shape, dtype=np.int64) <= MEMORY_BYTES:
            self._pixels = np.empty(shape, dtype=np.uint8)
        else:
            with tempfile.TemporaryFile(prefix="clippo-photos-") as file:
                self._pixels = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)

        def decode(row_and_uri: tuple[int, str]) -> None:
            row, uri = row_and_uri
            self._pixels[row] = squash(decode_image(uri), image_px).transpose(2, 0, 1)

        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(decode, enumerate(pictures.values())):
                pass

    def batch(self, image_ids: Iterable[int]) -> torch.Tensor:
        """uint8 [b, 3, px, px]."""
        return torch.from_numpy(
            np.asarray(self._pixels[[self._row[image_id] for image_id in image_ids]])
        )
