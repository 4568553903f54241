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
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID

from amqp.exceptions import RecoverableConnectionError
from celery.utils.log import get_logger
from kombu import Exchange, Queue, binding
from pydantic import BaseModel

from liap_tasks.calls import PUBLISH_SECONDS, run_in_publishing_thread
from liap_tasks.identity import named_uuid, random_uuid
from liap_tasks.keys import GROUP_HEADER
from liap_tasks.policies import MessagePriority
from liap_tasks.process_lock import ProcessLock
from liap_tasks.sender import sender_name
from liap_tasks.signals import event_published
from transports.engine import TopicTrie

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["EVENT_HEADER", "EVENT_TASK", "EventExchange", "Subscription", "delivery_id"]

logger = get_logger("liap_tasks.events")

EVENT_TASK = "liap_tasks.event"
PERSISTENT = 2
EVENT_HEADER = "x-event"
"""Header of an event's message: {exchange, routing_key} of its publish, whatever queue it came to and by what way."""

EventFilter = Callable[[dict[str, Any]], bool]


def delivery_id(event_id: str, subscriber: str) -> str:
    """Return the task id under which ``subscriber`` gets an event: the same whenever it is delivered."""
    return named_uuid(NAMESPACE_URL, f"{event_id}/{subscriber}")


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

    def accepts(self, body: Callable[[], Any]) -> bool:
        """Ask the filter; one that fails lets the event pass, for the task to fail with it and be retried."""
        if self.filter is None:
            return True
        try:
            return bool(self.filter(body()))
        except Exception as error:  # noqa: BLE001 - whatever a user's filter raises
            logger.warning("the filter of %s failed, so the event is delivered: %r", self.task, error)
            return True


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
        self._left: set[str] = set()
        self._changing = threading.RLock()
        self._declared: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._changes = 0
        self._declaring = ProcessLock()
        self._eagerly = threading.local()  # events: what is published while one is being handled in this thread
        self.takers: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        """The objects of this program that take events by themselves, without tasks, in the order of their coming."""
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
        A worker embedded in this process consumes it at once. Its queue is bound when a worker of this app starts or
        runs, when this app publishes, or by :meth:`declare`: from then on it has the events, whether a worker runs or
        not.
        A task may subscribe several times; an event that several of its rules match still comes once.
        Workers that consume a shared queue must all know its subscribers: one that does not takes the event for those
        that it knows.
        """
        with self._changing:
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
            self._left.discard(subscription.queue)
        self._changed()
        return subscription

    def unsubscribe(self, task_name: str) -> None:
        """Give a task no more events: its rules are taken back, and what only they asked for is unbound.

        A queue that serves no other subscriber is no longer consumed by workers of this process, nor by workers that
        start from now on; it is left as it is, with what waits in it.
        """
        with self._changing:
            gone = [known for known in self._subscriptions if known.task == task_name]
            staying = [known for known in self._subscriptions if known.task != task_name]
            # In this order: a worker that finds nobody for an event must find that its queue has been left.
            self._left |= {known.queue for known in gone} - {known.queue for known in staying}
            self._subscriptions = staying
            for subscription in gone:
                self._matching.remove(subscription.pattern, subscription)
            still_bound = {_way(known) for known in staying}
        with self.app.connection_for_write() as connection, connection.channel() as channel:
            for subscription in gone:
                if _way(subscription) not in still_bound:
                    queue = self.app.missing_queue(subscription.queue).bind(channel)
                    queue.declare()
                    self._binding(subscription).unbind(queue)
        self._changed()

    def queue_names(self) -> set[str]:
        """Return the names of the queues that have subscribers now."""
        return {known.queue for known in self._subscriptions}

    def left_queues(self) -> set[str]:
        """Return the names of the queues whose last subscriber has unsubscribed."""
        return set(self._left)

    def _changed(self) -> None:
        self.forget_queues()
        self.app.refresh_event_queues()

    def forget_queues(self) -> None:
        """Make and declare the subscribers' queues anew: the rules, or the app's settings, have changed."""
        with self._changing:
            self._changes += 1
            self._queues = {}

    def queues(self) -> dict[str, Queue]:
        """Return the queues of the subscribers by name.

        Each has its own direct binding, by which retries come back to it alone, and one for each rule.
        """
        with self._changing:
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

    def recipients(
        self, queue: str, routing_key: str, headers: Mapping[str, Any], body: Callable[[], Any] | None = None
    ) -> list[str]:
        """Return the names of the tasks that get an event from a queue.

        body: returns the event's body, for the filters; without it they are not asked. A task gets an event that any
        of its rules accepts, and gets it once, from the queue of the first one that does.
        """
        rules = self._rules(routing_key, headers, body)
        return [task for task, rule in rules.items() if rule.queue == queue]

    def _rules(
        self, routing_key: str, headers: Mapping[str, Any], body: Callable[[], Any] | None
    ) -> dict[str, Subscription]:
        """Return the rule by which each task gets an event, by task."""
        found: dict[str, Subscription] = {}
        for rule in self._matching.match(routing_key):
            if rule.task in found or (rule.match and not rule.wants(headers)):
                continue
            if body is None or rule.filter is None or rule.accepts(body):
                found[rule.task] = rule
        return found

    def leads_here(self, queue: str, routing_key: str, headers: Mapping[str, Any]) -> bool:
        """Tell whether a subscription known here brings such an event into a queue, whatever its filter says."""
        return any(rule.queue == queue and rule.wants(headers) for rule in self._matching.match(routing_key))

    def subscribers(self, routing_key: str, headers: Mapping[str, Any] | None = None) -> list[str]:
        """Return the names of the tasks that get an event with this routing key and these headers."""
        return list(self._rules(routing_key, headers or {}, None))

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
        Raises ``QueueFullError`` when a subscriber's queue refuses it (the others have it); it names the queue, on
        RabbitMQ all that the event was for.
        With ``task_always_eager`` the subscribers run here and now; an event that one of them publishes waits until the
        others have had this one, as it would in their queues.
        """
        identity = str(event_id or random_uuid())
        payload = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        sent: dict[str, Any] = dict(headers or {})
        frame = self.app.prepared_calls.frame()
        if frame.eager:
            self._tell(identity, routing_key, payload, headers, ordering_key)
            self._run_eagerly(identity, routing_key, payload, sent)
            return identity
        sent[EVENT_HEADER] = {"exchange": self.exchange.name, "routing_key": routing_key}
        message = self._message(identity, EVENT_TASK, routing_key, payload, sent, ordering_key)
        self._send(message, self.exchange.name, routing_key, priority, frame.serializer)
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

        timeout: seconds it may take. Raises BrokerUnavailableError when the broker has not taken it by then. Of events
        that are published at once (``asyncio.gather``) none is before the other; await each where the order matters.
        """
        work = partial(self.publish, routing_key, body, **options)
        if self.app.conf.task_always_eager:
            return await asyncio.to_thread(work)
        return await run_in_publishing_thread(self.app, work, timeout, f"event {routing_key}")

    def send_to(
        self,
        task_name: str,
        routing_key: str,
        body: BaseModel | dict[str, Any],
        *,
        event_id: str,
        priority: MessagePriority | int | None = None,
        ordering_key: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> bool:
        """Send an event to one subscriber alone, if one of its rules wants it; options are those of :meth:`publish`.

        Returns whether it was sent. It comes like any other event: it is not refused because the task is unique, nor
        dropped for its ``dedup_key``. Raises LookupError for a task that subscribes to nothing here.
        """
        if not any(known.task == task_name for known in self._subscriptions):
            raise LookupError(f"task {task_name!r} subscribes to nothing of exchange {self.exchange.name!r}")
        payload = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        sent = dict(headers or {})
        rule = self._rules(routing_key, sent, lambda: payload).get(task_name)
        if rule is None:
            return False
        identity = delivery_id(event_id, task_name)
        frame = self.app.prepared_calls.frame()
        if frame.eager:
            task: Any = self.app.tasks[task_name]
            task.apply_async((payload,), task_id=identity, headers=sent or None)
            return True
        message = self._message(identity, task_name, routing_key, payload, sent, ordering_key)
        self._send(message, "", rule.queue, priority, frame.serializer)
        return True

    def _run_eagerly(self, identity: str, routing_key: str, payload: dict[str, Any], headers: dict[str, Any]) -> None:
        """Run the subscribers of an event, and then those of what they have published meanwhile."""
        waiting: deque[tuple[str, str, dict[str, Any], dict[str, Any]]] | None
        waiting = getattr(self._eagerly, "events", None)
        if waiting is not None:
            waiting.append((identity, routing_key, payload, headers))
            return
        self._eagerly.events = waiting = deque([(identity, routing_key, payload, headers)])
        try:
            while waiting:
                event, key, body, carried = waiting.popleft()
                for name in self._rules(key, carried, partial(_itself, body)):
                    task: Any = self.app.tasks[name]
                    task.apply_async((body,), task_id=delivery_id(event, name), headers=carried or None)
        finally:
            self._eagerly.events = None

    def _message(
        self,
        identity: str,
        task_name: str,
        routing_key: str,
        payload: dict[str, Any],
        headers: dict[str, Any],
        ordering_key: str | None,
    ) -> Any:
        """Return an event as a message for a task (Celery's ``task_message``)."""
        message: Any = self.app.amqp.create_task_message(
            identity,
            task_name,
            args=[payload],
            argsrepr=f"({routing_key},)",
            kwargsrepr="{}",
            origin=sender_name(),
        )
        order = {} if ordering_key is None else {GROUP_HEADER: ordering_key}
        return message._replace(headers={**message.headers, **self.app.new_headers(), **headers, **order})

    def _send(
        self, message: Any, exchange: str, routing_key: str, priority: MessagePriority | int | None, serializer: str
    ) -> None:
        """Publish a message, with everything declared that events pass through."""
        level = int(MessagePriority.NORMAL if priority is None else priority)
        if self._send_in_lane(message, exchange, routing_key, level, serializer):
            return
        # RabbitMQ does not tell which of them has refused it.
        rules = self._rules(routing_key, message.headers, None) if exchange else {}
        full = {rule.queue for rule in rules.values()} or {routing_key}
        with self.app.telling_refusals(", ".join(sorted(full))), self.app.producer_or_acquire() as producer:
            self._declare_once(producer.channel)
            producer.publish(
                message.body,
                exchange=exchange,
                routing_key=routing_key,
                headers=message.headers,
                serializer=serializer,
                delivery_mode=PERSISTENT,
                priority=level,
                retry=True,
                retry_policy=self.app.conf.task_publish_retry_policy,
                **message.properties,
            )

    def _send_in_lane(self, message: Any, exchange: str, routing_key: str, priority: int, serializer: str) -> bool:
        """Publish without kombu's detours where that can be done; False where it cannot."""
        try:
            lane = self.app.lane.channel()
            if lane is None:
                return False
            self._declare_once(lane.channel)
            lane.publish(
                message.body,
                serializer=serializer,
                exchange=exchange,
                routing_key=routing_key,
                headers=message.headers,
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


def _way(subscription: Subscription) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Return what a binding depends on."""
    return subscription.queue, subscription.pattern, tuple(sorted(subscription.match.items()))


def _itself(body: dict[str, Any]) -> dict[str, Any]:
    return body


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
