"""Draws the demo's pairs as the tower sees them, and its texts as augmented training sees them.

    python tools/draw_pairs.py

docs/pairs.png: a handwritten number above its name in four languages. docs/augmented.png: four
texts; left rendered plainly, then as six steps of a training with every augmentation on would
render them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clippo_core.config import AugmentConfig, RenderConfig
from clippo_core.data.numbers.scribe import Scribe, load_digits
from clippo_core.data.numbers.tasks import name
from clippo_core.data.numbers.world import LANGUAGES
from clippo_core.rendering import Renderer
from clippo_core.rendering.augment import (
    LAYOUT_NUMBERS,
    AugmentedRenderer,
    augmented_pixels,
    noise_of_step,
    numbers_of_step,
)

SHOWN = (7, 19, 42, 58, 60, 76, 83, 99)
GAP = 6
PX = 64
AUGMENT = AugmentConfig(
    max_extra_px=2,
    max_offset_px=8,
    double_share=0.1,
    stroke_share=0.3,
    contrast=0.7,
    inversion_share=0.2,
    noise=0.3,
)
STEPS = range(6)


def main() -> None:
    """Write both pictures."""
    save(pairs(), "pairs.png", scale=1.5)
    save(
        augmented([name(42, "en"), name(42, "ja"), name(42, "ar"), "the number seventy-six"]),
        "augmented.png",
        greys=12,
    )


def pairs() -> list[list[np.ndarray]]:
    """One column a number: photo, then its drawn names."""
    digits, labels = load_digits()
    scribe = Scribe(digits, labels, np.random.default_rng(0))
    renderer = Renderer(image_px=PX)
    return [
        [
            scribe.picture(number),
            *renderer.render([name(number, language) for language in LANGUAGES]),
        ]
        for number in SHOWN
    ]


def augmented(texts: list[str]) -> list[list[np.ndarray]]:
    """One column per rendering: plain, then one per step."""
    renderer = AugmentedRenderer(RenderConfig(image_px=PX), AUGMENT)
    columns = [list(Renderer(image_px=PX).render(texts))]
    for step in STEPS:
        numbers = numbers_of_step(0, step, len(texts))[:, 0]
        masks = torch.from_numpy(renderer.masks(texts, numbers[:, :LAYOUT_NUMBERS]))
        noise = torch.from_numpy(noise_of_step(0, step, PX))
        pixels = augmented_pixels(
            masks, AUGMENT, torch.from_numpy(numbers[:, LAYOUT_NUMBERS:]), noise
        )
        columns.append(list(((pixels[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()))
    return columns


def save(
    columns: list[list[np.ndarray]], file_name: str, scale: float = 1, greys: int = 256
) -> None:
    """A sheet of tiles; few greys keep a noisy one small."""
    parts = [
        np.concatenate([np.pad(tile, GAP // 2, constant_values=255) for tile in tiles])
        for tiles in columns
    ]
    picture = Image.fromarray(np.concatenate(parts, axis=1))
    picture = picture.resize(
        (int(picture.width * scale), int(picture.height * scale)), Image.Resampling.NEAREST
    )
    picture = picture.quantize(greys) if greys < 256 else picture
    picture.save(Path(__file__).parent.parent / "docs" / file_name, optimize=True)


if __name__ == "__main__":
    main()
