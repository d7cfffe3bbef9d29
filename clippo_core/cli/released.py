"""`clippo released`: the authors' six checkpoints."""

from __future__ import annotations

import argparse

from clippo_core.cli.options import Names, add_command

EXAMPLES = """\
Each name is a MODEL for every other command, and is downloaded once (540 MiB).

  clippo released
"""


def add(names: Names) -> None:
    """Add the command."""
    summary = "the authors' six checkpoints, with their results"
    add_command(names, "released", released, summary, EXAMPLES)


def released(chosen: argparse.Namespace) -> None:
    """The authors' six checkpoints."""
    from clippo_core.released import RELEASED

    for one in RELEASED.values():
        print(f"{one.name}\n    trained on {one.data}, {one.steps:,} steps; {one.url}")
        print("    " + ", ".join(f"{number.metric} {number.value:g}" for number in one.results))
