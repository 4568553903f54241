"""Where the deliveries of one connection arrive and wait to be drained.

The broker pushes (with its lock held), one or more threads drain. An arrival costs an append; the lock of the condition
is taken only when somebody waits.

Why apart from the connection: the engine keeps the inbox as long as the client is registered, and must not keep the
connection itself alive, or a connection that is dropped without being closed would hold its messages for ever.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from amqp.exceptions import RecoverableConnectionError

from transports import engine

__all__ = ["Arrival", "Inbox", "unseen"]


class Arrival(NamedTuple):
    """A delivery; ``entry`` is None when the broker ended the subscription."""

    channel: engine.Channel
    consumer: engine.Consumer
    tag: int
    entry: engine.Entry | None


def unseen(arrivals: list[Arrival]) -> list[tuple[int, engine.Entry, engine.Consumer]]:
    """Return recalled arrivals as the engine takes them back."""
    return [(arrival.tag, arrival.entry, arrival.consumer) for arrival in arrivals if arrival.entry is not None]


class Inbox(engine.Sink):
    """A queue of arrivals that can be waited for and taken back."""

    def __init__(self) -> None:
        self._arrivals: deque[Arrival] = deque()
        self._taking = threading.Lock()  # recall sees all that has not been taken
        self._arrived = threading.Condition(threading.Lock())
        self._waiting = 0
        self._closed = False
        self.on_arrival: Callable[[], None] | None = None
        """Called after each arrival, in the publisher's thread and with the broker's lock held: note it and return.

        For an event loop that drains when it is told to; while it is set the inbox keeps its owner alive.
        """

    # -- the broker's side, called with its lock held ----------------------------------------------------------

    def deliver(
        self, channel: engine.Channel, consumer: engine.Consumer, delivery_tag: int, entry: engine.Entry
    ) -> None:
        """Take a delivery and wake whoever waits for one."""
        self._arrivals.append(Arrival(channel, consumer, delivery_tag, entry))
        if self._waiting:
            self._wake()
        tell = self.on_arrival  # its owner may stop to want it at any moment
        if tell is not None:
            tell()

    def cancelled(self, channel: engine.Channel, consumer: engine.Consumer) -> None:
        """Take the news that a consumer's queue is gone."""
        self._arrivals.append(Arrival(channel, consumer, 0, None))
        if self._waiting:
            self._wake()
        tell = self.on_arrival  # its owner may stop to want it at any moment
        if tell is not None:
            tell()

    def recall(self, channel: engine.Channel, consumer_tag: str | None = None) -> list[Arrival]:
        """Take back the unseen arrivals of a channel, or of one of its consumers.

        Nothing arrives meanwhile (the broker's lock); an arrival that a draining thread takes first has been seen.
        """
        kept: list[Arrival] = []
        taken: list[Arrival] = []
        with self._taking:
            for arrival in self._arrivals:
                ours = arrival.channel is channel and consumer_tag in (None, arrival.consumer.tag)
                (taken if ours else kept).append(arrival)
            if taken:
                self._arrivals.clear()
                self._arrivals.extend(kept)
        return taken

    # -- the draining side -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many arrivals wait."""
        return len(self._arrivals)

    def take(self) -> Arrival | None:
        """Return the next arrival, or None."""
        with self._taking:
            return self._arrivals.popleft() if self._arrivals else None

    def wait(self, timeout: float | None) -> Arrival:
        """Return the next arrival, waiting up to ``timeout`` seconds (None: for ever).

        Raises ``socket.timeout`` when nothing came in time, RecoverableConnectionError when the inbox is closed.
        """
        deadline = None if timeout is None else monotonic() + timeout
        with self._arrived:
            self._waiting += 1
            try:
                while True:
                    if self._closed:
                        raise RecoverableConnectionError("this connection is closed")
                    arrival = self.take()
                    if arrival is not None:
                        return arrival
                    remaining = None if deadline is None else deadline - monotonic()
                    if remaining is not None and remaining <= 0:
                        raise TimeoutError("no message arrived in time")
                    self._arrived.wait(remaining)
            finally:
                self._waiting -= 1

    def close(self) -> None:
        """Let everybody who waits go, with an error."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        with self._arrived:
            self._arrived.notify_all()
