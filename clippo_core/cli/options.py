"""What several commands share: how a command is added, the options of a model and a page, and how
files of lines and NAME=VALUE are read.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from clippo_core.errors import ConfigError
from clippo_core.storage import local
from clippo_core.untrusted.names import refusal
from clippo_core.untrusted.text import read_lines

if TYPE_CHECKING:
    from clippo_core.embedder import Clippo
    from clippo_core.opening import Found

Names: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where commands are added."""
SHAPE = argparse.RawDescriptionHelpFormatter
MODEL = """\
MODEL is one of
  a released name      clippo_b16_yfcc100m   (540 MiB, downloaded once;
                       `clippo released` lists all six)
  a big_vision file    path/to/model.npz
  an exported file     path/to/model.safetensors
  a run, a checkpoint  runs/demo-1a2b3c, or s3://bucket/run/checkpoints
  the promoted model   runs/promoted-demo.json
  a hub's folder       path/to/folder (of `clippo convert`), or hf-hub:ORG/NAME@REVISION
"""


def add_command(
    names: Names,
    name: str,
    run: Callable[[argparse.Namespace], None] | None,
    summary: str,
    examples: str = "",
) -> argparse.ArgumentParser:
    """Add `clippo NAME`, which calls `run`. summary: one line without a full stop; examples: what
    `--help` teaches, command lines indented by two spaces.
    """
    command = names.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".\n\n" + examples,
        formatter_class=SHAPE,
    )
    command.set_defaults(run=run)
    return command


def add_model(command: argparse.ArgumentParser) -> None:
    """The argument MODEL, and how it computes; `load` reads them."""
    command.epilog = MODEL
    command.add_argument("model", metavar="MODEL", help="see below")
    command.add_argument("--device", help="cpu, cuda, cuda:1 (default: CUDA where there is one)")
    command.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16: faster on a GPU",
    )
    command.add_argument("--batch-size", type=int, default=256)
    command.add_argument(
        "--font",
        action="append",
        metavar="FILE.hex",
        help="Unifont files; released models were trained with 9.0.06",
    )


def add_page(command: argparse.ArgumentParser) -> None:
    """The size of the page that texts are drawn on."""
    command.add_argument(
        "--image-px",
        type=int,
        default=224,
        help="height and width of the page, a multiple of 16 (default 224)",
    )


def load(chosen: argparse.Namespace, found: Found | None = None) -> Clippo:
    """The model of `add_model`'s options; `found`: MODEL, where it was looked for already."""
    from clippo_core.embedder import Clippo

    source = found or chosen.model
    return Clippo.load(source, chosen.device, fonts=chosen.font, precision=chosen.precision)


def lines(path: str) -> list[str]:
    """Lines of a file, or of standard input (-): ended by newlines alone, because a text may hold
    any other separator of Unicode.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(local.explained(path, "read"))
        file = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
        found = list(read_lines(file, path))
    bad = next((line for line in found if line.problem), None)
    if bad:
        raise refusal(ConfigError, path, bad.problem, "convert it to UTF-8 text first")
    return [line.text for line in found]


def tagged(path: str, found: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """(tags, texts) of lines "tag, tab, text"; further tabs belong to the text. what: of a tag."""
    pairs = [line.split("\t", 1) for line in found]
    bad = next((number for number, pair in enumerate(pairs, 1) if len(pair) != 2), None)
    if bad:
        raise ConfigError(f"{path}, line {bad}: expected {what}, a tab and a text.")
    return [tag for tag, _ in pairs], [text for _, text in pairs]


def named(pairs: Sequence[str], option: str) -> dict[str, str]:
    """The pairs NAME=VALUE of an option that may be repeated."""
    bad = next((pair for pair in pairs if "=" not in pair), None)
    if bad is not None:
        raise ConfigError(f"{option} {bad}: expected NAME=FILE.")
    return dict(pair.split("=", 1) for pair in pairs)
