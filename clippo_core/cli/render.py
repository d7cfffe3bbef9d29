"""`clippo render`: text as the tower sees it, or a census of it."""

from __future__ import annotations

import argparse

from clippo_core.cli.options import Names, add_command, add_page, lines, tagged
from clippo_core.errors import ConfigError

EXAMPLES = """\
Renders texts as the tower reads them, ink on grey; the characters are those of the bitmap font
GNU Unifont.

Pages below one another:
  clippo render 'a dog' 'ein Hund' --out dogs.png
Rows used, and glyphs cut off or missing, one line per text, then by language:
  clippo render --file captions.txt --census
  cut -f1,3 pairs.tsv | clippo render --file - --tagged --census
The shaped layout:
  clippo render 'مرحبا' --layout shaped --image-px 384 --out hello.png
"""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(
        names, "render", render, "text as the tower sees it, or a census of it", EXAMPLES
    )
    command.add_argument("text", nargs="*")
    command.add_argument("--file", metavar="FILE", help="one text per line; - is standard input")
    command.add_argument("--out", metavar="FILE.png")
    command.add_argument(
        "--tagged",
        action="store_true",
        help="lines of --file are language, tab, text; --census then sums by language",
    )
    command.add_argument(
        "--census", action="store_true", help="print rows used, glyphs cut off and glyphs missing"
    )
    add_page(command)
    command.add_argument(
        "--layout",
        choices=("reference", "shaped", "words"),
        default="reference",
        help="shaped: bidi, joining, marks, word wrap; words: each begins at a patch border",
    )
    command.add_argument("--monospace", action="store_true", help="16 px for every character")
    command.add_argument(
        "--font",
        action="append",
        metavar="FILE.hex",
        help="instead of the shipped font; later ones fill gaps",
    )


def render(chosen: argparse.Namespace) -> None:
    """Pages as a picture, or a census of texts: line by line, or language by language."""
    from clippo_core.rendering import Renderer
    from clippo_core.rendering.census import by_language, table

    found = lines(chosen.file) if chosen.file else []
    languages: list[str] = []
    if chosen.tagged:
        if chosen.text or not chosen.file:
            raise ConfigError(
                "--tagged is about the lines of --file; texts among the arguments have no language."
            )
        languages, found = tagged(chosen.file, found, "a language")
    texts = [*chosen.text, *found]
    if not texts:
        raise ConfigError("there is nothing to draw; give texts, or --file FILE (or -).")
    renderer = Renderer(chosen.image_px, chosen.font or None, chosen.layout, chosen.monospace)
    if chosen.census and chosen.tagged:
        print(table(by_language(renderer.census(texts), languages)))
    elif chosen.census:
        census = renderer.census(texts)
        print("rows\tcut\tmissing\ttext")
        for text, rows, cut, missing in zip(
            texts, census.rows, census.cut_glyphs, census.missing_glyphs, strict=True
        ):
            print(f"{rows}\t{cut}\t{missing}\t{text[:80]!r}")
    if chosen.out:
        from PIL import Image

        pages = renderer.render(texts)
        Image.fromarray(pages.reshape(-1, chosen.image_px)).save(chosen.out)
        noun = "page" if len(texts) == 1 else "pages"
        print(f"{chosen.out}: {len(texts)} {noun} of {chosen.image_px} px")
    elif not chosen.census:
        raise ConfigError("give --out FILE.png for a picture, or --census for numbers.")
