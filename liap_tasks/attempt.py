"""How one attempt of a task runs and ends: the limit on its time, then retry, dead letter or result.

Why the decision is taken inside the traced call: with late acknowledgement Celery acknowledges a message after its
tracer has returned, so a dead letter published in here is safe before the original is gone. If it cannot be published,
``Reject(requeue=True)`` sends the original back to its queue. The task's own exception then goes on, so that state,
result, ``on_failure``, error callbacks and the ``task_failure`` signal are Celery's own and happen once. Celery's
``autoretry_for`` would do part of this, but not delays below a second, and it acknowledges what it gives up.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import partial
from random import Random
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TaskPredicate, WorkerShutdown, WorkerTerminate
from celery.utils.log import get_logger
from greenlet import GreenletExit
from kombu.utils.encoding import safe_repr
from pydantic import ValidationError

from liap_tasks import dead_letters
from liap_tasks.coroutines.running import beside_loop, in_prefork_child, pause, run_coroutine
from liap_tasks.errors import AttemptAbortedError, DeadLetterError
from liap_tasks.giving_up import may_end
from liap_tasks.handlers import message_of
from liap_tasks.metadata import Attempt, deadline_in, text_of
from liap_tasks.policies import DeadLetter, DeadLetterReason, Retry
from liap_tasks.policies.deadline import reserved_for_fallback
from liap_tasks.task_statistics import FILTERED, WAITS, marked_as_dead_letter
from liap_tasks.time_source import clock_of, virtual_clock_of
from liap_tasks.timeouts import has_interrupted, interrupt_after
from liap_tasks.unique.running import UniqueAttempt, Wait

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = [
    "FATE",
    "Fate",
    "OuterLimit",
    "back_to_its_queue",
    "bury",
    "ends_more_than_attempt",
    "note_attempt",
    "note_decided",
    "run_attempt",
    "time_left",
    "to_be_told",
]

logger = get_logger("liap_tasks.attempt")
_rng = Random()

PAUSE_BEFORE_REQUEUE = 1.0
ANSWERED_BY_FALLBACK = frozenset(
    {
        DeadLetterReason.EXPIRED,
        DeadLetterReason.TIMED_OUT,
        DeadLetterReason.RETRIES_EXHAUSTED,
        DeadLetterReason.PROCESSING_FAILED,
    }
)


class Fate:
    """Whether a call that has failed was dealt with by its attempt: its message is retried, or a dead letter."""

    __slots__ = ("decided", "id")

    def __init__(self, id: str) -> None:
        self.id = id
        self.decided = False


FATE: ContextVar[Fate | None] = ContextVar("FATE", default=None)
"""That of the call whose tracer runs here."""


class OuterLimit(BaseException):
    """The limit of an attempt passed while it made a call here and now (``apply``): the call ends, nothing is decided.

    It passes Celery's tracer, which would make a failed result of an error for the outer attempt to go on with.
    """


_LIMIT: ContextVar[Any] = ContextVar("LIMIT", default=None)
"""The block in which the function of an attempt is interrupted; the innermost in this thread."""


def note_decided(task: LiapTask) -> None:
    """Note that the message of the running attempt is dealt with, whatever still fails around the attempt."""
    fate = FATE.get()
    if fate is not None and fate.id == task.request.id:  # not that of a call which is made inside of it, eagerly
        fate.decided = True


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
        answer = _run_in_time(task, request, args, kwargs) if settle is None else settle(task)
        _check_that_it_counts(task)
    except TaskPredicate:  # Celery's own control flow: Retry, Ignore, Reject
        raise
    except BaseException as error:
        if ends_more_than_attempt(error) or (request.is_eager and not isinstance(error, Exception)):
            raise
        if isinstance(error, SoftTimeLimitExceeded) and request.is_eager and _is_of_outer_attempt(request):
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


def ends_more_than_attempt(error: BaseException) -> bool:
    """Tell whether an error means more than the attempt in which it is raised: its process or its greenlet is to end.

    ``sys.exit()`` in a task ends a process of the prefork pool; elsewhere there is only the attempt that it can end.
    """
    if isinstance(error, Exception):
        return False
    if isinstance(error, SystemExit | KeyboardInterrupt) and in_prefork_child():
        return True
    if isinstance(
        error, WorkerShutdown | WorkerTerminate
    ):  # from a handler of signals, while the solo pool runs a task
        return threading.current_thread() is threading.main_thread()
    gevent: Any = sys.modules.get("gevent")
    return isinstance(error, GreenletExit) or (gevent is not None and isinstance(error, gevent.Timeout))


def to_be_told(error: BaseException) -> Exception:
    """Return what Celery is told of an attempt that ended with ``error``."""
    if isinstance(error, Exception):
        return error
    told = AttemptAbortedError(safe_repr(error))
    told.__dict__.update(error.__dict__)
    return told


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


def _run_in_time(task: LiapTask, request: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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


def _is_of_outer_attempt(request: Any) -> bool:
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


def now_of(task: LiapTask) -> float:
    """Return the time, in POSIX seconds, by the clock of the task's app."""
    return clock_of(task.app).time()


