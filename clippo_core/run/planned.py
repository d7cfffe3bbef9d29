"""What a run was planned to use, noted in its folder as plan.json: where its stages stand, in its
own folder or in those of earlier runs, and the weights that it starts from.

    weekly-<digest>/plan.json    {"places": {"render": ".../weekly-<earlier>", …}, "starts": […]}

Retention reads it (`kept.py`); no result depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from clippo_core import storage
from clippo_core.run.folder import RunFolder
from clippo_core.run.records import dumps, loads

PLANNED_SCHEMA = 1
"""Version of its JSON."""


@dataclass(frozen=True)
class Planned:
    """The folders and weights that a run names."""

    name: str
    at: str
    """When it was planned, ISO 8601, UTC."""
    places: dict[str, str] = field(default_factory=dict)
    """Stage -> the run's folder in which it stands, or will."""
    starts: list[str] = field(default_factory=list)
    """Checkpoints or files that its training starts or goes on from; none = from scratch."""
    schema_version: int = PLANNED_SCHEMA


def write(root: str, planned: Planned) -> None:
    """Note it in the run's folder `root`."""
    storage.write_text(RunFolder(root).plan, dumps(planned))


def read(root: str) -> Planned:
    """What the run in the folder `root` was planned to use. Raises NotFoundError for a run of an
    earlier version, ConfigError, StorageError where it cannot be read.
    """
    return loads(Planned, storage.read_text(RunFolder(root).plan))
