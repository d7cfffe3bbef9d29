"""`python -m clippo_core embed | classify | render | convert | analyse | tokenizer | preset |
released | promotions | promote | rollback`: the model from a shell.

Each command is a few lines over `Clippo`, `Renderer`, `measure/` or `report/`; what is wrong is
said in a sentence, with exit code 2. Training and evaluation are Flyte workflows
(`pyflyte run workflows …`), not commands here.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any

from clippo_core import commands
from clippo_core.errors import ClippoError
from clippo_core.run import commands as run_commands
from clippo_core.usage import EXAMPLES, MODEL


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    chosen = _parser().parse_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m clippo_core", description="CLIPPO: photos and text, one tower, pixels only."
    )
    names = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_embed, _classify, _render, _convert, _analyse, _tokenizer, _preset):
        add(names)
    _command(
        names, "released", commands.released, "the authors' six checkpoints, with their results"
    )
    run_commands.add(functools.partial(_command, names))
    return parser


def _embed(names: Any) -> None:
    embed = _command(names, "embed", commands.embed, "embeddings of texts and images, as .npz")
    _add_model(embed)
    embed.add_argument(
        "--texts", metavar="FILE", help="one text per line, UTF-8; - is standard input"
    )
    embed.add_argument(
        "--images", nargs="+", metavar="FILE", default=[], help="pictures, local or s3://"
    )
    embed.add_argument(
        "--preprocess",
        choices=("squash", "fewshot"),
        default="squash",
        help="fewshot cuts the middle out of a larger squash",
    )
    embed.add_argument("--out", required=True, metavar="FILE.npz")


def _classify(names: Any) -> None:
    classify = _command(names, "classify", commands.classify, "zero-shot classes of images")
    _add_model(classify)
    classify.add_argument("image", nargs="+", help="pictures, local or s3://")
    classify.add_argument("--names", nargs="+", default=[], help="class names")
    classify.add_argument("--names-file", metavar="FILE", help="one class name per line")
    classify.add_argument(
        "--template",
        action="append",
        metavar="SENTENCE",
        help="with {} for the name; may be repeated",
    )
    classify.add_argument("--top", type=int, default=5, help="classes shown per image (default 5)")
    classify.add_argument("--json", action="store_true", help="one JSON object per line")


def _render(names: Any) -> None:
    render = _command(
        names, "render", commands.render, "text as the tower sees it, or a census of it"
    )
    render.add_argument("text", nargs="*")
    render.add_argument("--file", metavar="FILE", help="one text per line; - is standard input")
    render.add_argument("--out", metavar="FILE.png")
    render.add_argument(
        "--tagged",
        action="store_true",
        help="lines of --file are language, tab, text; --census then sums by language",
    )
    render.add_argument(
        "--census", action="store_true", help="print rows used, glyphs cut off and glyphs missing"
    )
    _add_page(render)
    render.add_argument(
        "--layout",
        choices=("reference", "shaped"),
        default="reference",
        help="shaped: bidi, joining, marks, word wrap",
    )
    render.add_argument("--monospace", action="store_true", help="16 px for every character")
    render.add_argument(
        "--font",
        action="append",
        metavar="FILE.hex",
        help="instead of the shipped font; later ones fill gaps",
    )


def _convert(names: Any) -> None:
    convert = _command(names, "convert", commands.convert, "checkpoints from one form to another")
    convert.add_argument("source", metavar="MODEL")
    convert.add_argument("target", metavar="FILE", help=".safetensors or .npz")
    convert.add_argument(
        "--image-px", type=int, default=0, help="resample the position embeddings for this size"
    )
    convert.add_argument(
        "--image-only",
        action="store_true",
        help="MODEL is a pretrained ViT; its MAP head starts fresh",
    )


def _tokenizer(names: Any) -> None:
    tokenizer = _command(
        names,
        "tokenizer",
        commands.tokenizer,
        "a SentencePiece model for the baselines that read tokens",
    )
    tokenizer.add_argument("file", nargs="*", help="one text per line, UTF-8")
    tokenizer.add_argument(
        "--config",
        default="",
        metavar="RUN.json",
        help="take the texts of this run's sources instead",
    )
    tokenizer.add_argument(
        "--size",
        type=int,
        default=32_000,
        help="pieces (default 32,000); fewer where the text gives no more",
    )
    tokenizer.add_argument("--out", required=True, metavar="FILE.model")


def _preset(names: Any) -> None:
    preset = _command(names, "preset", commands.preset, "a complete run's configuration, as JSON")
    preset.add_argument("name", nargs="?", default="", metavar="PRESET")
    preset.add_argument("--data", default="", help="folder or bucket prefix of the data")
    preset.add_argument("--root", default="", help="where runs go")
    preset.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of it, or a field: train__steps=10",
    )


def _analyse(names: Any) -> None:
    analyse = _command(
        names,
        "analyse",
        None,
        "modality gap, patch components, tokenizer lengths, comparison with published numbers",
    )
    kinds = analyse.add_subparsers(required=True, metavar="gap | patches | lengths | compare")
    for add in (_gap, _patches, _lengths, _compare):
        add(kinds)


def _gap(kinds: Any) -> None:
    gap = _command(
        kinds,
        "gap",
        commands.gap,
        "distance between the clouds of images and texts, and whether a plane divides them",
    )
    _add_model(gap)
    gap.add_argument("--images", required=True, metavar="FOLDER")
    gap.add_argument(
        "--captions", required=True, metavar="FILE.tsv", help="lines of file name, tab, text"
    )


def _patches(kinds: Any) -> None:
    patches = _command(
        kinds, "patches", commands.patches, "principal components of the patch embedding"
    )
    _add_model(patches)
    patches.add_argument("--n", type=int, default=30, help="how many (default 30)")
    patches.add_argument("--out", metavar="FILE.html")


def _lengths(kinds: Any) -> None:
    lengths = _command(
        kinds, "lengths", commands.lengths, "patches against SentencePiece tokens, by language"
    )
    lengths.add_argument(
        "--texts",
        action="append",
        required=True,
        metavar="LANGUAGE=FILE",
        help="one text per line; may be repeated",
    )
    lengths.add_argument(
        "--tokenizer",
        action="append",
        default=[],
        metavar="NAME=FILE.model",
        help="may be repeated",
    )
    lengths.add_argument("--out", metavar="FILE.html")
    _add_page(lengths)


def _compare(kinds: Any) -> None:
    compare = _command(
        kinds,
        "compare",
        commands.compare,
        "results of finished runs beside published numbers and chance",
    )
    compare.add_argument(
        "runs", metavar="FOLDER", help="every result below it is taken; local or s3://"
    )
    compare.add_argument(
        "--beside",
        nargs="+",
        default=["CLIPPO B/16"],
        metavar="MODEL",
        help="published models (default: CLIPPO B/16)",
    )
    compare.add_argument(
        "--out", metavar="FOLDER", help="also write compare.csv, compare.md and compare.svg there"
    )


def _command(names: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    command: argparse.ArgumentParser = names.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".\n\n" + EXAMPLES.get(name, ""),
        formatter_class=shape,
    )
    command.set_defaults(run=run)
    return command


def _add_model(command: argparse.ArgumentParser) -> None:
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


def _add_page(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--image-px",
        type=int,
        default=224,
        help="height and width of the page, a multiple of 16 (default 224)",
    )


if __name__ == "__main__":
    sys.exit(main())
