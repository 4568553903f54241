"""How fast a series of steps may go: at most so many a second, spread evenly.

Why a schedule and not a sleep after each step: a sleep always takes a little longer than asked, and the steps
themselves take time. Each step has a moment at which it is due; one that comes late is made up for by the next, but
never by more than :data:`CATCH_UP` seconds' worth at once: after a pause there is no burst.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["CATCH_UP", "Pace"]

CATCH_UP = 0.1


class Pace:
    """Let at most ``rate`` steps a second pass; 0 lets all of them pass at once.

    Raises ValueError for a rate that is negative or not finite. clock: seconds that only grow. sleep: waits seconds.
    """

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if not math.isfinite(rate) or rate < 0:
            raise ValueError(f"rate must be a number of letters a second of at least 0, not {rate!r}")
        self.rate = rate
        self._interval = 1 / rate if rate else 0.0
        self._clock = clock
        self._sleep = sleep
        self._due = -math.inf

    def wait(self) -> None:
        """Return when the next step may be taken."""
        if not self._interval:
            return
        now = self._clock()
        if self._due > now:
            self._sleep(self._due - now)
        self._due = max(self._due, now - CATCH_UP) + self._interval

    def steps_in(self, seconds: float, at_most: int) -> int:
        """Return how many steps fit into ``seconds``: at least 1, at most ``at_most``."""
        return at_most if not self.rate else max(1, min(at_most, math.floor(self.rate * seconds)))
