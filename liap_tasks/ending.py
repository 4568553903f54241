"""What becomes of the message of an attempt that has failed: another attempt, a dead letter, or its queue again.

The policy decides (:meth:`RetryPolicy.decide`), here it is carried out, in the call that Celery traces: Celery
acknowledges when its tracer returns, so what takes the message's place is safe by then.
"""

from __future__ import annotations

import sys
import threading
import traceback
from contextvars import ContextVar
from functools import partial
from random import Random
from types import CodeType
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject, SoftTimeLimitExceeded, TaskPredicate, WorkerShutdown, WorkerTerminate
from celery.utils.log import get_logger
from greenlet import GreenletExit
from kombu.utils.encoding import safe_repr
from pydantic import ValidationError

from liap_tasks import dead_letters
from liap_tasks.coroutines.running import beside_loop, in_prefork_child, pause
from liap_tasks.errors import AttemptAbortedError, DeadLetterError
from liap_tasks.limits import now_of, time_limit
from liap_tasks.metadata import Attempt, deadline_in, text_of
from liap_tasks.policies import DeadLetter, DeadLetterReason, Retry
from liap_tasks.task_statistics import marked_as_dead_letter

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = [
    "FATE",
    "Fate",
    "answered_by_fallback",
    "back_to_its_queue",
    "bury",
    "decide",
    "end_attempt",
    "ends_more_than_attempt",
    "note_attempt",
    "note_decided",
    "to_be_told",
]

logger = get_logger("liap_tasks.ending")
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


def note_decided(task: LiapTask) -> None:
    """Note that the message of the running attempt is dealt with, whatever still fails around the attempt."""
    fate = FATE.get()
    if fate is not None and fate.id == task.request.id:  # not that of a call which is made inside of it, eagerly
        fate.decided = True


def ends_more_than_attempt(error: BaseException) -> bool:
    """Tell whether an error means more than the attempt in which it is raised: its process or its greenlet is to end.

    ``sys.exit()`` in a task ends a process of the prefork pool; elsewhere there is only the attempt that it can end.
    """
    if isinstance(error, Exception):
        return False
    if isinstance(error, SystemExit | KeyboardInterrupt) and in_prefork_child():
        return True
    if isinstance(error, WorkerShutdown | WorkerTerminate):
        # From a handler of signals, while the solo pool runs a task.
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
