"""Time as an argument: the two clocks a broker can run on.

Why: everything timed in the engine (TTL, delay, queue expiry, waiting publishers) asks a clock it was given,
so a test advances an hour in a microsecond through the very code that runs in production. The engine reads
the clock and never sleeps; whoever hosts the engine wakes it when :meth:`Broker.next_due` has come.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Clock", "SystemClock", "TimedHost", "VirtualClock"]

ROUNDING = 1e-9
"""What a sum of seconds may fall short by: a timer set for 0.8 s fires after steps of 0.7 and 0.1."""


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
        self._attaching = threading.Lock()
        self._advancing = threading.RLock()
        self._calls = _Calls(self)
        self.attach(self._calls)

    def now(self) -> float:
        """Return the seconds advanced so far."""
        return self._now

    def time(self) -> float:
        """Return ``start`` plus the seconds advanced so far."""
        return self._start + self._now

    def attach(self, host: TimedHost) -> None:
        """Fire this host's timers from now on (held weakly)."""
        with self._attaching:
            self._hosts.add(host)

    def detach(self, host: TimedHost) -> None:
        """Fire this host's timers no more."""
        with self._attaching:
            self._hosts.discard(host)

    def call_after(self, seconds: float, function: Callable[..., object], args: tuple[Any, ...] = ()) -> Call:
        """Call ``function(*args)`` when the clock has been advanced by ``seconds`` (>= 0), in the thread that does it.

        Until then the call can be taken back: ``cancel()``.
        """
        call = Call(self._now + seconds, function, args)
        self._calls.add(call)
        return call

    def advance(self, seconds: float, *, before_each: Callable[[], object] = lambda: None) -> None:
        """Move time forward by ``seconds`` (>= 0) and fire everything that becomes due, in order.

        before_each: called before time moves to the next timer and before it moves to the end; there one waits until
        what the last timer has started has come to rest, so that the timers which that has set are seen.
        Raises ValueError for a negative step: this clock is monotonic.
        """
        if seconds < 0:
            raise ValueError(f"cannot advance by {seconds} s: a clock never goes back")
        with self._advancing:
            target = self._now + seconds
            while True:
                before_each()
                with self._attaching:
                    hosts = list(self._hosts)
                due = [(at, host) for host in hosts if (at := host.next_due()) is not None and at <= target + ROUNDING]
                if not due:
                    break
                at, host = min(due, key=lambda pair: pair[0])
                self._now = max(self._now, at)
                host.run_due()
            self._now = max(self._now, target)


class Call:
    """A function that a :class:`VirtualClock` is to call; made by :meth:`VirtualClock.call_after`."""

    __slots__ = ("args", "due", "function")

    def __init__(self, due: float, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.due = due
        self.function: Callable[..., object] | None = function
        self.args = args

    def cancel(self) -> None:
        """Do not call it; nothing happens if it has been called."""
        self.function = None


class _Calls:
    """The calls that one clock is to make, soonest first."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = weakref.proxy(clock)
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()

    def add(self, call: Call) -> None:
        with self._lock:
            heapq.heappush(self._heap, (call.due, next(self._numbers), call))

    def next_due(self) -> float | None:
        with self._lock:
            while self._heap and self._heap[0][2].function is None:
                heapq.heappop(self._heap)
            return self._heap[0][0] if self._heap else None

    def run_due(self) -> None:
        while True:
            with self._lock:
                if not self._heap or self._heap[0][0] > self._clock.now():
                    return
                call = heapq.heappop(self._heap)[2]
            function, call.function = call.function, None
            if function is not None:
                function(*call.args)
