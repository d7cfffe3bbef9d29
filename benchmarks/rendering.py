"""How fast is text drawn, on one core, beside Pillow with the same font and beside the time that
merely writing the bytes takes?

    python benchmarks/rendering.py [--out FILE]

Three corpora: captions of about 60 characters, texts of 700, sentences in 16 languages. To masks
(6,272 bytes per text at 224 px), to pixels (50,176), in both layouts. With a CUDA device also the
expansion there, beside a B/16 training step on as many images. It checks no pixel.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clippo_core.rendering import Renderer
from clippo_core.rendering.font import load_fonts

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
from specimen import SENTENCES  # noqa: E402  # lies outside the package

BATCH = 256
REPEATS = 9
WORDS = (
    "a",
    "brown",
    "dog",
    "runs",
    "along",
    "the",
    "beach",
    "with",
    "a",
    "stick",
    "in",
    "its",
    "mouth",
    "while",
    "children",
    "play",
    "near",
    "water",
)
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
            words += rng.choice(WORDS) + " "
        return words[:characters]

    mixed = [SENTENCES[LANGUAGES[i % len(LANGUAGES)]] for i in range(n)]
    return {
        "captions": [text(rng.randrange(45, 78)) for _ in range(n)],
        "long": [text(700) for _ in range(n // 4)],
        "mixed": mixed,
    }


def rate(draw: Callable[[list[str]], object], texts: list[str], repeats: int = REPEATS) -> float:
    """Best texts per second of CPU time, in batches of 256."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        for begin in range(0, len(texts), BATCH):
            draw(texts[begin : begin + BATCH])
        best = min(best, time.process_time() - start)
    return len(texts) / best


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


def host() -> dict[str, dict[str, float | str]]:
    """Texts per second of everything that runs on this core."""
    texts = corpora()
    reference, shaped = Renderer(224), Renderer(224, layout="shaped")
    pages = np.empty((BATCH, 224, 224), np.uint8)
    draws: dict[str, Callable[[list[str]], object]] = {
        "masks": reference.masks,
        "pixels": lambda batch: reference.render(batch, pages[: len(batch)]),
        "shaped masks": shaped.masks,
        "census": reference.census,
        "limit: memset of the pixels": lambda batch: pages[: len(batch)].fill(127),
    }
    results: dict[str, dict[str, float | str]] = {}
    for name, draw in draws.items():
        results[name] = {corpus: round(rate(draw, batch)) for corpus, batch in texts.items()}
    with tempfile.TemporaryDirectory() as folder:
        draw = pillow_draw(Path(folder))
        results["Pillow ImageDraw"] = {
            corpus: round(rate(draw, batch[:BATCH], 3)) for corpus, batch in texts.items()
        }
    results["big_vision (not run here)"] = dict(REFERENCE_RATES)
    return results


def device() -> dict[str, float | str]:
    """Milliseconds of expansion to bf16 RGB and of a B/16 step, forward and backward, on the same
    images.
    """
    import torch

    if not torch.cuda.is_available():
        return {"expansion": "not run: no CUDA device"}
    from clippo_core.config import ModelConfig
    from clippo_core.models import build_tower
    from clippo_core.rendering.draw import expand

    n = 512
    masks = torch.from_numpy(Renderer(224).masks(corpora(n)["captions"])).cuda()
    tower = build_tower(ModelConfig(), 224).cuda()
    compiled = torch.compile(expand, dynamic=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            tower.embed_encoded_text(masks).float().sum().backward()
        tower.zero_grad()

    def milliseconds(work: Callable[[], object]) -> float:
        for _ in range(3):
            work()
        times = []
        for _ in range(20):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        return min(times)

    results: dict[str, float | str] = {"device": torch.cuda.get_device_name(), "images": n}
    results["eager expansion ms"] = milliseconds(lambda: expand(masks, torch.bfloat16).contiguous())
    results["compiled expansion ms"] = milliseconds(
        lambda: compiled(masks, torch.bfloat16).contiguous()
    )
    results["B/16 step ms"] = milliseconds(step)
    results["compiled expansion / step"] = (
        results["compiled expansion ms"] / results["B/16 step ms"]
    )
    return results


def main() -> None:
    """Runs both, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/rendering.json"))
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    load = os.getloadavg()[0]
    results = {
        "machine": platform.processor() or platform.machine(),
        "load_before": load,
        "texts_per_second": host(),
    }
    print(f"texts/s of one core's CPU time, best of {REPEATS}; load before the run {load:.1f}")
    print(f"{'':30}{'captions':>12}{'long':>12}{'mixed':>12}")
    for name, row in results["texts_per_second"].items():
        print(f"{name:30}" + "".join(f"{value:>12,}" for value in row.values()))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    results["device"] = device()
    print(results["device"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
