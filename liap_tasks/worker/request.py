"""The worker-side request: a task message is decoded once, not twice.

Celery's worker decodes the body when the message arrives (it needs the arguments for logs, events and revokes) and
hands the raw bytes to the tracer, which decodes them again. Celery's own ``decoded`` flag, meant for protocol 1
messages, lets the tracer take the arguments that are there already (celery 5.7, ``celery.app.trace``). On an
in-process broker this is a fifth of what a small task costs.
"""

from __future__ import annotations

import math
from copy import copy
from typing import Any, Literal

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]  # not in the stubs
from celery.app.task import Context
from celery.exceptions import InvalidTaskError, Retry, TimeLimitExceeded, WorkerLostError
from celery.worker import state
from celery.worker.request import Request
from celery.worker.state import task_ready
from kombu.utils.encoding import safe_repr, safe_str

from liap_tasks.errors import AttemptAbortedError
from liap_tasks.limits import time_left
from liap_tasks.policies import DeadLetterReason
from liap_tasks.received import ATTRIBUTE as RECEIVED
from liap_tasks.received import ReceivedMessage
from liap_tasks.task_statistics import TaskStatistics
from liap_tasks.time_source import clock_of
from liap_tasks.worker.lost_attempts import Ending, end_lost_attempt
from liap_tasks.worker.unreadable import keep

__all__ = ["LiapRequest"]


# Celery's own keys among the headers of a task message; the others are the publisher's.
_CELERY_KEYS = frozenset({*vars(Context), "lang", "task", "argsrepr", "kwargsrepr", "compression"})

# What the attempt itself notes in its request; a header of that name would switch the task's policies off.
_OF_THE_ATTEMPT = frozenset(
    {
        "liap_running",
        "liap_retried",
        "liap_verdict",
        "liap_answered",
        "liap_unique_lock",
        "liap_batch_item",
        "liap_limit_passed",
    }
)


