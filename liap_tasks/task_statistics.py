"""What became of the attempts of each task, counted by the worker.

Counted in the worker's own process, whatever its pool: a request hears there how its attempt ended. A worker of its own
answers ``celery inspect task_stats``; in the process of an embedded one read ``app.task_statistics``.

A metric is a row of :data:`METRICS`, which is its documentation.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TimeLimitExceeded
from celery.worker import state

__all__ = ["FILTERED", "METRICS", "WAITS", "TaskStatistics", "marked_as_dead_letter"]

METRICS: dict[str, str] = {
    "succeeded": "attempts that returned a result",
    "errors": "attempts that failed, whether they were retried or not",
    "timeouts": "of these, attempts that took too long",
    "total_retries": "retries published",
    "successful_retries": "attempts that succeeded and were not the first",
    "failed_after_retries": "messages that were done for and had been retried",
    "dead_lettered": "messages put among the dead letters by their attempt or its worker",
    "filtered": "messages that a filter refused",
    "waited": "deliveries put off because another call of the same unique key had the lock",
    "ignored": "attempts that ended by Celery's Ignore, or that were given up",
    "rejected": "attempts that ended by Celery's Reject",
}

FILTERED = "refused by a filter"
WAITS = "waits for its turn"
_IGNORED = {"filtered": FILTERED, "waited": WAITS}
_MARK = "liap_dead_letter"


def marked_as_dead_letter(error: BaseException) -> None:
    """Mark the error of an attempt whose message is a dead letter: it travels to the worker's process, and tells it."""
    error.__dict__[_MARK] = True


class TaskStatistics:
    """Counts by task and metric since the start of the process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}

    def succeeded(self, task: str, attempt: int) -> None:
        """Count an attempt (1 is the first) that returned."""
        if attempt > 1:
            self._count(task, "succeeded", "successful_retries")
        else:
            self._count(task, "succeeded")

    def retried(self, task: str, error: BaseException | None) -> None:
        """Count an attempt that is followed by another. error: None if the task asked for it by itself."""
        if error is None:
            self._count(task, "total_retries")
        else:
            self._count(task, "total_retries", "errors", *(["timeouts"] if _is_timeout(error) else []))

    def failed(self, task: str, attempt: int, error: BaseException) -> None:
        """Count an attempt that ended without a result and is not followed by another."""
        if isinstance(error, Ignore):
            why = next((metric for metric, text in _IGNORED.items() if text in error.args), "ignored")
            self._count(task, why)
        elif isinstance(error, Reject):
            self._count(task, "rejected")
        else:
            metrics = ["errors"]
            if attempt > 1:
                metrics.append("failed_after_retries")
            if _is_timeout(error):
                metrics.append("timeouts")
            if error.__dict__.get(_MARK):
                metrics.append("dead_lettered")
            self._count(task, *metrics)

    def _count(self, task: str, *metrics: str) -> None:
        with self._lock:
            counts = self._counts.get(task)
            if counts is None:
                counts = self._counts[task] = Counter()
            for metric in metrics:
                counts[metric] += 1

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Return {task: {metric: count, ..., "running": attempts running now in this process's workers}}."""
        running = Counter(str(request.name) for request in tuple(state.active_requests))
        with self._lock:
            counted = {name: Counter(counts) for name, counts in self._counts.items()}
        nothing: Counter[str] = Counter()
        return {
            name: {**{metric: counted.get(name, nothing)[metric] for metric in METRICS}, "running": running[name]}
            for name in sorted({*counted, *running})
        }

    def __getitem__(self, task: str) -> dict[str, int]:
        """Return the counts of one task, all 0 if it has never run."""
        nothing: dict[str, Any] = {**dict.fromkeys(METRICS, 0), "running": 0}
        return self.snapshot().get(task, nothing)


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, SoftTimeLimitExceeded | TimeLimitExceeded)