def time_limit(task: LiapTask) -> float | None:
    """Return the seconds that an attempt may take: the message's own limit, else the task's."""
    return _time_limit(task, task.request)


def _time_limit(task: LiapTask, request: Any) -> float | None:
    asked = request.timelimit
    return (asked[1] if asked and asked[1] else None) or task.soft_time_limit


def end_attempt(task: LiapTask, error: BaseException) -> DeadLetter | None:
    """Carry out the policy's decision: raise Celery's Retry, or put the message among the dead letters.

    Returns the verdict; the message of a task that can still answer by its fallback is not put there. None: the task
    has sent a retry by itself.
    """
    if getattr(task.request, "liap_retried", False):
        return None
    decision = decide(task, error)
    note_attempt(task, error)
    if isinstance(decision, Retry):
        told, delay = to_be_told(error), decision.delay
        try:
            # max_retries: the policy has decided already.
            raise beside_loop(task, partial(task.retry, exc=told, countdown=delay, max_retries=task.attempt))
        except TaskPredicate:
            raise
        except Exception:
            decision = decide(task, error)  # a retry that can never be published leaves its verdict
            if isinstance(decision, Retry):
                raise
    if not answered_by_fallback(task, decision):
        bury(task, decision, error)
    return decision


def bury(task: LiapTask, decision: DeadLetter, error: BaseException) -> None:
    """Put the message among the dead letters if the task's policy wants that; else it goes back to its queue."""
    if task.app.dead_letter_policy_of(task.name).enabled:
        marked_as_dead_letter(error)
        try:
            publish = partial(
                dead_letters.publish,
                task.app,
                task.request,
                task=task.name,
                verdict=decision,
                error=error,
                traceback="".join(traceback.format_exception(error)),
            )
            beside_loop(task, publish)
        except DeadLetterError as failure:
            logger.critical("%s; its message goes back to its queue", failure)
            raise back_to_its_queue(failure) from failure
    note_decided(task)


def answered_by_fallback(task: LiapTask, verdict: DeadLetter) -> bool:
    """Tell whether the task's fallback answers a call that ended so; what is wrong with the call it cannot mend."""
    return task.fallback is not None and verdict.reason in ANSWERED_BY_FALLBACK


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


def decide(task: LiapTask, error: BaseException) -> Retry | DeadLetter:
    """Return what becomes of the running attempt's message after ``error``."""
    verdict: DeadLetter | None = getattr(task.request, "liap_verdict", None)
    if verdict is not None:
        return verdict
    if isinstance(error, ValidationError | TypeError) and _never_began(task, error):
        return DeadLetter(DeadLetterReason.VALIDATION_FAILED, "the arguments do not fit the task")
    decision = task.retry_policy.decide(error, attempt=task.attempt, rng=_rng)
    deadline = deadline_in(task.request.headers)
    if isinstance(decision, Retry) and deadline is not None and now_of(task) + decision.delay >= deadline:
        decision = DeadLetter(DeadLetterReason.RETRIES_EXHAUSTED, "its deadline leaves no time for another attempt")
    exhausted = isinstance(decision, DeadLetter) and decision.reason is DeadLetterReason.RETRIES_EXHAUSTED
    if exhausted and isinstance(error, SoftTimeLimitExceeded):
        if deadline is not None:
            return DeadLetter(DeadLetterReason.TIMED_OUT, "its time limit or its deadline passed while it ran")
        return DeadLetter(DeadLetterReason.TIMED_OUT, f"the attempt ran longer than {time_limit(task)} s")
    return decision


def note_attempt(task: LiapTask, error: BaseException | None) -> None:
    """Write the running attempt into the message's metadata, once; None: the task asked for a retry by itself."""
    metadata = task.metadata
    noted = metadata.attempts
    if noted and noted[-1].number == task.attempt:
        return
    attempt = Attempt(
        number=task.attempt,
        at=now_of(task),
        error="" if error is None else type(error).__qualname__,
        message="the task asked for a retry" if error is None else text_of(error),
    )
    headers = task.request.headers or {}
    task.request.headers = {**headers, **metadata.after(attempt).as_headers()}


def back_to_its_queue(reason: Any) -> Reject:
    """Return what to raise to give a message back, after a pause: it will be delivered again at once."""
    pause(PAUSE_BEFORE_REQUEUE)
    return Reject(reason, requeue=True)


def _never_began(task: LiapTask, error: BaseException) -> bool:
    """Tell whether ``error`` arose before the task's own code ran: the call or a model refused the arguments."""
    function: Any = task.run
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    return code is not None and not _raised_by(error, code)


def _raised_by(error: BaseException, code: CodeType) -> bool:
    """Tell whether the function with this code object was on the stack when ``error`` was raised."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code is code:
            return True
        step = step.tb_next
    return False
