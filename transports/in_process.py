"""kombu transports over a broker in this process: ``liap-memory://`` and ``liap-priority://``.

Only an adapter: it turns kombu's channel calls into the engine's operations and the engine's deliveries into kombu
messages. Deliveries are pushed: a publish puts them in the inbox of the consumer's connection and wakes the thread
that waits in ``drain_events``; nothing polls.

Differences from kombu's AMQP channel: a refused operation raises at once and leaves the channel open; publishes are
always confirmed (a full queue is known when ``basic_publish`` returns); ``basic_return`` handlers run inside the
publish. Unseen deliveries of a cancelled or closed consumer go back as if they had never been delivered.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast
from uuid import uuid4

import amqp
from amqp.exceptions import ConsumerCancelled, NoConsumers, RecoverableConnectionError
from amqp.protocol import basic_return_t, queue_declare_ok_t
from kombu.message import Message as KombuMessage
from kombu.transport import base
from kombu.transport.base import to_rabbitmq_queue_arguments  # type: ignore[attr-defined]  # not in the stubs

from transports import engine
from transports.brokers import check_host, shared_broker
from transports.errors import from_engine
from transports.headers import copy_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kombu import Connection

__all__ = ["Channel", "InProcessConnection", "MemoryTransport", "PriorityTransport", "ReceivedMessage"]

DEFAULT_BLOCK_TIMEOUT = 10.0
# One drain delivers what is there, but gives control back after this much: the worker's loop looks at its own
# business (shutdown, prefetch changes) between drains.
DRAIN_COUNT = 64
DRAIN_SECONDS = 0.01


class ReceivedMessage(KombuMessage):
    """A received message."""


def _kombu_message(
    body: bytes,
    properties: dict[str, Any],
    headers: dict[str, Any] | None,
    delivery_info: dict[str, Any],
    channel: Channel | None,
) -> ReceivedMessage:
    return ReceivedMessage(
        body=cast("str", body),  # the stubs say str; kombu's own transports give bytes
        delivery_tag=delivery_info.get("delivery_tag"),
        content_type=properties.get("content_type"),
        content_encoding=properties.get("content_encoding"),
        delivery_info=delivery_info,
        properties=dict(properties),
        headers=copy_table(headers) if headers else {},
        channel=channel,
    )


class Publication(NamedTuple):
    """What ``prepare_message`` hands to ``basic_publish``."""

    body: bytes
    properties: dict[str, Any]
    headers: dict[str, Any]


class Arrival(NamedTuple):
    """A delivery in the inbox; ``entry`` is None when the broker ended the subscription."""

    channel: Channel
    consumer: engine.Consumer
    tag: int
    entry: engine.Entry | None


class Channel(base.StdChannel):
    """A kombu channel on an in-process broker. Any thread may publish and settle; see py-amqp for the arguments."""

    Message = ReceivedMessage

    def __init__(self, connection: InProcessConnection) -> None:
        self.connection: InProcessConnection | None = connection
        self.no_ack_consumers: set[str] = set()
        self.events: defaultdict[str, set[Callable[..., Any]]] = defaultdict(set)
        self._shared = connection.shared
        self._broker = connection.shared.engine
        self._callbacks: dict[str, Callable[[ReceivedMessage], Any]] = {}
        self._on_cancel: dict[str, Callable[[str], Any]] = {}
        self._block_timeout = float(
            (connection.client.transport_options or {}).get("block_timeout", DEFAULT_BLOCK_TIMEOUT)
        )
        with self._shared.lock:
            self._channel = self._broker.open_channel(connection.engine, connection)
            connection.channels[self._channel] = self
        self.channel_id = id(self._channel)

    @property
    def closed(self) -> bool:
        """Whether the channel has been closed."""
        return not self._channel.open

    @property
    def is_open(self) -> bool:
        """Whether the channel can be used."""
        return self._channel.open

    @contextmanager
    def _operation(self) -> Iterator[engine.Broker]:
        """Hold the broker for one operation, turning its refusals into kombu's exceptions."""
        shared = self._shared
        if shared.forked:
            shared.check_process()
        with shared.lock:
            if not self._channel.open:
                raise RecoverableConnectionError("this channel is closed")
            try:
                yield self._broker
            except engine.EngineError as error:
                raise from_engine(error) from error

    # -- entities ----------------------------------------------------------------------------------------------

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
        """Turn kombu's queue options (seconds) into ``x-`` arguments (milliseconds)."""
        prepared: dict[str, Any] = to_rabbitmq_queue_arguments(arguments or {}, **options)
        return prepared

    def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        internal: bool = False,
    ) -> None:
        with self._operation() as broker:
            broker.declare_exchange(
                exchange,
                type,
                passive=passive,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=arguments,
            )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        with self._operation() as broker:
            broker.delete_exchange(exchange, if_unused=if_unused)

    def exchange_bind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        with self._operation() as broker:
            broker.bind_exchange(destination, source, routing_key, arguments)

    def exchange_unbind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        with self._operation() as broker:
            broker.unbind_exchange(destination, source, routing_key, arguments)

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> queue_declare_ok_t:
        with self._operation() as broker:
            declared = broker.declare_queue(
                self._channel.connection,
                queue,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=arguments,
            )
        return queue_declare_ok_t(*declared)

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        with self._operation() as broker:
            broker.bind_queue(self._channel.connection, queue, exchange, routing_key, arguments)

    def queue_unbind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        with self._operation() as broker:
            broker.unbind_queue(self._channel.connection, queue, exchange, routing_key, arguments)

    def queue_purge(self, queue: str, nowait: bool = False) -> int:
        with self._operation() as broker:
            return broker.purge_queue(self._channel.connection, queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, nowait: bool = False) -> int:
        with self._operation() as broker:
            return broker.delete_queue(self._channel.connection, queue, if_unused=if_unused, if_empty=if_empty)

    # -- publishing --------------------------------------------------------------------------------------------

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Publication:
        """Return a message ready for :meth:`basic_publish`."""
        ready = {key: value for key, value in properties.items() if value is not None} if properties else {}
        if priority is not None:
            ready["priority"] = priority
        if content_type is not None:
            ready["content_type"] = content_type
        if content_encoding is not None:
            ready["content_encoding"] = content_encoding
        return Publication(body.encode() if isinstance(body, str) else bytes(body), ready, headers or {})

    def basic_publish(
        self,
        message: Publication,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **_: Any,
    ) -> None:
        """Publish a message; when this returns, every queue it was routed to has it.

        timeout (or confirm_timeout): seconds to wait for room in a queue with ``x-overflow: block``; default is the
        transport option ``block_timeout`` (10 s).
        Raises QueueFullError when a bounded queue refused it, NotFound for a missing exchange, InvalidArgumentError
        for a priority, expiration or header that cannot be honoured.
        """
        shared = self._shared
        if shared.forked:
            shared.check_process()
        if not self._channel.open:
            raise RecoverableConnectionError("this channel is closed")
        wait = timeout if timeout is not None else confirm_timeout
        try:
            outgoing = engine.Message(
                message.body, message.properties, copy_table(message.headers), exchange or "", routing_key or ""
            )
            routed = shared.publish(outgoing, self._block_timeout if wait is None else wait)
        except engine.EngineError as error:
            raise from_engine(error) from error
        if mandatory and not routed:
            self._return(message, outgoing)

    def _return(self, message: Publication, outgoing: engine.Message) -> None:
        returned = basic_return_t(312, "NO_ROUTE", outgoing.exchange, outgoing.routing_key, message)
        error = NoConsumers(returned.reply_text, (60, 50), reply_code=returned.reply_code)
        for handler in tuple(self.events["basic_return"]):
            handler(error, returned.exchange, returned.routing_key, self._unsent(message))

    def _unsent(self, message: Publication) -> ReceivedMessage:
        return _kombu_message(message.body, message.properties, message.headers, {}, self)

    # -- consuming ---------------------------------------------------------------------------------------------

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[ReceivedMessage], Any] | None = None,
        arguments: dict[str, Any] | None = None,
        on_cancel: Callable[[str], Any] | None = None,
    ) -> str:
        """Start a consumer and return its tag; ``callback`` gets each message in ``drain_events``."""
        if callback is None:
            raise ValueError("basic_consume needs a callback")
        with self._operation() as broker:
            # The callback must be known before the first delivery, and that comes while consume still runs.
            tag = consumer_tag or f"ctag-{uuid4().hex}"
            self._callbacks.setdefault(tag, callback)
            try:
                broker.consume(self._channel, queue, tag, no_ack=no_ack, exclusive=exclusive, arguments=arguments)
            except engine.EngineError:
                if tag not in self._channel.consumers:
                    del self._callbacks[tag]
                raise
            if no_ack:
                self.no_ack_consumers.add(tag)
            if on_cancel is not None:
                self._on_cancel[tag] = on_cancel
        return tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> None:
        """End a consumer; deliveries that its callback has not seen go back to the queue."""
        with self._operation() as broker:
            broker.cancel(self._channel, consumer_tag, requeue=False)
            self._forget(consumer_tag)
            broker.undeliver(self._channel, self._live_connection().recall(self, consumer_tag))

    def _forget(self, consumer_tag: str) -> Callable[[str], Any] | None:
        self._callbacks.pop(consumer_tag, None)
        self.no_ack_consumers.discard(consumer_tag)
        return self._on_cancel.pop(consumer_tag, None)

    def basic_get(self, queue: str = "", no_ack: bool = False, **_: Any) -> ReceivedMessage | None:
        """Return the next message of a queue, or None."""
        with self._operation() as broker:
            got = broker.get(self._channel, queue, no_ack=no_ack)
            if got is None:
                return None
            message = got.entry.message
            return self._received(
                got.entry,
                message,
                broker.queues[queue].arguments.delivery_limit is not None,
                {
                    "delivery_tag": got.delivery_tag,
                    "redelivered": got.entry.redelivered,
                    "exchange": message.exchange,
                    "routing_key": message.routing_key,
                    "message_count": got.message_count,
                },
            )

    def receive(self, arrival: Arrival) -> None:
        """Hand one arrival to its consumer's callback."""
        consumer, entry = arrival.consumer, arrival.entry
        tag = consumer.tag
        if entry is None:
            on_cancel = self._forget(tag)
            if on_cancel is None:
                raise ConsumerCancelled(tag, (60, 30))
            on_cancel(tag)
            return
        callback = self._callbacks.get(tag)
        if callback is None:
            return
        message = entry.message
        callback(
            self._received(
                entry,
                message,
                consumer.queue.arguments.delivery_limit is not None,
                {
                    "consumer_tag": tag,
                    "delivery_tag": arrival.tag,
                    "redelivered": entry.redelivered,
                    "exchange": message.exchange,
                    "routing_key": message.routing_key,
                },
            )
        )

    def _received(
        self, entry: engine.Entry, message: engine.Message, counted: bool, delivery_info: dict[str, Any]
    ) -> ReceivedMessage:
        headers = message.headers
        if counted and entry.returns:
            headers = {**(headers or {}), "x-delivery-count": entry.returns}
        return _kombu_message(message.body, message.properties, headers, delivery_info, self)

    def message_to_python(self, raw_message: ReceivedMessage) -> ReceivedMessage:
        """Return the message: it is one already."""
        return raw_message

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        with self._operation() as broker:
            broker.ack(self._channel, delivery_tag, multiple=multiple)

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        with self._operation() as broker:
            broker.reject(self._channel, delivery_tag, requeue=requeue)

    def basic_nack(self, delivery_tag: int, multiple: bool = False, requeue: bool = True) -> None:
        with self._operation() as broker:
            broker.reject(self._channel, delivery_tag, requeue=requeue, multiple=multiple)

    def basic_recover(self, requeue: bool = False) -> None:
        """Put all that the channel holds back in the queues; ``requeue=False`` does the same, as in RabbitMQ."""
        with self._operation() as broker:
            broker.recover(self._channel)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, a_global: bool = False, **kw: Any) -> None:
        """Limit unacknowledged messages: for consumers started from now on, or at once for the whole channel."""
        with self._operation() as broker:
            broker.qos(self._channel, prefetch_count, for_channel=bool(kw.get("apply_global", a_global)))

    def flow(self, active: bool = True) -> None:
        """Stop or resume deliveries to this channel."""
        with self._operation() as broker:
            broker.flow(self._channel, active)

    # -- looking in --------------------------------------------------------------------------------------------

    def queue_stats(self, queue: str | None = None) -> dict[str, dict[str, float]]:
        """Return the statistics of one queue or of all, by name (keys: see transports.engine.statistics)."""
        with self._operation() as broker:
            return {name: numbers.as_dict() for name, numbers in broker.statistics(queue).items()}

    def peek(self, queue: str, count: int = 10) -> list[ReceivedMessage]:
        """Return up to ``count`` ready messages in delivery order, leaving them in the queue.

        They cannot be acknowledged: they have not been delivered.
        """
        with self._operation() as broker:
            peeked = broker.peek(queue, count)
        return [
            _kombu_message(
                message.body,
                message.properties,
                message.headers,
                {"exchange": message.exchange, "routing_key": message.routing_key},
                None,
            )
            for message in peeked
        ]

    # -- end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all consumers and put what is not settled back in the queues."""
        connection = self.connection
        if connection is None:
            return
        self.connection = None
        if not self._shared.forked:
            with self._shared.lock:
                self._broker.undeliver(self._channel, connection.recall(self))
                self._broker.close_channel(self._channel)
        connection.channels.pop(self._channel, None)
        self._callbacks.clear()

    collect = close

    def _live_connection(self) -> InProcessConnection:
        if self.connection is None:
            raise RecoverableConnectionError("this channel is closed")
        return self.connection


