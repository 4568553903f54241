"""The calls of a client's channel: those of every channel, in the form in which answers travel, and those of a socket.

Over a socket a client takes back what it has not seen after the broker has stopped sending, so those calls name the
delivery tags. A delivery made without acknowledgement is done when it is sent, as in RabbitMQ.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from transports.engine import Broker, Channel, Consumer, Entry, InvalidArgument, Message
from transports.operations import Operations
from transports.wire.content import pack_content

if TYPE_CHECKING:
    from transports.broker.session import ServedChannel

__all__ = ["ServedOperations", "content_of"]

#: Messages that one look into a queue shows at most, and the bytes after which no further one is shown.
MOST_SHOWN = 1_000
MOST_DELAYED = 10_000
MOST_SHOWN_BYTES = 8 * 1024 * 1024


def content_of(message: Message) -> bytes:
    """Return the packed properties and headers of a message, as it carries them or packed now."""
    carried: bytes | None = getattr(message, "content", None)
    return pack_content(message.properties, message.headers) if carried is None else carried


def _shown(message: Message) -> list[Any]:
    return [message.exchange, message.routing_key, content_of(message), message.body]


def _size(shown: list[Any]) -> int:
    return len(shown[-2]) + len(shown[-1])


def _place(entry: Entry) -> tuple[float, int]:
    return entry.due, entry.seq


def _unseen(channel: Channel, tags: Iterable[int]) -> list[tuple[int, Entry, Consumer]]:
    """Return the deliveries of these tags as the engine takes them back; what is settled already is left out."""
    held = ((tag, channel.held.get(tag)) for tag in tags)
    return [(tag, one.entry, one.consumer) for tag, one in held if one is not None and one.consumer is not None]


class ServedOperations:
    """The operations of one served channel. What is not here is that of any channel, and answers as it does there."""

    def __init__(self, served: ServedChannel) -> None:
        self._served = served
        self._broker: Broker = served.broker
        self._channel: Channel = served.channel
        self._plain = Operations(self._broker, self._channel)

    def do(self, operation: str, arguments: list[Any]) -> Any:
        """Run an operation that the protocol knows, with arguments that fit it."""
        own = getattr(self, operation, None)
        return getattr(self._plain, operation)(*arguments) if own is None else own(*arguments)

    def consume(self, queue: str, tag: str, no_ack: bool, exclusive: bool, arguments: dict[str, Any] | None) -> str:
        """Return the consumer's tag; its first deliveries may come before the answer."""
        consumer = self._broker.consume(
            self._channel, queue, tag, no_ack=no_ack, exclusive=exclusive, arguments=arguments
        )
        self._broker.begin(consumer)
        return consumer.tag

    def cancel(self, tag: str) -> None:
        """No delivery follows the answer. What the client has not seen it gives back by ``undeliver``."""
        self._broker.cancel(self._channel, tag)

    def undeliver(self, tags: list[int]) -> None:
        self._broker.undeliver(self._channel, _unseen(self._channel, tags))

    def recover(self, unseen: list[int]) -> None:
        self._broker.recover(self._channel, _unseen(self._channel, unseen))

    def close_channel(self, unseen: list[int]) -> None:
        self._served.close(_unseen(self._channel, unseen))

    def flow(self, active: bool) -> None:
        self._served.flow(active)

    def get(self, queue: str, no_ack: bool) -> list[Any] | None:
        """Return [tag, redelivered, returns, ready messages left, exchange, routing key, content, body], or None."""
        found = self._plain.get(queue, no_ack)
        if found is None:
            return None
        (tag, entry, left), counted = found
        return [tag, entry.redelivered, entry.returns if counted else None, left, *_shown(entry.message)]

    def queue_stats(self, queue: str | None) -> dict[str, dict[str, float]]:
        return {name: numbers.as_dict() for name, numbers in self._broker.statistics(queue).items()}

    def peek(self, queue: str, count: int) -> list[list[Any]]:
        """Return [exchange, routing key, content, body] of each."""
        found: list[list[Any]] = []
        room = MOST_SHOWN_BYTES
        for message in self._broker.peek(queue, max(0, min(count, MOST_SHOWN))):
            found.append(_shown(message))
            room -= _size(found[-1])
            if room < 0:
                break
        return found

    def delayed(self, queue: str, after: list[Any] | None) -> list[Any]:
        """Return a page of what is delayed: [[seconds left, exchange, routing key, content, body] of each, next].

        after: the ``next`` of the page before, None for the first; ``next`` is None on the last page.
        """
        if after is not None and len(after) != 2:
            raise InvalidArgument("after", after, "the end of the page before")
        broker = self._broker
        broker.run_due()
        now = broker.clock.now()
        entries = broker.queue(queue).delayed_entries()
        if after is not None:
            entries = entries[bisect_right(entries, tuple(after), key=_place) :]
        page: list[list[Any]] = []
        room = MOST_SHOWN_BYTES
        for entry in entries:
            if room < 0 or len(page) == MOST_DELAYED:
                return [page, _place(entries[len(page) - 1])]
            page.append([entry.due - now, *_shown(entry.message)])
            room -= _size(page[-1])
        return [page, None]

    def broker_stats(self) -> dict[str, Any]:
        """Return what the broker tells about itself (see :meth:`BrokerServer.statistics`)."""
        return self._served.session.server.statistics()
