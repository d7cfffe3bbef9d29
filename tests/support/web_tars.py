"""Tars as img2dataset writes them: `x.png` beside `x.txt`."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image


def tar_bytes(members: Mapping[str, bytes]) -> bytes:
    """A tar of files by name; a surrogate in a name stands for a byte that is no UTF-8."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", errors="surrogateescape") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def captioned_tar(records: Iterable[tuple[str, np.ndarray, str]]) -> bytes:
    """A tar of pictures: stem of the files, uint8 [height, width, 3], caption."""
    members: dict[str, bytes] = {}
    for stem, pixels, caption in records:
        picture = io.BytesIO()
        Image.fromarray(pixels).save(picture, "PNG")
        members |= {f"{stem}.png": picture.getvalue(), f"{stem}.txt": caption.encode()}
    return tar_bytes(members)
