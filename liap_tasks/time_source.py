"""Where the task side reads the time: the clock of its app, ``app.time_source``.

Deadlines, expiries, delays to a moment, due dead letters, retention, the timers of batches and the entries of beat all
ask it, so that one :class:`transports.VirtualClock`, given to the app and to its in-process broker, moves them all (see
``liap_tasks/testing/README.md``). The time limit of a running attempt goes by both clocks, whichever is first there:
code runs in real time. Left to the machine's clock: how long a program waits for an answer, reconnecting, and
measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from liap_tasks.timer_thread import start_timer
from transports import Clock, SystemClock, VirtualClock

__all__ = ["Cancellable", "call_after", "clock_of", "virtual_clock_of"]

MACHINE: Clock = SystemClock()


class Cancellable(Protocol):
    """A call that has not been made yet."""

    def cancel(self) -> None:
        """Do not make it; nothing happens if it has been made."""


def clock_of(app: Any) -> Clock:
    """Return the clock of an app; the machine's for an app that is none of this package."""
    clock: Clock = getattr(app, "time_source", MACHINE)
    return clock


def virtual_clock_of(app: Any) -> VirtualClock | None:
    """Return the clock of an app if it is a virtual one."""
    clock = clock_of(app)
    return clock if isinstance(clock, VirtualClock) else None


def call_after(clock: Clock, seconds: float, function: Callable[..., object], args: tuple[Any, ...]) -> Cancellable:
    """Call a function in ``seconds`` (>= 0) of this clock, in another thread.

    By a :class:`VirtualClock` it is called in the thread that advances the clock.
    """
    if isinstance(clock, VirtualClock):
        return clock.call_after(seconds, function, args)
    return start_timer(seconds, function, args)
