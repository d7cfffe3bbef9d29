"""The forty tricky inputs as text that a reviewer can read: each line of half blocks is two pixel
rows, for both layouts.

    python tests/support/golden_art.py

rewrites tests/golden/rendering-{reference,shaped}.txt after a wanted change; read the difference.
"""

import hashlib

from conftest import PROJECT
from rendering_texts import rows_used
from specimen import TRICKY

from clippo_core.rendering import Renderer

GOLDEN = PROJECT / "tests/golden"
SHOWN_ROWS = 2
"""Text rows of a page that are shown; the sha256 covers all of it."""


def art(layout: str) -> str:
    """All tricky inputs at 224 px: number, subject, input, rows, sha256 of the page's pixels, and
    its first rows.
    """
    renderer = Renderer(224, layout=layout)
    texts = [text for _, text in TRICKY]
    pages, rows = renderer.render(texts), rows_used(renderer.masks(texts))
    census = renderer.census(texts)
    parts = []
    for number, (subject, text) in enumerate(TRICKY, 1):
        index = number - 1
        shown = text if len(text) <= 40 else text[:40] + "..."
        digest = hashlib.sha256(pages[index].tobytes()).hexdigest()[:16]
        parts.append(f"{number}. {subject}  {shown!a}")
        parts.append(
            f"   rows {rows[index]}, cut {census.cut_glyphs[index]}, missing"
            f" {census.missing_glyphs[index]}, sha256 {digest}"
        )
        parts += half_blocks(pages[index][: SHOWN_ROWS * 16] == 0) + [""]
    return "\n".join(parts)


def half_blocks(ink) -> list[str]:
    """Lines of text for bool [2 * lines, px]; blank lines at the end and blanks at the right are
    left out.
    """
    lines = [
        "".join(
            " ▀▄█"[int(top) + 2 * int(bottom)] for top, bottom in zip(*pair, strict=True)
        ).rstrip()
        for pair in zip(ink[::2], ink[1::2], strict=True)
    ]
    while lines and not lines[-1]:
        lines.pop()
    return ["   |" + line for line in lines]


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for layout in ("reference", "shaped"):
        (GOLDEN / f"rendering-{layout}.txt").write_text(art(layout), encoding="utf-8")
