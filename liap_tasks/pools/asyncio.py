"""The asyncio pool: thousands of ``async def`` tasks at once, in one thread.

Chosen by ``worker_pool = "liap_tasks.pools.asyncio:TaskPool"``, by ``celery worker -P custom`` with
``CELERY_CUSTOM_WORKER_POOL=liap_tasks.pools.asyncio:TaskPool`` in the environment, or by
``EmbeddedWorker(pool="asyncio")``.

The worker's concurrency (``-c``, ``worker_concurrency``, ``MAX_CONCURRENT_HANDLERS``) is how many coroutines run at
once, 1,000 if nobody says. Plain functions would hold up the loop; they run beside it, in at most ``THREADS`` threads
of :mod:`liap_tasks.pools.threads`.

How a coroutine runs: Celery's own tracer is called in a greenlet on the loop's thread
(:mod:`liap_tasks.coroutines.loop_thread`). So signals, results, retries, error callbacks and states are Celery's,
unchanged. A retry or a dead letter that a policy decides is published beside the loop. What the
tracer itself does (storing a result, calling signal receivers) and what the task's own code does is done on the loop,
and costs the others that long.

Who is told, and where: Celery's request wants to know when its task begins and ends, and acknowledges its message then.
With Celery's event loop that is done in the consumer's thread, woken at once (:mod:`liap_tasks.pools.telling`). Without
that loop (in-process brokers, whose channels are thread-safe) it is done in this pool's one loop thread.

A warm shutdown lets running tasks end; what has not begun stays unacknowledged and goes back to its queue. A cold one
cancels the coroutines, and all their messages go back. A revoke with ``terminate=True`` cancels its coroutine; it
cannot end a plain function, as in Celery's threads pool.
"""

from __future__ import annotations

import gc
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import WorkerLostError
from celery.utils.log import get_logger
from celery.worker import state

from liap_tasks.coroutines.loop_thread import Driver, LoopThread
from liap_tasks.coroutines.running import is_coroutine_task
from liap_tasks.pools.telling import Teller, tell_now
from liap_tasks.pools.threads import TaskPool as ThreadPool

__all__ = ["TaskPool"]

logger = get_logger("liap_tasks.pools.asyncio")

THREADS = 10
"""Threads for plain functions, unless the concurrency is less."""

COLD_SECONDS = 3.0
"""How long a cold shutdown waits for cancelled coroutines."""


class _JobId(int):
    """This process's id, which is what Celery shows and hands back to end one task, knowing which one it is."""

    job: _Job


class _Job:
    """One call of Celery's tracer for a coroutine, and whom to tell."""

    __slots__ = (
        "__weakref__",
        "accept_callback",
        "args",
        "callback",
        "driver",
        "error_callback",
        "kwargs",
        "pid",
        "pool",
        "target",
        "terminated",
    )

    def __init__(self, pool: TaskPool, target: Any, args: Any, kwargs: Any) -> None:
        self.pool = pool
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.callback: Callable[[Any], Any] | None = None
        self.accept_callback: Callable[[int, float], Any] | None = None
        self.error_callback: Callable[[Any], Any] | None = None
        self.driver: Driver | None = None
        self.terminated = False
        self.pid = _JobId(os.getpid())
        self.pid.job = self

    def __str__(self) -> str:
        return f"task {self.args[0]}[{self.args[1]}]" if len(self.args) > 1 else repr(self.target)

    def terminate(self, signal: int | None = None) -> None:
        """Called by Celery's request to end the task, from any thread."""
        self.terminated = True
        self.pool._loop_thread.call(self.pool._terminate, self)

    def run(self) -> None:
        """Call the tracer and tell what came out."""
        tell = self.pool._tell
        if self.accept_callback is not None:
            tell(self.accept_callback, self.pid, monotonic())
        try:
            outcome = self.target(*self.args, **self.kwargs)
        except Exception:  # noqa: BLE001 - what Celery's tracer lets out (Reject) is for the request to decide
            self._tell_failure(ExceptionInfo())
        except BaseException as error:  # noqa: BLE001 - as when a prefork child is lost by it
            try:
                raise WorkerLostError(repr(error)) from error
            except WorkerLostError:
                self._tell_failure(ExceptionInfo())
        else:
            if self.callback is not None:
                tell(self.callback, outcome)

    def run_on_loop(self) -> None:
        """Do what :meth:`run` does and make room for another coroutine."""
        try:
            self.run()
        finally:
            self.pool._ended(self)

    def _tell_failure(self, failure: ExceptionInfo) -> None:
        if self.error_callback is None and not self.terminated:
            logger.error("%s failed outside of its tracer: %s", self, failure.traceback)
        elif self.error_callback is not None:
            self.pool._tell(self.error_callback, failure)


