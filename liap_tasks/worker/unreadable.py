"""Messages that no task here can take: they become dead letters, where Celery would acknowledge or reject them away.

First the dead letter is safe, then the message is acknowledged; if it cannot be made safe the message goes back to its
queue. What Celery does besides (a failed result for an unknown task, events, signals, logs) it still does.

Why bodies are looked at before Celery's strategy sees them: what is wrong with one may surface there as any exception
at all, and one that the worker does not expect ends its loop (celery 5.7).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from liap_tasks import attempt, dead_letters
from liap_tasks.errors import DeadLetterError
from liap_tasks.policies import DeadLetter, DeadLetterReason

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["Kept", "flaw_of", "keep"]

logger = get_logger("liap_tasks.unreadable")


def flaw_of(message: Any) -> Exception | None:
    """Return what is wrong with a task message of protocol 2, None if a task can be made of it.

    The body is decoded here, once: kombu keeps the result.
    """
    headers = message.headers
    try:
        body = message.payload
    except Exception as error:  # noqa: BLE001 - whatever a body can do to a decoder
        return error
    if not isinstance(headers.get("id"), str):
        return ValueError("its header 'id' is missing, or no text")
    limits = headers.get("timelimit")
    if limits is not None and not (isinstance(limits, list | tuple) and len(limits) == 2):
        return ValueError("its header 'timelimit' is no pair")
    if not isinstance(headers.get("retries") or 0, int):
        return ValueError("its header 'retries' is no number")
    if isinstance(body, dict) and "args" in body:
        return None  # Celery reads these, too
    if not (
        isinstance(body, list | tuple)
        and len(body) == 3
        and isinstance(body[0], list | tuple)
        and isinstance(body[1], dict)
        and isinstance(body[2], dict | None)
    ):
        return ValueError("its body is not [args, kwargs, embed]")
    return None


def keep(
    app: LiapApp,
    message: Any,
    queue: str,
    reason: DeadLetterReason,
    detail: str,
    error: BaseException | None = None,
    errors: Any = (OSError,),
) -> bool:
    """Put a message as it is among the dead letters; False when that failed and it has gone back to its queue.

    It is not acknowledged here. errors: what a broken connection raises.
    """
    try:
        dead_letters.publish_message(app, message, queue=queue, verdict=DeadLetter(reason, detail), error=error)
    except DeadLetterError as failure:
        logger.critical("%s; it goes back to its queue", failure)
        time.sleep(attempt.PAUSE_BEFORE_REQUEUE)  # it will be delivered again at once
        message.reject_log_error(logger, errors, requeue=True)
        return False
    app.unique_locks.release_message(message.headers)
    return True


class Kept:
    """A message that is safe among the dead letters, for Celery to do with what it does: rejecting acknowledges it."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge the message."""
        self._message.ack()

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        """Acknowledge the message."""
        self._message.ack_log_error(logger, errors)
