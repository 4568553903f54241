"""How long an attempt may take: its task's limit, or what the deadline of its message leaves, whichever comes first.

In a prefork child Celery's own limit does it, which the worker has lowered to the deadline; elsewhere the function is
interrupted here (:mod:`liap_tasks.timeouts`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from liap_tasks.coroutines.running import in_prefork_child, run_coroutine
from liap_tasks.metadata import deadline_in
from liap_tasks.policies import DeadLetter, DeadLetterReason
from liap_tasks.policies.deadline import reserved_for_fallback
from liap_tasks.time_source import clock_of, virtual_clock_of
from liap_tasks.timeouts import has_interrupted, interrupt_after

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = ["OuterLimit", "is_of_outer_attempt", "now_of", "run_in_time", "time_left", "time_limit"]


class OuterLimit(BaseException):
    """The limit of an attempt passed while it made a call here and now (``apply``): the call ends, nothing is decided.

    It passes Celery's tracer, which would make a failed result of an error for the outer attempt to go on with.
    """


_LIMIT: ContextVar[Any] = ContextVar("LIMIT", default=None)
"""The block in which the function of an attempt is interrupted; the innermost in this thread."""


def run_in_time(task: LiapTask, request: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the function under the task's limit and the message's deadline, whichever comes first."""
    limit = _limit_to_enforce(task, request)
    if limit is None or task.is_coroutine:
        result = task.run(*args, **kwargs)
    else:
        block = interrupt_after(limit, SoftTimeLimitExceeded, virtual_clock_of(task.app))
        with block:
            token = _LIMIT.set(block)
            try:
                result = task.run(*args, **kwargs)
            except SoftTimeLimitExceeded:
                request.liap_limit_passed = has_interrupted(block)
                raise
            finally:
                _LIMIT.reset(token)
    return run_coroutine(task, result, limit) if isinstance(result, Awaitable) else result


def is_of_outer_attempt(request: Any) -> bool:
    """Tell whether the limit that ended a call which runs here and now is that of the attempt which makes it."""
    if in_prefork_child():  # Celery enforces only the limit of what it runs there
        return True
    outer = _LIMIT.get()
    return outer is not None and has_interrupted(outer) and not getattr(request, "liap_limit_passed", False)


def _limit_to_enforce(task: LiapTask, request: Any) -> float | None:
    """Return the seconds after which this process must end the attempt, None: it need not."""
    limit = _time_limit(task, request)
    left = time_left(task, request.headers)
    if left is not None:
        if left <= 0:
            raise DeadLetter(DeadLetterReason.EXPIRED, "its deadline passed before it could begin")
        if not limit or left < limit:
            limit = left
    if not limit or in_prefork_child():  # a prefork child: Celery's own limit works there, the request has lowered it
        return None
    return limit


def time_left(task: LiapTask, headers: Mapping[str, Any] | None) -> float | None:
    """Return the seconds that an attempt may take by the deadline in the headers, None if there is none."""
    deadline = deadline_in(headers)
    if deadline is None:
        return None
    left = deadline - now_of(task)
    return left if task.fallback is None else left - reserved_for_fallback(left)


def time_limit(task: LiapTask) -> float | None:
    """Return the seconds that an attempt may take: the message's own limit, else the task's."""
    return _time_limit(task, task.request)


def _time_limit(task: LiapTask, request: Any) -> float | None:
    asked = request.timelimit
    return (asked[1] if asked and asked[1] else None) or task.soft_time_limit


def now_of(task: LiapTask) -> float:
    """Return the time, in POSIX seconds, by the clock of the task's app."""
    return clock_of(task.app).time()
