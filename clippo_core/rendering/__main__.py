"""Command line of the census: what the page cuts off and what the font lacks, by language.

    python -m clippo_core.rendering captions.txt --language de              one text a line
    cut -f1,2 pairs.tsv | python -m clippo_core.rendering - --tagged        language, tabulator, text

It draws nothing; `specimen.py` draws pages to look at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import islice

from clippo_core.rendering.census import Census, by_language, concatenate, table
from clippo_core.rendering.renderer import Renderer

BLOCK_LINES = 4096


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads texts, prints the table."""
    parser = argparse.ArgumentParser(prog="python -m clippo_core.rendering", description=__doc__.split("\n")[0])
    parser.add_argument("file", help="one text a line, UTF-8; - reads standard input")
    parser.add_argument("--language", default="all", help="name of the texts' language in the table")
    parser.add_argument("--tagged", action="store_true", help="lines are language, tabulator, text")
    parser.add_argument("--image-px", type=int, default=224, help="height and width of the page")
    parser.add_argument("--layout", choices=("reference", "shaped"), default="reference")
    parser.add_argument("--fonts", nargs="*", default=[], help=".hex files instead of the shipped font")
    options = parser.parse_args(arguments)
    renderer = Renderer(options.image_px, options.fonts, options.layout)
    parts: list[Census] = []
    languages: list[str] = []
    with sys.stdin if options.file == "-" else open(options.file, encoding="utf-8", errors="replace", newline="\n") as lines:
        for block in _blocks(line.rstrip("\r\n") for line in lines):
            pairs = [line.partition("\t")[::2] if options.tagged else (options.language, line) for line in block]
            languages += [language for language, _ in pairs]
            parts.append(renderer.census([text for _, text in pairs]))
    print(table(by_language(concatenate(parts), languages)))


def _blocks(lines: Iterable[str]) -> Iterable[list[str]]:
    source = iter(lines)
    while block := list(islice(source, BLOCK_LINES)):
        yield block


if __name__ == "__main__":
    main()
