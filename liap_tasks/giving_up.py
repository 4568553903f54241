"""Giving up on an attempt that cannot be interrupted, and making sure that it then has no say any more.

A thread inside a C call cannot be interrupted. When such an attempt has had its time and its grace, its worker gives
it up: the message is retried or kept as a dead letter and acknowledged, and another thread takes the place of the
stuck one. If the stuck one returns after all it must change nothing: no result, no retry, no second dead letter.

Who comes first is decided once, under a lock: an attempt that has ended can no longer be given up, one that was given
up can no longer end.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar

__all__ = ["CURRENT", "Endurance", "given_up", "may_end"]


class Endurance:
    """Whether one run of the tracer still counts. Safe to use from several threads."""

    __slots__ = ("_lock", "ended", "given_up")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.ended = False
        self.given_up = False

    def end(self) -> bool:
        """Note that the attempt has ended; False if it has been given up before."""
        with self._lock:
            self.ended = not self.given_up
            return self.ended

    def give_up(self) -> bool:
        """Note that the attempt is given up; False if it has ended before."""
        with self._lock:
            self.given_up = not self.ended
            return self.given_up


CURRENT: ContextVar[Endurance | None] = ContextVar("CURRENT", default=None)
"""That of the run of the tracer in this thread, set by pools that give up."""


def given_up() -> bool:
    """Tell whether the attempt in this thread has been given up."""
    endurance = CURRENT.get()
    return endurance is not None and endurance.given_up


def may_end() -> bool:
    """Tell whether the attempt in this thread may have an effect; from then on it cannot be given up."""
    endurance = CURRENT.get()
    return endurance is None or endurance.end()
