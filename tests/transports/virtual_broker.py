"""A broker on a clock that tests advance, with the few words that the tests of the engine use again and again."""

from __future__ import annotations

from typing import Any, NamedTuple

from transports import VirtualClock
from transports.engine import Broker, Channel, ClientConnection, Consumer, Entry, Message, QueueStatistics, Sink

__all__ = ["Delivery", "RecordingSink", "VirtualBroker"]


class Delivery(NamedTuple):
    """What a consumer saw, at the moment it saw it."""

    consumer_tag: str
    delivery_tag: int
    body: bytes
    redelivered: bool


class RecordingSink(Sink):
    """Remembers what is pushed."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.unseen: list[tuple[int, Entry, Consumer]] = []
        self.cancellations: list[str] = []

    def deliver(self, channel: Channel, consumer: Consumer, delivery_tag: int, entry: Entry) -> None:
        self.deliveries.append(Delivery(consumer.tag, delivery_tag, entry.message.body, entry.redelivered))
        self.unseen.append((delivery_tag, entry, consumer))

    def cancelled(self, channel: Channel, consumer: Consumer) -> None:
        self.cancellations.append(consumer.tag)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies in the order of their delivery."""
        return [delivery.body for delivery in self.deliveries]


class VirtualBroker:
    """An engine, its clock, and one connection."""

    def __init__(self, **options: Any) -> None:
        self.clock = VirtualClock()
        self.engine = Broker(clock=self.clock, **options)
        self.connection: ClientConnection = self.engine.connect()
        self.clock.attach(self.engine)

    def declare(self, name: str, **arguments: Any) -> None:
        """Declare a queue; ``max_length=3`` means ``x-max-length: 3``."""
        table = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
        self.engine.declare_queue(self.connection, name, arguments=table)

    def channel(self, connection: ClientConnection | None = None) -> tuple[Channel, RecordingSink]:
        """Open a channel."""
        sink = RecordingSink()
        return self.engine.open_channel(connection or self.connection, sink), sink

    def publish(
        self,
        queue: str,
        body: bytes = b"",
        *,
        exchange: str = "",
        delay_ms: int | None = None,
        headers: dict[str, Any] | None = None,
        **properties: Any,
    ) -> bool:
        """Publish, by default straight to a queue."""
        table = {**(headers or {}), **({} if delay_ms is None else {"x-delay": delay_ms})}
        return self.engine.publish(Message(body, properties, table, exchange, queue))

    def purge(self, queue: str) -> int:
        """Remove the ready messages."""
        return self.engine.purge_queue(self.connection, queue)

    def numbers(self, queue: str) -> QueueStatistics:
        """Return the statistics of a queue."""
        return self.engine.statistics(queue)[queue]

    def bodies(self, queue: str) -> list[bytes]:
        """Return the ready bodies in the order in which they would leave."""
        return [message.body for message in self.engine.peek(queue, 1000)]

    def letters(self, queue: str) -> list[Message]:
        """Return the ready messages in the order in which they would leave."""
        return self.engine.peek(queue, 1000)
