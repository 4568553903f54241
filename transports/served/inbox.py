"""What has come from the broker and waits to be drained: deliveries, ended subscriptions, returned messages.

An arrival knows its subscription and not only its tag: a tag may be used again before the last deliveries of its first
consumer, or the news of its end, have been drained.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from transports.wire.protocol import DELIVERY

if TYPE_CHECKING:
    from transports.received import ReceivedMessage
    from transports.served.channel import Channel

__all__ = ["Arrival", "Inbox", "Subscription"]


class Subscription:
    """A consumer of a channel. ended: by the broker, whose last word of it waits to be drained. cancelled: by us."""

    __slots__ = ("callback", "cancelled", "ended", "no_ack", "on_cancel", "tag")

    def __init__(
        self,
        tag: str,
        callback: Callable[[ReceivedMessage], Any],
        on_cancel: Callable[[str], Any] | None,
        no_ack: bool,
    ) -> None:
        self.tag = tag
        self.callback = callback
        self.on_cancel = on_cancel
        self.no_ack = no_ack
        self.ended = False
        self.cancelled = False


class Arrival(NamedTuple):
    """A frame for a channel: DELIVERY, CANCEL or RETURN. subscription: whose, None where there is none (any more)."""

    channel: Channel
    subscription: Subscription | None
    fields: list[Any]

    @property
    def is_held(self) -> bool:
        """Whether it is a delivery that waits for its acknowledgement."""
        return self.subscription is not None and not self.subscription.no_ack and self.fields[0] == DELIVERY


class Inbox:
    """A queue of arrivals that can be taken back. One thread at a time adds; any may take."""

    def __init__(self) -> None:
        self._arrivals: deque[Arrival] = deque()
        self._taking = threading.Lock()

    def __bool__(self) -> bool:
        with self._taking:  # not in the middle of a recall
            return bool(self._arrivals)

    def add(self, arrival: Arrival) -> None:
        """Take in an arrival."""
        self._arrivals.append(arrival)

    def take(self) -> Arrival | None:
        """Return the next arrival, or None."""
        with self._taking:
            return self._arrivals.popleft() if self._arrivals else None

    def take_held(self) -> Arrival | None:
        """Return the next arrival if it is a delivery to be acknowledged, or None."""
        with self._taking:
            return self._arrivals.popleft() if self._arrivals and self._arrivals[0].is_held else None

    def recall(self, channel: Channel, subscription: Subscription | None = None) -> list[Arrival]:
        """Take back the deliveries of a channel that nobody has seen, or all that came for one of its subscriptions."""
        kept: list[Arrival] = []
        taken: list[Arrival] = []
        with self._taking:
            while self._arrivals:
                arrival = self._arrivals.popleft()
                ours = (
                    arrival.channel is channel and arrival.fields[0] == DELIVERY
                    if subscription is None
                    else arrival.subscription is subscription
                )
                (taken if ours else kept).append(arrival)
            self._arrivals.extendleft(reversed(kept))
        return taken
