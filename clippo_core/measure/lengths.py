"""Tokenizer efficiency (the paper's Fig. 3): how long a text is in CLIPPO's patches and in
SentencePiece tokens, by language.

    rows     text rows that the layout fills × patches in a row:
             what a tower would read that skips blank rows
    patches  16×16 patches with ink in them: the least that any tower could read
    NAME     pieces of the SentencePiece model NAME;
             beside it the share of characters inside unknown pieces

The unknown share decides whether a length means anything: without byte fallback a whole Thai
sentence is one unknown piece, and looks short. Texts that the page cuts off are left out of every
column and counted. The paper does not define its length: both are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clippo_core.errors import EvaluationError

if TYPE_CHECKING:
    from clippo_core.rendering import Renderer

PATCH_PX = 16


@dataclass(frozen=True)
class Lengths:
    """Mean lengths of one language's texts."""

    language: str
    n_texts: int
    """Texts behind the means: those that fit on the page."""
    cut_texts: int
    """Texts left out because the page cuts them off."""
    characters: float
    rows: float
    """Mean of text rows × patches in a row."""
    patches: float
    """Mean number of patches with ink."""
    tokens: dict[str, float] = field(default_factory=dict)
    """Tokenizer -> mean number of pieces, without end of sentence."""
    unknown_share: dict[str, float] = field(default_factory=dict)
    """Tokenizer -> share of characters inside unknown pieces, 0..1."""


def measure_lengths(
    texts_by_language: Mapping[str, Sequence[str]],
    tokenizers: Mapping[str, str],
    renderer: Renderer,
) -> list[Lengths]:
    """Mean lengths for each language; `tokenizers`: name -> SentencePiece model file. Raises
    EvaluationError where no text of one fits.
    """
    from clippo_core.models import load_tokenizer  # brings torch, which the page alone does without

    processors = {name: load_tokenizer(path) for name, path in tokenizers.items()}
    return [
        measure_language(language, list(texts), processors, renderer)
        for language, texts in texts_by_language.items()
    ]


def measure_language(
    language: str, texts: list[str], processors: Mapping[str, Any], renderer: Renderer
) -> Lengths:
    """Mean lengths of the texts that the page holds; `processors`: name -> SentencePieceProcessor.
    Raises EvaluationError without any.
    """
    cut = renderer.census(texts).cut
    kept = [text for text, is_cut in zip(texts, cut, strict=True) if not is_cut and text.strip()]
    if not kept:
        raise EvaluationError(
            f"{language}: none of {len(texts)} texts fits on a page of {renderer.image_px} px; use"
            " shorter ones."
        )
    masks = renderer.masks(kept)
    per_row = renderer.image_px // PATCH_PX
    inked = masks.reshape(len(kept), masks.shape[1], per_row, PATCH_PX).any(-1)
    tokens, unknown = {}, {}
    for name, processor in processors.items():
        tokens[name], unknown[name] = _pieces(kept, processor)
    return Lengths(
        language=language,
        n_texts=len(kept),
        cut_texts=int(cut.sum()),
        characters=float(np.mean([len(text) for text in kept])),
        rows=float(renderer.census(kept).drawn_rows.mean()) * per_row,
        patches=float(inked.sum((1, 2)).mean()),
        tokens=tokens,
        unknown_share=unknown,
    )


def shorter_than(
    lengths: Sequence[Lengths], tokenizer: str, *, by: str = "patches"
) -> tuple[int, int]:
    """In how many languages CLIPPO's `rows` or `patches` are fewer than a tokenizer's pieces, and
    among how many languages.
    """
    return sum(getattr(one, by) < one.tokens[tokenizer] for one in lengths), len(lengths)


def lengths_table(lengths: Sequence[Lengths]) -> str:
    """The numbers as text: one line per language, unknown shares in brackets."""
    names = list(lengths[0].tokens) if lengths else []
    wide = {name: max(22, len(name) + 2) for name in names}
    head = f"{'language':<10}{'texts':>7}{'cut':>6}{'chars':>8}{'rows':>8}{'patches':>9}"
    head += "".join(f"{name:>{wide[name]}}" for name in names)
    lines = [head]
    for one in lengths:
        cells = "".join(
            f"{f'{one.tokens[name]:.1f} ({one.unknown_share[name]:6.1%})':>{wide[name]}}"
            for name in names
        )
        numbers = (
            f"{one.n_texts:>7}{one.cut_texts:>6}{one.characters:>8.1f}"
            f"{one.rows:>8.1f}{one.patches:>9.1f}"
        )
        lines.append(f"{one.language:<10}{numbers}{cells}")
    return "\n".join(lines)


def _pieces(texts: list[str], processor: Any) -> tuple[float, float]:
    """Mean pieces of a text, and the share of characters inside unknown pieces."""
    from clippo_core.models.text import ascii_lower

    n_pieces = n_unknown = n_characters = 0
    for text in texts:
        lowered = ascii_lower(text)
        ids = processor.encode(lowered)
        n_pieces += len(ids)
        n_characters += sum(not character.isspace() for character in lowered)
        if processor.unk_id() in ids:
            pieces = processor.encode(lowered, out_type=str)
            n_unknown += sum(
                len(piece.strip("▁"))
                for piece, id_ in zip(pieces, ids, strict=True)
                if id_ == processor.unk_id()
            )
    return n_pieces / len(texts), min(1.0, n_unknown / max(n_characters, 1))
