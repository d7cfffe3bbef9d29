"""Texts that a renderer meets: a generator over all planes, controls, surrogates, marks, emoji
sequences, and lengths.
"""

import random

import numpy as np

PLANES = [
    (0x20, 0x7F),
    (0x20, 0x7F),
    (0xA0, 0x250),
    (0x300, 0x370),
    (0x370, 0x590),
    (0x590, 0x800),
    (0x900, 0xE80),
    (0x1100, 0x1200),
]
PLANES += [
    (0x2000, 0x2070),
    (0x2190, 0x2800),
    (0x3040, 0x3100),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A4),
    (0xFB00, 0x10000),
]
PLANES += [
    (0x0, 0x20),
    (0x7F, 0xA0),
    (0xD800, 0xE000),
    (0xE000, 0xF900),
    (0x0, 0x10000),
    (0x10000, 0x11000),
    (0x1D400, 0x1D800),
]
PLANES += [
    (0x1F300, 0x1FB00),
    (0x20000, 0x2A6E0),
    (0xE0000, 0xE0200),
    (0x0, 0x110000),
    (0x10FF00, 0x110000),
]
"""Ranges of code points: scripts, controls, surrogates, private use, upper planes, everything."""

EMOJI = [
    "\U0001f468‍\U0001f469‍\U0001f467",
    "\U0001f1fa\U0001f1f8",
    "1️⃣",
    "\U0001f44d\U0001f3fd",
    "\U0001f436",
    "☕️",
]
WORDS = [
    "dog",
    "A",
    "brown",
    "מברוק",
    "مرحبا",
    "ñandú",
    "été",
    "日本",
    "कि",
    "ก่ำ",
    "한",
    "x́",
    "42",
    "—",
    "I'm",
    "Ü",
]


def generated(n, seed):
    """`n` texts: captions, one script, mixtures, emoji sequences, repetitions, lengths around 768;
    a few are empty.
    """
    rng = random.Random(seed)
    texts = []
    for index in range(n):
        length = (
            rng.choice([0, 1, 2, 5, 20, 60, 60, 120, 300, 767, 768, 769, 900])
            if index % 8 == 0
            else rng.randrange(1, 90)
        )
        kind = rng.randrange(6)
        if kind == 0:
            text = " ".join(rng.choices(WORDS, k=length // 4 + 1))
        elif kind == 1:
            low, high = rng.choice(PLANES)
            text = "".join(chr(rng.randrange(low, high)) for _ in range(length))
        elif kind == 2:
            text = "".join(chr(rng.randrange(*rng.choice(PLANES))) for _ in range(length))
        elif kind == 3:
            text = "".join(rng.choice(EMOJI) + rng.choice(WORDS) for _ in range(length // 4 + 1))
        elif kind == 4:
            text = chr(rng.randrange(*rng.choice(PLANES))) * length
        else:
            text = "".join(chr(rng.randrange(0x20, 0x7F)) for _ in range(length)) + rng.choice(
                ["", "\n", "日", "\t "]
            )
        texts.append(text)
    return texts


def rows_used(masks: np.ndarray) -> np.ndarray:
    """[n] rows down to the last one with ink, of masks [n, rows, px]; 0 for a blank page."""
    inked = masks.any(axis=2)
    return np.where(inked.any(axis=1), inked.shape[1] - inked[:, ::-1].argmax(axis=1), 0)
