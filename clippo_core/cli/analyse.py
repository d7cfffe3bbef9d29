"""`clippo analyse gap | patches | lengths | compare`: what a model or its results look like."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from clippo_core.cli.options import (
    Names,
    add_command,
    add_model,
    add_page,
    lines,
    load,
    named,
    tagged,
)
from clippo_core.errors import ConfigError

EXAMPLES = """\
Each line of captions.tsv is a file name, a tab and a text.

  clippo analyse gap model.npz --images photos/ --captions captions.tsv
  clippo analyse patches model.npz --out patches.html
  clippo analyse lengths --texts en=en.txt --texts th=th.txt --tokenizer t5=spiece.model \\
    --out lengths.html
  clippo analyse compare runs --beside 'CLIPPO B/16' 'CLIP* B/16' --out side-by-side
"""


def add(names: Names) -> None:
    """Add the four commands."""
    summary = "modality gap, patch components, tokenizer lengths, comparison with published numbers"
    analyse = add_command(names, "analyse", None, summary, EXAMPLES)
    kinds = analyse.add_subparsers(required=True, metavar="gap | patches | lengths | compare")
    for add_one in (_add_gap, _add_patches, _add_lengths, _add_compare):
        add_one(kinds)


def _add_gap(kinds: Names) -> None:
    summary = "distance between the clouds of images and texts, and whether a plane divides them"
    command = add_command(kinds, "gap", gap, summary)
    add_model(command)
    command.add_argument("--images", required=True, metavar="FOLDER")
    command.add_argument(
        "--captions", required=True, metavar="FILE.tsv", help="lines of file name, tab, text"
    )


def _add_patches(kinds: Names) -> None:
    summary = "principal components of the patch embedding"
    command = add_command(kinds, "patches", patches, summary)
    add_model(command)
    command.add_argument("--n", type=int, default=30, help="how many (default 30)")
    command.add_argument("--out", metavar="FILE.html")


def _add_lengths(kinds: Names) -> None:
    summary = "patches against SentencePiece tokens, by language"
    command = add_command(kinds, "lengths", lengths, summary)
    command.add_argument(
        "--texts",
        action="append",
        required=True,
        metavar="LANGUAGE=FILE",
        help="one text per line; may be repeated",
    )
    command.add_argument(
        "--tokenizer",
        action="append",
        default=[],
        metavar="NAME=FILE.model",
        help="may be repeated",
    )
    command.add_argument("--out", metavar="FILE.html")
    add_page(command)


def _add_compare(kinds: Names) -> None:
    summary = "results of finished runs beside published numbers and chance"
    command = add_command(kinds, "compare", compare, summary)
    command.add_argument(
        "runs", metavar="FOLDER", help="every result below it is taken; local or s3://"
    )
    command.add_argument(
        "--beside",
        nargs="+",
        default=["CLIPPO B/16"],
        metavar="MODEL",
        help="published models (default: CLIPPO B/16)",
    )
    command.add_argument(
        "--out", metavar="FOLDER", help="also write compare.csv, compare.md and compare.svg there"
    )


def gap(chosen: argparse.Namespace) -> None:
    """Modality gap and its companions, as JSON."""
    from dataclasses import asdict

    from clippo_core.measure.geometry import measure

    names, texts = tagged(chosen.captions, lines(chosen.captions), "a file name")
    images = [str(Path(chosen.images) / name) for name in names]
    found = measure(load(chosen), images, texts, batch_size=chosen.batch_size)
    print(json.dumps(asdict(found), indent=1))


def patches(chosen: argparse.Namespace) -> None:
    """Principal components of the patch kernel."""
    from clippo_core.measure.geometry import patch_components
    from clippo_core.report.pictures import patch_figure

    kernel = load(chosen).tower.state_dict()["patch_embed.proj.weight"].cpu().numpy()
    components, shares = patch_components(kernel, chosen.n)
    print(
        f"{len(shares)} components hold {100 * shares.sum():.1f} % of the kernel's variance, the"
        f" first {100 * shares[0]:.1f} %"
    )
    _write_figure(patch_figure(components, shares), chosen.out)


def lengths(chosen: argparse.Namespace) -> None:
    """Patches against tokens, by language."""
    from clippo_core.measure.lengths import lengths_table, measure_lengths
    from clippo_core.rendering import Renderer
    from clippo_core.report.lengths import lengths_figure

    texts = {name: lines(path) for name, path in named(chosen.texts, "--texts").items()}
    found = measure_lengths(
        texts, named(chosen.tokenizer, "--tokenizer"), Renderer(chosen.image_px)
    )
    print(lengths_table(found))
    _write_figure(lengths_figure(found), chosen.out)


def compare(chosen: argparse.Namespace) -> None:
    """Results beside published numbers."""
    from clippo_core.evaluate.results import read_results
    from clippo_core.published import all_published
    from clippo_core.report import compare

    known = sorted({number.model for number in all_published()})
    for name in chosen.beside:
        if name not in known:
            raise ConfigError(f"nothing is published of {name!r}; there are: {'; '.join(known)}.")
    results = read_results(chosen.runs)
    if not results:
        raise ConfigError(
            f"{chosen.runs} holds no result of an evaluation; name the folder of finished runs."
        )
    print(compare.to_markdown(compare.compare(results, beside=chosen.beside)), end="")
    if chosen.out:
        compare.write_comparison(chosen.out, results, beside=chosen.beside)


def _write_figure(figure: Any, path: str | None) -> None:
    if path:
        page = (
            f"<!doctype html><meta charset=utf-8><title>{figure.title}</title>"
            f"<h1>{figure.title}</h1>{figure.svg}<p>{figure.caption}</p>"
        )
        Path(path).write_text(page, encoding="utf-8")
        print(path)
