"""Draws docs/pairs.png: the demo's pairs as the tower sees them, a handwritten number above its name in four languages.

python docs/draw_pairs.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clippo_core.data.number_tasks import name
from clippo_core.data.numbers import LANGUAGES, Scribe, load_digits
from clippo_core.rendering import Renderer

SHOWN = (7, 19, 42, 58, 60, 76, 83, 99)
GAP = 6


def main() -> None:
    """One column a number: photo, then its drawn names."""
    digits, labels = load_digits()
    scribe = Scribe(digits, labels, np.random.default_rng(0))
    renderer = Renderer(image_px=64)
    columns = []
    for number in SHOWN:
        tiles = [scribe.picture(number), *renderer.render([name(number, language) for language in LANGUAGES])]
        columns.append(np.concatenate([np.pad(tile, GAP // 2, constant_values=255) for tile in tiles]))
    picture = Image.fromarray(np.concatenate(columns, axis=1))
    picture = picture.resize((picture.width * 3 // 2, picture.height * 3 // 2), Image.Resampling.NEAREST)
    picture.save(Path(__file__).with_name("pairs.png"), optimize=True)


if __name__ == "__main__":
    main()