class InProcessConnection(engine.Sink):
    """A connection: channels, and the inbox in which their deliveries arrive."""

    def __init__(self, client: Connection, scheme: str) -> None:
        self.client: Connection = client
        self.shared = shared_broker(scheme, client.virtual_host or "/")
        self.channels: dict[engine.Channel, Channel] = {}
        self.inbox: deque[Arrival] = deque()
        self.connected = True
        self._arrived = threading.Condition(threading.Lock())
        self._waiting = 0
        with self.shared.lock:
            self.engine = self.shared.engine.connect()

    # The engine calls these two with the broker's lock held.

    def deliver(
        self, channel: engine.Channel, consumer: engine.Consumer, delivery_tag: int, entry: engine.Entry
    ) -> None:
        """Put a delivery in the inbox and wake whoever waits for it."""
        self._put(Arrival(self.channels[channel], consumer, delivery_tag, entry))

    def cancelled(self, channel: engine.Channel, consumer: engine.Consumer) -> None:
        """Tell the consumer that its queue is gone."""
        self._put(Arrival(self.channels[channel], consumer, 0, None))

    def _put(self, arrival: Arrival) -> None:
        self.inbox.append(arrival)
        if self._waiting:
            with self._arrived:
                self._arrived.notify()

    def recall(self, channel: Channel, consumer_tag: str | None = None) -> list[int]:
        """Take back the unseen deliveries of a channel, or of one consumer, and return their tags.

        The broker's lock is held, so nothing arrives meanwhile; a concurrent drain may take an arrival first, and
        then that one has been seen.
        """
        kept: list[Arrival] = []
        tags: list[int] = []
        while True:
            try:
                arrival = self.inbox.popleft()
            except IndexError:
                break
            if arrival.channel is channel and consumer_tag in (None, arrival.consumer.tag):
                if arrival.entry is not None:
                    tags.append(arrival.tag)
            else:
                kept.append(arrival)
        self.inbox.extendleft(reversed(kept))
        return tags

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for a delivery and hand out what has arrived.

        timeout: seconds, None for ever, 0 not to wait. Raises ``socket.timeout`` when nothing came in time.
        """
        inbox = self.inbox
        try:
            arrival = inbox.popleft()
        except IndexError:
            arrival = self._wait_for_arrival(timeout)
        stop = monotonic() + DRAIN_SECONDS
        arrival.channel.receive(arrival)
        for _ in range(DRAIN_COUNT - 1):
            if monotonic() > stop:
                return
            try:
                arrival = inbox.popleft()
            except IndexError:
                return
            arrival.channel.receive(arrival)

    def _wait_for_arrival(self, timeout: float | None) -> Arrival:
        self.shared.check_process()
        deadline = None if timeout is None else monotonic() + timeout
        with self._arrived:
            self._waiting += 1
            try:
                while True:
                    if not self.connected:
                        raise RecoverableConnectionError("this connection is closed")
                    try:
                        return self.inbox.popleft()
                    except IndexError:
                        remaining = None if deadline is None else deadline - monotonic()
                        if remaining is not None and remaining <= 0:
                            raise TimeoutError("no message arrived in time") from None
                    self._arrived.wait(remaining)
            finally:
                self._waiting -= 1

    def close(self) -> None:
        """Close all channels; exclusive queues go."""
        if not self.connected:
            return
        self.connected = False
        for channel in list(self.channels.values()):
            channel.close()
        if not self.shared.forked:
            with self.shared.lock:
                self.shared.engine.close_connection(self.engine)
        with self._arrived:
            self._arrived.notify_all()

    def collect(self) -> None:
        """Let go of everything (kombu calls this on a connection it believes broken)."""
        self.close()


class MemoryTransport(base.Transport):
    """``liap-memory://[/vhost]``: queues are FIFO unless declared otherwise."""

    scheme: ClassVar[str] = "liap-memory"
    driver_type = "liap-memory"
    driver_name = "liap-memory"
    connection_errors = amqp.Connection.connection_errors
    channel_errors = amqp.Connection.channel_errors
    recoverable_connection_errors = amqp.Connection.recoverable_connection_errors
    recoverable_channel_errors = amqp.Connection.recoverable_channel_errors

    implements = base.Transport.implements.extend(
        asynchronous=False,
        exchange_type=frozenset(["direct", "topic", "fanout", "headers"]),
        heartbeats=False,
        broker_delay=True,
        in_process=True,
    )

    def driver_version(self) -> str:
        """Return the version of the driver: the interpreter's process is the broker."""
        return "in-process"

    def establish_connection(self) -> InProcessConnection:
        """Connect to the broker of the URL's virtual host."""
        client = cast("Connection", self.client)
        check_host(self.scheme, client.hostname)
        return InProcessConnection(client, self.scheme)

    def close_connection(self, connection: InProcessConnection) -> None:
        connection.close()

    def create_channel(self, connection: InProcessConnection) -> Channel:
        if not connection.connected:
            raise RecoverableConnectionError("this connection is closed")
        connection.shared.check_process()
        return Channel(connection)

    def close_channel(self, channel: Channel) -> None:
        channel.close()

    def drain_events(self, connection: InProcessConnection, timeout: float | None = None, **_: Any) -> None:
        connection.drain_events(timeout)

    def verify_connection(self, connection: InProcessConnection) -> bool:
        return connection.connected

    def qos_semantics_matches_spec(self, connection: InProcessConnection) -> bool:
        """Answer False: like RabbitMQ since 3.3, a limit for the whole channel must be asked for as global."""
        return False

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URI: it holds no secret."""
        return uri


class PriorityTransport(MemoryTransport):
    """``liap-priority://[/vhost]``: the same, every queue a priority queue (levels 0 to 9 unless declared)."""

    scheme: ClassVar[str] = "liap-priority"
    driver_type = "liap-priority"
    driver_name = "liap-priority"
