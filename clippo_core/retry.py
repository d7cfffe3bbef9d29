"""Try again, with bounds: random pauses that grow, at most ATTEMPTS times and TOTAL_SECONDS.

    pause before attempt n+1  ~  uniform(0, min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2^n))

Random pauses, because a thousand workers that fail together must not come back together. What is worth another try is the
caller's to say; it is not for errors that would only repeat themselves.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 10
TOTAL_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0

T = TypeVar("T")


def retried(call: Callable[[int], T], transient: Callable[[Exception], bool]) -> T:
    """`call(attempt)` with attempt = 1, 2, …, until it returns, fails with an error that is not `transient`, or a bound is reached.

    The last error is raised as it came. The randomness is only in the pauses, and uses a source of its own, not the run's seed.
    """
    started = time.monotonic()
    pauses = random.SystemRandom()
    attempt = 1
    while True:
        try:
            return call(attempt)
        except Exception as error:  # `transient` decides; what it does not know is raised
            pause = pauses.uniform(0, min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt))
            if not transient(error) or attempt >= ATTEMPTS or time.monotonic() - started + pause > TOTAL_SECONDS:
                raise
        time.sleep(pause)
        attempt += 1
