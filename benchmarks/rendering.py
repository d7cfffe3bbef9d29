"""How fast is text drawn, on one core, beside Pillow with the same font and beside the time that
merely writing the bytes takes?

    python benchmarks/rendering.py [--rounds 5] [--out FILE]

Three corpora: captions of about 60 characters, texts of 700, sentences in 16 languages. To masks
(6,272 bytes per text at 224 px), to pixels (50,176), in both layouts. With a CUDA device also the
expansion there, beside a B/16 training step on as many images. It checks no pixel.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import paired, rates, report, spread, table, timed

from clippo_core.rendering import Renderer
from clippo_core.rendering.font import load_fonts

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
from specimen import SENTENCES  # noqa: E402  # lies outside the package

BATCH = 256
MASKS = "**ours**, column masks"
WORDS = "a brown dog runs along the beach with a stick in its mouth while children play near water"
LANGUAGES = (
    "en",
    "de",
    "vi",
    "el",
    "ru",
    "he",
    "ar",
    "fa",
    "hi",
    "bn",
    "te",
    "th",
    "ja",
    "ko",
    "zh",
    "tr",
)
REFERENCE_RATES = {"captions": 235, "long": 38, "mixed": 249}
"""texts/s of big_vision's render_unifont in tf.data, one thread, measured on an EPYC Zen 4 core
(TensorFlow is no dependency here)."""


def corpora(n: int = 2048) -> dict[str, list[str]]:
    """The three corpora, seeded."""
    rng = random.Random(0)

    def text(characters: int) -> str:
        words = ""
        while len(words) < characters:
            words += rng.choice(WORDS.split()) + " "
        return words[:characters]

    mixed = [SENTENCES[LANGUAGES[i % len(LANGUAGES)]] for i in range(n)]
    return {
        "captions": [text(rng.randrange(45, 78)) for _ in range(n)],
        "long": [text(700) for _ in range(n // 4)],
        "mixed": mixed,
    }


def pillow_draw(folder: Path) -> Callable[[list[str]], object]:
    """Pillow's ImageDraw (FreeType) with the same glyphs, basic layout, wrapped at 28
    characters.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(write_bdf(folder)), 16, layout_engine=ImageFont.Layout.BASIC)

    def draw(texts: list[str]) -> None:
        for text in texts:
            page = Image.new("L", (224, 224), 127)
            pen = ImageDraw.Draw(page)
            for row in range(min(14, (len(text) + 27) // 28)):
                pen.text((0, 16 * row), text[28 * row : 28 * row + 28], font=font, fill=0)

    return draw


def write_bdf(folder: Path) -> Path:
    """The shipped font's glyphs of the basic plane as a BDF file, which FreeType reads."""
    font = load_fonts()
    path = folder / "unifont.bdf"
    code_points = [int(c) for c in np.flatnonzero(font.slots[:0x10000]) if not 0xD800 <= c < 0xE000]
    head = (
        "STARTFONT 2.1\nFONT -misc-unifont-medium-r-normal--16-160-72-72-c-80-iso10646-1\nSIZE 16"
        " 72 72\nFONTBOUNDINGBOX 16 16 0 -2\nSTARTPROPERTIES 5\nPIXEL_SIZE 16\nFONT_ASCENT"
        ' 14\nFONT_DESCENT 2\nCHARSET_REGISTRY "ISO10646"\nCHARSET_ENCODING "1"\nENDPROPERTIES\n'
    )
    with path.open("w", encoding="ascii") as file:
        file.write(f"{head}CHARS {len(code_points)}\n")
        for code in code_points:
            slot, width = font.slots[code], int(font.cell_px[font.slots[code]])
            columns = font.cells[slot, :width]
            pixels = (columns[None, :] >> np.arange(16, dtype=np.uint16)[:, None]) & 1
            rows = [np.packbits(row.astype(np.uint8)).tobytes().hex().upper() for row in pixels]
            file.write(
                f"STARTCHAR U+{code:04X}\nENCODING {code}\nSWIDTH {500 * width // 8} 0\nDWIDTH"
                f" {width} 0\nBBX {width} 16 0 -2\n"
            )
            file.write("BITMAP\n" + "\n".join(rows) + "\nENDCHAR\n")
        file.write("ENDFONT\n")
    return path


def host(rounds: int) -> list[list[Any]]:
    """Texts per second of everything that runs on this core, and the time over our masks'."""
    texts = corpora()
    reference, shaped = Renderer(224), Renderer(224, layout="shaped")
    pages = np.empty((BATCH, 224, 224), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        draws: dict[str, Callable[[list[str]], object]] = {
            MASKS: reference.masks,
            "**ours**, pixels": lambda batch: reference.render(batch, pages[: len(batch)]),
            "**ours**, shaped layout, masks": shaped.masks,
            "census": reference.census,
            "limit: memset of the pixels": lambda batch: pages[: len(batch)].fill(127),
            "Pillow ImageDraw, FreeType, the same glyphs": pillow_draw(Path(folder)),
        }

        def run(draw: Callable[[list[str]], object], given: list[str]) -> Callable[[], None]:
            def all_of_them() -> None:
                for begin in range(0, len(given), BATCH):
                    draw(given[begin : begin + BATCH])

            return all_of_them

        rows: dict[str, list[Any]] = {name: [name] for name in draws}
        for given in texts.values():
            seconds = timed({name: run(draw, given) for name, draw in draws.items()}, rounds)
            for name in draws:
                rows[name].append(rates(len(given), seconds[name]))
            over = paired(seconds, MASKS)
        for name in draws:
            rows[name].append(over[name])
    figures = [f"{rate:,}" for rate in REFERENCE_RATES.values()]
    return [*rows.values(), ["big_vision's renderer (not run here)", *figures, None]]


def on_device() -> list[list[Any]]:
    """Milliseconds of expansion to bf16 RGB and of a B/16 step, forward and backward, on the same
    images; nothing without a GPU.
    """
    import torch

    if not torch.cuda.is_available():
        return []
    from clippo_core.config import ModelConfig
    from clippo_core.models import build_tower
    from clippo_core.rendering.draw import expand

    masks = torch.from_numpy(Renderer(224).masks(corpora(512)["captions"])).cuda()
    tower = build_tower(ModelConfig(), 224).cuda()
    compiled = torch.compile(expand, dynamic=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            tower.embed_encoded_text(masks).float().sum().backward()
        tower.zero_grad()

    contestants = {
        "B/16, forward and backward": step,
        "expansion, eager": lambda: expand(masks, torch.bfloat16).contiguous(),
        "expansion, compiled": lambda: compiled(masks, torch.bfloat16).contiguous(),
    }
    seconds = timed(contestants, 20, warm_up=3, on_gpu=True)
    over = paired(seconds, "B/16, forward and backward")
    return [[name, spread(1000 * s for s in seconds[name]), over[name]] for name in contestants]


def main() -> None:
    """Print the tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    columns = {
        "texts a second": "", "captions, ~60 characters": ",.0f", "700 characters": ",.0f",
        "16 languages": ",.0f", "time over masks (16 languages)": ",.3g",
    }  # fmt: skip
    tables = [table(columns, host(options.rounds))]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    if found := on_device():
        tables.append(table({"512 texts": "", "ms": ".2f", "over a step": ".3f"}, found))
    clock = f"CPU time of one core, {options.rounds} rounds"
    report("rendering", tables, clock, packages=["numpy", "pillow"], out=options.out)


if __name__ == "__main__":
    main()
