"""What goes wrong around an attempt: in ``before_start``, where its result is encoded and stored, in Celery's hooks.

An attempt decides what becomes of its message (:mod:`liap_tasks.ending`). Celery's tracer does more than call it, and
what fails there ends the call as failed, its caller and error callbacks are told, and its message is acknowledged. So
it becomes a dead letter here, before that. There is no retry: the call has been told to have failed.

And the tracer itself fails: it lets out Reject, MemoryError, what is no Exception, and whatever the result backend
raises while a failure is stored (celery 5.7). Of the pools only prefork and asyncio tell the request of that; with the
others its message would stay unacknowledged for as long as the worker lives. Here it is an outcome like any other.

Why around the tracer, and not in the request: in a prefork pool that is in another process, and what an exception knows
about its attempt may be lost on the way (``__reduce__``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery import states
from celery.app.task import Context
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Reject
from celery.utils.log import get_logger
from celery.utils.serialization import get_pickleable_exception

from liap_tasks import ending
from liap_tasks.giving_up import may_end
from liap_tasks.policies import DeadLetter, DeadLetterReason

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = ["Tracer", "complete"]

logger = get_logger("liap_tasks.around_attempt")

Tracer = Callable[..., Any]
"""Called with id, args, kwargs and request of a call; returns what ``trace_ok_t`` is made of."""

FAILED_AROUND = DeadLetter(DeadLetterReason.PROCESSING_FAILED, "it failed before its attempt began, or after it ended")


def complete(task: LiapTask, trace: Tracer) -> Tracer:
    """Return Celery's tracer of a task as one that leaves no failure without a decision, and lets none out."""

    def traced(uuid: str, args: Any, kwargs: Any, request: dict[str, Any] | None = None) -> Any:
        fate = ending.Fate(uuid)
        token = ending.FATE.set(fate)
        try:
            outcome = trace(uuid, args, kwargs, request)
            info = outcome[1]
            if info is None or info.state != states.FAILURE or fate.decided:
                return outcome
            context = _context(args, kwargs, request)
            _keep(task, context, info.retval)
        except Reject as verdict:  # raised by a hook, or no dead letter was possible
            return _outcome(states.REJECTED, verdict)
        except BaseException as error:
            if ending.ends_more_than_attempt(error):
                raise
            return _outcome_of_failed_tracer(task, _context(args, kwargs, request), fate, error)
        finally:
            ending.FATE.reset(token)
        return outcome

    return traced


def _context(args: Any, kwargs: Any, request: dict[str, Any] | None) -> Context:
    return Context(request or {}, args=args, kwargs=kwargs, called_directly=False)


def _keep(task: LiapTask, context: Context, error: BaseException) -> None:
    """Put the message of a call among the dead letters, and free its lock. Raises Reject if that is not possible."""
    if not may_end():  # it was given up: its message is dealt with
        return
    task.request_stack.push(context)
    try:
        ending.note_attempt(task, error)
        ending.bury(task, FAILED_AROUND, error)
    finally:
        task.request_stack.pop()
    if task.unique is not None:
        task.app.unique_locks.release_call(task, context)


def _outcome(state: str, error: Exception) -> Any:
    """Return what a tracer returns; error: one that can be read again in the worker's own process."""
    info = ExceptionInfo((type(error), error, error.__traceback__), internal=True)
    return trace_ok_t(info, TraceInfo(state, error), None, None)


def _outcome_of_failed_tracer(task: LiapTask, context: Any, fate: ending.Fate, error: BaseException) -> Any:
    logger.critical("%s[%s] failed outside of its attempt", task.name, context.id, exc_info=error)
    told: Exception = get_pickleable_exception(ending.to_be_told(error))
    told = told.with_traceback(error.__traceback__)
    try:
        if not fate.decided:
            _keep(task, context, error)
    except Reject as verdict:
        return _outcome(states.REJECTED, verdict)
    outcome = _outcome(states.FAILURE, told)
    if isinstance(error, MemoryError) or told is not error:  # else it was raised when the tracer wanted to tell of it
        try:
            outcome[1].handle_error_state(task, context)
        except Exception:
            logger.critical("nobody could be told that %s[%s] has failed", task.name, context.id, exc_info=True)
    return outcome
