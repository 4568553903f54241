"""Time as an argument: the two clocks a broker can run on.

Why: everything timed in the engine (TTL, delay, queue expiry, waiting publishers) asks a clock it was given,
so a test advances an hour in a microsecond through the very code that runs in production. The engine reads
the clock and never sleeps; whoever hosts the engine wakes it when :meth:`Broker.next_due` has come.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Protocol

__all__ = ["Clock", "SystemClock", "TimedHost", "VirtualClock"]


class Clock(Protocol):
    """What the engine needs to know about time."""

    def now(self) -> float:
        """Return seconds on a monotonic scale; only differences mean something."""

    def time(self) -> float:
        """Return POSIX seconds, for timestamps that people and other machines read."""


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(time.monotonic)
    time = staticmethod(time.time)


class TimedHost(Protocol):
    """Something with timers that a :class:`VirtualClock` must fire while it advances."""

    def next_due(self) -> float | None:
        """Return the clock reading at which the next timer fires, or None."""

    def run_due(self) -> None:
        """Fire every timer that is due now."""


class VirtualClock:
    """A clock that moves only when told to, firing timers in order on its way.

    ``advance(60)`` stops at every due timer of every attached host, so a message that expires after 10 s and is
    dead-lettered into a queue with a TTL of 20 s has left that queue too when the call returns.
    Thread-safe. Starts at 0.0 on the monotonic scale and at ``start`` POSIX seconds.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = 0.0
        self._start = start
        self._hosts: weakref.WeakSet[TimedHost] = weakref.WeakSet()
        self._advancing = threading.RLock()

    def now(self) -> float:
        """Return the seconds advanced so far."""
        return self._now

    def time(self) -> float:
        """Return ``start`` plus the seconds advanced so far."""
        return self._start + self._now

    def attach(self, host: TimedHost) -> None:
        """Fire this host's timers from now on (held weakly)."""
        self._hosts.add(host)

    def advance(self, seconds: float) -> None:
        """Move time forward by ``seconds`` (>= 0) and fire everything that becomes due, in order.

        Raises ValueError for a negative step: this clock is monotonic.
        """
        if seconds < 0:
            raise ValueError(f"cannot advance by {seconds} s: a clock never goes back")
        with self._advancing:
            target = self._now + seconds
            while True:
                due = [(at, host) for host in list(self._hosts) if (at := host.next_due()) is not None and at <= target]
                if not due:
                    break
                at, host = min(due, key=lambda pair: pair[0])
                self._now = max(self._now, at)
                host.run_due()
            self._now = target
