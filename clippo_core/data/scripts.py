"""The script that each language of Crossmodal-3600 is written in."""

from __future__ import annotations

from clippo_core.config import XM3600_LANGUAGES

SCRIPTS: dict[str, str] = dict.fromkeys(XM3600_LANGUAGES, "Latin") | {
    "ar": "Arabic",
    "bn": "Bengali",
    "el": "Greek",
    "fa": "Arabic",
    "he": "Hebrew",
    "hi": "Devanagari",
    "ja": "Japanese",
    "ko": "Korean",
    "ru": "Cyrillic",
    "te": "Telugu",
    "th": "Thai",
    "uk": "Cyrillic",
    "zh": "Chinese",
}
"""Language -> script."""
