"""Deliveries that have come from the broker and wait to be drained."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

__all__ = ["Arrival", "Inbox"]


class Arrival(NamedTuple):
    """A delivery as it came; ``content`` is None when the broker ended the subscription.

    returns: earlier deliveries without acknowledgement, None where the queue does not count them.
    """

    channel: int
    consumer_tag: str
    delivery_tag: int = 0
    redelivered: bool = False
    returns: int | None = None
    exchange: str = ""
    routing_key: str = ""
    content: bytes | None = None
    body: bytes = b""


class Inbox:
    """A queue of arrivals that can be taken back. One thread at a time adds; any may take."""

    def __init__(self) -> None:
        self._arrivals: deque[Arrival] = deque()
        self._taking = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._arrivals)

    def add(self, arrival: Arrival) -> None:
        """Take in an arrival."""
        self._arrivals.append(arrival)

    def take(self) -> Arrival | None:
        """Return the next arrival, or None."""
        with self._taking:
            return self._arrivals.popleft() if self._arrivals else None

    def recall(self, channel: int, consumer_tag: str | None = None) -> list[Arrival]:
        """Take back what nobody has seen of a channel, or of one of its consumers."""
        kept: list[Arrival] = []
        taken: list[Arrival] = []
        with self._taking:
            while self._arrivals:
                arrival = self._arrivals.popleft()
                ours = arrival.channel == channel and consumer_tag in (None, arrival.consumer_tag)
                (taken if ours else kept).append(arrival)
            self._arrivals.extendleft(reversed(kept))
        return taken
