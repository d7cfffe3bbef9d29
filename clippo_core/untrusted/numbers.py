"""Numbers from outside as plain ASCII digits, where Python's int() and float() take more.

int() accepts "1_0", " 1", "+1", "0x1" by base 16, and digits of any script; float() accepts "nan".
"""

from __future__ import annotations

import math
import re

from clippo_core.errors import ClippoError, DataError
from clippo_core.untrusted.names import printable, refusal

_DIGITS = {
    8: re.compile(r"[0-7]{1,40}"),
    10: re.compile(r"-?[0-9]{1,19}"),
    16: re.compile(r"[0-9a-fA-F]{1,16}"),
}
_REAL = re.compile(r"[-+]?(?:[0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400})(?:[eE][-+]?[0-9]{1,3})?")


def whole_number(
    text: str,
    where: str,
    *,
    base: int = 10,
    minimum: int = 0,
    maximum: int = 2**63 - 1,
    error: type[ClippoError] = DataError,
) -> int:
    """A whole number in base 8, 10 or 16 from `minimum` to `maximum`. Raises `error`."""
    if _DIGITS[base].fullmatch(text):
        number = int(text, base)
        if minimum <= number <= maximum:
            return number
    kind = {8: "octal digits", 10: "digits", 16: "hexadecimal digits"}[base]
    fault = f"{printable(text, 40)!r} is no whole number of {kind} from {minimum} to {maximum}"
    raise refusal(error, where, fault, "correct it")


def real_number(
    text: str,
    where: str,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    error: type[ClippoError] = DataError,
) -> float:
    """A finite number in decimal digits, between `minimum` and `maximum`. Raises `error`."""
    if _REAL.fullmatch(text):
        number = float(text)
        if math.isfinite(number) and minimum <= number <= maximum:
            return number
    bounds = f" from {minimum:g} to {maximum:g}" if math.isfinite(maximum - minimum) else ""
    fault = f"{printable(text, 40)!r} is no finite number{bounds}"
    raise refusal(error, where, fault, "correct it")
