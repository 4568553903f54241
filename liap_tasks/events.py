"""Events: one message published to a topic exchange, one task for each subscriber.

A subscriber is an ordinary task with a queue of its own, bound to the exchange with its pattern; the broker copies the
event into every queue that matches. So each subscriber gets each event once, with its own retries, timeout and dead
letters, and a failing one never touches another.

The copies of one message cannot each name another task. They name :data:`EVENT_TASK`, and the worker's consumer
(:mod:`liap_tasks.consumer`) puts the subscriber's name and an id of its own in as a message arrives from the
subscriber's queue: from there on it is a task message like any other, in logs, in monitoring and when it is retried.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from kombu import Exchange, Queue, binding
from pydantic import BaseModel

from liap_tasks.policies import MessagePriority
from transports.engine import TopicTrie

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["EVENT_TASK", "EventExchange", "delivery_id"]

EVENT_TASK = "liap_tasks.event"


def delivery_id(event_id: str, subscriber: str) -> str:
    """Return the task id under which ``subscriber`` gets an event: the same whenever it is delivered."""
    return str(uuid5(NAMESPACE_URL, f"{event_id}/{subscriber}"))


class EventExchange:
    """A topic exchange and its subscribers.

    name: of the exchange. Patterns are AMQP's: words separated by dots, ``*`` is one word, ``#`` any number of words.
    """

    def __init__(self, app: LiapApp, name: str) -> None:
        self.app = app
        self.exchange = Exchange(name, type="topic", durable=True)
        self._patterns: dict[str, list[str]] = {}
        self._matching: TopicTrie[str] = TopicTrie()
        self._queues: dict[str, Queue] = {}
        self._declared: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._declaring = threading.Lock()
        app.event_exchanges.append(self)

    def subscribe(self, pattern: str, task_name: str) -> None:
        """Give a task every event whose routing key matches ``pattern``; it gets the event's body as its one argument.

        Events published from now on reach it, whether a worker runs or not. A task may subscribe to several patterns,
        one by one; an event that several of them match still comes once.
        """
        self._patterns.setdefault(task_name, []).append(pattern)
        self._matching.add(pattern, task_name)
        self._queues.clear()
        self._declared.clear()
        self.app.event_subscribers[task_name] = task_name
        self.app.refresh_event_queues()

    def queues(self) -> dict[str, Queue]:
        """Return the queue of each subscriber by task name.

        Each has its own direct binding, by which retries of this subscriber alone come back, and one to this exchange
        for each pattern.
        """
        if not self._queues:
            for name, patterns in self._patterns.items():
                queue = self.app.missing_queue(name)
                queue.bindings = [binding(self.exchange, routing_key=pattern) for pattern in patterns]
                self._queues[name] = queue
        return self._queues

    def subscribers(self, routing_key: str) -> list[str]:
        """Return the names of the tasks that get an event with this routing key."""
        return list(self._matching.match(routing_key))

    def publish(
        self,
        routing_key: str,
        body: BaseModel | dict[str, Any],
        *,
        event_id: str | UUID | None = None,
        priority: MessagePriority | int | None = None,
        headers: dict[str, Any] | None = None,
    ) -> str:
        """Publish an event and return its id; when this returns, the queue of every subscriber has it.

        Raises ``QueueFullError`` when a subscriber's queue refuses it (the others have it).
        With ``task_always_eager`` the subscribers run here and now.
        """
        identity = str(event_id or uuid4())
        payload = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        if self.app.conf.task_always_eager:
            for name in self.subscribers(routing_key):
                task: Any = self.app.tasks[name]
                task.apply_async((payload,), task_id=delivery_id(identity, name), headers=headers)
            return identity
        message = self.app.amqp.create_task_message(identity, EVENT_TASK, args=[payload], argsrepr=f"({routing_key},)")
        metadata = self.app.new_metadata().as_headers()
        with self.app.producer_or_acquire() as producer:
            self._declare_once(producer)
            producer.publish(
                message.body,
                exchange=self.exchange.name,
                routing_key=routing_key,
                headers={**message.headers, **metadata, **(headers or {})},
                serializer=self.app.conf.task_serializer,
                delivery_mode=2,
                priority=int(MessagePriority.NORMAL if priority is None else priority),
                retry=True,
                retry_policy=self.app.conf.task_publish_retry_policy,
                **message.properties,
            )
        return identity

    def _declare_once(self, producer: Any) -> None:
        """Declare the exchange and every subscriber's queue, once for each established connection.

        Why the publisher does it: an event published before a subscriber's queue exists would pass it by.
        """
        established = producer.channel.connection
        if self._declared.get(established) == len(self._patterns):
            return
        with self._declaring:
            self.exchange.bind(producer.channel).declare()
            for queue in list(self.queues().values()):
                queue.bind(producer.channel).declare()
            self._declared[established] = len(self._patterns)
