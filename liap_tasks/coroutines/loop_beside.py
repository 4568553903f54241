"""One native thread with a loop for callers that cannot run a loop themselves: they wait for it.

Needed where an async task is called eagerly from a running loop, and under gevent, whose greenlets share their thread:
there only the greenlet that called waits. The thread is made when it is first needed.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack  # type: ignore[attr-defined]  # not in the stubs

from liap_tasks.coroutines.limit import LimitedCoroutine
from liap_tasks.coroutines.loop_thread import Driver, LoopThread, await_in_greenlet, current_driver

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = ["as_current", "gevent_shares_threads", "run_beside"]


def run_beside(task: LiapTask, coroutine: LimitedCoroutine) -> Any:
    """Return what a coroutine of a task's attempt returns, or raise what it raises, after it ran in the thread."""
    return _helper().run(task, coroutine)


@contextmanager
def as_current(task: LiapTask, request: Any) -> Iterator[None]:
    """Make a task and its request the current ones in this thread or greenlet."""
    task.app.set_current()
    _task_stack.push(task)
    task.request_stack.push(request)
    try:
        yield
    finally:
        task.request_stack.pop()
        _task_stack.pop()


class _Helper:
    """A native thread whose loop runs coroutines for callers that wait elsewhere."""

    def __init__(self) -> None:
        if not gevent_shares_threads():
            self._thread = LoopThread("liap-coroutines")
            self._thread.start()
            return
        import gevent.monkey
        import gevent.threadpool

        # gevent's own selector would turn its event loop in that thread too; and its threads are greenlets of this one.
        selector = gevent.monkey.get_original("selectors", "DefaultSelector")()
        self._thread = LoopThread("liap-coroutines", loop=asyncio.SelectorEventLoop(selector), watched=False)
        gevent.threadpool.ThreadPool(1).spawn(self._thread.run)

    def run(self, task: LiapTask, coroutine: LimitedCoroutine) -> Any:
        """Run a coroutine of a task's attempt and wait for it."""
        request = task.request_stack.top
        outcome: list[Any] = []
        context = contextvars.copy_context()
        ended = _new_signal()

        def attempt() -> None:
            driver = current_driver()
            assert driver is not None
            try:
                with as_current(task, request):
                    outcome[:] = (await_in_greenlet(driver, coroutine), None)
            except BaseException as error:  # noqa: BLE001 - raised by the waiting caller
                outcome[:] = (None, error)
            finally:
                ended.set()

        drivers: list[Driver] = []
        self._thread.call(lambda: drivers.append(Driver(self._thread.deadlines, attempt, coroutine.name, context)))
        try:
            ended.wait()
        except BaseException:  # the caller is interrupted or killed
            self._thread.call(lambda: drivers[0].terminate())
            raise
        value, error = outcome
        if error is not None:
            raise error
        return value


class _GeventSignal:
    """Set in a native thread, waited for in a greenlet without holding up the others."""

    def __init__(self) -> None:
        import gevent.event

        self._watcher = gevent.get_hub().loop.async_()
        self._event = gevent.event.Event()
        self._watcher.start(self._event.set)

    def set(self) -> None:
        self._watcher.send()

    def wait(self) -> None:
        try:
            self._event.wait()
        finally:
            self._watcher.stop()
            self._watcher.close()


def _new_signal() -> Any:
    return _GeventSignal() if gevent_shares_threads() else threading.Event()


def gevent_shares_threads() -> bool:
    """Tell whether gevent has made greenlets of this process's threads."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


_helper_lock = threading.Lock()
_the_helper: _Helper | None = None


def _helper() -> _Helper:
    global _the_helper  # one for the process
    with _helper_lock:
        if _the_helper is None:
            _the_helper = _Helper()
        return _the_helper


def _start_anew() -> None:
    global _helper_lock, _the_helper  # a forked child has none of its parent's threads
    _helper_lock = threading.Lock()
    _the_helper = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
