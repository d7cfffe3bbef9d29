"""Published numbers as data: what the report's "paper" column and the released checkpoints quote,
each with its source and its trust.

    published("glue/average")  ──▶  [Published(68.6, "CLIPPO B/16", "WebLI", "glue/average",
                                               "CLIPPO, CVPR 2023 …", "secondary"), …]

The file is `assets/published.json`: model and data ─▶ metric (named as ours) ─▶ value. `primary` is
the authors' own file; `secondary` a copy of it by somebody else. Every number has such a source.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_PATH = Path(__file__).resolve().parent / "assets" / "published.json"


@dataclass(frozen=True)
class Published:
    """One published number."""

    value: float
    """Shares as 0..100."""
    model: str
    data: str
    """What the model was trained on."""
    metric: str
    source: str
    """Where it was read."""
    trust: Literal["primary", "secondary"]


@functools.cache
def all_published() -> tuple[Published, ...]:
    """Every published number, in the file's order: the paper's models, the released ones, then
    other systems.
    """
    content = json.loads(_PATH.read_text(encoding="utf-8"))
    found = []
    for row in content["rows"]:
        source = content["sources"][row["source"]]
        for metric, value in row["metrics"].items():
            found.append(
                Published(
                    float(value), row["model"], row["data"], metric, source["text"], source["trust"]
                )
            )
    return tuple(found)


def published(metric: str) -> list[Published]:
    """The published values of one metric, e.g. `coco/i2t_recall@1`; empty where there are none."""
    return [number for number in all_published() if number.metric == metric]


def published_of(model: str, data: str) -> list[Published]:
    """The published values of one model trained on one set of data."""
    return [number for number in all_published() if number.model == model and number.data == data]
