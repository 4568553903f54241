"""One virtual host: its exchanges, queues and clients, and every operation of AMQP 0-9-1 on them.

The broker is *sans-IO*: it starts no thread, takes no lock, never waits and imports only the standard library.
Whoever hosts it (:mod:`transports.shared` for the threads of one process) serialises the calls, wakes it at
:meth:`Broker.next_due`, and carries deliveries from the channels' sinks to the consumers.

RabbitMQ's documented behaviour is the specification. Every public operation first runs what is due by now, so that
no operation ever sees an expired message, and last routes the dead letters it caused, so that a message is in
exactly one place whenever the broker is at rest.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import count
from typing import Any, NamedTuple

from transports.engine.arguments import QueueArguments, parse_arguments
from transports.engine.channel import Channel, ClientConnection, Held, Sink
from transports.engine.clock import Clock, SystemClock
from transports.engine.consumer import Consumer
from transports.engine.dead_letter import Reason, dead_letter_of, ends_in_cycle
from transports.engine.errors import (
    ChannelRefusal,
    InvalidArgument,
    QueueFull,
    WouldBlock,
    access_refused,
    not_found,
    precondition_failed,
    resource_locked,
)
from transports.engine.exchange import EXCHANGE_TYPES, Exchange
from transports.engine.message import MAX_DELAY_MS, Entry, Message
from transports.engine.queue import NEVER, Queue
from transports.engine.statistics import QueueStatistics

__all__ = ["Broker", "DeclaredQueue", "Got"]

logger = logging.getLogger("transports.broker")

# Deliveries that no consumer has seen: (delivery tag, entry, consumer).
Unseen = Iterable[tuple[int, Entry, Consumer]]

CONSUMER_ARGUMENTS = ("x-priority",)
PREDECLARED = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
}


class DeclaredQueue(NamedTuple):
    """The answer to a queue declaration. message_count: ready messages."""

    name: str
    message_count: int
    consumer_count: int


class Got(NamedTuple):
    """The answer to a get. message_count: ready messages left behind it."""

    delivery_tag: int
    entry: Entry
    message_count: int


class Broker:
    """The state of one virtual host.

    default_arguments: queue arguments that apply where a declaration does not give them (how ``liap-priority``
    makes every queue a priority queue). on_due: called when something becomes due earlier than before.
    on_room: called when a queue that publishers wait for has room.
    """

    def __init__(
        self,
        vhost: str = "/",
        *,
        clock: Clock | None = None,
        default_arguments: Mapping[str, Any] | None = None,
        on_due: Callable[[], None] | None = None,
        on_room: Callable[[], None] | None = None,
    ) -> None:
        self.vhost = vhost
        self.clock: Clock = clock or SystemClock()
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {}
        self.connections: list[ClientConnection] = []
        self.unroutable = 0
        self._default_arguments = dict(default_arguments or {})
        self._on_due = on_due
        self._on_room = on_room
        self._timers: list[tuple[float, int, Queue]] = []
        self._timer_ids = count()
        self._dead: deque[tuple[Queue, Message, Reason, str | None]] = deque()
        for name, kind in PREDECLARED.items():
            self.exchanges[name] = EXCHANGE_TYPES[kind](name, durable=True)

    # -- clients -----------------------------------------------------------------------------------------------

    def connect(self) -> ClientConnection:
        """Register a client."""
        connection = ClientConnection()
        self.connections.append(connection)
        return connection

    def open_channel(self, connection: ClientConnection, sink: Sink) -> Channel:
        """Open a channel whose deliveries go to ``sink``."""
        channel = Channel(connection, sink)
        connection.channels.append(channel)
        return channel

    def close_channel(self, channel: Channel, unseen: Unseen = ()) -> None:
        """End the channel's consumers and put what it holds back in the queues, marked redelivered.

        unseen: deliveries that nobody has seen; they go back as if they had not been made.
        """
        if not channel.open:
            return
        self._catch_up()
        channel.open = False
        # Nothing may be pushed to this channel any more before what it holds is put back.
        touched: dict[Queue, None] = {}
        for consumer in list(channel.consumers.values()):
            self._detach(consumer)
            touched[consumer.queue] = None
        self._undeliver(channel, unseen, touched)
        self._give_back(channel, list(channel.held), touched)
        channel.connection.channels.remove(channel)
        self._resume(touched)

    def close_connection(self, connection: ClientConnection) -> None:
        """Close its channels and delete its exclusive queues."""
        if not connection.open:
            return
        connection.open = False
        for channel in list(connection.channels):
            self.close_channel(channel)
        for queue in list(connection.exclusive_queues):
            self._delete(queue)
        self.connections.remove(connection)
        self._settle()

    # -- exchanges ---------------------------------------------------------------------------------------------

    def declare_exchange(
        self,
        name: str,
        kind: str = "direct",
        *,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Create an exchange, or check that the existing one is the same.

        Raises ChannelRefusal 404 (passive and missing), 403 (reserved name), 406 (exists with other properties);
        InvalidArgument for an unknown type or argument.
        """
        existing = self.exchanges.get(name)
        if passive:
            if existing is None:
                raise not_found("exchange", name, self.vhost)
            return
        if name == "":
            raise access_refused("operation not permitted on the default exchange")
        if kind not in EXCHANGE_TYPES:
            raise InvalidArgument("exchange type", kind, "one of " + ", ".join(EXCHANGE_TYPES))
        if existing is None:
            if name.startswith("amq."):
                raise access_refused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
            self.exchanges[name] = EXCHANGE_TYPES[kind](
                name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments
            )
            return
        wanted = {
            "type": kind,
            "durable": bool(durable),
            "auto_delete": bool(auto_delete),
            "internal": bool(internal),
            "arguments": dict(arguments or {}),
        }
        self._same_or_refuse("exchange", name, existing, wanted)

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange and its bindings; a missing one changes nothing."""
        if name == "" or name in PREDECLARED:
            raise access_refused(f"operation not permitted on the exchange '{name}'")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise precondition_failed(f"exchange '{name}' in vhost '{self.vhost}' in use")
        self._drop_exchange(exchange)

    def _drop_exchange(self, exchange: Exchange) -> None:
        del self.exchanges[exchange.name]
        for binding in exchange.bindings:
            if isinstance(binding.destination, Queue):
                binding.destination.bound_to.discard(exchange)
        for source in list(self.exchanges.values()):
            had = len(source.bindings)
            source.unbind_all(exchange)
            if len(source.bindings) != had:
                self._auto_delete_exchange(source)

    def _auto_delete_exchange(self, exchange: Exchange) -> None:
        if exchange.auto_delete and not exchange.bindings and self.exchanges.get(exchange.name) is exchange:
            self._drop_exchange(exchange)

    def bind_exchange(
        self, destination: str, source: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Route what ``source`` gets and the key matches on to the exchange ``destination``."""
        target = self._exchange(destination)
        self._exchange(source).bind(target, routing_key, arguments)

    def unbind_exchange(
        self, destination: str, source: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Remove a binding between exchanges; a missing one changes nothing."""
        exchange, target = self.exchanges.get(source), self.exchanges.get(destination)
        if exchange is not None and target is not None and exchange.unbind(target, routing_key, arguments):
            self._auto_delete_exchange(exchange)

    def _exchange(self, name: str) -> Exchange:
        if name == "":
            raise access_refused("operation not permitted on the default exchange")
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise not_found("exchange", name, self.vhost)
        return exchange

    # -- queues ------------------------------------------------------------------------------------------------

    def declare_queue(
        self,
        connection: ClientConnection,
        name: str = "",
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> DeclaredQueue:
        """Create a queue, or check that the existing one is the same; an empty name gets a fresh one.

        Raises ChannelRefusal 404 (passive and missing), 403 (reserved name), 405 (exclusive to another connection),
        406 (exists with other properties); InvalidArgument for what cannot be honoured.
        """
        self._run_due()
        queue = self.queues.get(name) if name else None
        if passive:
            if queue is None:
                raise not_found("queue", name, self.vhost)
            self._check_owner(queue, connection)
        else:
            parsed = parse_arguments({**self._default_arguments, **(arguments or {})})
            if queue is None:
                queue = self._create_queue(connection, name, parsed, durable, exclusive, auto_delete)
            else:
                self._check_owner(queue, connection)
                wanted = {"durable": bool(durable), "auto_delete": bool(auto_delete), "arguments": parsed}
                self._same_or_refuse("queue", name, queue, wanted)
                if bool(exclusive) != (queue.owner is not None):
                    raise resource_locked(
                        f"inequivalent arg 'exclusive' for queue '{name}' in vhost '{self.vhost}': "
                        f"received {bool(exclusive)}, current is {queue.owner is not None}"
                    )
        queue.touch()
        return DeclaredQueue(queue.name, queue.ready.live, len(queue.rota))

    def _create_queue(
        self,
        connection: ClientConnection,
        name: str,
        arguments: QueueArguments,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
    ) -> Queue:
        if name.startswith("amq."):
            raise access_refused(f"queue name '{name}' contains reserved prefix 'amq.*'")
        name = name or f"amq.gen-{uuid.uuid4().hex}"
        owner = connection if exclusive else None
        queue = Queue(name, self, arguments, durable=bool(durable), auto_delete=bool(auto_delete), owner=owner)
        self.queues[name] = queue
        if owner is not None:
            owner.exclusive_queues.append(queue)
        return queue

    def _same_or_refuse(self, kind: str, name: str, existing: object, wanted: Mapping[str, Any]) -> None:
        for field, value in wanted.items():
            current = getattr(existing, field)
            if current != value:
                raise precondition_failed(
                    f"inequivalent arg '{field}' for {kind} '{name}' in vhost '{self.vhost}': "
                    f"received {value!r}, current is {current!r}"
                )

    def _check_owner(self, queue: Queue, connection: ClientConnection) -> None:
        if queue.owner is not None and queue.owner is not connection:
            raise resource_locked(
                f"cannot obtain exclusive access to locked queue '{queue.name}' in vhost '{self.vhost}': "
                "it belongs to another connection"
            )

    def queue(self, name: str, connection: ClientConnection | None = None) -> Queue:
        """Return a queue; raises ChannelRefusal 404, or 405 when it is exclusive to another connection."""
        queue = self.queues.get(name)
        if queue is None:
            raise not_found("queue", name, self.vhost)
        if connection is not None:
            self._check_owner(queue, connection)
        return queue

    def bind_queue(
        self,
        connection: ClientConnection,
        name: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Route what ``exchange`` gets and the key matches to the queue."""
        queue = self.queue(name, connection)
        source = self._exchange(exchange)
        source.bind(queue, routing_key, arguments)
        queue.bound_to.add(source)

    def unbind_queue(
        self,
        connection: ClientConnection,
        name: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding; a missing one changes nothing. The default exchange's cannot be removed (403)."""
        if exchange == "":
            raise access_refused("operation not permitted on the default exchange")
        queue, source = self.queues.get(name), self.exchanges.get(exchange)
        if queue is not None and source is not None:
            self._check_owner(queue, connection)
            if source.unbind(queue, routing_key, arguments):
                self._auto_delete_exchange(source)

    def purge_queue(self, connection: ClientConnection, name: str) -> int:
        """Remove the ready messages for good and return how many there were."""
        self._run_due()
        return self.queue(name, connection).purge()

    def delete_queue(
        self, connection: ClientConnection, name: str, *, if_unused: bool = False, if_empty: bool = False
    ) -> int:
        """Delete a queue with its messages and return how many were ready; a missing one counts 0.

        Raises ChannelRefusal 406 when it has consumers (if_unused) or ready messages (if_empty).
        """
        self._run_due()
        queue = self.queues.get(name)
        if queue is None:
            return 0
        self._check_owner(queue, connection)
        if if_unused and queue.rota:
            raise precondition_failed(f"queue '{name}' in vhost '{self.vhost}' in use")
        if if_empty and queue.ready.live:
            raise precondition_failed(f"queue '{name}' in vhost '{self.vhost}' not empty")
        ready = queue.ready.live
        self._delete(queue)
        return ready

    def _delete(self, queue: Queue) -> None:
        if queue.deleted:
            return
        queue.deleted = True
        del self.queues[queue.name]
        if queue.owner is not None:
            queue.owner.exclusive_queues.remove(queue)
        for consumer in queue.rota:
            del consumer.channel.consumers[consumer.tag]
            queue.rota.remove(consumer)
            consumer.channel.sink.cancelled(consumer.channel, consumer)
        for exchange in list(queue.bound_to):
            exchange.unbind_all(queue)
            self._auto_delete_exchange(exchange)
        if queue.awaited:
            self.room(queue)

    # -- publishing --------------------------------------------------------------------------------------------

    def publish(self, message: Message) -> bool:
        """Route a message to its queues; False when no queue was found for it (counted in ``unroutable``).

        Raises ChannelRefusal 404 (no such exchange), 403 (internal exchange); WouldBlock before anything is enqueued;
        QueueFull after every queue with room has taken it.
        """
        now = self.clock.now()
        timers = self._timers
        if timers and timers[0][0] <= now:
            self._run_due()
        exchange_name = message.exchange
        targets: Iterable[Queue]
        if exchange_name == "":
            queue = self.queues.get(message.routing_key)
            targets = () if queue is None else (queue,)
        else:
            exchange = self.exchanges.get(exchange_name)
            if exchange is None:
                raise not_found("exchange", exchange_name, self.vhost)
            if exchange.internal:
                raise access_refused(f"cannot publish to internal exchange '{exchange_name}' in vhost '{self.vhost}'")
            targets = self._targets(exchange, message)
        if not targets:
            self.unroutable += 1
            return False
        refused: list[Queue] = []
        for queue in targets:
            if queue.refuses(message):
                if queue.arguments.overflow == "block":
                    raise WouldBlock(queue.name)
                refused.append(queue)
        for queue in targets:
            if queue in refused:
                queue.refuse(message)
            else:
                queue.enqueue(message, now)
        if self._dead:
            self._settle()
        if refused:
            errors = [queue.full() for queue in refused]  # each of them counts its refusal
            raise errors[0]
        return True

    def full(self, queue_name: str) -> QueueFull:
        """Return the error for a publisher that has waited for room in vain."""
        return self.queue(queue_name).full()

    def _targets(self, exchange: Exchange, message: Message) -> dict[Queue, None]:
        """Return each queue the message reaches once, walking exchange bindings and alternate exchanges."""
        found: dict[Queue, None] = {}
        seen = {exchange}
        walk = [exchange]
        headers = message.headers
        for current in walk:
            matched = False
            for destination in current.match(message.routing_key, headers):
                matched = True
                if isinstance(destination, Queue):
                    found[destination] = None
                elif destination not in seen:
                    seen.add(destination)
                    walk.append(destination)
            if not matched and current.alternate is not None:
                alternate = self.exchanges.get(current.alternate)
                if alternate is not None and alternate not in seen:
                    seen.add(alternate)
                    walk.append(alternate)
        return found

    # -- consuming ---------------------------------------------------------------------------------------------

    def consume(
        self,
        channel: Channel,
        queue_name: str,
        tag: str = "",
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> Consumer:
        """Subscribe a channel to a queue. The caller calls :meth:`begin` when it can take deliveries.

        arguments: ``x-priority`` (integer, larger is served first, default 0).
        Raises ChannelRefusal 404, 405, 403 (an exclusive consumer is or would be in the way), 406 (tag in use).
        """
        self._run_due()
        queue = self.queue(queue_name, channel.connection)
        priority = 0
        for name, value in (arguments or {}).items():
            if name not in CONSUMER_ARGUMENTS:
                raise InvalidArgument(name, value, "the consumer argument x-priority")
            if not isinstance(value, int) or isinstance(value, bool):
                raise InvalidArgument(name, value, "an integer")
            priority = value
        tag = tag or f"amq.ctag-{uuid.uuid4().hex}"
        if tag in channel.consumers:
            raise ChannelRefusal(530, f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'")
        if exclusive and queue.arguments.single_active_consumer:
            raise access_refused(f"queue '{queue_name}' in vhost '{self.vhost}' has a single active consumer anyway")
        if any(other.exclusive for other in queue.rota) or (exclusive and queue.rota):
            raise access_refused(f"queue '{queue_name}' in vhost '{self.vhost}' in exclusive use")
        consumer = Consumer(
            channel,
            queue,
            tag,
            no_ack=bool(no_ack),
            exclusive=bool(exclusive),
            priority=priority,
            prefetch=channel.default_prefetch,
        )
        channel.consumers[tag] = consumer
        queue.rota.add(consumer)
        queue.touch()
        return consumer

    def begin(self, consumer: Consumer) -> None:
        """Push the messages that are ready for a new consumer."""
        consumer.queue.dispatch()

    def cancel(self, channel: Channel, tag: str, unseen: Unseen = ()) -> None:
        """End a subscription; what it holds stays held by the channel. An unknown tag changes nothing.

        unseen: its deliveries that nobody has seen; they go back as if they had not been made.
        """
        self._catch_up()
        consumer = channel.consumers.get(tag)
        if consumer is None:
            return
        self._detach(consumer)
        touched: dict[Queue, None] = {consumer.queue: None}
        self._undeliver(channel, unseen, touched)
        self._resume(touched)
        self._dispatch(channel)

    def _detach(self, consumer: Consumer) -> None:
        del consumer.channel.consumers[consumer.tag]
        consumer.queue.rota.remove(consumer)
        consumer.queue.touch()

    def _resume(self, queues: Iterable[Queue]) -> None:
        """Go on with queues that lost a consumer or got messages back."""
        for queue in queues:
            if queue.auto_delete and queue.consumed and not queue.rota:
                self._delete(queue)
            else:
                queue.settle_returns()
        self._settle()

    def get(self, channel: Channel, queue_name: str, *, no_ack: bool = False) -> Got | None:
        """Take the next ready message, or None when there is none."""
        now = self.clock.now()
        if self._timers and self._timers[0][0] <= now:
            self._run_due()
        queue = self.queue(queue_name, channel.connection)
        if queue.arguments.expires is not None:
            queue.touch()
        entry = queue.take(no_ack)
        if entry is None:
            return None
        if no_ack:
            tag = channel.next_tag
            channel.next_tag = tag + 1
        else:
            tag = channel.hold(entry, queue, None)
        return Got(tag, entry, queue.ready.live)

    def ack(self, channel: Channel, tag: int, *, multiple: bool = False) -> None:
        """Settle a delivery (or all up to it; 0 for all) as done. Raises ChannelRefusal 406 for an unknown tag."""
        self._catch_up()
        if not multiple:
            held = channel.release(tag)
            held.queue.acknowledge(held.entry)
            consumer = held.consumer
            if consumer is None:
                return
            if not channel.global_prefetch:
                if held.queue.ready.live:
                    held.queue.dispatch()
                return
        else:
            for one in channel.up_to(tag):
                held = channel.release(one)
                held.queue.acknowledge(held.entry)
        self._dispatch(channel)

    def reject(self, channel: Channel, tag: int, *, requeue: bool, multiple: bool = False) -> None:
        """Settle a delivery (or all up to it) as refused: back to its place, or a dead letter."""
        self._run_due()
        tags = channel.up_to(tag) if multiple else [tag]
        if requeue:
            touched: dict[Queue, None] = {}
            self._give_back(channel, tags, touched)
            self._resume(touched)
        else:
            for one in tags:
                held = channel.release(one)
                held.queue.reject(held.entry)
            self._settle()
        self._dispatch(channel)

    def recover(self, channel: Channel, unseen: Unseen = ()) -> None:
        """Put everything the channel holds back in its place, marked redelivered (but for what nobody has seen)."""
        self._run_due()
        touched: dict[Queue, None] = {}
        self._undeliver(channel, unseen, touched)
        self._give_back(channel, list(channel.held), touched)
        self._resume(touched)
        self._dispatch(channel)

    def undeliver(self, channel: Channel, unseen: Unseen) -> None:
        """Put back deliveries that nobody has seen, as if they had not been made.

        Those made without acknowledgement come back too, which RabbitMQ cannot do: to it, sent is done.
        """
        self._catch_up()
        touched: dict[Queue, None] = {}
        self._undeliver(channel, unseen, touched)
        self._resume(touched)
        self._dispatch(channel)

    def _undeliver(self, channel: Channel, unseen: Unseen, touched: dict[Queue, None]) -> None:
        for tag, entry, consumer in unseen:
            if consumer.no_ack:
                consumer.queue.undeliver(entry, settled=True)
            elif tag in channel.held:
                channel.release(tag)
                consumer.queue.undeliver(entry)
            touched[consumer.queue] = None

    def qos(self, channel: Channel, prefetch_count: int, *, for_channel: bool = False) -> None:
        """Limit unacknowledged deliveries; 0 means no limit.

        RabbitMQ's reading: by default the limit is for each consumer started on the channel from now on; with
        ``for_channel`` it is shared by all the channel's consumers, at once.
        """
        if not isinstance(prefetch_count, int) or not 0 <= prefetch_count <= 65535:
            raise InvalidArgument("prefetch_count", prefetch_count, "an integer from 0 to 65535")
        self._catch_up()
        if for_channel:
            channel.global_prefetch = prefetch_count
            self._dispatch(channel)
        else:
            channel.default_prefetch = prefetch_count

    def flow(self, channel: Channel, active: bool) -> None:
        """Stop or resume deliveries to the channel's consumers."""
        self._catch_up()
        channel.flowing = active
        self._dispatch(channel)

    def _dispatch(self, channel: Channel) -> None:
        for consumer in list(channel.consumers.values()):
            if consumer.queue.ready.live:
                consumer.queue.dispatch()

    def _give_back(self, channel: Channel, tags: list[int], touched: dict[Queue, None]) -> None:
        for tag in tags:
            held: Held = channel.release(tag)
            held.queue.give_back(held.entry)
            touched[held.queue] = None

    # -- looking in --------------------------------------------------------------------------------------------

    def statistics(self, name: str | None = None) -> dict[str, QueueStatistics]:
        """Return the numbers of one queue (ChannelRefusal 404 if missing) or of all, by name."""
        self._run_due()
        queues = [self.queue(name)] if name is not None else list(self.queues.values())
        return {queue.name: queue.statistics() for queue in queues}

    def peek(self, name: str, limit: int) -> list[Message]:
        """Return up to ``limit`` ready messages in delivery order, leaving them where they are."""
        self._run_due()
        return [entry.message for entry in self.queue(name).peek(limit)]

    # -- delayed messages --------------------------------------------------------------------------------------

    def delayed(self, name: str) -> list[tuple[float, Message]]:
        """Return (seconds left, message) for each delayed message of a queue, soonest first."""
        self._run_due()
        now = self.clock.now()
        return [(entry.due - now, entry.message) for entry in self.queue(name).delayed_entries()]

    def cancel_delayed(self, name: str, message_id: str) -> int:
        """Remove the delayed messages with this id (see :attr:`Message.identity`) and return how many there were."""
        queue, entries = self._delayed_with(name, message_id)
        for entry in entries:
            queue.cancel_delayed(entry)
        return len(entries)

    def reschedule(self, name: str, message_id: str, delay: float) -> int:
        """Let the delayed messages with this id become ready ``delay`` seconds (>= 0) from now; return how many."""
        if not 0 <= delay <= MAX_DELAY_MS / 1000:
            raise InvalidArgument("delay", delay, f"seconds from 0 to {MAX_DELAY_MS / 1000:.0f}")
        queue, entries = self._delayed_with(name, message_id)
        for entry in entries:
            queue.reschedule(entry, delay)
        self._run_due()
        return len(entries)

    def _delayed_with(self, name: str, message_id: str) -> tuple[Queue, list[Entry]]:
        self._run_due()
        queue = self.queue(name)
        return queue, [entry for entry in queue.delayed_entries() if entry.message.identity == message_id]

    # -- time --------------------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return the clock reading at which :meth:`run_due` is needed, or None."""
        timers = self._timers
        while timers:
            due, _, queue = timers[0]
            if queue.scheduled == due and not queue.deleted:
                return due
            heappop(timers)
        return None

    def run_due(self) -> None:
        """Do everything that is due by now."""
        self._run_due()

    def _catch_up(self) -> None:
        """Run what is due, if anything is (the cheap form for the hot path)."""
        timers = self._timers
        if timers and timers[0][0] <= self.clock.now():
            self._run_due()

    def _run_due(self) -> None:
        now = self.clock.now()
        timers = self._timers
        while timers and timers[0][0] <= now:
            due, _, queue = heappop(timers)
            if queue.deleted or queue.scheduled != due:
                continue
            queue.scheduled = NEVER
            if queue.idle_too_long(now):
                self._delete(queue)
                continue
            queue.run_due(now)
            following = queue.next_due()
            if following != NEVER:
                self.timer_changed(queue, following)
            self._settle()

    # -- what the queues ask of their broker -------------------------------------------------------------------

    def timer_changed(self, queue: Queue, due: float) -> None:
        """Run the queue's timers at ``due`` at the latest."""
        if due >= queue.scheduled:
            return
        queue.scheduled = due
        timers = self._timers
        earlier = not timers or due < timers[0][0]
        heappush(timers, (due, next(self._timer_ids), queue))
        if earlier and self._on_due is not None:
            self._on_due()

    def room(self, queue: Queue) -> None:
        """Tell the owner that publishers waiting for this queue may try again."""
        if self._on_room is not None:
            self._on_room()

    def dead_letter(self, queue: Queue, message: Message, reason: Reason, only: str | None = None) -> None:
        """Note a dead letter; it is routed when the current operation is done. only: try this queue and no other."""
        self._dead.append((queue, message, reason, only))

    def _settle(self) -> None:
        """Route the dead letters noted so far, and those that this causes."""
        dead = self._dead
        while dead:
            queue, message, reason, only = dead.popleft()
            refused_by = self._route_dead_letter(queue, message, reason, only)
            for target in refused_by:
                if queue.arguments.dead_letter_strategy == "at-least-once" and not queue.deleted:
                    queue.strand(message, reason, target)
                else:
                    logger.warning(
                        "a dead letter of queue %r (%s) %s and is gone; x-dead-letter-strategy=at-least-once "
                        "would keep it",
                        queue.name,
                        reason,
                        f"was refused by the full queue {target!r}"
                        if target is not None
                        else f"found no queue behind exchange {queue.arguments.dead_letter_exchange!r}",
                    )

    def _route_dead_letter(self, queue: Queue, message: Message, reason: Reason, only: str | None) -> list[str | None]:
        """Publish one dead letter; return the queues that had no room for it, or [None] when there is no queue."""
        arguments = queue.arguments
        name = arguments.dead_letter_exchange or ""
        letter = dead_letter_of(
            message,
            queue=queue.name,
            reason=reason,
            exchange=name,
            routing_key=arguments.dead_letter_routing_key,
            at=self.clock.time(),
        )
        targets: list[Queue]
        if only is not None:
            target = self.queues.get(only)
            if target is None:  # deleted meanwhile, and with it what it held
                return []
            targets = [target]
        elif name == "":
            target = self.queues.get(letter.routing_key)
            targets = [] if target is None else [target]
        else:
            exchange = self.exchanges.get(name)
            targets = [] if exchange is None else list(self._targets(exchange, letter))
        if not targets:
            return [None]
        now = self.clock.now()
        refused_by: list[str | None] = []
        for target in targets:
            if ends_in_cycle(letter, target.name):
                logger.info(
                    "a dead letter of queue %r (%s) came back to queue %r without a rejection and is dropped",
                    queue.name,
                    reason,
                    target.name,
                )
            elif target.refuses(letter):
                target.full()
                if not target.refuse(letter):
                    refused_by.append(target.name)
            else:
                target.enqueue(letter, now)
        return refused_by
