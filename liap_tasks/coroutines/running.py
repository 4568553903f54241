"""Where the coroutine of an ``async def`` task runs, on every pool.

- In the asyncio pool: on the pool's loop, with all the others
  (:func:`liap_tasks.coroutines.loop_thread.await_in_greenlet`).
- On the threads, solo and prefork pools: on a loop of the thread or process that runs the attempt. It is kept for the
  next attempt, so that connections which belong to a loop can be kept too, and it turns only while an attempt runs.
- Where no loop can run: called eagerly from a running loop, or in a greenlet of gevent, which shares its thread with
  others. There it is one native thread with a loop for the whole process, and the caller waits (gevent: lets the others
  go on). The task and its request are put on Celery's stacks there.

Why not ``asyncio.run`` each time: it makes and closes a loop (about 100 microseconds, and sockets) for every attempt.

Left out: tasks that the coroutine leaves running. In the asyncio pool they go on; on a thread's own loop they go on
when the next attempt turns it. Await what you start.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, NamedTuple

from billiard.process import current_process
from celery.exceptions import SoftTimeLimitExceeded

from liap_tasks.coroutines.limit import LimitedCoroutine
from liap_tasks.coroutines.loop_beside import as_current, gevent_shares_threads, run_beside
from liap_tasks.coroutines.loop_deadlines import Deadlines
from liap_tasks.coroutines.loop_thread import await_in_greenlet, current_driver
from liap_tasks.time_source import virtual_clock_of

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = ["MARK", "beside_loop", "in_prefork_child", "is_coroutine_task", "pause", "run_coroutine"]

MARK = "liap_coroutine"
"""Attribute of a plain function that returns the coroutine of an ``async def`` function (Celery's pydantic wrapper)."""


def is_coroutine_task(task: Any) -> bool:
    """Tell whether a task's function is ``async def``."""
    function = getattr(task, "_orig_run", task.run)  # Celery wraps the function of a task with autoretry_for
    return iscoroutinefunction(function) or getattr(function, MARK, False)


def run_coroutine(task: LiapTask, awaitable: Awaitable[Any], limit: float | None) -> Any:
    """Return what the coroutine of a task's running attempt returns, or raise what it raises.

    limit: seconds it may take, then ``SoftTimeLimitExceeded`` is raised in it; None: no limit, except Celery's own in a
    prefork child.
    """
    coroutine = awaitable if isinstance(awaitable, Coroutine) else _wait_for(awaitable)
    limited = LimitedCoroutine(
        coroutine, limit, task.grace, _Attempt(task.name, task.request.id), virtual_clock_of(task.app)
    )
    driver = current_driver()
    if driver is not None:
        return await_in_greenlet(driver, limited)
    if gevent_shares_threads() or asyncio._get_running_loop() is not None:
        return run_beside(task, limited)
    return _own_loop().run(limited)


class _Attempt(NamedTuple):
    """What logs call a coroutine, put together when it is needed."""

    task: str
    id: str | None

    def __str__(self) -> str:
        return f"task {self.task}[{self.id}]"


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def pause(seconds: float) -> None:
    """Sleep; in the asyncio pool only this attempt does."""
    driver = current_driver()
    if driver is None:
        time.sleep(seconds)
    else:
        await_in_greenlet(driver, LimitedCoroutine(asyncio.sleep(seconds), None, 0.0, driver.name))


def beside_loop(task: LiapTask, function: Callable[[], Any]) -> Any:
    """Return what a function returns that may block for long (it talks to the broker), as part of the running attempt.

    In the asyncio pool it runs in a thread, while the loop does other things; elsewhere it is just called.
    """
    driver = current_driver()
    if driver is None:
        return function()
    request = task.request_stack.top
    context = contextvars.copy_context()

    def in_thread() -> Any:
        with as_current(task, request):
            return context.run(function)

    async def wait() -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, in_thread)

    return await_in_greenlet(driver, LimitedCoroutine(wait(), None, task.grace, driver.name))


def in_prefork_child() -> bool:
    """Tell whether this is a child of Celery's prefork pool, where Celery itself enforces time limits."""
    process: Any = current_process()
    return process._parent_pid is not None


# -- a loop of this thread -------------------------------------------------------------------------------------


class _OwnLoop:
    """The loop of one thread, closed when the thread ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._deadlines = Deadlines(self.loop)
        # Not by __del__: among garbage that refers to itself the loop's sockets may be finalized before it.
        weakref.finalize(self, _close_loop, self.loop).atexit = False

    def run(self, coroutine: LimitedCoroutine) -> Any:
        """Run a coroutine to its end, here."""
        loop = self.loop
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, name=coroutine.name)
        task.add_done_callback(_stop_loop)
        coroutine.arm(task, self._deadlines, loop.stop)
        try:
            with _celerys_limit(coroutine, task):
                while not (task.done() or coroutine.abandoned):  # a SystemExit has left its stop to the next run
                    loop.run_forever()
            if coroutine.abandoned:
                task.cancel()
                coroutine.close()
                raise coroutine.out_of_time()
            return task.result()
        except BaseException as error:
            if not task.done():  # the loop itself was interrupted; nobody will step this task again
                task.remove_done_callback(_stop_loop)
                task.cancel()
            elif not task.cancelled():
                task.exception()  # it is known: asyncio need not say that nobody asked for it
            verdict = coroutine.verdict(error)
            if verdict is error:
                raise
            raise verdict from error
        finally:
            coroutine.disarm()


def _close_loop(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed() and not loop.is_running():
        loop.close()


def _stop_loop(task: asyncio.Task[Any]) -> None:
    task.get_loop().stop()


@contextmanager
def _celerys_limit(coroutine: LimitedCoroutine, task: asyncio.Task[Any]) -> Iterator[None]:
    """Let Celery's time limit of a prefork child, a signal, end the coroutine and not the loop."""
    if not in_prefork_child() or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(*_: Any) -> None:
        if asyncio.current_task(task.get_loop()) is task:  # it is running right now: raise it there
            raise SoftTimeLimitExceeded
        task.get_loop().call_soon_threadsafe(coroutine.expire)

    before = signal.signal(signal.SIGUSR1, expire)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


_threads = threading.local()


def _own_loop() -> _OwnLoop:
    own: _OwnLoop | None = getattr(_threads, "loop", None)
    if own is None:
        own = _threads.loop = _OwnLoop()
    return own


def _start_anew() -> None:
    global _threads  # a forked child has none of its parent's loops
    _threads = threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
