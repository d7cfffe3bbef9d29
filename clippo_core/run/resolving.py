"""What a config leaves open until it is planned: the kickoff in its paths, the commits of sources
on a hub, and which checkpoint is the promoted one.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import Any

from clippo_core import storage
from clippo_core.config import RunConfig, digest
from clippo_core.errors import DataError
from clippo_core.run import history
from clippo_core.run.folder import MANIFEST, BaseFolder


def fill_kickoff(config: Any, kickoff_time: datetime.datetime) -> Any:
    """`config` with `{kickoff}` or `{kickoff:%Y-%m-%d}` (strftime) filled in, in every string of
    it.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {
            f.name: fill_kickoff(getattr(config, f.name), kickoff_time)
            for f in dataclasses.fields(config)
        }
        return dataclasses.replace(config, **values)
    if isinstance(config, tuple):
        return tuple(fill_kickoff(item, kickoff_time) for item in config)
    if isinstance(config, str):
        return re.sub(
            r"\{kickoff(?::([^}]*))?\}", lambda m: kickoff_time.strftime(m[1] or "%Y-%m-%d"), config
        )
    return config


def pin(config: RunConfig) -> RunConfig:
    """`config` with the commit of each source on a hub, so that all stages read the same."""
    from clippo_core.data.sources.hub import pinned

    sources = tuple(
        dataclasses.replace(source, revision=pinned(source)) if source.on_hub else source
        for source in config.data.sources
    )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources))


def follow_promoted(
    config: RunConfig, kickoff_time: datetime.datetime, recipe: str
) -> tuple[str, int]:
    """(checkpoint to start from, seed of the order) of a run that starts from the promoted model.

    Where that was trained with the same `recipe`, there is nothing new: its own start and seed, so
    that the plan is the same as then. Otherwise the model itself, and an order of the kickoff's
    own, or the same pairs would come in the same order each week. Raises DataError where nothing
    was promoted, or the model is gone.
    """
    pointer = BaseFolder(config.root).promoted(config.name)
    current = history.promoted(history.read(pointer))
    if current is None:
        raise DataError(
            f"{pointer}: nothing is promoted under the name {config.name} yet; train a first model"
            " from scratch (model.initial_weights empty, as in the preset weekly_from_scratch)."
        )
    if current.recipe == recipe:
        return current.start, current.order_seed
    uri, seed = current.verdict.model_uri, config.seed
    if not storage.exists(storage.join(uri, MANIFEST)):
        raise DataError(f"{uri}: the promoted model is gone; promote another one (docs/gate.md).")
    if kickoff_time.year > 1970:  # scheduled
        seed = int(digest([config.seed, kickoff_time.isoformat()])[:8], 16)
    return uri, seed
