"""A pool of threads that outlives tasks that never end, and the solo pool with the same care.

Chosen by ``celery worker -P threads`` (and ``-P solo``), by ``worker_pool``, and the default on an in-process broker.
What it does more than Celery's: the hard time limit (the task's ``timeout`` and ``grace``) is honoured. A task that
is still running then is given up (:mod:`liap_tasks.giving_up`): its request is told, which retries it or puts it
among the dead letters; the stuck thread is counted (``stuck-threads`` in ``celery inspect stats``) and reported with
the place where it is stuck, and a new thread takes its place, so the concurrency is as before. The stuck thread ends
when its task does.

With Celery's event loop requests are told in the consumer's thread (:mod:`liap_tasks.pools.telling`), without one in
the thread that ran the task.

In the solo pool the stuck thread is the worker's own: the message is dealt with (with Celery's event loop: when that
turns again), the worker goes on when the task ends. Without the event loop, Celery's timer begins in a thread of its
own what workers hold until it is due (a retry on RabbitMQ); it has no app, and there it is one by one, too.

Why not ``concurrent.futures``: its threads cannot be replaced.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from celery.concurrency.base import BasePool, apply_target
from celery.concurrency.solo import TaskPool as CelerySoloPool
from celery.exceptions import WorkerTerminate
from celery.platforms import EX_FAILURE
from celery.utils.log import get_logger

from liap_tasks import timeouts, timer_thread
from liap_tasks.giving_up import CURRENT, Endurance
from liap_tasks.pools.telling import Teller
from liap_tasks.stacks import stack_of

__all__ = ["SoloPool", "TaskPool"]

logger = get_logger("liap_tasks.pools.threads")

LOOK_SECONDS = 0.1

HAND_OVER_SECONDS = 0.002
"""How long a thread is waited for at most: another may keep the interpreter."""


class _Job:
    """One call of Celery's tracer, whom to tell, and how long to wait for its end."""

    def __init__(
        self,
        target: Any,
        args: Any,
        kwargs: Any,
        callback: Callable[[Any], Any] | None,
        accept_callback: Callable[..., Any] | None,
        timeout_callback: Callable[[bool, float], Any] | None,
        timeout: float | None,
    ) -> None:
        self.call: tuple[Any, Any, Any] = (target, args or (), kwargs or {})
        self.callback = callback
        self.accept_callback = accept_callback
        self.timeout_callback = timeout_callback
        self.timeout = timeout
        self.endurance = Endurance()
        self.done = threading.Event()

    @property
    def name(self) -> str:
        target, args, _ = self.call
        return f"task {args[0]}[{args[1]}]" if len(args) > 1 else repr(target)

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end (Celery's ApplyResult has this)."""
        self.done.wait(timeout)

    def run(self, stuck: Callable[[_Job, int], None]) -> bool:
        """Run the tracer in this thread; False if it was given up meanwhile.

        stuck: called in a thread of its own, with the id of this one, when it is given up.
        """
        thread = threading.get_ident()
        token = CURRENT.set(self.endurance)
        limit: AbstractContextManager[Any] = nullcontext()
        if self.timeout and self.timeout_callback is not None:
            limit = timeouts.call_after(self.timeout, lambda: self._give_up(stuck, thread))
        try:
            with limit:
                target, args, kwargs = self.call
                apply_target(target, args, kwargs, self._tell, self.accept_callback)
        except Exception:
            # Celery's tracer lets out what a request can do nothing about; the message stays unacknowledged.
            logger.critical("%s failed outside of its tracer", self.name, exc_info=True)
        finally:
            CURRENT.reset(token)
            self.done.set()
        return not self.endurance.given_up

    def _tell(self, outcome: Any) -> None:
        if not self.endurance.given_up and self.callback is not None:
            self.callback(outcome)

    def _give_up(self, stuck: Callable[[_Job, int], None], thread: int) -> None:
        if self.endurance.give_up():
            threading.Thread(target=self._report, args=(stuck, thread), name="liap-stuck-task", daemon=True).start()

    def _report(self, stuck: Callable[[_Job, int], None], thread: int) -> None:
        where = stack_of(thread, 3) or "it has just ended"
        logger.error(
            "%s did not end within %g s and cannot be interrupted; it is given up. It is stuck at:\n%s",
            self.name,
            self.timeout,
            where,
        )
        stuck(self, thread)
        if self.timeout_callback is not None:
            self.timeout_callback(False, self.timeout or 0.0)


class TaskPool(BasePool):
    """Celery's interface to the threads. ``limit``: how many there are, not counting stuck ones."""

    signal_safe = False
    body_can_be_buffer = True
    task_join_will_block = True
    limit: int
    app: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.limit = self.limit or 1
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._taken = threading.Condition(lock)
        self._waiting: deque[_Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._reporting: set[threading.Thread] = set()  # they deal with the messages of stuck ones
        self._started = 0
        self._idle = 0
        self._stuck = 0
        self._stopping = False
        self._teller = Teller()

    # -- threads -----------------------------------------------------------------------------------------------

    def on_start(self) -> None:
        """Start the threads and what watches over them, so that the first tasks wait for none of it."""
        timeouts.get_ready()
        timer_thread.get_ready()
        with self._changed:
            for _ in range(self.limit):
                self._add_thread()

    def on_apply(  # type: ignore[override]  # Celery passes these by name
        self,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        timeout_callback: Any = None,
        timeout: float | None = None,
        **_: Any,
    ) -> _Job:
        """Give a call to the threads."""
        if self._teller.has_loop:
            in_loop = self._teller.in_loop
            callback, accept_callback, timeout_callback = map(in_loop, (callback, accept_callback, timeout_callback))
        job = _Job(target, args, kwargs, callback, accept_callback, timeout_callback, timeout)
        with self._changed:
            self._waiting.append(job)
            if len(self._waiting) > self._idle and len(self._threads) < self.limit:
                self._add_thread()
            else:
                self._changed.notify()
        return job

    def let_begin(self) -> None:
        """Wait until an idle thread has taken what was given last.

        Python lets a thread that was woken wait for the interpreter until the one that woke it has something to wait
        for itself: with the next message to look at, that is a quarter of what an event is under way.
        """
        with self._changed:
            if self._waiting and self._idle:
                self._taken.wait(HAND_OVER_SECONDS)

    def _add_thread(self) -> None:
        self._started += 1
        thread = threading.Thread(target=self._work, name=f"liap-pool-thread-{self._started}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        if self.app is not None:
            self.app.set_current()
            with suppress(Exception):  # Celery's tracer meets the error again, and deals with it
                self.app.backend  # noqa: B018 - each thread has its own, made when it is first asked for
        while True:
            job = self._next()
            if job is None:
                return
            if self.may_begin() and not job.run(self._replace):
                with self._changed:
                    self._stuck -= 1
                logger.warning("%s, which was given up, has ended; what it did after that counts for nothing", job.name)
                return

    def _next(self) -> _Job | None:
        """Wait for a call; None ends the thread."""
        with self._changed:
            self._idle += 1
            try:
                while not self._waiting:
                    if self._stopping or len(self._threads) > self.limit:
                        self._threads.discard(threading.current_thread())
                        return None
                    self._changed.wait()
                self._taken.notify_all()
                return self._waiting.popleft()
            finally:
                self._idle -= 1

    def _replace(self, job: _Job, thread_id: int) -> None:
        """Let another thread take the place of a stuck one (called in the thread that reports it)."""
        with self._changed:
            self._reporting = {thread for thread in self._reporting if thread.is_alive()}
            self._reporting.add(threading.current_thread())
            self._threads = {thread for thread in self._threads if thread.ident != thread_id}
            self._stuck += 1
            if self._waiting and len(self._threads) < self.limit:
                self._add_thread()

    def may_begin(self) -> bool:
        """Tell whether a call that waits may still begin."""
        return True

    # -- the worker's side -------------------------------------------------------------------------------------

    def register_with_event_loop(self, hub: Any) -> None:
        """Tell requests in the thread of Celery's event loop from now on (called after each connect)."""
        self._teller.listen_in(hub)

    def tell_here(self) -> None:
        """Tell requests in this thread what they have not been told yet."""
        self._teller.tell_here()

    def on_stop(self) -> None:
        """Let running tasks end, begin no other; a stuck one is left to the end of the process."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify_all()
        while (thread := self._running()) is not None:
            self.tell_here()
            thread.join(LOOK_SECONDS)  # it may get stuck meanwhile
        self._teller.close()

    def _running(self) -> threading.Thread | None:
        with self._changed:
            return next((thread for thread in (*self._threads, *self._reporting) if thread.is_alive()), None)

    def grow(self, n: int = 1) -> None:
        """Let ``n`` more tasks run at once."""
        with self._changed:
            self.limit += n
            for _ in range(min(n, len(self._waiting))):
                self._add_thread()

    def shrink(self, n: int = 1) -> None:
        """Let ``n`` fewer tasks run at once, at least one."""
        with self._changed:
            self.limit = max(1, self.limit - n)
            self._changed.notify_all()

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()  # type: ignore[misc]  # not in the stubs
        return {**info, **self.counts()}

    def counts(self) -> dict[str, int]:
        """Return how many threads there are and how many were given up, for ``celery inspect stats``."""
        return {"threads": len(self._threads), "stuck-threads": self._stuck}


class SoloPool(CelerySoloPool):
    """Celery's solo pool, dealing with the message of a task that does not end while it is stuck in it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stuck = 0
        self._busy = 0  # the thread that runs a task: the worker's, or that of a timer
        self._teller = Teller()
        self._turn = threading.RLock()
        del self.on_apply  # Celery's sets it to run the call at once, without limits

    def on_apply(  # type: ignore[override]  # Celery passes these by name
        self,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        timeout_callback: Any = None,
        timeout: float | None = None,
        **_: Any,
    ) -> _Job:
        if self._teller.has_loop:  # all but this is told in the loop's thread anyway
            timeout_callback = self._teller.in_loop(timeout_callback)
        job = _Job(target, args, kwargs, callback, accept_callback, timeout_callback, timeout)
        with self._turn:
            if self.app is not None:
                self.app.set_current()
            before, self._busy = self._busy, threading.get_ident()
            try:
                if not job.run(self._count):
                    self._stuck -= 1
            finally:
                self._busy = before
        return job

    def register_with_event_loop(self, hub: Any) -> None:
        """Tell requests in the thread of Celery's event loop from now on (called after each connect)."""
        self._teller.listen_in(hub)

    def on_stop(self) -> None:
        """Tell what has not been told."""
        with self._turn:
            self._teller.close()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Leave the running task: a cold shutdown asks for it, in a handler of signals that is called in its midst.

        Celery's pool cannot, and the task failed with that. Raises NotImplementedError, as that does, for one that runs
        in another thread: it cannot be left from here, and a revoke with ``terminate`` must not end the worker.
        """
        if threading.get_ident() == self._busy:
            raise WorkerTerminate(EX_FAILURE)
        super().terminate_job(pid, signal)

    def _count(self, job: _Job, thread_id: int) -> None:
        self._stuck += 1

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()  # type: ignore[misc]  # not in the stubs
        return {**info, "stuck-threads": self._stuck}
