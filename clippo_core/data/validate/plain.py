"""What stays of a text or a file name when it is compared with those of the evaluations.

A caption is compared without its case, its punctuation and the width of its spaces and letters
(NFKC). Short ones say nothing: of fewer than 32 bytes (five English words, ten Chinese characters),
because the names of things and numbers stand in every set. File stems are compared without COCO's
prefix, from five characters on.
"""

from __future__ import annotations

import re
import unicodedata

from clippo_core.data.pairs import key_hash

MIN_CAPTION_BYTES, MIN_STEM_CHARACTERS = 32, 5
_BETWEEN_WORDS = re.compile("[\\s!-/:-@\\[-`{-~\u00a1-\u00bf\u2010-\u205e\u3001-\u303f]+")
_COCO_PREFIX = re.compile(r"^COCO_(train|val|test)\d{4}_")


def plain_text(text: str) -> str:
    """A text as it is compared."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _BETWEEN_WORDS.sub(" ", folded).strip()


def plain_hash(text: str) -> int:
    """64 bits that stand for a text as it is compared; 0 = it is too short to say anything."""
    data = plain_text(text).encode("utf-8", "surrogatepass")
    return key_hash(data) if len(data) >= MIN_CAPTION_BYTES else 0


def plain_stem(stem: str) -> str:
    """A file's stem without COCO's prefix."""
    return _COCO_PREFIX.sub("", stem)


def stem_hash(stem: str) -> int:
    """64 bits that stand for a file's stem; 0 = it is too short to say anything."""
    plain = plain_stem(stem)
    return key_hash(plain) if len(plain) >= MIN_STEM_CHARACTERS else 0
