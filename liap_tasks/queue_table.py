"""The queues of an app, and what Celery publishes to them: its table, with ours for names that nobody configured.

Celery has one such table per app. Into it come the queues of event subscribers and those that ``task_routes`` name, so
that workers consume them as they do ``task_queues``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import cached_property
from typing import Any

from celery.app.amqp import AMQP
from celery.exceptions import TaskPredicate
from kombu import Queue

from liap_tasks.continuation import keep_task
from liap_tasks.keys import check_queue_honours_keys
from liap_tasks.routing import Router

__all__ = ["CONSUMED_QUEUES", "LiapAMQP", "routed_queues"]

CONSUMED_QUEUES: ContextVar[Sequence[str] | None] = ContextVar("CONSUMED_QUEUES", default=None)
"""The queues of the embedded worker that runs in this thread; Celery keeps them once per app, in its queue table."""


class LiapAMQP(AMQP):
    """Celery's queue table, with our kind of queue for names that nobody configured."""

    def TaskConsumer(self, channel: Any, queues: Any = None, accept: Any = None, **options: Any) -> Any:
        """Return a worker's consumer; ``queues`` default to those of the embedded worker whose thread asks, if any."""
        names = CONSUMED_QUEUES.get()
        if queues is None and names is not None:
            queues = [self.queues[name] for name in names]
        return super().TaskConsumer(channel, queues, accept, **options)

    def _retry_publish(self, publish: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Publish what follows a task that has ended (called by Celery); what cannot be published leaves a letter."""
        try:
            return super()._retry_publish(publish, *args, **kwargs)  # type: ignore[misc]  # not in the stubs
        except TaskPredicate:
            raise
        except Exception as error:
            keep_task(error)
            raise

    @cached_property
    def send_task_message(self) -> Callable[..., Any]:
        """Celery's publisher of task messages, which refuses keys that the queue would ignore."""
        send = self._create_task_sender()  # type: ignore[attr-defined]  # not in the stubs

        def send_checked(producer: Any, name: str, message: Any, *args: Any, **options: Any) -> Any:
            queue = options.get("queue")
            if queue is not None:
                check_queue_honours_keys(
                    name, options.get("headers") or {}, self.queues[queue] if isinstance(queue, str) else queue
                )
            return send(producer, name, message, *args, **options)

        return send_checked

    def Queues(self, *args: Any, **options: Any) -> Any:
        """Return the queue table."""
        queues: Any = super().Queues(*args, **options)
        app: Any = self.app
        queues.new_missing = app.missing_queue
        app.add_event_queues(queues)
        for name, queue in routed_queues(app.conf.task_routes).items():
            if name not in queues:
                queues.select_add(queue or app.missing_queue(name))
        return queues


def routed_queues(routes: Any) -> dict[str, Queue | None]:
    """Return the queues that ``task_routes`` names, and how they are declared if a router says so.

    Workers consume them as they do ``task_queues``.
    """
    queues: dict[str, Queue | None] = {}
    for entry in routes if isinstance(routes, list | tuple) else [routes]:
        if isinstance(entry, Router):
            queues.update({entry.declared_name(name): entry.declared_queue(name) for name in entry.queue_names()})
        elif isinstance(entry, Mapping):
            targets = [target.get("queue") if isinstance(target, Mapping) else target for target in entry.values()]
            queues.update({name: None for name in targets if isinstance(name, str) and name not in queues})
    return queues
