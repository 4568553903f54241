"""What a broker tells a journal, and what a journal gives back after a restart.

The engine decides what must survive: exchanges declared durable; queues declared durable that belong to no connection;
bindings between those; in such queues the messages that are persistent. It tells a journal of each change while the
operation that causes it runs, and never of anything else. When that is written down is for the owner of both to say:
what one operation changes (a dead letter leaves one queue and enters another) is told between two of the owner's calls.

Times handed over are readings of the broker's clock.

Why a log per queue: what happens to every message is one call on an object that knows its queue, and a queue that does
not survive has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from transports.engine.arguments import QueueArguments

if TYPE_CHECKING:
    from transports.engine.dead_letter import Stranded
    from transports.engine.exchange import Exchange
    from transports.engine.message import Entry
    from transports.engine.queue import Queue

__all__ = ["Journal", "QueueLog", "StoredBinding", "StoredExchange", "StoredHost", "StoredQueue"]


class QueueLog(Protocol):
    """What happens in one queue that survives. An entry that has been entered has a ``stored`` other than 0."""

    def entered(self, entry: Entry, expires_at: float | None, *, again: bool = False) -> None:
        """Note a new entry, ready or delayed, and set its ``stored``.

        expires_at: when it will expire. again: it had left, so that no deduplication window begins with it.
        """

    def became_ready(self, entry: Entry, expires_at: float | None) -> None:
        """Note that the delay of an entry has passed, and its new place."""

    def rescheduled(self, entry: Entry) -> None:
        """Note another due time of a delayed entry."""

    def delivered(self, entry: Entry) -> None:
        """Note that an entry is in a consumer's hands: should the broker end now, it will be redelivered."""

    def undelivered(self, entry: Entry) -> None:
        """Note that an entry came back from a consumer who never saw it."""

    def returned(self, entry: Entry) -> None:
        """Note that an entry came back unacknowledged; its ``returns`` has grown by one."""

    def left(self, entry: Entry | Stranded) -> None:
        """Note that an entry or a stranded dead letter is gone for good, whatever the reason; ``stored`` is 0 again."""

    def purged(self, entries: Sequence[Entry]) -> None:
        """Note that all these entries are gone for good."""

    def stranded(self, letter: Stranded) -> None:
        """Note a dead letter that the queue keeps until there is a place for it, and set its ``stored``."""

    def deleted(self) -> None:
        """Note that the queue is gone, with its bindings and all that it held."""


class Journal(Protocol):
    """What happens to the lasting parts of one or several virtual hosts."""

    def queue_declared(self, vhost: str, queue: Queue) -> QueueLog:
        """Note a new queue and return its log."""

    def exchange_declared(self, vhost: str, exchange: Exchange) -> None:
        """Note a new exchange."""

    def exchange_deleted(self, vhost: str, exchange: Exchange) -> None:
        """Note that an exchange is gone, with the bindings from it and to it."""

    def binding_changed(
        self,
        vhost: str,
        source: Exchange,
        destination: Queue | Exchange,
        routing_key: str,
        arguments: Mapping[str, Any],
        *,
        exists: bool,
    ) -> None:
        """Note a new binding, or that one was removed by itself (not because one of its ends is gone)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredExchange:
    """A durable exchange as it was declared."""

    name: str
    kind: str
    auto_delete: bool
    internal: bool
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBinding:
    """A binding between things that survive. to_queue: whether the destination is a queue or an exchange."""

    source: str
    destination: str
    to_queue: bool
    routing_key: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredQueue:
    """A durable queue with what it held; see :meth:`~transports.engine.queue.Queue.reinstate`."""

    name: str
    arguments: QueueArguments
    auto_delete: bool
    log: QueueLog
    entries: list[Entry] = field(default_factory=list)
    stranded: list[Stranded] = field(default_factory=list)
    seen: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredHost:
    """All that survives of one virtual host."""

    exchanges: list[StoredExchange] = field(default_factory=list)
    queues: list[StoredQueue] = field(default_factory=list)
    bindings: list[StoredBinding] = field(default_factory=list)
