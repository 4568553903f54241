"""Interrupting an attempt that runs in a thread when its time is up.

Celery enforces time limits only where a signal can be delivered or a process killed (the prefork pool); its threads and
solo pools ignore a limit in silence. Here one watchdog thread per process raises the limit's exception inside the
thread that overran (``PyThreadState_SetAsyncExc``), so that the task can clean up and fail like any other.

Limits: Python checks for such an exception between bytecodes. A thread inside a C call (``time.sleep(60)``, a blocking
socket without timeout) gets it when the call returns.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from itertools import count
from time import monotonic

__all__ = ["interrupt_after"]

IDLE_SECONDS = 5.0
SWEEP_AT = 256
TURNS = 100


class _Watch:
    """One attempt under a time limit."""

    __slots__ = ("error", "fired", "lock", "over", "thread_id")

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.thread_id = threading.get_ident()
        self.lock = threading.Lock()
        self.over = False
        self.fired = False

    def fire(self) -> None:
        """Raise the error in the watched thread unless the attempt is over."""
        with self.lock:
            if not self.over:
                self.fired = True
                _raise_in(self.thread_id, self.error)

    def end(self) -> None:
        """Say that the attempt is over; nothing will be raised after this returns."""
        with self.lock:
            self.over = True
        if self.fired:
            # It has been raised in the attempt, or is still pending and comes at the next turn of a loop: let it come
            # here. (Taking it back, with None, would leave CPython 3.11's eval loop looking for it for ever.)
            try:
                for _ in range(TURNS):
                    pass
            except self.error:
                pass


def _raise_in(thread_id: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(error))


class _Watchdog:
    """Fires watches in the order of their deadlines; its thread lives only while there are some."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: list[tuple[float, int, _Watch]] = []
        self._numbers = count()
        self._ended = 0
        self._thread: threading.Thread | None = None

    def add(self, watch: _Watch, deadline: float) -> None:
        with self._changed:
            heappush(self._deadlines, (deadline, next(self._numbers), watch))
            if self._thread is None or not self._thread.is_alive():  # a forked child has no such thread
                self._thread = threading.Thread(target=self._run, name="liap-timeouts", daemon=True)
                self._thread.start()
            elif self._deadlines[0][2] is watch:
                self._changed.notify()

    def forget_one(self) -> None:
        """Account for a watch that ended in time; they are swept when they outnumber those that still run."""
        self._ended += 1
        if self._ended > SWEEP_AT and self._ended * 2 > len(self._deadlines):
            with self._changed:
                self._deadlines = [entry for entry in self._deadlines if not entry[2].over]
                heapify(self._deadlines)
                self._ended = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._deadlines and self._deadlines[0][2].over:
                    heappop(self._deadlines)
                if not self._deadlines:
                    if not self._changed.wait(IDLE_SECONDS) and not self._deadlines:
                        self._thread = None
                        return
                    continue
                deadline, _, watch = self._deadlines[0]
                wait = deadline - monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                heappop(self._deadlines)
            watch.fire()


_watchdog = _Watchdog()


@contextmanager
def interrupt_after(seconds: float, error: type[BaseException]) -> Iterator[None]:
    """Raise ``error`` inside this block's thread when it has run for ``seconds`` (> 0).

    The error appears at most once, and never after the block has been left. Blocks may be nested.
    """
    watch = _Watch(error)
    _watchdog.add(watch, monotonic() + seconds)
    try:
        yield
    finally:
        watch.end()
        _watchdog.forget_one()
