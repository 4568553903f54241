"""Events: one message published to a topic exchange, one task for each subscriber.

A subscriber is an ordinary task, with its own retries, timeout and dead letters, so a failing one never touches
another. Its queue is bound to the exchange with its pattern; the broker copies an event into every queue that
matches. A queue may be one subscriber's own, or shared: then there is one message for all of them, and the worker
gives each its copy.

The copies of one message cannot each name another task. They name :data:`EVENT_TASK`, and the worker's consumer
(:mod:`liap_tasks.worker.event_copies`) puts the subscriber's name and an id of its own in as a message arrives from the
subscriber's queue: from there on it is a task message like any other, in logs, in monitoring and when it is retried.

Headers that an event must carry (``match``, say a room) are matched by the broker too: the pattern leads to a headers
exchange, and that to the queue. Transports without bindings between exchanges refuse this.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from amqp.exceptions import RecoverableConnectionError
from kombu import Exchange, Queue, binding
from pydantic import BaseModel

from liap_tasks.calls import PUBLISH_SECONDS, run_in_publishing_thread
from liap_tasks.policies import MessagePriority
from liap_tasks.signals import event_published
from transports.engine import TopicTrie

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["EVENT_HEADER", "EVENT_TASK", "EventExchange", "Subscription", "delivery_id"]

EVENT_TASK = "liap_tasks.event"
PERSISTENT = 2
EVENT_HEADER = "x-event"
"""Header of an event's message: {exchange, routing_key} of its publish, whatever queue it came to and by what way."""

EventFilter = Callable[[dict[str, Any]], bool]


