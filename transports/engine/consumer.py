"""Who gets the next message of a queue: consumers, their credit, and whose turn it is.

RabbitMQ docs: Consumer Priorities (the highest priority with credit first, round robin inside a priority), Single
Active Consumer (one at a time, in order of registration), Consumer Prefetch (credit per consumer, and shared by the
channel when asked for globally).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transports.engine.channel import Channel
    from transports.engine.queue import Queue

__all__ = ["Consumer", "Rota"]


class Consumer:
    """One subscription of a channel to a queue.

    prefetch: unacknowledged messages allowed, 0 = no limit. priority: larger is served first.
    unacked: messages it holds now.
    """

    __slots__ = ("channel", "exclusive", "no_ack", "prefetch", "priority", "queue", "tag", "unacked")

    def __init__(
        self,
        channel: Channel,
        queue: Queue,
        tag: str,
        *,
        no_ack: bool,
        exclusive: bool,
        priority: int,
        prefetch: int,
    ) -> None:
        self.channel = channel
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.priority = priority
        self.prefetch = prefetch
        self.unacked = 0

    def has_credit(self) -> bool:
        """Tell whether one more message may be delivered. Consumers without acknowledgement always may."""
        channel = self.channel
        if not channel.flowing:
            return False
        if self.no_ack:
            return True
        if self.prefetch and self.unacked >= self.prefetch:
            return False
        return not channel.global_prefetch or channel.outstanding < channel.global_prefetch


class Rota:
    """The consumers of one queue, in the order in which they are served.

    A ring for each priority, as RabbitMQ turns them: whoever is served goes to the end; whoever is found without credit
    steps out of the ring and comes back at its end once it has credit again; a newcomer comes in at the end. So a
    consumer that joins or leaves changes nobody's turn, and consumers with a full window cost nothing.
    """

    __slots__ = ("_all", "_rings", "parked", "single_active")

    def __init__(self, single_active: bool) -> None:
        self.single_active = single_active
        self.parked: list[Consumer] = []
        self._all: list[Consumer] = []
        self._rings: dict[int, deque[Consumer]] = {}  # highest priority first

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Consumer]:
        return iter(tuple(self._all))

    @property
    def active(self) -> Consumer | None:
        """The consumer that a single-active queue serves: the first registered of those still here."""
        return self._all[0] if self._all else None

    def add(self, consumer: Consumer) -> None:
        """Register a consumer; its turn comes last."""
        self._all.append(consumer)
        if consumer.priority not in self._rings:
            self._rings[consumer.priority] = deque()
            self._rings = dict(sorted(self._rings.items(), reverse=True))
        self._rings[consumer.priority].append(consumer)

    def remove(self, consumer: Consumer) -> None:
        """Take a consumer off; the next one takes over where only one is active."""
        self._all.remove(consumer)
        if consumer in self.parked:
            self.parked.remove(consumer)
        else:
            self._rings[consumer.priority].remove(consumer)
        if all(other.priority != consumer.priority for other in self._all):
            del self._rings[consumer.priority]

    def unpark(self) -> None:
        """Let consumers that have credit again back into their rings."""
        waiting = self.parked
        self.parked = []
        for consumer in waiting:
            (self._rings[consumer.priority] if consumer.has_credit() else self.parked).append(consumer)

    def next(self) -> Consumer | None:
        """Return whose turn it is among those with credit, or None, and move it to the end of its round."""
        if self.single_active or len(self._all) == 1:
            first = self._all[0] if self._all else None
            return first if first is not None and first.has_credit() else None
        for ring in self._rings.values():
            while ring:
                consumer = ring.popleft()
                if consumer.has_credit():
                    ring.append(consumer)
                    return consumer
                self.parked.append(consumer)
        return None
