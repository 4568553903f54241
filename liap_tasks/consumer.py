"""The worker's consumer, set as ``worker_consumer``: what arrives is looked at before Celery does.

An event is addressed to its subscribers (:mod:`liap_tasks.event_copies`). While a worker runs in this process it
takes up the queues and tasks of subscribers that are added later (:meth:`LiapConsumer.refresh`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.control import control_command

from liap_tasks.event_copies import deliver_event, is_event

__all__ = ["LiapConsumer"]

REFRESH_COMMAND = "refresh_subscribers"


class LiapConsumer(Consumer):
    """Celery's consumer, knowing events."""

    task_consumer: Any
    strategies: dict[str, Any]
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
        queue_of: dict[str, str] = {}

        def on_message(message: Any) -> Any:
            if not is_event(message):
                return handle(message)
            tag = message.delivery_info["consumer_tag"]
            queue = queue_of.get(tag)
            if queue is None:
                # kombu keeps the other direction: {queue name: consumer tag}
                queue_of.update({known: name for name, known in self.task_consumer._active_tags.items()})
                queue = queue_of.get(tag, "")
            return deliver_event(app, message, queue, handle_known)

        def handle_known(message: Any) -> Any:
            if message.headers["task"] not in self.strategies:  # a subscriber that was added a moment ago
                self.refresh()
            return handle(message)

        return on_message

    def refresh(self) -> None:
        """Know the tasks and consume the event queues that the app has by now; called in the worker's thread."""
        app: Any = self.app
        self.update_strategies()
        for name in app.amqp.queues.consume_from:
            if name in app.event_queue_names() and not self.task_consumer.consuming_from(name):
                self.add_task_queue(name)


@control_command(name=REFRESH_COMMAND)
def _refresh_subscribers(state: Any, **_: Any) -> None:
    """Let a worker take up subscribers that were added while it runs."""
    if isinstance(state.consumer, LiapConsumer):
        state.consumer.refresh()
