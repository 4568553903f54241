"""Interrupting an attempt that runs in a thread when its time is up.

Celery enforces time limits only where a signal can be delivered or a process killed (the prefork pool); its threads and
solo pools ignore a limit in silence. Here one watchdog thread per process raises the limit's exception inside the
thread that overran (``PyThreadState_SetAsyncExc``), so that the task can clean up and fail like any other.

Under gevent a thread is a greenlet, and gevent's own timeouts do this; like them they work where a greenlet waits.

Limits: Python checks for such an exception between bytecodes. A thread inside a C call (``time.sleep(60)``, a blocking
socket without timeout) gets it when the call returns. One that comes while the thread is in a destructor, or in a
callback of the garbage collector, is lost: Python ignores what is raised there.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import Any

from transports import VirtualClock

__all__ = ["call_after", "get_ready", "has_interrupted", "interrupt_after"]

IDLE_SECONDS = 60.0
TURNS = 100


def interrupt_after(
    seconds: float, error: type[BaseException], clock: VirtualClock | None = None
) -> AbstractContextManager[Any]:
    """Raise ``error`` inside this block's thread when it has run for ``seconds`` (> 0), also by ``clock`` if given.

    The error appears at most once, and never after the block has been left. Blocks may be nested. Use an instance once.
    """
    gevent_timeout = _gevent_timeout()
    if gevent_timeout is not None:
        timeout: AbstractContextManager[Any] = gevent_timeout(seconds, error)
        return timeout
    return _Interrupt(seconds, error, clock)


def has_interrupted(limit: Any) -> bool:
    """Tell whether a block of :func:`interrupt_after`, which has not been left, has raised its error."""
    return limit.fired if isinstance(limit, _Interrupt) else not limit.pending  # gevent's


def _gevent_timeout() -> Any:
    """Return gevent's Timeout where gevent has taken the place of threads; it is not imported to find that out."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    return importlib.import_module("gevent").Timeout


def get_ready() -> None:
    """Start the thread that watches blocks, which else the first block waits for."""
    if _gevent_timeout() is None:
        _watchdog.start()


class call_after:
    """Call ``action`` when this block has run for ``seconds`` (> 0), in the watchdog's thread: it must be quick."""

    __slots__ = ("_lock", "_over", "_seconds", "action", "deadline")

    def __init__(self, seconds: float, action: Callable[[], object]) -> None:
        self._seconds = seconds
        self.action = action
        self._lock = threading.Lock()
        self._over = False

    def __enter__(self) -> None:
        self.deadline = monotonic() + self._seconds
        _watchdog.add(self)

    def fire(self) -> None:
        """Call the action unless the block has been left."""
        with self._lock:
            if not self._over:
                self.action()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
        _watchdog.remove(self)


class _Interrupt:
    """Raise ``error`` inside this block's thread when it has run for ``seconds`` (> 0).

    The error appears at most once, and never after the block has been left. Blocks may be nested. Use an instance once.
    """

    __slots__ = ("_call", "_clock", "_error", "_fired", "_lock", "_over", "_seconds", "_thread_id", "deadline")

    def __init__(self, seconds: float, error: type[BaseException], clock: VirtualClock | None) -> None:
        self._seconds = seconds
        self._error = error
        self._clock = clock
        self._lock = threading.Lock()
        self._over = False
        self._fired = False

    def __enter__(self) -> None:
        self._thread_id = threading.get_ident()
        self.deadline = monotonic() + self._seconds
        _watchdog.add(self)
        self._call = None if self._clock is None else self._clock.call_after(self._seconds, self.fire)

    @property
    def fired(self) -> bool:
        """Whether the error has been raised."""
        return self._fired

    def fire(self) -> None:
        """Raise the error in the block's thread unless the block has been left."""
        with self._lock:
            if not (self._over or self._fired):
                self._fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread_id), ctypes.py_object(self._error)
                )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._lock:
            self._over = True
        _watchdog.remove(self)
        if self._call is not None:
            self._call.cancel()
        if self._fired:
            # It has been raised in the block, or is still pending and comes at the next turn of a loop: let it come
            # here. (Taking it back, with None, would leave CPython 3.11's eval loop looking for it for ever.)
            try:
                for _ in range(TURNS):
                    pass
            except self._error:
                pass


_Block = _Interrupt | call_after


class _Watchdog:
    """Fires blocks whose time is up; its thread lives only while there are some.

    It sleeps until the soonest deadline it knows. A block that is left in time is just taken out, and a later deadline
    does not wake it, so an attempt under a limit costs two dictionary operations.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blocks: dict[_Block, None] = {}
        self._looks_at = math.inf  # when the thread looks next; infinity: it must be told
        self._thread: threading.Thread | None = None

    def add(self, block: _Block) -> None:
        self._blocks[block] = None
        if block.deadline < self._looks_at:
            self.start()

    def start(self) -> None:
        """Have the thread look now."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="liap-timeouts", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def remove(self, block: _Block) -> None:
        self._blocks.pop(block, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                self._looks_at = math.inf  # a block added from here on takes the lock, and so is seen
                now = monotonic()
                soonest = self._fire_due(now)
                if soonest < math.inf:
                    self._looks_at = soonest
                    self._changed.wait(soonest - now)
                elif not self._changed.wait(IDLE_SECONDS) and not self._blocks:
                    self._thread = None
                    return

    def _fire_due(self, now: float) -> float:
        """Fire the blocks whose time is up and return the soonest deadline of the others, infinity without any.

        Apart from the loop that sleeps: a block must not be kept alive, with the app whose task it limited, by a
        variable of that.
        """
        soonest = math.inf
        for block in list(self._blocks):
            if block.deadline <= now:
                self._blocks.pop(block, None)
                block.fire()
            else:
                soonest = min(soonest, block.deadline)
        return soonest


_watchdog = _Watchdog()


def _start_anew() -> None:
    global _watchdog  # a forked child has no watchdog thread, and perhaps a lock that nobody will release
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
