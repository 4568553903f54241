"""How one attempt of a task runs and ends: the limit on its time, then retry, dead letter or result.

Why the decision is taken inside the traced call: with late acknowledgement Celery acknowledges a message after its
tracer has returned, so a dead letter published in here is safe before the original is gone. If it cannot be published,
``Reject(requeue=True)`` sends the original back to its queue. The task's own exception then goes on, so that state,
result, ``on_failure``, error callbacks and the ``task_failure`` signal are Celery's own and happen once. Celery's
``autoretry_for`` would do part of this, but not delays below a second, and it acknowledges what it gives up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Ignore, SoftTimeLimitExceeded, TaskPredicate
from celery.utils.log import get_logger

from liap_tasks.coroutines.running import beside_loop, run_coroutine
from liap_tasks.ending import (
    answered_by_fallback,
    back_to_its_queue,
    bury,
    end_attempt,
    ends_more_than_attempt,
    to_be_told,
)
from liap_tasks.giving_up import may_end
from liap_tasks.handlers import message_of
from liap_tasks.limits import OuterLimit, is_of_outer_attempt, run_in_time
from liap_tasks.policies import DeadLetter
from liap_tasks.task_statistics import FILTERED, WAITS
from liap_tasks.unique.running import UniqueAttempt, Wait

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = ["run_attempt"]

logger = get_logger("liap_tasks.attempt")


def run_attempt(
    task: LiapTask, args: tuple[Any, ...], kwargs: dict[str, Any], settle: Callable[[Any], Any] | None = None
) -> Any:
    """Run the task's function under its policies and return its result.

    settle: called with the task instead, without a limit on its time: what the attempt amounts to is known already.

    When the message is done for the task's fallback answers if it has one. Else it is put among the dead letters and
    what the function raised goes on, as an AttemptAbortedError if it is no ``Exception``. Or Celery's own ``Retry``,
    ``Ignore`` or ``Reject`` is raised.
    """
    if task.unique is None:
        return _run_attempt(task, args, kwargs, settle, None)
    unique = UniqueAttempt(task)
    try:
        answer = _run_attempt(task, args, kwargs, settle, unique)
    except BaseException as error:
        unique.end(SoftTimeLimitExceeded() if isinstance(error, OuterLimit) else error)
        raise
    unique.end(None)
    return answer


def _run_attempt(
    task: LiapTask,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    settle: Callable[[Any], Any] | None,
    unique: UniqueAttempt | None,
) -> Any:
    request: Any = task.request
    request.liap_running = True
    try:
        _filter(task, args, kwargs)
        if unique is not None and (wait := unique.begin(args, kwargs)) is not None:
            _put_off(task, wait)
        answer = run_in_time(task, request, args, kwargs) if settle is None else settle(task)
        _check_that_it_counts(task)
    except TaskPredicate:  # Celery's own control flow: Retry, Ignore, Reject
        raise
    except BaseException as error:
        if ends_more_than_attempt(error) or (request.is_eager and not isinstance(error, Exception)):
            raise
        if isinstance(error, SoftTimeLimitExceeded) and request.is_eager and is_of_outer_attempt(request):
            raise OuterLimit from error
        _check_that_it_counts(task)
        verdict = end_attempt(task, error)
        if verdict is None or not answered_by_fallback(task, verdict):
            told = to_be_told(error)
            if told is error:
                raise
            raise told from error
        answer = _fall_back(task, verdict, error, args, kwargs)
    finally:
        request.liap_running = False
    request.liap_answered = True
    return answer


def _filter(task: LiapTask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise Celery's Ignore if one of the task's filters refuses the message: it is acknowledged, nothing is run."""
    if task.filters:
        message = message_of(task, args, kwargs)
        if not all(accepts(message) for accepts in task.filters):
            raise Ignore(FILTERED)


def _put_off(task: LiapTask, wait: Wait) -> NoReturn:
    """Publish the message again, to be delivered when the wait is over, and end this delivery: it was no attempt."""
    request: Any = task.request
    headers = {**(request.headers or {}), **wait.claim.as_headers()}
    signature = task.signature_from_request(
        request, countdown=wait.seconds, retries=request.retries or 0, headers=headers
    )
    try:
        beside_loop(task, signature.apply_async)
    except Exception as failure:
        logger.critical("%s[%s], which must wait, could not be published: %r", task.name, request.id, failure)
        raise back_to_its_queue(failure) from failure
    raise Ignore(WAITS)


def _check_that_it_counts(task: LiapTask) -> None:
    """Raise Celery's Ignore in an attempt that was given up: its message is dealt with, it must have no effect."""
    if not may_end():
        logger.warning("attempt %d of %s[%s] was given up", task.attempt, task.name, task.request.id)
        raise Ignore("it was given up")


def _fall_back(
    task: LiapTask, verdict: DeadLetter, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return the fallback's answer; a fallback that fails leaves a dead letter as if there were none."""
    try:
        answer = task.fallback(*args, **kwargs)  # type: ignore[misc]  # asked for only where there is one
        if isinstance(answer, Awaitable):
            answer = run_coroutine(task, answer, None)
    except BaseException as failure:
        if ends_more_than_attempt(failure):
            raise
        bury(task, verdict, error)
        raise to_be_told(error) from failure
    logger.warning("task %s[%s] is answered by its fallback: %s (%r)", task.name, task.request.id, verdict, error)
    return answer
