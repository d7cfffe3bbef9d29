"""What became of texts on the page: rows used, glyphs cut, glyphs missing; of each text, and summed
by language.

    language      texts   rows    cut  missing
    en            2,340   2.37   0.1%     0.0%

`clippo render --census` prints it. It counts; whether a share is too high is decided
by validation (`data/validate/expectations.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Census:
    """What became of each text: arrays [n]."""

    rows: NDArray[np.int64]
    """Rows that the text needs; only its first 768 code points are laid out."""
    drawn_rows: NDArray[np.int64]
    """Rows of the page that it fills: rows, or the page's if it needs more."""
    cut_glyphs: NDArray[np.int64]
    """Code points beyond the page or beyond the 768th; in the shaped layout a base with its marks
    counts once."""
    missing_glyphs: NDArray[np.int64]
    """Code points, of the first 768, for which the font has no glyph."""

    @property
    def cut(self) -> NDArray[np.bool_]:
        """Whether a part of the text is not on the page."""
        return self.cut_glyphs > 0

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Whether the font lacks a glyph of the text."""
        return self.missing_glyphs > 0


@dataclass(frozen=True)
class LanguageCensus:
    """The texts of one language together."""

    language: str
    texts: int
    """Number of texts."""
    mean_rows: float
    """Mean of the rows that they fill on the page."""
    cut_share: float
    """Share of texts of which a part is not on the page, 0..1."""
    missing_share: float
    """Share of texts of which the font lacks a glyph, 0..1."""


def by_language(census: Census, languages: Sequence[str]) -> list[LanguageCensus]:
    """Sums a census by language, in the languages' alphabetical order; `languages` [n] belongs to
    the texts of the census.
    """
    names, which = np.unique(np.asarray(languages, dtype=object).astype(str), return_inverse=True)
    counts = np.bincount(which, minlength=len(names))

    def mean(values: NDArray) -> NDArray[np.float64]:
        return np.bincount(which, weights=values, minlength=len(names)) / np.maximum(counts, 1)

    columns = zip(
        names.tolist(),
        counts.tolist(),
        mean(census.drawn_rows),
        mean(census.cut),
        mean(census.missing),
        strict=True,
    )
    return [
        LanguageCensus(name, count, float(rows), float(cut), float(missing))
        for name, count, rows, cut, missing in columns
    ]


def concatenate(parts: Sequence[Census]) -> Census:
    """One census of several, in their order; of none, an empty one."""
    names = ("rows", "drawn_rows", "cut_glyphs", "missing_glyphs")
    return Census(
        *(
            np.concatenate([np.zeros(0, np.int64), *(getattr(part, name) for part in parts)])
            for name in names
        )
    )


def table(rows: Sequence[LanguageCensus]) -> str:
    """Fixed-width text of the summary."""
    lines = ["language      texts   rows    cut  missing"]
    lines += [
        f"{r.language:10} {r.texts:8,} {r.mean_rows:6.2f} {r.cut_share:6.1%} {r.missing_share:8.1%}"
        for r in rows
    ]
    return "\n".join(lines)
