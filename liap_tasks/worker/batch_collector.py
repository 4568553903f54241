"""The worker's side of batch tasks: requests wait here until their batch is full or its time has come.

They wait unacknowledged, so nothing is lost with the worker; the prefetch window is widened by what the batches hold
(:func:`window_of`), else a batch larger than the window would never fill. A batch then goes to the pool as one job, and
each request hears how its own call ended.

A task's ``max_concurrent`` is how many of its batches run at once. One that is full meanwhile waits for its turn, its
messages unacknowledged in the prefetch window: they may hold up what is behind them in the same queue.

When the worker stops, what waits is run in the worker's own thread: a pool that is stopping begins nothing any more.
What would have to wait for its turn goes back to its queue. When the connection is lost what waits is forgotten: the
broker delivers it again.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from uuid import uuid4

from celery.concurrency.base import apply_target
from celery.utils.log import get_logger

from liap_tasks.batches import BatchTask
from liap_tasks.limits import now_of, time_left

__all__ = ["BatchCollector", "window_of"]

logger = get_logger("liap_tasks.batches")

KEYS_IN_WINDOW = 4
"""Batches of one task with a key that the prefetch window has room for."""

Request = Any  # celery.worker.request.Request has no types


def window_of(tasks: Iterable[Any]) -> int:
    """Return how many messages the batches of these tasks hold while they fill."""
    batch_tasks = [task for task in tasks if isinstance(task, BatchTask)]
    return sum((task.batch_size or 1) * (1 if task.batch_key is None else KEYS_IN_WINDOW) for task in batch_tasks)


class BatchCollector:
    """Collects requests into batches and gives these to the pool.

    run: ``run_batch`` in a form that the pool can be given. apply: the pool's ``apply_async``. call_after: calls a
    function in some seconds, and returns what has ``cancel()``.
    """

    def __init__(self, run: Callable[..., Any], apply: Callable[..., Any], call_after: Callable[..., Any]) -> None:
        self._run_batch = run
        self._apply = apply
        self._call_after = call_after
        self._lock = threading.Lock()
        self._batches: dict[tuple[str, object], _Batch] = {}
        self._lines: dict[str, _Line] = {}  # of tasks that have a limit

    def admit(self, request: Request) -> None:
        """Let a request wait for its batch, and run that if it is full now."""
        task: BatchTask = request.task
        args, kwargs, _ = request._payload
        try:
            key = task.key_of(tuple(args), kwargs)
            hash(key)
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises
            logger.warning("the batch key of %s failed, it is in a batch without key: %r", request, error)
            key = None
        where = (task.name, key)
        wait = _patience(task, request)
        due = now_of(task) + wait
        with self._lock:
            batch = self._batches.get(where)
            if batch is None:
                batch = self._batches[where] = _Batch()
            if due < batch.due:
                batch.cancel_timer()
                batch.due = due
                batch.timer = self._call_after(wait, self._time_is_up, (where, batch))
            batch.requests.append(request)
            full = len(batch.requests) >= (task.batch_size or 1)
            if full:
                del self._batches[where]
        if full:
            self._run(batch)

    def waiting(self) -> int:
        """Return how many requests wait for their batch, or in it for its turn."""
        with self._lock:
            waiting = [*self._batches.values(), *(batch for line in self._lines.values() for batch in line.waiting)]
            return sum(len(batch.requests) for batch in waiting)

    def forget(self) -> None:
        """Drop what waits: the connection is lost, the broker delivers it again."""
        for batch in self._take_all():
            batch.cancel_timer()
        with self._lock:
            for line in self._lines.values():  # the pool may have forgotten what it had not begun
                line.running = {job for job in line.running if job.begun}

    def run_waiting_here(self) -> None:
        """Run what waits in this thread: the worker stops."""
        for batch in self._take_all():
            self._run(batch, here=True)
        self._take_all()  # those whose turn has not come

    def _take_all(self) -> list[_Batch]:
        with self._lock:
            batches = list(self._batches.values())
            self._batches.clear()
            for line in self._lines.values():
                line.waiting.clear()
        return batches

    def _time_is_up(self, where: tuple[str, object], batch: _Batch) -> None:
        with self._lock:
            if self._batches.get(where) is not batch:
                return
            del self._batches[where]
        self._run(batch)

    def _run(self, batch: _Batch, *, here: bool = False) -> None:
        batch.cancel_timer()
        task = batch.requests[0].task
        if not task.max_concurrent:
            self._begin(task, _Job(batch.requests), here=here)
            return
        with self._lock:
            line = self._lines.setdefault(task.name, _Line())
            line.waiting.append(batch)
        self._advance(task, line, here=here)

    def _advance(self, task: BatchTask, line: _Line, *, here: bool = False) -> None:
        """Begin the batches whose turn it is."""
        while True:
            with self._lock:
                if not line.waiting or len(line.running) >= (task.max_concurrent or 0):
                    return
                job = _Job(line.waiting.popleft().requests)
                line.running.add(job)
            job.then = partial(self._advance_after, task, line, job)
            self._begin(task, job, here=here)

    def _advance_after(self, task: BatchTask, line: _Line, job: _Job) -> None:
        with self._lock:
            line.running.discard(job)
        self._advance(task, line)

    def _begin(self, task: BatchTask, job: _Job, *, here: bool) -> None:
        if not job.has_work():
            job.end()
            return
        if here:
            apply_target(self._run_batch, job.arguments, {}, job.ended, job.accepted)
            return
        self._apply(
            self._run_batch,
            args=job.arguments,
            accept_callback=job.accepted,
            timeout_callback=job.timed_out,
            callback=job.ended,
            error_callback=job.failed,
            soft_timeout=task.soft_time_limit,
            timeout=task.time_limit,
            correlation_id=job.id,
        )


def _succeed(request: Request, outcome: Any) -> None:
    request.on_success(outcome)


def _patience(task: BatchTask, request: Request) -> float:
    """Return the seconds that a request may wait for its batch to become full."""
    left = time_left(task, request.request_dict["headers"])
    timeout = task.batch_timeout or 0.0
    return timeout if left is None else min(timeout, max(0.0, left / 2))


class _Batch:
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.due = math.inf  # by the app's clock
        self.timer: Any = None

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class _Line:
    """The batches of a task that has a limit: those in the pool and those whose turn has not come."""

    def __init__(self) -> None:
        self.running: set[_Job] = set()
        self.waiting: deque[_Batch] = deque()


class _Job:
    """A batch in the pool; passes on to each request what the pool reports. then: called once, when it has ended."""

    def __init__(self, requests: list[Request]) -> None:
        self.id = str(uuid4())
        self._requests = requests
        self.begun = False
        self.then: Callable[[], None] | None = None

    def has_work(self) -> bool:
        """Leave out the requests that are revoked, and tell whether there are others."""
        self._requests = [request for request in self._requests if not request.revoked()]
        return bool(self._requests)

    @property
    def arguments(self) -> tuple[Any, ...]:
        calls = []
        for request in self._requests:
            args, kwargs, embed = request._payload
            calls.append((request.id, tuple(args), dict(kwargs), {**request.request_dict, **(embed or {})}))
        return self._requests[0].task.name, self.id, calls

    def accepted(self, pid: int, time_accepted: float) -> None:
        self.begun = True
        self._tell_all(lambda request: request.on_accepted(pid, time_accepted))

    def ended(self, outcomes: list[Any]) -> None:
        if isinstance(outcomes, list):
            for request, outcome in zip(self._requests, outcomes, strict=False):
                self._tell(request, partial(_succeed, outcome=outcome))
            self.end()
        else:  # an ExceptionInfo: what ended the pool's job, not the function
            self.failed(outcomes)

    def failed(self, failure: Any) -> None:
        self._tell_all(lambda request: request.on_failure(failure))
        self.end()

    def timed_out(self, soft: bool, timeout: float) -> None:
        self._tell_all(lambda request: request.on_timeout(soft, timeout))
        if not soft:
            self.end()

    def end(self) -> None:
        then, self.then = self.then, None
        if then is not None:
            then()

    def _tell_all(self, tell: Callable[[Request], Any]) -> None:
        for request in self._requests:
            self._tell(request, tell)

    def _tell(self, request: Request, tell: Callable[[Request], Any]) -> None:
        try:
            tell(request)
        except Exception:
            logger.critical("a call of a batch could not be settled: %s", request, exc_info=True)
