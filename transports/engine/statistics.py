"""The numbers of one queue, and what each of them counts.

Counters only grow while the queue lives. They balance at any moment::

    enqueued == ready + unacked + delayed + acknowledged + rejected + expired + dropped + purged

``oldest_ready_age`` of a FIFO queue is the age of its head; seconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["QueueCounters", "QueueStatistics"]


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStatistics:
    """One reading of a queue."""

    enqueued: int
    """Messages the queue has taken in."""
    delivered: int
    """Deliveries to consumers and getters; a redelivered message counts again."""
    acknowledged: int
    """Messages settled as done (at delivery, where no acknowledgement was asked for)."""
    rejected: int
    """Messages a consumer refused without requeue."""
    requeued: int
    """Deliveries that ended with the message back in the queue."""
    expired: int
    """Messages whose time to live ran out while ready."""
    dropped: int
    """Messages removed by a length bound or by the delivery limit."""
    dead_lettered: int
    """Messages passed on to the dead-letter exchange, whatever the reason."""
    deduplicated: int
    """Publishes confirmed and not enqueued because their id was seen within the window."""
    refused: int
    """Publishes refused because the queue was full."""
    purged: int
    """Messages removed by purge, and delayed messages cancelled."""
    ready: int
    """Messages that can be delivered now, or as soon as the one before them in their group is settled."""
    unacked: int
    """Messages delivered and not settled."""
    delayed: int
    """Messages held until their delay has passed."""
    dead_letter_pending: int
    """Dead letters kept back because no queue took them (strategy at-least-once); tried again every second."""
    bytes: int
    """Body bytes of all messages the queue answers for: ready, unacked and delayed."""
    consumers: int
    """Consumers registered."""
    oldest_ready_age: float
    """Seconds the longest-waiting ready message has been ready; 0.0 when there is none."""

    def as_dict(self) -> dict[str, float]:
        """Return the same as a plain dictionary, for JSON."""
        return asdict(self)


class QueueCounters:
    """The growing part, updated in place on the hot path."""

    __slots__ = (
        "acknowledged",
        "dead_lettered",
        "deduplicated",
        "delivered",
        "dropped",
        "enqueued",
        "expired",
        "purged",
        "refused",
        "rejected",
        "requeued",
    )

    def __init__(self) -> None:
        self.enqueued = 0
        self.delivered = 0
        self.acknowledged = 0
        self.rejected = 0
        self.requeued = 0
        self.expired = 0
        self.dropped = 0
        self.dead_lettered = 0
        self.deduplicated = 0
        self.refused = 0
        self.purged = 0

    def snapshot(
        self,
        *,
        ready: int,
        unacked: int,
        delayed: int,
        dead_letter_pending: int,
        bytes: int,
        consumers: int,
        oldest_ready_age: float,
    ) -> QueueStatistics:
        """Return the counters together with the gauges."""
        return QueueStatistics(
            **{name: getattr(self, name) for name in self.__slots__},
            ready=ready,
            unacked=unacked,
            delayed=delayed,
            dead_letter_pending=dead_letter_pending,
            bytes=bytes,
            consumers=consumers,
            oldest_ready_age=oldest_ready_age,
        )