def delivery_id(event_id: str, subscriber: str) -> str:
    """Return the task id under which ``subscriber`` gets an event: the same whenever it is delivered."""
    return str(uuid5(NAMESPACE_URL, f"{event_id}/{subscriber}"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Subscription:
    """One rule by which a task gets events.

    task: its name. ordered: whether it needs the events of an ordering key one after the other. pattern: of the
    routing key. match: headers that the event must carry with these values. filter: asked in the worker with the
    event's body; the task does not start when it says no. queue: where the events wait.
    """

    task: str
    pattern: str
    queue: str
    match: Mapping[str, str]
    filter: EventFilter | None = None
    ordered: bool = True

    def wants(self, headers: Mapping[str, Any]) -> bool:
        """Tell whether the event carries the headers asked for."""
        return all(headers.get(name) == value for name, value in self.match.items())


class EventExchange:
    """A topic exchange and its subscribers.

    name: of the exchange. Patterns are AMQP's: words separated by dots, ``*`` is one word, ``#`` any number of words.
    """

    def __init__(self, app: LiapApp, name: str) -> None:
        self.app = app
        self.exchange = Exchange(name, type="topic", durable=True)
        self._subscriptions: list[Subscription] = []
        self._matching: TopicTrie[Subscription] = TopicTrie()
        self._queues: dict[str, Queue] = {}
        self._declared: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._changes = 0
        self._declaring = threading.Lock()
        app.event_exchanges[name] = self

    # -- subscribers -------------------------------------------------------------------------------------------

    def subscribe(
        self,
        pattern: str,
        task_name: str,
        *,
        match: Mapping[str, str] | None = None,
        filter: EventFilter | None = None,
        queue: str | None = None,
        ordered: bool = True,
    ) -> Subscription:
        """Give a task every event whose routing key matches ``pattern``; it gets the event's body as its one argument.

        match: only events that carry these headers; the broker sees to it. filter: only events whose body it accepts;
        the worker sees to it. queue: one to share with other subscribers; default is one of the task's own name.
        ordered: False lets events of one ordering key come at once (a batch of them needs that).
        Events published from now on reach it, whether a worker runs or not; a worker embedded in this process consumes
        it at once. A task may subscribe several times; an event that several of its rules match still comes once.
        """
        own = next((known.queue for known in self._subscriptions if known.task == task_name), task_name)
        subscription = Subscription(
            task=task_name,
            pattern=pattern,
            queue=queue or own,
            match=dict(match or {}),
            filter=filter,
            ordered=ordered,
        )
        self._subscriptions.append(subscription)
        self._matching.add(pattern, subscription)
        self._changed()
        return subscription

    def unsubscribe(self, task_name: str) -> None:
        """Give a task no more events: its rules are taken back, and what only they asked for is unbound.

        A queue that serves no other subscriber is no longer consumed by workers that start from now on; it is left as
        it is, with what waits in it.
        """
        gone = [known for known in self._subscriptions if known.task == task_name]
        kept = [known for known in self._subscriptions if known.task != task_name]
        still_bound = {(known.queue, known.pattern, tuple(sorted(known.match.items()))) for known in kept}
        with self.app.connection_for_write() as connection, connection.channel() as channel:
            for subscription in gone:
                if (
                    subscription.queue,
                    subscription.pattern,
                    tuple(sorted(subscription.match.items())),
                ) not in still_bound:
                    queue = self.app.missing_queue(subscription.queue).bind(channel)
                    queue.declare()
                    self._binding(subscription).unbind(queue)
                self._matching.remove(subscription.pattern, subscription)
        self._subscriptions = kept
        self._changed()

    def _changed(self) -> None:
        self.forget_queues()
        self.app.refresh_event_queues()

    def forget_queues(self) -> None:
        """Make and declare the subscribers' queues anew: the rules, or the app's settings, have changed."""
        self._changes += 1
        self._queues = {}

    def queues(self) -> dict[str, Queue]:
        """Return the queues of the subscribers by name.

        Each has its own direct binding, by which retries come back to it alone, and one for each rule.
        """
        if not self._queues:
            queues: dict[str, Queue] = {}
            for subscription in self._subscriptions:
                queue = queues.setdefault(subscription.queue, self.app.missing_queue(subscription.queue))
                queue.bindings = [*queue.bindings, self._binding(subscription)]
            for name, queue in queues.items():
                if not any(known.ordered for known in self._subscriptions if known.queue == name):
                    arguments = dict(queue.queue_arguments or {})
                    arguments.pop("x-message-groups", None)
                    queue.queue_arguments = arguments
            self._queues = queues
        return self._queues

    def binding_of(self, pattern: str) -> Any:
        """Return what binds a queue (kombu's) to the events whose routing key matches ``pattern``."""
        return binding(self.exchange, routing_key=pattern)

    def _binding(self, subscription: Subscription) -> binding:
        if not subscription.match:
            return binding(self.exchange, routing_key=subscription.pattern)
        return MatchingBinding(self.exchange, subscription.pattern, subscription.match)

    def recipients(self, queue: str, routing_key: str, headers: Mapping[str, Any]) -> list[Subscription]:
        """Return the rules by which tasks get an event from a queue, one for each task."""
        found: dict[str, Subscription] = {}
        for subscription in self._matching.match(routing_key):
            if subscription.queue == queue and subscription.wants(headers):
                found.setdefault(subscription.task, subscription)
        return list(found.values())

    def subscribers(self, routing_key: str, headers: Mapping[str, Any] | None = None) -> list[str]:
        """Return the names of the tasks that get an event with this routing key and these headers."""
        matching = (known for known in self._matching.match(routing_key) if known.wants(headers or {}))
        return list(dict.fromkeys(subscription.task for subscription in matching))

    # -- publishing --------------------------------------------------------------------------------------------

    def publish(
        self,
        routing_key: str,
        body: BaseModel | dict[str, Any],
        *,
        event_id: str | UUID | None = None,
        priority: MessagePriority | int | None = None,
        ordering_key: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> str:
        """Publish an event and return its id; when this returns, the queue of every subscriber has it.

        ordering_key: events of one key reach each queue's subscribers in the order of publish, one after the other, on
        transports with message groups. headers: also what ``match`` looks at.
        Raises ``QueueFullError`` when a subscriber's queue refuses it (the others have it).
        With ``task_always_eager`` the subscribers run here and now.
        """
        identity = str(event_id or uuid4())
        payload = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        sent: dict[str, Any] = dict(headers or {})
        if self.app.prepared_calls.eager:
            self._tell(identity, routing_key, payload, headers, ordering_key)
            self._run_eagerly(identity, routing_key, payload, sent)
            return identity
        sent[EVENT_HEADER] = {"exchange": self.exchange.name, "routing_key": routing_key}
        if ordering_key is not None:
            sent["x-group-id"] = ordering_key
        message = self.app.amqp.create_task_message(
            identity, EVENT_TASK, args=[payload], argsrepr=f"({routing_key},)", kwargsrepr="{}"
        )
        carried = {**message.headers, **self.app.new_metadata().as_headers(), **sent}
        level = int(MessagePriority.NORMAL if priority is None else priority)
        if not self._publish_in_lane(message, routing_key, carried, level):
            with self.app.producer_or_acquire() as producer:
                self._declare_once(producer.channel)
                producer.publish(
                    message.body,
                    exchange=self.exchange.name,
                    routing_key=routing_key,
                    headers=carried,
                    serializer=self.app.conf.task_serializer,
                    delivery_mode=PERSISTENT,
                    priority=level,
                    retry=True,
                    retry_policy=self.app.conf.task_publish_retry_policy,
                    **message.properties,
                )
        self._tell(identity, routing_key, payload, headers, ordering_key)
        return identity

    def _tell(
        self, event_id: str, routing_key: str, body: Any, headers: dict[str, Any] | None, ordering_key: str | None
    ) -> None:
        event_published.send(
            sender=self,
            event_id=event_id,
            routing_key=routing_key,
            body=body,
            headers=dict(headers or {}),
            ordering_key=ordering_key,
        )

    async def apublish(
        self, routing_key: str, body: BaseModel | dict[str, Any], *, timeout: float = PUBLISH_SECONDS, **options: Any
    ) -> str:
        """Publish an event from a coroutine without blocking its loop; options are those of :meth:`publish`.

        timeout: seconds it may take. Raises BrokerUnavailableError when the broker has not taken it by then.
        """
        work = partial(self.publish, routing_key, body, **options)
        if self.app.conf.task_always_eager:
            return await asyncio.to_thread(work)
        return await run_in_publishing_thread(self.app, work, timeout, f"event {routing_key}")

    def send_to(
        self,
        task_name: str,
        body: BaseModel | dict[str, Any],
        *,
        event_id: str,
        priority: MessagePriority | int | None = None,
        ordering_key: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> None:
        """Send an event to one subscriber alone, whatever its patterns; options are those of :meth:`publish`.

        Raises LookupError for a task that subscribes to nothing here.
        """
        queue = next((known.queue for known in self._subscriptions if known.task == task_name), None)
        if queue is None:
            raise LookupError(f"task {task_name!r} subscribes to nothing of exchange {self.exchange.name!r}")
        payload = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        sent = dict(headers or {})
        if ordering_key is not None and "x-message-groups" in (self.queues()[queue].queue_arguments or {}):
            sent["x-group-id"] = ordering_key
        task: Any = self.app.tasks[task_name]
        task.apply_async(
            (payload,),
            task_id=delivery_id(event_id, task_name),
            queue=self.queues()[queue],
            priority=int(MessagePriority.NORMAL if priority is None else priority),
            headers=sent,
        )

    def _run_eagerly(self, identity: str, routing_key: str, payload: dict[str, Any], headers: dict[str, Any]) -> None:
        given: set[str] = set()
        for subscription in self._matching.match(routing_key):
            name = subscription.task
            if name in given or not subscription.wants(headers):
                continue
            given.add(name)
            if subscription.filter is None or subscription.filter(payload):
                task: Any = self.app.tasks[name]
                task.apply_async((payload,), task_id=delivery_id(identity, name), headers=headers or None)

    def _publish_in_lane(self, message: Any, routing_key: str, headers: dict[str, Any], priority: int) -> bool:
        """Publish without kombu's detours where that can be done; False where it cannot."""
        try:
            lane = self.app.lane.channel()
            if lane is None:
                return False
            self._declare_once(lane.channel)
            lane.publish(
                message.body,
                serializer=self.app.prepared_calls.frame().serializer,
                exchange=self.exchange.name,
                routing_key=routing_key,
                headers=headers,
                properties={"delivery_mode": PERSISTENT, **message.properties},
                priority=priority,
            )
        except RecoverableConnectionError:  # closed by another thread this very moment
            return False
        return True

    def declare(self) -> None:
        """Connect and declare the exchange and every subscriber's queue now, which else the first publish does.

        A backend that does so at its start learns there, and not from a user's first move, that its broker is away.
        Raises what connecting to the broker raises. With ``task_always_eager`` there is nothing to connect to.
        """
        if self.app.prepared_calls.eager:
            return
        lane = self.app.lane.channel()
        if lane is not None:
            self._declare_once(lane.channel)
            return
        with self.app.producer_or_acquire() as producer:
            self._declare_once(producer.channel)

    def _declare_once(self, channel: Any) -> None:
        """Declare the exchange and every subscriber's queue, once for each established connection.

        Why the publisher does it: an event published before a subscriber's queue exists would pass it by.
        """
        established = channel.connection
        changes = self._changes
        if self._declared.get(established) == changes:
            return
        with self._declaring:
            self.exchange.bind(channel).declare()
            for queue in list(self.queues().values()):
                queue.bind(channel).declare()
            self._declared[established] = changes


class MatchingBinding(binding):
    """A binding by pattern and headers: topic exchange, by pattern to a headers exchange, by headers to the queue."""

    def __init__(self, source: Exchange, pattern: str, match: Mapping[str, str]) -> None:
        between = Exchange(f"{source.name}/{pattern}", type="headers", durable=True)
        super().__init__(between, arguments={"x-match": "all", **match}, unbind_arguments={"x-match": "all", **match})
        self.source = source
        self.between = between
        self.pattern = pattern

    def declare(self, channel: Any, nowait: bool = False) -> None:
        """Declare both exchanges and the way from the one to the other."""
        self.source.bind(channel).declare(nowait=nowait)
        between = self.between.bind(channel)
        between.declare(nowait=nowait)
        between.bind_to(self.source, routing_key=self.pattern, nowait=nowait)
