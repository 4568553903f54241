"""How one attempt of a task runs and ends: the limit on its time, then retry, dead letter or result.

Why the decision is taken inside the traced call: with late acknowledgement Celery acknowledges a message after its
tracer has returned, so a dead letter published in here is safe before the original is gone. If it cannot be published,
``Reject(requeue=True)`` sends the original back to its queue. The task's own exception then goes on, so that state,
result, ``on_failure``, error callbacks and the ``task_failure`` signal are Celery's own and happen once. Celery's
``autoretry_for`` would do part of this, but not delays below a second, and it acknowledges what it gives up.
"""

from __future__ import annotations

import time
import traceback
from random import Random
from types import CodeType
from typing import TYPE_CHECKING, Any

from billiard.process import current_process
from celery.exceptions import Reject, SoftTimeLimitExceeded, TaskPredicate
from celery.utils.log import get_logger
from pydantic import ValidationError

from liap_tasks import dead_letters
from liap_tasks.errors import DeadLetterError
from liap_tasks.metadata import MAX_ERROR_TEXT, Attempt, shorten
from liap_tasks.policies import DeadLetter, DeadLetterReason, Retry
from liap_tasks.timeouts import interrupt_after

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = ["back_to_its_queue", "note_attempt", "run_attempt"]

logger = get_logger("liap_tasks.attempt")
_rng = Random()

PAUSE_BEFORE_REQUEUE = 1.0


def run_attempt(task: LiapTask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the task's function under its policies and return its result.

    Raises what the function raises when the message is done for, after it has been put among the dead letters; else
    Celery's own ``Retry``, ``Ignore`` or ``Reject``.
    """
    request: Any = task.request
    request.liap_running = True
    limit = time_limit(task)
    try:
        if not limit or in_prefork_child():  # a prefork child: Celery's own limit works there
            return task.run(*args, **kwargs)
        with interrupt_after(limit, SoftTimeLimitExceeded):
            return task.run(*args, **kwargs)
    except TaskPredicate:  # Celery's own control flow: Retry, Ignore, Reject
        raise
    except Exception as error:
        end_attempt(task, error)
        raise
    finally:
        request.liap_running = False


def time_limit(task: LiapTask) -> float | None:
    """Return the seconds that the running attempt may take: the message's own limit, else the task's."""
    asked = task.request.timelimit
    return (asked[1] if asked and asked[1] else None) or task.soft_time_limit


def end_attempt(task: LiapTask, error: Exception) -> None:
    """Carry out the policy's decision: raise Celery's Retry, or put the message among the dead letters."""
    if getattr(task.request, "liap_retried", False):
        return
    decision = decide(task, error)
    if isinstance(decision, Retry):
        try:
            # max_retries: the policy has decided already.
            raise task.retry(exc=error, countdown=decision.delay, max_retries=task.attempt)
        except TaskPredicate:
            raise
        except Exception:
            decision = decide(task, error)  # a retry that can never be published leaves its verdict
            if isinstance(decision, Retry):
                raise
    note_attempt(task, error)
    if task.dead_letter_policy.enabled:
        try:
            dead_letters.publish(
                task.app,
                task.request,
                task=task.name,
                verdict=decision,
                error=error,
                traceback="".join(traceback.format_exception(error)),
            )
        except DeadLetterError as failure:
            logger.critical("%s; its message goes back to its queue", failure)
            raise back_to_its_queue(failure) from failure


def decide(task: LiapTask, error: Exception) -> Retry | DeadLetter:
    """Return what becomes of the running attempt's message after ``error``."""
    verdict: DeadLetter | None = getattr(task.request, "liap_verdict", None)
    if verdict is not None:
        return verdict
    if isinstance(error, ValidationError | TypeError) and _never_began(task, error):
        return DeadLetter(DeadLetterReason.VALIDATION_FAILED, "the arguments do not fit the task")
    decision = task.retry_policy.decide(error, attempt=task.attempt, rng=_rng)
    exhausted = isinstance(decision, DeadLetter) and decision.reason is DeadLetterReason.RETRIES_EXHAUSTED
    if exhausted and isinstance(error, SoftTimeLimitExceeded):
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
        at=time.time(),
        error="" if error is None else type(error).__qualname__,
        message="the task asked for a retry" if error is None else shorten(str(error), MAX_ERROR_TEXT),
    )
    headers = task.request.headers or {}
    task.request.headers = {**headers, **metadata.after(attempt).as_headers()}


def back_to_its_queue(reason: Any) -> Reject:
    """Return what to raise to give a message back, after a pause: it will be delivered again at once."""
    time.sleep(PAUSE_BEFORE_REQUEUE)
    return Reject(reason, requeue=True)


def in_prefork_child() -> bool:
    """Tell whether this is a child of Celery's prefork pool, where Celery itself enforces time limits."""
    process: Any = current_process()
    return process._parent_pid is not None


def _never_began(task: LiapTask, error: Exception) -> bool:
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
