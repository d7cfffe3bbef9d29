"""What makes two runs the same: the fields of their configs that decide a result.

    identity(TrainConfig(loader_workers=8)) == identity(TrainConfig(loader_workers=0))

Planning, resume, the cache of evaluations and the report's list of differences all ask here.
Which fields are left out stands beside each of them, as the mark `Runtime` (`hints.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from clippo_core.config.check import Checked


def identity(value: Any) -> Any:
    """A config (or a tuple of them, or a plain value) as plain JSON, without runtime fields."""
    if isinstance(value, Checked):
        return {name: identity(part) for name, part in value.deciding().items()}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    return value


def digest(value: Any) -> str:
    """sha256 (hex) of a config, all fields, or of any JSON-able value; in any field order."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
