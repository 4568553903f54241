"""The worker's consumer: gives an arriving event the name of the subscriber whose queue it came from.

Set as ``worker_consumer``. Only the message's own headers and delivery info are changed, before Celery looks at them:
task name, an id that belongs to this event and this subscriber, and the queue as the place it came from, so that a
retry goes back to this subscriber and not to all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer

from liap_tasks.events import EVENT_TASK, delivery_id

__all__ = ["LiapConsumer"]


class LiapConsumer(Consumer):
    """Celery's consumer, knowing events."""

    task_consumer: Any
    pool: Any
    initial_prefetch_count: int
    prefetch_multiplier: int

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        chosen = getattr(self.pool, "prefetch_count", None)
        if chosen is not None and self.initial_prefetch_count:  # 0: the prefetch is not limited
            self.initial_prefetch_count = chosen(self.prefetch_multiplier)

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """Return what is called for each message."""
        app: Any = self.app
        handle = super().create_task_handler(*args, **options)
        subscribers: dict[str, str] = app.event_subscribers
        queue_of: dict[str, str] = {}

        def on_message(message: Any) -> Any:
            headers = message.headers
            if headers and headers.get("task") == EVENT_TASK:
                tag = message.delivery_info["consumer_tag"]
                queue = queue_of.get(tag)
                if queue is None:
                    # kombu keeps the other direction: {queue name: consumer tag}
                    queue_of.update({known: name for name, known in self.task_consumer._active_tags.items()})
                    queue = queue_of.get(tag, "")
                subscriber = subscribers.get(queue)
                if subscriber is not None:
                    address(message, subscriber, queue)
            return handle(message)

        return on_message


def address(message: Any, subscriber: str, queue: str) -> None:
    """Make an event's message the task message of one subscriber."""
    headers = message.headers
    event_id = headers["id"]
    headers["task"] = subscriber
    headers["id"] = message.properties["correlation_id"] = delivery_id(event_id, subscriber)
    headers["root_id"] = headers.get("root_id") or event_id
    message.delivery_info["exchange"] = ""
    message.delivery_info["routing_key"] = queue
