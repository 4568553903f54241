"""Calling functions later, in a thread that is there already.

A ``threading.Timer`` is a thread for each call, and whoever starts a thread waits until it runs: several milliseconds
when others keep the interpreter busy, in which a worker's consumer takes nothing up. Here one thread watches over all
calls of the process. A call may take long: the thread that makes it leaves the watch to another meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from celery.utils.log import get_logger

__all__ = ["Timer", "get_ready", "start_timer"]

logger = get_logger("liap_tasks.timers")

IDLE_SECONDS = 10.0


class Timer:
    """A call that is to be made; made by :func:`start_timer`."""

    __slots__ = ("_args", "_function", "_timers")

    def __init__(self, timers: _Timers, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._timers = timers
        self._function: Callable[..., object] | None = function
        self._args = args

    def cancel(self) -> None:
        """Do not make it; nothing happens if it has been made, or is being made."""
        self._timers.remove(self)
        self._function, self._args = None, ()

    def fire(self) -> None:
        """Make the call; an error of it goes to the log, and to nobody else."""
        function, args = self._function, self._args
        self._function, self._args = None, ()
        if function is not None:
            try:
                function(*args)
            except Exception:
                logger.exception("a call that was due failed: %r", function)


def start_timer(seconds: float, function: Callable[..., object], args: tuple[Any, ...] = ()) -> Timer:
    """Call a function in ``seconds`` (>= 0), in another thread than this one."""
    timer = Timer(_timers, function, args)
    _timers.add(monotonic() + seconds, timer)
    return timer


def get_ready() -> None:
    """Start the thread that watches over the calls, which else the first of them waits for."""
    _timers.start()


class _Timers:
    """The calls to be made, and their threads.

    One thread watches for the soonest call. It leaves the watch to make that call, and takes it again if nobody else
    has done so meanwhile; else it is a spare, for the next one who leaves. Threads that nobody needs end.
    """

    def __init__(self) -> None:
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._wanted = threading.Condition(lock)
        self._waiting: list[tuple[float, int, Timer]] = []  # a heap; the number keeps those of one moment in order
        self._numbers = itertools.count()
        self._watched = False
        self._spare = 0

    def start(self) -> None:
        """Have somebody watch, before there is anything to watch."""
        with self._changed:
            if not self._watched:
                self._have_watched()

    def add(self, due: float, timer: Timer) -> None:
        """Have a call made at a reading of the monotonic clock."""
        with self._changed:
            heapq.heappush(self._waiting, (due, next(self._numbers), timer))
            if not self._watched:
                self._have_watched()
            elif self._waiting[0][2] is timer:
                self._changed.notify()

    def remove(self, timer: Timer) -> None:
        """Take a call out, if it is there; the thread that sleeps until its time is left to sleep."""
        with self._changed:
            for place, (_, _, waiting) in enumerate(self._waiting):
                if waiting is timer:
                    self._waiting[place] = self._waiting[-1]
                    self._waiting.pop()
                    heapq.heapify(self._waiting)
                    return

    def _have_watched(self) -> None:
        if self._spare:
            self._wanted.notify()
        else:
            threading.Thread(target=self._work, name="liap-timers", daemon=True).start()

    def _work(self) -> None:
        while (timer := self._next()) is not None:
            timer.fire()

    def _next(self) -> Timer | None:
        """Watch until a call is due, and return it; None when this thread is not needed any more."""
        with self._changed:
            while self._watched:
                self._spare += 1
                called = self._wanted.wait(IDLE_SECONDS)
                self._spare -= 1
                if not called and self._watched:
                    return None
            self._watched = True
            try:
                while True:
                    if self._waiting:
                        left = self._waiting[0][0] - monotonic()
                        if left <= 0:
                            return heapq.heappop(self._waiting)[2]
                        self._changed.wait(left)
                    elif not self._changed.wait(IDLE_SECONDS) and not self._waiting:
                        return None
            finally:
                self._watched = False
                if self._waiting:
                    self._have_watched()


_timers = _Timers()


def _start_anew() -> None:
    global _timers  # a forked child has no such thread, and perhaps a lock that nobody will release
    _timers = _Timers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
