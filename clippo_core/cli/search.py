"""`clippo search`: an embedded collection asked in the shell or on a page."""

from __future__ import annotations

import argparse

from clippo_core.cli.options import Names, add_command
from clippo_core.data.images import read_image_bytes
from clippo_core.errors import ConfigError
from clippo_core.search.gallery import Gallery, Hit
from clippo_core.untrusted.names import printable

EXAMPLES = """\
In the shell, by text in any script or by a picture:
  clippo search photos.emb 'zwei Hunde' --top 5
  clippo search photos.emb --image dog.jpg
On a page in the browser, served to this machine alone, until Ctrl-C:
  clippo search photos.emb --page
A small set as one file that needs no server, with the answers to these questions inside:
  clippo search photos.emb 'two dogs' '二匹の犬' --html photos.html

Each line is a cosine, the picture and its caption. Texts are embedded by the model that made the
folder, which embedding.json names; --model names it where it has moved.
"""


def add(names: Names) -> None:
    """Add the command."""
    command = add_command(
        names, "search", search, "photos by text or photo: in the shell, or on a page", EXAMPLES
    )
    command.add_argument("folder", metavar="DIR", help="what `clippo embed --out DIR` wrote")
    command.add_argument("text", nargs="*", metavar="TEXT", help="what is looked for")
    command.add_argument("--image", metavar="FILE", help="look for pictures like this one")
    command.add_argument("--top", type=int, default=10, help="answers to each (default 10)")
    command.add_argument("--page", action="store_true", help="serve the search page")
    command.add_argument("--port", type=int, default=0, help="of the page (default: a free one)")
    command.add_argument("--html", metavar="FILE.html", help="write the page for a small set")
    command.add_argument("--model", default="", metavar="MODEL", help="where the model is now")
    command.add_argument("--device", help="cpu, cuda, cuda:1 (default: CUDA where there is one)")
    command.add_argument("--font", action="append", metavar="FILE.hex", help="as for embed")


def search(chosen: argparse.Namespace) -> None:
    """Answer the questions, or show the page."""
    if chosen.top < 1:
        raise ConfigError(f"--top is {chosen.top}; it must be at least 1.")
    if not (chosen.text or chosen.image or chosen.page or chosen.html):
        raise ConfigError("there is no question; give a text, --image FILE, --page or --html FILE.")
    gallery = Gallery(chosen.folder, chosen.model, chosen.device, chosen.font)
    for text in chosen.text if not chosen.html else ():
        _print(text, gallery.by_text(text, chosen.top), len(chosen.text) > 1)
    if chosen.image:
        data = read_image_bytes(chosen.image)
        _print(
            chosen.image, gallery.by_picture(gallery.pixels(data, chosen.image), chosen.top), False
        )
    if chosen.html:
        from clippo_core.search import page

        page.check_photos(gallery)
        size = page.write_static(gallery, chosen.text, chosen.html)
        print(f"{chosen.html}: {len(gallery):,} pictures, {size / 2**20:.1f} MiB")
    if chosen.page:
        _serve(gallery, chosen.port)


def _print(question: str, hits: list[Hit], with_head: bool) -> None:
    if with_head:
        print(f"{question}:")
    for hit in hits:
        about = (hit.about.address or hit.about.key, hit.about.caption)
        print(f"{hit.cosine:.4f}\t" + "\t".join(printable(word, 500) for word in about if word))


def _serve(gallery: Gallery, port: int) -> None:
    from clippo_core.search.server import SearchServer

    with SearchServer(gallery, port) as server:
        print(f"{len(gallery):,} pictures at {server.url} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
