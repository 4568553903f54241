"""Attempts that could not end by themselves: their process died, or was killed for taking too long.

What an attempt decides in its own process (:mod:`liap_tasks.ending`) is decided here for it, in the worker's own: it
has failed with ``WorkerLostError`` or ``TimeLimitExceeded``, and the task's retry policy says whether there is
another. The retry is published, or the dead letter is safe, before the message is acknowledged; else it goes back to
its queue. So a message that kills its process is tried as often as any that fails, never in a loop.
"""

from __future__ import annotations

import time
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.exceptions import TimeLimitExceeded
from celery.utils.log import get_logger

from liap_tasks import dead_letters, ending
from liap_tasks.errors import DeadLetterError
from liap_tasks.policies import DeadLetter, DeadLetterReason, Retry
from liap_tasks.received import sent_call
from liap_tasks.task_statistics import marked_as_dead_letter

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = ["Ending", "end_lost_attempt"]

logger = get_logger("liap_tasks.lost_attempts")
_rng = Random()

RETRY_IMPOSSIBLE = "its retry can never be published"


class Ending(Enum):
    """What has become of the message of a lost attempt."""

    RETRIED = "another attempt is published"
    DEAD = "it is among the dead letters, if its task keeps any"
    BACK = "neither was possible: it must go back to its queue"


def end_lost_attempt(task: LiapTask, context: Context, error: Exception, traceback: str) -> Ending:
    """Decide and carry out what becomes of the message of an attempt that was lost with ``error``.

    context: the request as the attempt had it.
    """
    task.request_stack.push(context)
    try:
        decision = ending.decide(task, error)
        ending.note_attempt(task, error)
        ended = _publish_retry(task, context, decision) if isinstance(decision, Retry) else None
        if ended is None:
            ended = _publish_dead_letter(task, context, _verdict(decision, error), error, traceback)
    finally:
        task.request_stack.pop()
    if task.unique is not None and (ended is Ending.DEAD or task.unique.until == "running"):
        task.app.unique_locks.release_call(task, context)
    return ended


def _verdict(decision: DeadLetter | Retry, error: Exception) -> DeadLetter:
    timed_out = isinstance(error, TimeLimitExceeded)
    reason = DeadLetterReason.TIMED_OUT if timed_out else DeadLetterReason.WORKER_LOST
    return DeadLetter(reason, decision.detail if isinstance(decision, DeadLetter) else RETRY_IMPOSSIBLE)


def _publish_retry(task: LiapTask, context: Any, decision: Retry) -> Ending | None:
    """Publish another attempt; None if that will never be possible."""
    try:
        args, kwargs = sent_call(context, task.app)
        task.signature_from_request(
            context, args, kwargs, countdown=decision.delay, retries=(context.retries or 0) + 1, headers=context.headers
        ).apply_async()
    except dead_letters.UNSENDABLE as failure:
        logger.warning("the retry of %s[%s] can never be published: %r", task.name, context.id, failure)
        return None
    except Exception as failure:  # noqa: BLE001 - whatever it was, the message must not be lost
        logger.critical("the retry of %s[%s] could not be published: %r", task.name, context.id, failure)
        time.sleep(ending.PAUSE_BEFORE_REQUEUE)
        return Ending.BACK
    return Ending.RETRIED


def _publish_dead_letter(task: LiapTask, context: Any, verdict: DeadLetter, error: Exception, traceback: str) -> Ending:
    if task.app.dead_letter_policy_of(task.name).enabled:
        try:
            dead_letters.publish(task.app, context, task=task.name, verdict=verdict, error=error, traceback=traceback)
        except DeadLetterError as failure:
            logger.critical("%s; its message goes back to its queue", failure)
            time.sleep(ending.PAUSE_BEFORE_REQUEUE)
            return Ending.BACK
        marked_as_dead_letter(error)
    return Ending.DEAD
