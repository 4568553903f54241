"""Messages that no task here can take: they become dead letters, where Celery would acknowledge or reject them away.

First the dead letter is safe, then the message is acknowledged; if it cannot be made safe the message goes back to its
queue. What Celery does besides (a failed result for an unknown task, events, signals, logs) it still does.

Why bodies are looked at before Celery's strategy sees them: what is wrong with one may surface there as any exception
at all, and one that the worker does not expect ends its loop (celery 5.7).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import datetime
from types import NoneType
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from liap_tasks import dead_letters, ending
from liap_tasks.errors import DeadLetterError
from liap_tasks.policies import DeadLetter, DeadLetterReason

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["Kept", "flaw_of", "keep"]

logger = get_logger("liap_tasks.unreadable")

# Types only, and only where Celery or this package would fail: each message is looked at.
FIELDS: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("task", str, "text"),
    ("id", str, "text"),
    ("shadow", (str, NoneType), "text"),
    ("retries", (int, NoneType), "whole number"),
    ("timelimit", (list, tuple, NoneType), "pair"),
    ("eta", (str, datetime, NoneType), "time"),
    ("expires", (str, datetime, NoneType), "time"),
    ("group_index", (int, NoneType), "whole number"),
    ("replaced_task_nesting", (int, NoneType), "whole number"),
    ("stamped_headers", (list, tuple, NoneType), "list"),
    ("stamps", (dict, NoneType), "table"),
    ("headers", (dict, NoneType), "table"),
)


def flaw_of(message: Any) -> Exception | None:
    """Return what is wrong with a task message, None if a task can be made of it, or if it is no task message at all.

    The body is decoded here, once: kombu keeps the result. Of the headers those are looked at that the worker itself
    uses; what it only shows or passes on may be anything.
    """
    headers = message.headers
    try:
        body = message.payload
    except Exception as error:  # noqa: BLE001 - whatever a body can do to a decoder
        return error
    if headers and "task" in headers:
        if isinstance(body, list | tuple) and len(body) == 3:
            return _flaw_in_call(*body) or _flaw_in_fields(headers)
        if isinstance(body, dict) and "args" in body:  # Celery reads these, too
            return _flaw_in_call(body["args"], body.get("kwargs", {})) or _flaw_in_fields({**body, **headers})
        return ValueError("its body is not [args, kwargs, embed]")
    if isinstance(body, dict) and "task" in body:  # protocol 1
        return _flaw_in_call(body.get("args", ()), body.get("kwargs", {})) or _flaw_in_fields(body)
    return None


def _flaw_in_call(args: Any, kwargs: Any, embed: Any = None) -> Exception | None:
    if isinstance(args, list | tuple) and isinstance(kwargs, dict) and isinstance(embed, dict | None):
        return None
    return ValueError("its body is not [args, kwargs, embed]")


def _flaw_in_fields(fields: Mapping[str, Any]) -> Exception | None:
    """Return what is wrong with the fields of protocol 2; protocol 1 has the same, in its body."""
    for name, kinds, wanted in FIELDS:
        if not isinstance(fields.get(name), kinds):
            return ValueError(f"its header {name!r} is missing, or no {wanted}")
    for name in ("eta", "expires"):
        if fields.get(name) == "":
            return ValueError(f"its header {name!r} is empty")
    limits = fields.get("timelimit")
    if limits and (len(limits) != 2 or (any(limits) and not all(map(_is_limit, limits)))):
        return ValueError("its header 'timelimit' is no pair of seconds")
    stamps = fields.get("stamped_headers")
    if stamps and not all(isinstance(name, str) for name in stamps):
        return ValueError("its header 'stamped_headers' has names that are no text")
    return None


def _is_limit(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= threading.TIMEOUT_MAX)


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
        time.sleep(ending.PAUSE_BEFORE_REQUEUE)  # it will be delivered again at once
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
