"""The worker's side of events: an arriving event becomes a task message for each subscriber of its queue.

Only headers, properties and delivery info are changed, before Celery looks at them: the task's name, an id that belongs
to this event and this subscriber, and the queue as the place it came from, so that a retry goes back there.

A queue of several subscribers gives them copies of one message, which is settled when the last copy is: acknowledged
when all were, else put back whole. So a worker that is stopped between two copies lets the first one run again later:
subscribers that cannot bear that have queues of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from liap_tasks import dead_letters
from liap_tasks.errors import DeadLetterError
from liap_tasks.events import EVENT_HEADER, EVENT_TASK, delivery_id
from liap_tasks.policies import DeadLetter, DeadLetterReason

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["deliver_event", "is_event", "nobody_for"]

logger = get_logger("liap_tasks.events")


def is_event(message: Any) -> bool:
    """Tell whether a message is an event that has not been addressed to a subscriber yet."""
    headers = message.headers
    return bool(headers) and headers.get("task") == EVENT_TASK


def deliver_event(
    app: LiapApp,
    message: Any,
    queue: str,
    handle: Callable[[Any], Any],
    leave_waiting: Callable[[Any], None],
) -> None:
    """Give ``handle`` the event's message, addressed, once for each subscriber of the queue that wants it.

    An event that their filters refuse is acknowledged. One whose queue the last subscriber has left is given to
    ``leave_waiting``. Any other that no subscription known here has brought into the queue is wanted by somebody else
    (a newer version of the program, say): it is handed on as it is, a message without a task.
    """
    origin = message.headers.get(EVENT_HEADER) or {}
    exchange = app.event_exchanges.get(origin.get("exchange", ""))
    key = origin.get("routing_key", "")
    tasks = exchange.recipients(queue, key, message.headers, lambda: message.payload[0][0]) if exchange else []
    if len(tasks) == 1:
        _address(message, tasks[0], queue)
        handle(message)
    elif tasks:
        shared = _SharedDelivery(message, len(tasks))
        for task in tasks:
            copy = EventCopy(app, message, shared, queue)
            _address(copy, task, queue)
            handle(copy)
    elif exchange and exchange.leads_here(queue, key, message.headers):
        message.ack_log_error(logger, (OSError,))
    elif queue in app.left_event_queues():
        leave_waiting(message)
    else:
        handle(message)


def nobody_for(message: Any) -> str:
    """Say why an event becomes a dead letter that no subscription here has asked for."""
    origin = message.headers.get(EVENT_HEADER) or {}
    return (
        f"no subscriber known here has asked for event {origin.get('routing_key', '')!r} of exchange "
        f"{origin.get('exchange', '')!r}: another program's has, or one that is gone and whose binding was left"
    )


def _address(message: Any, subscriber: str, queue: str) -> None:
    headers = message.headers
    event_id = headers["id"]
    headers["task"] = subscriber
    headers["id"] = message.properties["correlation_id"] = delivery_id(event_id, subscriber)
    headers["root_id"] = headers.get("root_id") or event_id
    message.delivery_info["exchange"] = ""
    message.delivery_info["routing_key"] = queue


class _SharedDelivery:
    """One broker message with several copies: settled when each of them is."""

    def __init__(self, message: Any, copies: int) -> None:
        self._message = message
        self._open = copies
        self._requeue = False
        self._lock = threading.Lock()

    def settle(self, logger: Any, errors: Any, *, requeue: bool) -> None:
        """Note that one copy is settled."""
        with self._lock:
            self._open -= 1
            self._requeue = self._requeue or requeue
            if self._open:
                return
        if self._requeue:
            self._message.reject_log_error(logger, errors, requeue=True)
        else:
            self._message.ack_log_error(logger, errors)


class EventCopy:
    """An event's message as one of several subscribers sees it: everything of the message, but headers of its own."""

    def __init__(self, app: LiapApp, message: Any, shared: _SharedDelivery, queue: str) -> None:
        self._app = app
        self._message = message
        self._queue = queue
        self._shared = shared
        self.headers = dict(message.headers)
        self.properties = dict(message.properties)
        self.delivery_info = dict(message.delivery_info)
        self.acknowledged = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        """Settle this copy as done."""
        self._settle(logger, errors, requeue=False)

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        """Settle this copy: with ``requeue`` the whole message goes back, else this copy alone is a dead letter."""
        if not requeue and not self.acknowledged:
            verdict = DeadLetter(DeadLetterReason.REJECTED, "its subscriber rejected it")
            try:
                dead_letters.publish_message(self._app, self, queue=self._queue, verdict=verdict)
            except DeadLetterError as failure:
                logger.critical("%s; the event goes back to its queue", failure)
                requeue = True
        self._settle(logger, errors, requeue=requeue)

    def _settle(self, logger: Any, errors: Any, *, requeue: bool) -> None:
        if not self.acknowledged:
            self.acknowledged = True
            self._shared.settle(logger, errors, requeue=requeue)
