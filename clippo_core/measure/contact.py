"""Pairs of a run as small pictures: a photo, and the text beside it as the tower reads it.

Kept as data: URIs, so that a page that shows them loads nothing from elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from clippo_core.data.thumbnails import data_uri

_PICTURE = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class ContactItem:
    """One pair of a contact sheet."""

    photo: str
    """Data URI, or empty for a text/text pair, whose first text is then `first_text`."""
    drawing: str
    """Data URI of the rendered text."""
    text: str
    language: str = ""
    first_text: str = ""


def safe_picture(uri: object) -> str:
    """`uri` if it is a PNG or JPEG data URI, otherwise an empty string: nothing in a page may load
    from elsewhere.
    """
    return uri if isinstance(uri, str) and _PICTURE.fullmatch(uri) else ""


def contact_item(
    photo: np.ndarray | None,
    drawing: np.ndarray,
    text: str,
    language: str = "",
    first_text: str = "",
) -> ContactItem:
    """A pair for the contact sheet from photo uint8 [h, w, 3] (None for a text/text pair) and
    drawing uint8 [px, px].
    """
    shown = "" if photo is None else data_uri(photo, photo=True)
    return ContactItem(shown, data_uri(drawing, max(drawing.shape)), text, language, first_text)
