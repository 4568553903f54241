"""A client's side of the broker: connections, channels, and the messages they hold.

A channel numbers its deliveries (delivery tags 1, 2, 3, ...) and knows for each unacknowledged one the entry, its
queue and its consumer. What it holds is in no queue until it is settled or given back: a message is always in
exactly one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from transports.engine.consumer import Consumer
from transports.engine.errors import precondition_failed
from transports.engine.message import Entry

if TYPE_CHECKING:
    from transports.engine.queue import Queue

__all__ = ["Channel", "ClientConnection", "Held", "Sink"]


class Held(NamedTuple):
    """A delivery that has not been settled. ``consumer`` is None for one taken by get."""

    entry: Entry
    queue: Queue
    consumer: Consumer | None


class Sink:
    """Where a channel's pushed deliveries go. Called while the broker works: hand over and return."""

    def deliver(self, channel: Channel, consumer: Consumer, delivery_tag: int, entry: Entry) -> None:
        """Take one delivery."""
        raise NotImplementedError

    def cancelled(self, channel: Channel, consumer: Consumer) -> None:
        """Learn that the broker ended a subscription because its queue is gone."""
        raise NotImplementedError


class Channel:
    """One channel of a connection."""

    __slots__ = (
        "connection",
        "consumers",
        "default_prefetch",
        "flowing",
        "global_prefetch",
        "held",
        "next_tag",
        "open",
        "outstanding",
        "sink",
        "turn",
    )

    def __init__(self, connection: ClientConnection, sink: Sink) -> None:
        self.connection = connection
        self.sink = sink
        self.consumers: dict[str, Consumer] = {}
        self.held: dict[int, Held] = {}
        self.next_tag = 1
        self.default_prefetch = 0
        self.global_prefetch = 0
        self.outstanding = 0
        self.flowing = True
        self.open = True
        self.turn = 0

    def next_turn(self) -> list[Consumer]:
        """Return the consumers, each time beginning with the next one."""
        consumers = list(self.consumers.values())
        if len(consumers) < 2:
            return consumers
        self.turn = (self.turn + 1) % len(consumers)
        return consumers[self.turn :] + consumers[: self.turn]

    def hold(self, entry: Entry, queue: Queue, consumer: Consumer | None) -> int:
        """Take an entry into the channel's hands and return its delivery tag."""
        tag = self.next_tag
        self.next_tag = tag + 1
        self.held[tag] = Held(entry, queue, consumer)
        if consumer is not None:
            consumer.unacked += 1
            self.outstanding += 1
        return tag

    def release(self, tag: int) -> Held:
        """Give up one held delivery; raises ChannelRefusal(406) for a tag that is not held."""
        held = self.held.pop(tag, None)
        if held is None:
            raise precondition_failed(f"unknown delivery tag {tag}")
        if held.consumer is not None:
            held.consumer.unacked -= 1
            self.outstanding -= 1
        return held

    def up_to(self, tag: int) -> list[int]:
        """Return the held tags up to and including ``tag``, oldest first; 0 means all of them."""
        if tag == 0:
            return list(self.held)
        if tag not in self.held:
            raise precondition_failed(f"unknown delivery tag {tag}")
        return [one for one in self.held if one <= tag]


class ClientConnection:
    """One connected client: its channels, and the queues that are its own."""

    __slots__ = ("channels", "exclusive_queues", "open")

    def __init__(self) -> None:
        self.channels: list[Channel] = []
        self.exclusive_queues: list[Queue] = []
        self.open = True
