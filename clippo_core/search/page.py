"""The search page: one HTML file (assets/search.html), asking a server or holding its answers.

    live_page      asks `server.py` while one types
    static_page    a small set with every answer inside: photos, their neighbours, some questions

What the tower reads of a question is shown beside the answers: the text as drawn, or the photo as
squashed. Values enter the page as JSON and are written by the script as text, never as HTML.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clippo_core import storage
from clippo_core.data.images import decode_image
from clippo_core.data.thumbnails import data_uri
from clippo_core.errors import ConfigError, ImageError
from clippo_core.report.style import PAGE_CSS
from clippo_core.search.gallery import Gallery, Hit

LONGEST_TEXT = 2_000
"""Characters of a question. A page has room for some hundred; the address of a request has room
for these, whatever the script."""
PICTURE_BYTES = 32 * 2**20
"""Of a dropped photo. A camera's largest JPEG has about 30 MB."""
MOST_HITS = 480
"""Answers that one question gets at most."""
MOST_STATIC = 500
"""Photos of a static page: about 10 kB each."""
THUMB_PX = 320
_STATIC_NEAR = 24
_TEMPLATE = Path(__file__).parent.parent / "assets" / "search.html"


def live_page(gallery: Gallery, nonce: str) -> str:
    """The page that `server.py` serves; its script and style carry `nonce`."""
    return _filled(gallery, {}, nonce)


def static_page(gallery: Gallery, questions: Sequence[str]) -> str:
    """A page that needs no server: photos as thumbnails, each one's neighbours, and the answers to
    `questions`. Raises ConfigError for a large collection, ImageError for a photo that is gone.
    """
    n = len(gallery)
    if n > MOST_STATIC:
        raise ConfigError(
            f"{gallery.folder}: {n:,} pictures are too many for one file (at most"
            f" {MOST_STATIC:,}); use --page, which serves them."
        )
    photos = []
    for row in range(n):
        about = gallery.about(row)
        photos.append(
            {
                "name": about.key,
                "caption": about.caption,
                "source": thumbnail(gallery, row),
                "near": _pairs(gallery.by_row(row, _STATIC_NEAR)),
            }
        )
    asked = [
        {
            "text": text,
            "hits": _pairs(gallery.by_text(text, _STATIC_NEAR)),
            **seen_text(gallery, text),
        }
        for text in questions
    ]
    none = "This page holds its questions' answers only; choose one from the field's list."
    return _filled(gallery, {"photos": photos, "asked": asked, "none": none}, "")


def answers(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Hits as the page's script takes them."""
    return [
        {
            "row": hit.row,
            "cosine": round(hit.cosine, 4),
            "name": hit.about.key,
            "caption": hit.about.caption,
        }
        for hit in hits
    ]


def seen_text(gallery: Gallery, text: str) -> dict[str, str]:
    """What the tower reads of a text: `seen`, a picture as a data URI, and `note`, a line about
    it.
    """
    model = gallery.model
    if model.text_encoder is not model.renderer:
        return {"seen": "", "note": "This tower reads tokens, not pixels: there is nothing to see."}
    census = model.renderer.census([text])
    rows, cut, missing = (
        int(values[0]) for values in (census.drawn_rows, census.cut_glyphs, census.missing_glyphs)
    )
    words = [f"{model.image_px} × {model.image_px} px, {rows} of {model.image_px // 16} rows used."]
    if cut:
        words.append(f"Does not fit on the page, and is not seen: {_characters(cut)}.")
    if missing:
        words.append(f"Not in the font, and drawn as a box: {_characters(missing)}.")
    return {
        "seen": data_uri(model.renderer.render([text])[0], model.image_px),
        "note": " ".join(words),
    }


def seen_picture(gallery: Gallery, pixels: np.ndarray, name: str) -> dict[str, str]:
    """What the tower reads of a picture, given as `gallery.pixels`; as `seen_text`."""
    model = gallery.model
    how = "squashed to" if gallery.facts.preprocess == "squash" else "the middle, at"
    note = f"{name}: {how} {model.image_px} × {model.image_px} px."
    return {"seen": data_uri(pixels.transpose(1, 2, 0), model.image_px), "note": note}


def thumbnail(gallery: Gallery, row: int) -> str:
    """A row's photo as a data URI, decoded and written anew. Raises IndexError, ImageError."""
    pixels = decode_image(gallery.picture(row), gallery.about(row).key)
    return data_uri(pixels, THUMB_PX, photo=True)


def check_photos(gallery: Gallery) -> None:
    """Raise where a page would have nothing to show: texts alone, or photos that are gone."""
    if gallery.side != "images":
        raise ConfigError(f"{gallery.folder}: it holds texts alone, and the page shows pictures.")
    try:
        gallery.picture(0)
    except ImageError as error:
        raise ConfigError(f"{error} The page shows the pictures from where they were.") from error


def _characters(n: int) -> str:
    return "1 character" if n == 1 else f"{n:,} characters"


def _pairs(hits: Sequence[Hit]) -> list[tuple[int, float]]:
    return [(hit.row, round(hit.cosine, 4)) for hit in hits]


def _filled(gallery: Gallery, more: dict[str, Any], nonce: str) -> str:
    name = gallery.folder.rstrip("/").rpartition("/")[2] or gallery.folder
    found = gallery.index
    how = "exact search"
    if found is not None and found.kind != "exact":
        how = f"{found.kind} index, recall@10 {found.recall_images:.1f} %"
    state = {
        "px": gallery.model.image_px,
        "rows": len(gallery),
        "what": f"{len(gallery):,} pictures, {how}",
        "most": min(MOST_HITS, len(gallery)),
        "bytes": PICTURE_BYTES,
        **more,
    }
    # "<" must not end the element that holds the JSON.
    plain = json.dumps(state, ensure_ascii=False).replace("<", "\\u003c")
    page = _TEMPLATE.read_text(encoding="utf-8")
    for mark, value in (
        ("@STYLE@", PAGE_CSS),
        ("@NONCE@", nonce),
        ("@LONGEST@", str(LONGEST_TEXT)),
        ("@TITLE@", html.escape(f"{name}: search")),
        ("@NAME@", html.escape(name)),
        ("@STATE@", plain),  # last: what it holds is not looked at for marks
    ):
        page = page.replace(mark, value)
    return page


def write_static(gallery: Gallery, questions: Sequence[str], out: str) -> int:
    """Write `static_page`; returns its size in bytes."""
    content = static_page(gallery, questions).encode()
    storage.write_bytes(out, content)
    return len(content)
