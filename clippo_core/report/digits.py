"""How numbers are written for people: enough digits to see a difference, none that the measurement
does not carry.

    share(74.3219) -> "74.3"            count(10240) -> "10,240"
    value(0.00071234) -> "0.000712"     duration(3725) -> "1 h 02 min"

Files that a program reads keep every digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from clippo_core import progress

MISSING = "–"
"""Stands where there is no number."""


def value(number: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits and thousands separators; an en dash for None and
    non-finite values.
    """
    if number is None or not math.isfinite(number):
        return MISSING
    if number == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(number)))
    if magnitude >= 6 or magnitude < -4:
        mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{number:,.{max(digits - 1 - magnitude, 0)}f}"


def share(number: float | None) -> str:
    """A percentage or score of 0..100 with one decimal, without the sign %."""
    return MISSING if number is None or not math.isfinite(number) else f"{number:.1f}"


def interval(bounds: Sequence[float] | None) -> str:
    """[low, high] of 0..100 as `low – high`; an en dash for None."""
    return MISSING if not bounds else f"{share(bounds[0])} – {share(bounds[1])}"


def count(number: int | None) -> str:
    """A whole number with thousands separators."""
    return MISSING if number is None else f"{number:,}"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units: `8 s`, `3 min 05 s`, `1 h 02 min`, `2 d 03 h`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    return progress.duration(seconds)


def size(n_bytes: int) -> str:
    """A number of bytes in kB, MB, GB or TB (powers of 1000)."""
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"
