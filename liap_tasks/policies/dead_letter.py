"""Why a message is dead, and what is done with it afterwards.

A dead letter is AMQP's: a message that could not be processed and is kept. Four reasons come from the broker
(RabbitMQ's names), the others only the task side can know.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from liap_tasks.policies.durations import Duration, in_seconds

__all__ = ["BROKER_REASONS", "DeadLetter", "DeadLetterPolicy", "DeadLetterReason"]


class DeadLetterReason(StrEnum):
    """Why a message is dead."""

    REJECTED = "rejected"
    """A consumer refused it without requeue."""
    EXPIRED = "expired"
    """Its time to live ran out in the queue."""
    MAXLEN = "maxlen"
    """The queue's bound dropped it."""
    DELIVERY_LIMIT = "delivery_limit"
    """It was delivered too often without being acknowledged."""
    RETRIES_EXHAUSTED = "retries_exhausted"
    """The task failed on its last allowed attempt."""
    PROCESSING_FAILED = "processing_failed"
    """The task failed with an error that its policy does not retry."""
    VALIDATION_FAILED = "validation_failed"
    """The arguments do not fit the task."""
    TIMED_OUT = "timed_out"
    """The last allowed attempt ran longer than the task's timeout."""
    NO_HANDLER = "no_handler"
    """No task of this name is registered."""
    UNDECODABLE = "undecodable"
    """The body or its content type could not be read."""
    UNKNOWN_VERSION = "unknown_version"
    """It was written by a later version of the program than read it."""
    WORKER_LOST = "worker_lost"
    """The process that ran it died."""
    MANUAL = "manual"
    """Somebody moved it, by hand or from code."""


BROKER_REASONS = frozenset(
    {
        DeadLetterReason.REJECTED,
        DeadLetterReason.EXPIRED,
        DeadLetterReason.MAXLEN,
        DeadLetterReason.DELIVERY_LIMIT,
    }
)


class DeadLetter(Exception):
    """A verdict: this message goes to the dead letters.

    A retry policy returns it; a task raises it to end there at once, whatever its policy says.
    reason: why. detail: a sentence for people.
    """

    def __init__(self, reason: DeadLetterReason | str = DeadLetterReason.MANUAL, detail: str = "") -> None:
        self.reason = DeadLetterReason(reason)
        self.detail = detail
        super().__init__(self.reason.value, detail)

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeadLetter) and (self.reason, self.detail) == (other.reason, other.detail)

    def __hash__(self) -> int:
        return hash((self.reason, self.detail))


@dataclass(frozen=True, kw_only=True)
class DeadLetterPolicy:
    """Where a task's dead letters go, and how long they are kept.

    enabled: False lets a failed message end as Celery ends it (acknowledged, state FAILURE).
    max_retries: automatic replays of a dead letter. retry_delay: seconds before the first of them;
    exponential_backoff doubles it each time. ttl: how long a dead letter is kept.
    """

    enabled: bool = True
    max_retries: int = 3
    retry_delay: Duration = 60.0
    exponential_backoff: bool = True
    ttl: Duration = timedelta(hours=24)

    def __post_init__(self) -> None:
        if not isinstance(self.max_retries, int) or isinstance(self.max_retries, bool) or self.max_retries < 0:
            raise ValueError(f"max_retries must be a whole number of at least 0, not {self.max_retries!r}")
        object.__setattr__(self, "retry_delay", in_seconds("retry_delay", self.retry_delay))
        object.__setattr__(self, "ttl", in_seconds("ttl", self.ttl, above_zero=True))
