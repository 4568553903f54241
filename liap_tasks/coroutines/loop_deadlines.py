"""When the coroutines on one loop run out of time.

Why not ``loop.call_later`` for each: nearly all end in time, and a timer that is taken back stays in the loop's heap,
where comparing it is Python code. Here one timer serves the soonest deadline; a coroutine that ends in time costs two
dictionary operations.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

__all__ = ["Deadlines"]


class Expiring(Protocol):
    """What can run out of time."""

    def expire(self) -> None: ...


class Deadlines:
    """The deadlines on a loop; used on its thread only.

    abandoned: how many of its coroutines did not end in their grace time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._by_limit: dict[
            float, dict[Expiring, float]
        ] = {}  # those of one limit are in the order of their deadlines
        self.abandoned = 0
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf

    def add(self, coroutine: Expiring, limit: float) -> None:
        """Expire ``coroutine`` in ``limit`` seconds unless it is removed before."""
        due = self.loop.time() + limit
        same = self._by_limit.get(limit)
        if same is None:
            same = self._by_limit[limit] = {}
        same[coroutine] = due
        if due < self._looks_at:
            self._look_at(due)

    def remove(self, coroutine: Expiring, limit: float) -> None:
        """Forget a coroutine that was added with this limit, if it is still there."""
        same = self._by_limit.get(limit)
        if same is not None:
            same.pop(coroutine, None)
            if not same:
                del self._by_limit[limit]

    def _look_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = due
        self._timer = self.loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        self._looks_at = math.inf
        now = self.loop.time()
        soonest = math.inf
        expired = []
        for limit, same in self._by_limit.items():
            for coroutine, due in same.items():
                if due > now:
                    soonest = min(soonest, due)
                    break
                expired.append((coroutine, limit))
        for coroutine, limit in expired:
            self.remove(coroutine, limit)
            coroutine.expire()
        if soonest < math.inf:
            self._look_at(soonest)
