"""Datasets of the Hugging Face hub, as they lie in its cache: right records, or one sentence."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import datasets  # here: what imports open and take is no example's
import datasets.load
import huggingface_hub
from checks import Refused, check, outcome
from data_files import FILE_ENDS
from guard import alone, scratch

from clippo_core.config import SourceConfig
from clippo_core.data.sources.kinds import read_records

COMMIT = "a" * 40
NAME = re.compile(r"([\w-]{1,40}/)?[\w.-]{1,80}\.[a-z]{1,8}", re.ASCII)
HOME = f"hub/datasets--people--photos/snapshots/{COMMIT}"


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """The hub's libraries without the hub, their caches in our folder."""
    there = [
        (huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        (huggingface_hub.constants, "HF_HUB_CACHE", str(scratch() / "hub")),
        (datasets.config, "HF_HUB_OFFLINE", True),
        (datasets.config, "HF_DATASETS_CACHE", str(scratch() / "locks")),
    ]
    before = [getattr(module, name) for module, name, _ in there]
    for module, name, value in there:
        setattr(module, name, value)
    logging.disable(logging.CRITICAL)  # the library warns of much
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for (module, name, _), value in zip(there, before, strict=True):
            setattr(module, name, value)


@check("hf-hub")
def check_hub(data: bytes) -> bool:
    import pyarrow.parquet as pq

    source = SourceConfig("hf", "people/photos", revision=COMMIT)
    parts = [part.partition(b"\0") for part in data.split(FILE_ENDS)]
    # Damage is for what files hold; some names it makes could stand on no disk, or beside no other.
    names = [(name.decode(errors="replace"), content) for name, _, content in parts]
    files = {f"{HOME}/{name}": content for name, content in names if NAME.fullmatch(name)}
    with alone(files, may_write=True) as folder, offline():
        found = outcome(lambda: list(read_records("s", source)), source.path)
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in there - set(files) if not re.match(r"locks/.*\.lock$", name)} == set()
    if isinstance(found, Refused):
        return False
    sound = [record for _, record in found if not record.problem]
    contents = set()
    for name, content in files.items():
        if name.endswith(".parquet"):
            with contextlib.suppress(Exception):
                file = pq.ParquetFile(io.BytesIO(content))
                paths = {file.schema.column(place).path for place in range(len(file.schema))}
                # One group may be read, and the next damaged; and so with columns.
                leaves = list(paths & {"image", "image.bytes"})
                for group in range(file.num_row_groups):
                    with contextlib.suppress(Exception):
                        images = file.read_row_group(group, leaves)["image"].to_pylist()
                        contents |= {i["bytes"] if isinstance(i, dict) else i for i in images}
    assert {record.content for record in sound} <= contents
    assert all(Path(record.image).name not in ("", "..") for record in sound)
    return bool(sound)
