"""The worker's side of batch tasks: requests wait here until their batch is full or its time has come.

They wait unacknowledged, so nothing is lost with the worker; the prefetch window is widened by what the batches hold
(:func:`window_of`), else a batch larger than the window would never fill. A batch then goes to the pool as one job, and
each request hears how its own call ended.

When the worker stops, what waits is run in the worker's own thread: a pool that is stopping begins nothing any more.
When the connection is lost what waits is forgotten: the broker delivers it again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from uuid import uuid4

from celery.concurrency.base import apply_target
from celery.utils.log import get_logger

from liap_tasks.attempt import now_of, time_left
from liap_tasks.batches import BatchTask

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
        """Return how many requests wait for their batch."""
        with self._lock:
            return sum(len(batch.requests) for batch in self._batches.values())

    def forget(self) -> None:
        """Drop what waits: the connection is lost, the broker delivers it again."""
        for batch in self._take_all():
            batch.cancel_timer()

    def run_waiting_here(self) -> None:
        """Run what waits in this thread: the worker stops."""
        for batch in self._take_all():
            self._run(batch, here=True)

    def _take_all(self) -> list[_Batch]:
        with self._lock:
            batches = list(self._batches.values())
            self._batches.clear()
        return batches

    def _time_is_up(self, where: tuple[str, object], batch: _Batch) -> None:
        with self._lock:
            if self._batches.get(where) is not batch:
                return
            del self._batches[where]
        self._run(batch)

    def _run(self, batch: _Batch, *, here: bool = False) -> None:
        batch.cancel_timer()
        requests = [request for request in batch.requests if not request.revoked()]
        if not requests:
            return
        job = _Job(requests)
        task = requests[0].task
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


class _Job:
    """A batch in the pool; passes on to each request what the pool reports."""

    def __init__(self, requests: list[Request]) -> None:
        self.id = str(uuid4())
        self._requests = requests

    @property
    def arguments(self) -> tuple[Any, ...]:
        calls = []
        for request in self._requests:
            args, kwargs, embed = request._payload
            calls.append((request.id, tuple(args), dict(kwargs), {**request.request_dict, **(embed or {})}))
        return self._requests[0].task.name, self.id, calls

    def accepted(self, pid: int, time_accepted: float) -> None:
        self._tell_all(lambda request: request.on_accepted(pid, time_accepted))

    def ended(self, outcomes: list[Any]) -> None:
        if isinstance(outcomes, list):
            for request, outcome in zip(self._requests, outcomes, strict=False):
                self._tell(request, partial(_succeed, outcome=outcome))
        else:  # an ExceptionInfo: what ended the pool's job, not the function
            self.failed(outcomes)

    def failed(self, failure: Any) -> None:
        self._tell_all(lambda request: request.on_failure(failure))

    def timed_out(self, soft: bool, timeout: float) -> None:
        self._tell_all(lambda request: request.on_timeout(soft, timeout))

    def _tell_all(self, tell: Callable[[Request], Any]) -> None:
        for request in self._requests:
            self._tell(request, tell)

    def _tell(self, request: Request, tell: Callable[[Request], Any]) -> None:
        try:
            tell(request)
        except Exception:
            logger.critical("a call of a batch could not be settled: %s", request, exc_info=True)
