"""The kinds of queues in this process: FIFO, by priority, with a bound of their own."""

from __future__ import annotations

from typing import Any

from liap_tasks.messaging.queues import MessageQueue, OverflowStrategy

__all__ = ["BoundedInMemoryQueue", "InMemoryQueue", "PriorityInMemoryQueue"]


class InMemoryQueue(MessageQueue):
    """A FIFO queue in this process, on ``liap-memory://``, with time to live, delay, bound and dead letters.

    url: default is the settings' broker if it is of that kind.
    """

    scheme = "liap-memory"


class PriorityInMemoryQueue(MessageQueue):
    """A queue in this process, on ``liap-priority://``: urgent messages first, FIFO among equals.

    url: default is the settings' broker if it is of that kind.
    """

    scheme = "liap-priority"


class BoundedInMemoryQueue(InMemoryQueue):
    """A FIFO queue in this process with a bound of its own.

    max_size: messages, at least 1; delayed ones count. overflow_strategy: "reject", "drop_oldest" or "block"; see
    :class:`MessageQueue`.
    """

    def __init__(
        self, name: str, max_size: int = 1000, overflow_strategy: OverflowStrategy = "reject", **options: Any
    ) -> None:
        """options: the others of :class:`MessageQueue`."""
        super().__init__(name, max_size=max_size, overflow_strategy=overflow_strategy, **options)
