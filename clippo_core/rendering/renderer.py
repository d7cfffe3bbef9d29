"""`Renderer`: texts -> column masks or pixels; fonts, layout and page in one value, with a digest
of all that decides a pixel.

    Renderer(224).render(["a dog"])  -> uint8 [1, 224, 224], ink 0 on 127
    Renderer(224).masks(["a dog"])   -> uint16 [1, 14, 224], 6,272 bytes per text:
                                        what shards, loader and device exchange

It pickles to its arguments, so that worker processes may have it. Nothing here knows words or
tokens.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clippo_core.config import RenderConfig
from clippo_core.errors import RenderError
from clippo_core.rendering import layout as reference
from clippo_core.rendering import words
from clippo_core.rendering.census import Census
from clippo_core.rendering.draw import ROW_PX, expand_numpy
from clippo_core.rendering.font import CELL_PX, N_CODE_POINTS, changed_code_points, load_fonts
from clippo_core.rendering.shaped.shaping import SHAPING_VERSION, Shaper

CHUNK_CODE_POINTS = 32_768
"""Texts are laid out in chunks of about this many code points, so that the arrays stay in the
cache."""


class Renderer:
    """Renders texts on square pages.

    image_px: height and width, a multiple of 16, at least 32.
    fonts: None = the shipped Unifont 15.0.01, or .hex paths, later ones filling gaps.
    layout: `reference` is big_vision's bit for bit, `shaped` for readers of many scripts, `words`
    begins each word at a patch border.  monospace: 16 px for every glyph.
    strict_font: raise RenderError at a text that the shipped font draws otherwise than 9.0.06, the
    font of the released weights;  warn_font: warn once instead. Both mind the shipped font only.
    extra_px: blank columns after each glyph, where its cell has room for them; for augmentation
    (`augment.py`).
    """

    def __init__(
        self,
        image_px: int = 224,
        fonts: Sequence[str | Path] | None = None,
        layout: Literal["reference", "shaped", "words"] = "reference",
        monospace: bool = False,
        strict_font: bool = False,
        *,
        warn_font: bool = False,
        extra_px: int = 0,
    ) -> None:
        self.config = RenderConfig(
            image_px, layout, monospace, tuple(str(path) for path in fonts or ()), strict_font
        )
        self.warn_font, self.extra_px = warn_font, extra_px
        self._font = load_fonts(self.config.fonts)
        self._metrics = reference.measure(self._font.cells, monospace, extra_px)
        self._slots = reference.lower_ascii(self._font.slots)
        self._columns = self._font.cells.reshape(-1)
        if layout == "words":
            self._columns = np.append(self._columns, np.zeros(CELL_PX, np.uint16))
        self._shaper = (
            Shaper(self._font, image_px, monospace, extra_px) if layout == "shaped" else None
        )
        self._changed: NDArray[np.bool_] | None = None
        if self._font.is_shipped and (strict_font or warn_font):
            self._changed = np.zeros(N_CODE_POINTS, bool)
            self._changed[changed_code_points()] = True

    @classmethod
    def from_config(
        cls, config: RenderConfig, *, warn_font: bool = False, extra_px: int = 0
    ) -> Renderer:
        """The renderer of a RenderConfig."""
        settings = (
            config.image_px,
            config.fonts,
            config.layout,
            config.monospace,
            config.strict_font,
        )
        return cls(*settings, warn_font=warn_font, extra_px=extra_px)

    def __reduce__(self) -> tuple:
        return _rebuild, (self.config, self.warn_font, self.extra_px)

    def __repr__(self) -> str:
        return f"Renderer({self.config})"

    @property
    def image_px(self) -> int:
        """Height and width of a page in pixels."""
        return self.config.image_px

    @property
    def layout(self) -> str:
        """`reference`, `shaped` or `words`."""
        return self.config.layout

    @property
    def monospace(self) -> bool:
        """Whether every glyph has 16 px."""
        return self.config.monospace

    @property
    def fonts_sha256(self) -> tuple[str, ...]:
        """sha256 (hex) of the font files, in order."""
        return self._font.sha256

    @property
    def digest(self) -> str:
        """sha256 (hex) over everything that decides a pixel: layout rules, fonts, page."""
        facts = {
            "layout": self.layout,
            "version": {
                "reference": reference.LAYOUT_VERSION,
                "shaped": [SHAPING_VERSION, unicodedata.unidata_version],
                "words": [words.WORDS_VERSION, unicodedata.unidata_version],
            }[self.layout],
            "fonts": self.fonts_sha256,
            "image_px": self.image_px,
            "monospace": self.monospace,
            **({"extra_px": self.extra_px} if self.extra_px else {}),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def __call__(self, texts: Sequence[str], /) -> NDArray[np.uint16]:
        """The same as `masks`: a renderer is a `TextEncoder`."""
        return self.masks(texts)

    def masks(self, texts: Sequence[str]) -> NDArray[np.uint16]:
        """Column masks uint16 [n, image_px / 16, image_px]; bit y = pixel row y of the 16. Raises
        RenderError for what is no `str`.
        """
        cut = reference.cut_texts(texts)
        masks = np.zeros((len(cut), self.image_px // ROW_PX, self.image_px), np.uint16)
        for begin, end in _chunks(cut):
            placed, columns = self._place(cut[begin:end], begin, masks.shape[1])
            reference.draw_columns(placed, columns, masks[begin:end])
        return masks

    def render(
        self, texts: Sequence[str], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Pixels uint8 [n, image_px, image_px], into `out` if it is given: ink 0 on 127. Raises
        RenderError for what is no `str`.
        """
        cut = reference.cut_texts(texts)
        image = np.empty((len(cut), self.image_px, self.image_px), np.uint8) if out is None else out
        if len(image) != len(cut):
            raise RenderError(
                f"out has room for {len(image)} pages, but there are {len(cut)} texts."
            )
        for begin, end in _chunks(cut):
            masks = np.zeros((end - begin, self.image_px // ROW_PX, self.image_px), np.uint16)
            placed, columns = self._place(cut[begin:end], begin, masks.shape[1])
            reference.draw_columns(placed, columns, masks)
            expand_numpy(masks, image[begin:end])
        return image

    def census(self, texts: Sequence[str]) -> Census:
        """Rows, cut and missing glyphs of each text; nothing is rendered."""
        texts = texts if isinstance(texts, str) else list(texts)
        cut = reference.cut_texts(texts)
        page_rows = self.image_px // ROW_PX
        rows, cut_glyphs, missing = (np.zeros(len(cut), np.int64) for _ in range(3))
        for begin, end in _chunks(cut):
            placed, _ = self._place(cut[begin:end], begin, reference.MAX_CODE_POINTS)
            np.maximum.at(rows, placed.text + begin, placed.row + 1)
            cut_glyphs[begin:end] = np.bincount(
                placed.text[placed.row >= page_rows], minlength=end - begin
            )
            points, lengths = reference.code_points(cut[begin:end])
            text = np.repeat(np.arange(begin, end), lengths)
            is_missing = (
                self._slots[points] == 0
                if self._shaper is None
                else self._shaper.slots[points] == self._shaper.box
            )
            missing += np.bincount(text[is_missing], minlength=len(cut))
        cut_glyphs += np.array(
            [len(text) - len(short) for text, short in zip(texts, cut, strict=True)], np.int64
        )
        return Census(rows, np.minimum(rows, page_rows), cut_glyphs, missing)

    def _place(
        self, cut: Sequence[str], first: int, max_rows: int
    ) -> tuple[reference.Placed, NDArray[np.uint16]]:
        """Layout of a chunk, and the flat columns that it points into; `first` is its first text's
        position, for errors.

        The shaped layout stops at `max_rows`.
        """
        points, lengths = reference.code_points(cut)
        if self._changed is not None:
            self._mind_changes(points, lengths, first)
        if self._shaper is not None:
            return self._shaper.place(cut, points, lengths, max_rows)
        slots, metrics, px = self._slots[points], self._metrics, self.image_px
        if self.layout == "words":
            blank = len(self._columns) - CELL_PX
            return words.place(points, slots, lengths, metrics, px, blank), self._columns
        return reference.place(slots, lengths, metrics, px), self._columns

    def _mind_changes(
        self, points: NDArray[np.uint32], lengths: NDArray[np.int64], first: int
    ) -> None:
        assert self._changed is not None
        where = np.flatnonzero(self._changed[points])
        if not len(where):
            return
        position = first + int(np.searchsorted(np.cumsum(lengths), where[0], side="right"))
        sentence = (
            f"text {position} has U+{points[where[0]]:04X}, which the shipped Unifont 15.0.01 draws"
            " otherwise than 9.0.06, the font of the released weights; give the .hex files of"
            " 9.0.06 as `fonts`."
        )
        if self.config.strict_font:
            raise RenderError(sentence)
        warnings.warn(sentence, stacklevel=4)
        self._changed = None


def _rebuild(config: RenderConfig, warn_font: bool, extra_px: int) -> Renderer:
    return Renderer.from_config(config, warn_font=warn_font, extra_px=extra_px)


def _chunks(cut: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges of texts with about CHUNK_CODE_POINTS together."""
    ends = np.cumsum(np.fromiter(map(len, cut), np.int64, len(cut)) + 1)
    begin = 0
    while begin < len(cut):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + CHUNK_CODE_POINTS, side="right")))
        yield begin, end
        begin = end
