"""A thread with an asyncio loop, on which ordinary functions may wait for coroutines.

Each function runs in a greenlet of its own. When it needs the value of a coroutine (:func:`await_in_greenlet`) it steps
the coroutine itself, and switches to the loop with each future that the coroutine waits for. What the loop steps is one
``asyncio.Task`` a function, which does nothing but switch back. So thousands of functions that know nothing of asyncio
(Celery's tracer) share a thread, and none is copied.

Why the function steps the coroutine, and not the asyncio task: Celery keeps ``current_task`` and ``self.request`` on
stacks by greenlet. The body of the coroutine runs in the tracer's greenlet and finds them; at the same time
``asyncio.current_task()`` is the task that switches, so that timeouts, task groups and cancellation work. A greenlet
has a copy of the caller's context variables; they never mix. Cost: about 5 microseconds a function, one greenlet (about
1 KB and its part of the C stack).

Left out: tasks that the coroutine starts (``asyncio.create_task``, task groups) run beside the greenlet and see neither
``current_task`` nor ``self.request``: read what you need before, or hand it over.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from celery.utils.log import get_logger
from greenlet import getcurrent, greenlet

from liap_tasks.coroutines.limit import LimitedCoroutine, terminated
from liap_tasks.coroutines.loop_deadlines import Deadlines
from liap_tasks.coroutines.loop_watchdog import Watchdog

__all__ = ["Driver", "LoopThread", "await_in_greenlet", "current_driver"]

logger = get_logger("liap_tasks.loop_thread")


class _Abandoned(BaseException):
    """Raised in a greenlet to take it away from a coroutine that does not end."""


class _Greenlet(greenlet):  # type: ignore[misc]  # greenlet has no types
    """Runs one function of a driver."""

    def __init__(self, driver: Driver, context: contextvars.Context) -> None:
        super().__init__()
        self.driver = driver
        self.gr_context = context

    def run(self, _: Any) -> None:
        self.driver.function()


class _Steps(Coroutine[Any, Any, None]):
    """What an asyncio task steps: each step lets the greenlet run until it waits for a future."""

    __slots__ = ("_first", "_greenlet", "detached", "driver")

    def __init__(self, driver: Driver, running: _Greenlet, first: BaseException | None = None) -> None:
        self.driver = driver
        self._greenlet = running
        self._first = first
        self.detached = False

    def send(self, value: Any) -> Any:
        if self.detached:
            raise StopIteration
        if self._first is not None:
            error, self._first = self._first, None
            return self.throw(error)
        yielded = self._greenlet.switch(value)
        if self._greenlet.dead:
            raise StopIteration
        return yielded

    def throw(self, error: Any, value: Any = None, traceback: Any = None) -> Any:
        if self.detached:
            raise StopIteration
        yielded = self._greenlet.throw(error)
        if self._greenlet.dead:
            raise StopIteration
        return yielded

    def close(self) -> None:
        """Nothing to close: the greenlet ends with its function."""

    def __await__(self) -> Any:
        raise TypeError("stepped by an asyncio task only")


class Driver:
    """One function on a loop's thread. It must not raise. To be made and used on that thread.

    deadlines: of the loop. named: what logs call it, as ``str``. context: its context variables.
    """

    __slots__ = ("_greenlet", "_named", "_steps", "awaited", "deadlines", "function", "task", "terminating")

    def __init__(
        self,
        deadlines: Deadlines,
        function: Callable[[], None],
        named: object,
        context: contextvars.Context | None = None,
    ) -> None:
        self.deadlines = deadlines
        self.function = function
        self._named = named
        self.awaited: LimitedCoroutine | None = None
        self.terminating = False
        self._greenlet = _Greenlet(self, context or contextvars.copy_context())
        self._steps = _Steps(self, self._greenlet)
        self.task: asyncio.Task[None] = asyncio.Task(self._steps, loop=deadlines.loop)

    @property
    def name(self) -> str:
        """What logs call it."""
        return str(self._named)

    def terminate(self) -> None:
        """Cancel what the function waits for, now or when it will; its attempt then ends as terminated."""
        if not self.terminating:
            self.terminating = True
            if self.awaited is not None:
                self.awaited.terminate()

    def leave_coroutine(self) -> None:
        """Let the function go on although what it waits for does not end."""
        self._steps.detached = True
        left_behind = self.task
        self._steps = _Steps(self, self._greenlet, _Abandoned())
        self.task = asyncio.Task(self._steps, loop=self.deadlines.loop)
        left_behind.cancel()


def current_driver() -> Driver | None:
    """Return the driver in whose greenlet this is called, if any."""
    current = getcurrent()
    return current.driver if isinstance(current, _Greenlet) else None


def await_in_greenlet(driver: Driver, coroutine: LimitedCoroutine) -> Any:
    """Return what a coroutine returns, or raise what it raises, while the loop does other things.

    To be called in the driver's own greenlet. Raises ``SoftTimeLimitExceeded`` when it ran out of time, Celery's
    ``Ignore`` when it was terminated.
    """
    if driver.terminating:
        coroutine.close()
        raise terminated()
    to_loop = driver._greenlet.parent.switch  # it has one: the loop started it
    coroutine.arm(driver.task, driver.deadlines, driver.leave_coroutine)
    driver.awaited = coroutine
    step: Callable[[Any], Any] = coroutine.send
    argument: Any = None
    try:
        while True:
            try:
                future = step(argument)
            except StopIteration as end:
                if driver.terminating:
                    raise terminated() from None
                return end.value
            try:
                argument = to_loop(future)
                step = coroutine.send
            except _Abandoned:
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by the loop, for the coroutine
                step, argument = coroutine.throw, error
    except _Abandoned:
        coroutine.close()
        raise (terminated() if driver.terminating else coroutine.out_of_time()) from None
    except BaseException as error:
        if driver.terminating:
            raise terminated() from error
        verdict = coroutine.verdict(error)
        if verdict is error:
            raise
        raise verdict from error
    finally:
        driver.awaited = None
        coroutine.disarm()


class LoopThread:
    """A thread that runs an asyncio loop.

    prepare: called first in the thread. loop: the loop to run, default a new one. watched: whether the log is to say
    what blocks it.
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[], object] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        watched: bool = True,
    ) -> None:
        self.name = name
        self._prepare = prepare
        self._watched = watched
        self.thread: threading.Thread | None = None
        self._stopping = False
        self.loop = loop or asyncio.new_event_loop()
        self.deadlines = Deadlines(self.loop)

    def start(self) -> None:
        """Start the thread."""
        self.thread = threading.Thread(target=self.run, name=self.name, daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Run the loop in this thread until :meth:`stop`."""
        if self._prepare is not None:
            self._prepare()
        loop = self.loop
        asyncio.set_event_loop(loop)
        watchdog = Watchdog(loop, threading.get_ident()) if self._watched else None
        try:
            while not self._stopping:
                try:
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt) as error:  # asyncio lets these out of any task
                    logger.critical("a task of loop %s raised %r; the loop goes on", self.name, error)
            self._end_what_is_left()
        finally:
            if watchdog is not None:
                watchdog.stop()
            asyncio.set_event_loop(None)
            loop.close()

    def _end_what_is_left(self) -> None:
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the loop, from any thread."""
        self.loop.call_soon_threadsafe(function, *args)

    def stop(self, timeout: float | None = None) -> bool:
        """End the loop and wait for its thread; tells whether it ended in time."""
        if self.thread is None:
            self.loop.close()
            return True
        if not self._stopping:
            self._stopping = True
            self.call(self.loop.stop)
        self.thread.join(timeout)
        return not self.thread.is_alive()
