"""Saying in the log which coroutine blocks a loop.

Nothing else runs on a loop while a coroutine computes, or calls something that waits, without an ``await``; no limit
can end it either. One thread for each watched loop asks it four times a second to turn.
"""

from __future__ import annotations

import asyncio
import threading
from time import monotonic
from typing import Any

from celery.utils.log import get_logger

from liap_tasks.stacks import stack_of

__all__ = ["Watchdog"]

logger = get_logger("liap_tasks.loop_watchdog")

BLOCKED_SECONDS = 1.0
LOOK_SECONDS = 0.25
STACK_LINES = 6


class Watchdog:
    """Says in the log which task blocks a loop for more than ``BLOCKED_SECONDS``, once each time, with its stack."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        self._loop = loop
        self._thread_id = thread_id
        self._stop = threading.Event()
        self._turned = monotonic()
        self._thread = threading.Thread(target=self._watch, name="liap-loop-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()

    def _turn(self) -> None:
        self._turned = monotonic()

    def _watch(self) -> None:
        told = asked = 0.0
        while not self._stop.wait(LOOK_SECONDS):
            turned = self._turned
            if asked <= turned:
                asked = monotonic()
                try:
                    self._loop.call_soon_threadsafe(self._turn)
                except RuntimeError:  # closed meanwhile
                    return
            elif monotonic() - asked > BLOCKED_SECONDS and told != asked:
                told = asked
                self._tell(monotonic() - asked)

    def _tell(self, seconds: float) -> None:
        running = asyncio.current_task(self._loop)
        stack = stack_of(self._thread_id, STACK_LINES)
        steps: Any = running.get_coro() if running else None
        driver = getattr(steps, "driver", None)  # one of ours, else a task that a coroutine started
        name = driver.name if driver is not None else repr(running) if running else "a callback"
        logger.warning(
            "%s has blocked the event loop for %.1f s: nothing else runs there meanwhile. Await, or use a plain "
            "function, which runs in a thread. It is at:\n%s",
            name,
            seconds,
            stack,
        )