class LiapRequest(Request):
    """A request whose body has been decoded on arrival."""

    _already_revoked: bool
    _already_cancelled: bool
    _context: Any
    _message: Any
    _lost = False
    app: Any
    time_limits: Any
    store_errors: bool
    name: str
    _success_was_stored: Any

    def __init__(self, message: Any, *, body: Any = None, decoded: bool = False, **options: Any) -> None:
        if not decoded:
            payload = message.payload  # checked against accept_content, cached by the message
            if isinstance(payload, list | tuple) and len(payload) == 3:
                body, decoded = payload, True
        try:
            super().__init__(message, body=body, decoded=decoded, **options)
        except InvalidTaskError:
            raise
        except Exception as error:  # of any other the worker's loop would end (celery 5.7)
            raise InvalidTaskError(f"no request can be made of it: {error!r}") from error
        hard, soft = self.time_limits
        if soft and not hard:
            self.time_limits = (soft + getattr(self.task, "grace", 0.0), soft)
        given: Any = self.request_dict
        for name in _OF_THE_ATTEMPT & given.keys():
            del given[name]
        given[RECEIVED] = ReceivedMessage.of(message)
        if given.get("headers") is None:
            given["headers"] = {key: value for key, value in message.headers.items() if key not in _CELERY_KEYS}

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return int(self.request_dict.get("retries") or 0) + 1

    def _statistics(self) -> TaskStatistics | None:
        return getattr(self.app, "task_statistics", None)  # another app keeps none

    def _keep_to_deadline(self) -> None:
        """Lower the time limits, which the pool enforces, to what the message's deadline leaves."""
        task: Any = self.task
        left = time_left(task, self.request_dict["headers"]) if hasattr(task, "fallback") else None
        if left is None or left <= 0:  # too late: the attempt ends before its task begins
            return
        hard, soft = self.time_limits
        soft = soft or task.soft_time_limit
        hard = hard or task.time_limit
        if not soft or left < soft:
            grace = hard - soft if hard and soft else task.grace
            self.time_limits = (min(left + grace, hard or math.inf), left)

    def __init_subclass__(cls) -> None:
        """Look into the class that Celery makes of this for each task: its methods call no others.

        Deadlines are kept to when a request is given to its pool, successes are counted.
        """
        execute: Any = cls.__dict__.get("execute_using_pool")
        if execute is not None:

            def execute_using_pool(self: Any, pool: Any, **options: Any) -> Any:
                self._keep_to_deadline()
                return execute(self, pool, **options)

            limited: Any = execute_using_pool
            cls.execute_using_pool = limited  # type: ignore[method-assign]  # that is the point
        report: Any = cls.__dict__.get("on_success")
        if report is not None:

            def on_success(self: Any, failed__retval__runtime: Any, **options: Any) -> Any:
                if isinstance(failed__retval__runtime, ExceptionInfo):  # what ended the pool's job, not the task
                    return self.on_failure(failed__retval__runtime)
                statistics = self._statistics()
                if statistics is not None and not failed__retval__runtime[0]:
                    statistics.succeeded(self.name, self.attempt)
                return report(self, failed__retval__runtime, **options)

            counted: Any = on_success
            cls.on_success = counted  # type: ignore[method-assign]  # that is the point

    def on_retry(self, exc_info: Any) -> Any:
        """Called when the attempt has published another."""
        statistics = self._statistics()
        if statistics is not None:
            statistics.retried(self.name, _unwrapped(exc_info).exc)
        return super().on_retry(exc_info)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Called when an attempt ended without success.

        A revoke or a cancellation has been announced already, and its message dealt with: nothing is left to do.
        """
        if self._already_revoked or self._already_cancelled or self._lost:
            task_ready(self)
            return None
        error = self._lost_with(exc_info)
        if error is not None and self._ends_by_itself(error, str(exc_info.traceback or "")):
            return None
        statistics = self._statistics()
        ended_with = error or _unwrapped(exc_info)
        if statistics is not None and not isinstance(ended_with, Retry):
            statistics.failed(self.name, self.attempt, ended_with)
        if isinstance(ended_with, MemoryError):  # Celery would end the worker for it, and acknowledge nothing
            exc_info = copy(exc_info)
            exc_info.exception = AttemptAbortedError(repr(ended_with))
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Called when a time limit has passed; the hard one: the attempt's process is killed."""
        if soft:
            super().on_timeout(soft, timeout)
        elif self._lost:  # its failure has been told already
            task_ready(self)
        elif not state.should_terminate:
            error = TimeLimitExceeded(timeout)
            if not self._ends_by_itself(error, ""):
                statistics = self._statistics()
                if statistics is not None:
                    statistics.failed(self.name, self.attempt, error)
                super().on_timeout(soft, timeout)

    def _ends_by_itself(self, error: Exception, traceback: str) -> bool:
        """Have a lost attempt retried, dead-lettered or put back; False if Celery is to end it as failed, too."""
        task: Any = self.task
        if getattr(task, "retry_policy", None) is None or task.reject_on_worker_lost:
            return False
        if isinstance(error, WorkerLostError) and self._success_was_stored():
            return False
        self._lost = True
        ending = end_lost_attempt(task, self._context, error, traceback)
        if ending is Ending.DEAD:
            return False
        task_ready(self)
        if ending is Ending.BACK:
            self.reject(requeue=True)
            return True
        statistics = self._statistics()
        if statistics is not None:
            statistics.retried(self.name, error)
        if self.store_errors:
            task.backend.mark_as_retry(self.id, error, traceback, request=self._context)
        self.acknowledge()
        self.send_event("task-retried", exception=safe_repr(error), traceback=safe_str(traceback))
        return True

    def maybe_expire(self) -> Literal[True] | None:
        """Tell whether it has expired by the app's clock, and count it as revoked then."""
        if not self.expires or clock_of(self.app).time() <= self.expires.timestamp():
            return None
        state.revoked.add(self.id)
        return True

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        """Called when the message is not to run: revoked on purpose, or too late.

        What came too late is kept as a dead letter before Celery acknowledges it.
        """
        if expired and self._expired_is_kept():
            queue = self.delivery_info.get("routing_key") or ""
            detail = "it expired before a worker could begin it"
            if not keep(self.app, self._message, queue, DeadLetterReason.EXPIRED, detail):
                self.acknowledged = True  # it is back in its queue
                task_ready(self)
                return
        if getattr(self.task, "unique", None) is not None:
            self.app.unique_locks.release_call(self.task, self._context)
        super()._announce_revoked(reason, terminated, signum, expired)  # type: ignore[misc]  # not in the stubs

    def _expired_is_kept(self) -> bool:
        task: Any = self.task
        return hasattr(task, "dead_letter_policy") and bool(self.app.dead_letter_policy_of(task.name).enabled)

    def _lost_with(self, exc_info: Any) -> Exception | None:
        """Return the error of an attempt whose process is gone, None for one that ended by itself."""
        error = _unwrapped(exc_info)
        if isinstance(error, SystemExit | KeyboardInterrupt):  # billiard tells of the exit before the process is gone
            return WorkerLostError(f"the process ended with {error!r}")
        return error if isinstance(error, WorkerLostError | TimeLimitExceeded) else None


def _unwrapped(exc_info: Any) -> Any:
    """Return the exception of a billiard ExceptionInfo itself."""
    error: Any = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error
