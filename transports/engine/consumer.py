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
    """The consumers of one queue, in the order in which they are served."""

    __slots__ = ("_all", "_by_priority", "single_active")

    def __init__(self, single_active: bool) -> None:
        self.single_active = single_active
        self._all: list[Consumer] = []
        self._by_priority: list[deque[Consumer]] = []

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Consumer]:
        return iter(tuple(self._all))

    @property
    def active(self) -> Consumer | None:
        """The consumer that a single-active queue serves: the first registered of those still here."""
        return self._all[0] if self._all else None

    def add(self, consumer: Consumer) -> None:
        """Register a consumer."""
        self._all.append(consumer)
        self._regroup()

    def remove(self, consumer: Consumer) -> None:
        """Take a consumer off; the next one takes over where only one is active."""
        self._all.remove(consumer)
        self._regroup()

    def _regroup(self) -> None:
        groups: dict[int, deque[Consumer]] = {}
        for consumer in self._all:
            groups.setdefault(consumer.priority, deque()).append(consumer)
        self._by_priority = [groups[priority] for priority in sorted(groups, reverse=True)]

    def next(self) -> Consumer | None:
        """Return whose turn it is among those with credit, or None, and move it to the end of its round."""
        if self.single_active or len(self._all) == 1:
            first = self._all[0] if self._all else None
            return first if first is not None and first.has_credit() else None
        for group in self._by_priority:
            for _ in range(len(group)):
                consumer = group[0]
                group.rotate(-1)
                if consumer.has_credit():
                    return consumer
        return None
