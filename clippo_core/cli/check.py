"""`clippo check`: everything that is wrong with a run, before it starts."""

from __future__ import annotations

import argparse

from clippo_core.cli.options import Names, add_command
from clippo_core.errors import ConfigError

EXAMPLES = """\
Looks for misspelt fields and wrong values, at every path, into the first pictures of every source
and benchmark, at the batch against the data, and at the disk. All faults are said at once.

  clippo check run.json
"""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(names, "check", check, "all that is wrong with a run's JSON", EXAMPLES)
    command.add_argument("config", metavar="RUN.json", help="local or s3://")


def check(chosen: argparse.Namespace) -> None:
    """Say what is there; raise ConfigError with every fault, one per line."""
    from clippo_core import storage
    from clippo_core.run.inspection import inspect_text

    found = inspect_text(storage.read_text(chosen.config))
    print("".join(f"{fact}\n" for fact in found.facts), end="")
    if found.faults:
        count = "1 fault" if len(found.faults) == 1 else f"{len(found.faults)} faults"
        raise ConfigError("\n".join([f"{chosen.config} has {count}:", *found.faults]))
    print(f"{chosen.config}: no fault found")
