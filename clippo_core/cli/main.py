"""`clippo COMMAND`: which commands there are, and how an error is said: in one sentence, with exit
code 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from clippo_core.cli import (
    analyse,
    check,
    classify,
    convert,
    embed,
    evaluate,
    index,
    new,
    preset,
    promotions,
    released,
    render,
    search,
    tokenizer,
)
from clippo_core.cli.options import SHAPE
from clippo_core.errors import ClippoError

COMMANDS = (
    embed,
    index,
    search,
    classify,
    render,
    new,
    check,
    preset,
    evaluate,
    convert,
    analyse,
    released,
    tokenizer,
    promotions,
)
"""In the order of `clippo --help`."""
HELP = """\
CLIPPO: photos and text, one tower, pixels only.

See a text as the tower sees it, and embed it:
  clippo render 'a dog' '七十' --out seen.png
  printf 'a dog\\na cat\\n' | clippo embed model.safetensors --texts - --out texts.npz
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Without a command, its help is shown."""
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = parser().parse_args(arguments or ["--help"])
    try:
        chosen.run(chosen)
    except ClippoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        return 0
    except OSError as error:  # of a file that was asked for, most of all
        name = error.filename or "a file"
        print(f"error: {name}: {error.strerror or error}; check the path.", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:
        print(f"error: it cannot be written as {error.encoding}: {error.reason}.", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(
        "clippo",
        description=HELP,
        epilog="`clippo COMMAND --help` explains one, with examples. Whole runs are Flyte"
        " workflows: `pyflyte run workflows pretrain_and_evaluate --config run.json`.",
        formatter_class=SHAPE,
    )
    whole.add_argument("--version", action="version", version=f"clippo {version()}")
    names = whole.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(names)
    return whole


def version() -> str:
    """The installed version, and that of the torch it computes with."""
    found = []
    for package in ("clippo-flyte", "torch"):
        try:
            found.append(metadata.version(package))
        except metadata.PackageNotFoundError:
            found.append("not installed")
    return f"{found[0]} (torch {found[1]})"
