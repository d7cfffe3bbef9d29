"""Pictures of handwritten numbers, put together from scikit-learn's digits.

A picture is 64 x 64, white on black: one digit of 28 px, or two side by side, in rows 34..61, so
that two rows of a question rendered over the top hide nothing.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from clippo_core.extras import optional_import

IMAGE_PX, DIGIT_PX, TOP_PX = 64, 28, 34
TRAIN_DIGITS = 1437
"""The digits of the training writers, the first ones; the others are held out."""


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [1797, 28, 28] white on black, int [1797] their digits), in scikit-learn's order."""
    with optional_import():
        from sklearn.datasets import load_digits as load

    bunch = load()
    grey = (bunch.images * (255 / 16)).round().astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(one).resize((DIGIT_PX, DIGIT_PX), Image.Resampling.BICUBIC))
        for one in grey
    ]
    return np.stack(large), bunch.target


class Scribe:
    """Writes numbers with the digits of some writers; each digit's samples are used in turn, in a
    shuffled order.
    """

    def __init__(self, digits: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
        self._digits = digits
        self._samples = [
            rng.permutation(np.flatnonzero(labels == digit)).tolist() for digit in range(10)
        ]
        self._rng = rng
        self._written: set[tuple[int, ...]] = set()
        self.n_samples = [len(samples) for samples in self._samples]

    def picture(self, number: int) -> np.ndarray:
        """uint8 [64, 64] of a number of two digits, from randomly drawn samples, never the same two
        again; of one digit, any sample.
        """
        while True:
            drawn = tuple(self._any(int(digit)) for digit in str(number))
            if len(drawn) == 1 or drawn not in self._written:
                self._written.add(drawn)
                return place([self._digits[sample] for sample in drawn])

    def _any(self, digit: int) -> int:
        samples = self._samples[digit]
        return samples[int(self._rng.integers(len(samples)))]

    def sample(self, digit: int, nth: int) -> np.ndarray:
        """uint8 [64, 64] of the nth sample of one digit."""
        return place([self._digits[self._samples[digit][nth]]])


def place(digits: list[np.ndarray]) -> np.ndarray:
    """uint8 [64, 64]: one or two digits side by side, centred, in rows 34..61."""
    canvas = np.zeros((IMAGE_PX, IMAGE_PX), np.uint8)
    row = np.concatenate(digits, axis=1)
    left = (IMAGE_PX - row.shape[1]) // 2
    canvas[TOP_PX : TOP_PX + DIGIT_PX, left : left + row.shape[1]] = row
    return canvas