class TaskPool(BasePool):
    """Celery's interface to the loop's thread and the threads beside it."""

    signal_safe = False  # stopping waits for other threads
    body_can_be_buffer = True
    task_join_will_block = True

    usual_concurrency = 1000
    """Coroutines at once when the worker's concurrency was not chosen."""

    def __init__(self, limit: Any = None, *args: Any, **options: Any) -> None:
        super().__init__(limit or self.usual_concurrency, *args, **options)
        self.threads = max(1, min(self.limit, THREADS))
        self._coroutine_tasks: dict[str, bool] = {}
        self._waiting: deque[_Job] = deque()  # coroutines, not begun
        self._asked = False  # the loop has been asked to begin some
        self._running: set[_Job] = set()
        self._closing = False
        self._teller = Teller()
        self._progress = threading.Event()

    # -- starting and stopping, in the worker's thread ----------------------------------------------------------

    def on_start(self) -> None:
        """Start the loop's thread."""
        self.settle_memory()
        set_current: Any = self.app.set_current if self.app is not None else None
        self._loop_thread = LoopThread("liap-asyncio-pool", set_current)
        self._loop_thread.start()
        self._threads = _Threads(self)

    def settle_memory(self) -> None:
        """Take what exists when the worker starts out of garbage collection; it lives as long as the process.

        Else each full collection among thousands of running tasks looks through all of Celery too: it took a third of
        the time of a burst of short tasks.
        """
        gc.collect()
        gc.freeze()

    def register_with_event_loop(self, hub: Any) -> None:
        """Tell requests in the thread of Celery's event loop from now on (called after each connect)."""
        self._teller.listen_in(hub)

    def on_stop(self) -> None:
        """Let running tasks end, begin no other, and end the threads.

        Celery calls this in a cold shutdown too, when it has cancelled what it knows to run; what it has not heard of
        yet is cancelled here.
        """
        self._close_entrance()
        if state.should_terminate:
            self._cancel_running()
        while self._running:
            self.tell_here()
            self._progress.wait()
            self._progress.clear()
        self._end_threads(None)

    def on_terminate(self) -> None:
        """End running coroutines; nobody is told, so their messages go back to their queues."""
        self._close_entrance()
        self._cancel_running()
        until = monotonic() + COLD_SECONDS
        while self._running and monotonic() < until:
            self._progress.wait(until - monotonic())
            self._progress.clear()
        self._end_threads(COLD_SECONDS)

    def _cancel_running(self) -> None:
        for job in tuple(self._running):
            job.callback = job.error_callback = None  # their messages go back: nobody is to acknowledge them
            job.terminate()

    def _close_entrance(self) -> None:
        self._closing = True
        self._waiting.clear()

    def _end_threads(self, timeout: float | None) -> None:
        if timeout is None:
            self._threads.on_stop()
        if not self._loop_thread.stop(timeout):
            logger.error("the asyncio pool's loop is blocked by a task and did not end within %g s", timeout)
        self._teller.close()

    def flush(self) -> None:
        """Forget what has not begun: its messages are back in their queues (the connection is lost or closing)."""
        self._waiting.clear()

    # -- work ---------------------------------------------------------------------------------------------------

    def on_apply(
        self,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        error_callback: Any = None,
        timeout_callback: Any = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Any:
        """Give a call to the loop, or to a thread if it is not one of a coroutine."""
        if not self._is_coroutine(args):
            return self._threads.on_apply(
                target,
                args,
                kwargs,
                callback and partial(self._tell, callback),
                accept_callback and partial(self._tell, accept_callback),
                timeout_callback and partial(self._tell, timeout_callback),
                timeout,
            )
        job = _Job(self, target, args or (), kwargs or {})
        job.callback, job.accept_callback, job.error_callback = callback, accept_callback, error_callback
        self._waiting.append(job)
        self._ask()
        return job

    def _is_coroutine(self, args: Any) -> bool:
        name = args[0] if args and isinstance(args[0], str) else None
        if name is None:
            return False
        known = self._coroutine_tasks.get(name)
        if known is None:
            task = self.app.tasks.get(name)
            known = self._coroutine_tasks[name] = task is not None and is_coroutine_task(task)
        return known

    def may_begin(self) -> bool:
        """Tell whether tasks may still begin."""
        return not self._closing

    def _ask(self) -> None:
        # One wake-up of the loop for all calls that come before it takes them.
        if not self._asked:
            self._asked = True
            self._loop_thread.call(self._begin_waiting)

    def _begin_waiting(self) -> None:
        """Begin what waits, as far as the limit allows (on the loop)."""
        self._asked = False
        deadlines = self._loop_thread.deadlines
        while len(self._running) < self.limit and self.may_begin():
            try:
                job = self._waiting.popleft()
            except IndexError:
                return
            self._running.add(job)
            job.driver = Driver(deadlines, job.run_on_loop, job)

    def _ended(self, job: _Job) -> None:
        self._running.discard(job)
        self._progress.set()
        if self._waiting:
            self._ask()

    # -- telling requests -----------------------------------------------------------------------------------------

    def _tell(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call a request's callback, in the thread where that is safe."""
        if self._teller.has_loop:
            self._teller.tell(callback, *args)
        elif threading.current_thread() is self._loop_thread.thread:
            tell_now(callback, args)
        else:
            self._loop_thread.call(tell_now, callback, args)

    def tell_here(self) -> None:
        """Tell requests in this thread what they have not been told yet."""
        self._teller.tell_here()

    # -- remote control ---------------------------------------------------------------------------------------------

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Check that the task with this id can be ended (its :meth:`_Job.terminate` follows).

        Raises NotImplementedError for a plain function, as Celery's threads pool does.
        """
        if not isinstance(pid, _JobId):
            raise NotImplementedError("a plain function in a thread cannot be terminated")

    def _terminate(self, job: _Job) -> None:
        if job.driver is not None:
            job.driver.terminate()
            return
        try:
            self._waiting.remove(job)
        except ValueError:
            return
        if job.accept_callback is not None:  # the request ends it when it hears that it begins
            self._tell(job.accept_callback, job.pid, monotonic())

    def grow(self, n: int = 1) -> None:
        """Let ``n`` more coroutines run at once."""
        self.limit += n
        self._ask()

    def shrink(self, n: int = 1) -> None:
        """Let ``n`` fewer coroutines run at once, at least one; those that run end."""
        self.limit = max(1, self.limit - n)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()  # type: ignore[misc]  # not in the stubs
        return {
            **info,
            "running-coroutines": len(self._running),
            "waiting-coroutines": len(self._waiting),
            "abandoned-coroutines": self._loop_thread.deadlines.abandoned,
            "max-threads": self.threads,
            **self._threads.counts(),
        }


class _Threads(ThreadPool):
    """The threads beside the loop."""

    def __init__(self, pool: TaskPool) -> None:
        super().__init__(pool.threads, app=pool.app)
        self._pool = pool

    def may_begin(self) -> bool:
        """Tell whether a call that waits may still begin."""
        return self._pool.may_begin()
