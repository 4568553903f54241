"""A kombu channel on an in-process broker: kombu's calls become the engine's operations.

Differences from kombu's AMQP channel: a refused operation raises at once and leaves the channel open; publishes are
always confirmed (a full queue is known when ``basic_publish`` returns); ``basic_return`` handlers run inside the
publish. Deliveries that a cancelled or closed consumer has not seen go back as if they had never been made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ConsumerCancelled, RecoverableConnectionError

from transports import engine
from transports.channel import KombuChannel, Publication
from transports.errors import from_engine
from transports.headers import copy_arguments, copy_table
from transports.in_process.inbox import Arrival, unseen
from transports.operations import Operations
from transports.received import ReceivedMessage

if TYPE_CHECKING:
    from transports.in_process.connection import InProcessConnection

__all__ = ["Channel"]


class Channel(KombuChannel):
    """A kombu channel on an in-process broker. Any thread may publish and settle."""

    def __init__(self, connection: InProcessConnection) -> None:
        super().__init__(getattr(connection.client, "transport_options", None) or {})
        self.connection: InProcessConnection | None = connection
        self._shared = connection.shared
        self._broker = connection.shared.engine
        # By consumer and not by tag: a tag may be used again before the news of its first consumer's end was drained.
        self._callbacks: dict[engine.Consumer, Callable[[ReceivedMessage], Any]] = {}
        self._on_cancel: dict[engine.Consumer, Callable[[str], Any]] = {}
        with self._shared.lock:
            self._channel = self._broker.open_channel(connection.engine, connection.inbox)
            connection.channels[self._channel] = self
        self._operations = Operations(self._broker, self._channel)
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

    def _ask(self, operation: str, *arguments: Any) -> Any:
        with self._operation():
            return getattr(self._operations, operation)(*arguments)

    # -- publishing --------------------------------------------------------------------------------------------

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
            routed = shared.publish(outgoing, self._block_timeout if wait is None else wait, self._channel)
        except engine.EngineError as error:
            raise from_engine(error) from error
        if mandatory and not routed:
            self._tell_of_return(outgoing.exchange, outgoing.routing_key, _received(outgoing, self, {}))

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
        arguments = copy_arguments(arguments)
        with self._operation() as broker:
            consumer = broker.consume(
                self._channel, queue, consumer_tag or "", no_ack=no_ack, exclusive=exclusive, arguments=arguments
            )
            self._callbacks[consumer] = callback
            if no_ack:
                self.no_ack_consumers.add(consumer.tag)
            if on_cancel is not None:
                self._on_cancel[consumer] = on_cancel
            broker.begin(consumer)
        return consumer.tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> None:
        """End a consumer; deliveries that its callback has not seen go back to the queue."""
        with self._operation() as broker:
            consumer = self._channel.consumers.get(consumer_tag)
            if consumer is None:
                return
            recalled = self._live_connection().inbox.recall(self._channel, consumer_tag)
            broker.cancel(self._channel, consumer_tag, unseen(recalled))
            self._forget(consumer)

    def _forget(self, consumer: engine.Consumer) -> Callable[[str], Any] | None:
        self._callbacks.pop(consumer, None)
        if consumer.tag not in self._channel.consumers:
            self.no_ack_consumers.discard(consumer.tag)
        return self._on_cancel.pop(consumer, None)

    def basic_get(self, queue: str = "", no_ack: bool = False, **_: Any) -> ReceivedMessage | None:
        """Return the next message of a queue, or None."""
        with self._operation():
            found = self._operations.get(queue, no_ack)
            if found is None:
                return None
            (tag, entry, left), counted = found
            message = entry.message
            delivery_info = {
                "delivery_tag": tag,
                "redelivered": entry.redelivered,
                "exchange": message.exchange,
                "routing_key": message.routing_key,
                "message_count": left,
            }
        return _received(message, self, delivery_info, entry.returns if counted else 0)

    def receive(self, arrival: Arrival) -> None:
        """Hand one arrival to its consumer's callback."""
        consumer, entry = arrival.consumer, arrival.entry
        tag = consumer.tag
        if entry is None:
            on_cancel = self._forget(consumer)
            if on_cancel is None:
                raise ConsumerCancelled(tag, (60, 30))
            on_cancel(tag)
            return
        message = entry.message  # before the check: once it is not held here, somebody else may settle it
        if not consumer.no_ack and arrival.tag not in self._channel.held:
            return  # settled or given back meanwhile, with others (ack multiple, recover)
        callback = self._callbacks.get(consumer)
        if callback is None:  # another thread cancelled the consumer while this delivery was on its way
            with self._shared.lock:
                self._broker.undeliver(self._channel, unseen([arrival]))
            return
        delivery_info = {
            "consumer_tag": tag,
            "delivery_tag": arrival.tag,
            "redelivered": entry.redelivered,
            "exchange": message.exchange,
            "routing_key": message.routing_key,
        }
        counted = consumer.queue.arguments.delivery_limit is not None
        callback(_received(message, self, delivery_info, entry.returns if counted else 0))

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        # Once per message, so without the detour of _operation.
        shared, channel = self._shared, self._channel
        if shared.forked:
            shared.check_process()
        with shared.lock:
            if not channel.open:
                raise RecoverableConnectionError("this channel is closed")
            try:
                self._broker.ack(channel, delivery_tag, multiple=multiple)
            except engine.EngineError as error:
                raise from_engine(error) from error

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        with self._operation() as broker:
            broker.reject(self._channel, delivery_tag, requeue=requeue)

    def basic_nack(self, delivery_tag: int, multiple: bool = False, requeue: bool = True) -> None:
        with self._operation() as broker:
            broker.reject(self._channel, delivery_tag, requeue=requeue, multiple=multiple)

    def basic_recover(self, requeue: bool = False) -> None:
        """Put all that the channel holds back in the queues; ``requeue=False`` does the same, as in RabbitMQ."""
        with self._operation() as broker:
            broker.recover(self._channel, unseen(self._live_connection().inbox.recall(self._channel)))

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
        return [_looked_at(message) for message in peeked]

    def delayed(self, queue: str) -> list[tuple[float, ReceivedMessage]]:
        """Return (seconds left, message) for each delayed message of a queue, soonest first."""
        with self._operation() as broker:
            waiting = broker.delayed(queue)
        return [(left, _looked_at(message)) for left, message in waiting]

    # -- end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all consumers and put what is not settled back in the queues."""
        connection = self.connection
        if connection is None:
            return
        self.connection = None
        if not self._shared.forked:
            with self._shared.lock:
                self._broker.close_channel(self._channel, unseen(connection.inbox.recall(self._channel)))
                self._shared.wake_publishers()
        connection.channels.pop(self._channel, None)
        self._callbacks.clear()

    collect = close

    def _live_connection(self) -> InProcessConnection:
        if self.connection is None:
            raise RecoverableConnectionError("this channel is closed")
        return self.connection


def _received(
    message: engine.Message, channel: Channel | None, delivery_info: dict[str, Any], returns: int = 0
) -> ReceivedMessage:
    headers = copy_table(message.headers) if message.headers else {}
    return ReceivedMessage(message.body, dict(message.properties), headers, channel, delivery_info, returns)


def _looked_at(message: engine.Message) -> ReceivedMessage:
    return _received(message, None, {"exchange": message.exchange, "routing_key": message.routing_key})
