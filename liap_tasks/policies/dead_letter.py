"""Why a message is dead, and what is done with it afterwards: when it is tried again, how long it is kept.

A dead letter is AMQP's: a message that could not be processed and is kept. Four reasons come from the broker
(RabbitMQ's names), the others only the task side can know.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from liap_tasks.policies.durations import Duration, in_seconds

__all__ = ["BROKER_REASONS", "TRANSIENT_REASONS", "DeadLetter", "DeadLetterPolicy", "DeadLetterReason"]


class DeadLetterReason(StrEnum):
    """Why a message is dead."""

    REJECTED = "rejected"
    """A consumer refused it without requeue."""
    EXPIRED = "expired"
    """Its time to live ran out in the queue."""
    MAXLEN = "maxlen"
    """The queue's bound dropped it, or refused it when nobody could be told of that."""
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


TRANSIENT_REASONS = frozenset(
    {DeadLetterReason.RETRIES_EXHAUSTED, DeadLetterReason.TIMED_OUT, DeadLetterReason.WORKER_LOST}
)
"""What may pass by itself: the others die of the message, and would die again."""


@dataclass(frozen=True, kw_only=True)
class DeadLetterPolicy:
    """Where a task's dead letters go, when they are tried again by themselves, and how long they are kept.

    enabled: False lets a failed message end as Celery ends it (acknowledged, state FAILURE).
    max_retries: automatic replays of a dead letter, over all its lives; 0 for none. retry_delay: seconds (or a
    timedelta) from its death to the first of them; exponential_backoff doubles it each time, up to max_delay.
    retry_reasons: what it must have died of. reason_delays: other first delays for some of these.
    ttl: how long a dead letter is kept.

    Worked example: retry_delay 60, max_delay 200: replays after 60, 120, 200 s.
    Raises ValueError naming the field for a value out of bounds.
    """

    enabled: bool = True
    max_retries: int = 3
    retry_delay: Duration = 60.0
    exponential_backoff: bool = True
    max_delay: Duration = timedelta(hours=1)
    retry_reasons: Collection[DeadLetterReason | str] = TRANSIENT_REASONS
    reason_delays: Mapping[DeadLetterReason | str, Duration] = field(default_factory=dict, hash=False)
    ttl: Duration = timedelta(hours=24)

    def __post_init__(self) -> None:
        if not isinstance(self.max_retries, int) or isinstance(self.max_retries, bool) or self.max_retries < 0:
            raise ValueError(f"max_retries must be a whole number of at least 0, not {self.max_retries!r}")
        object.__setattr__(self, "retry_delay", in_seconds("retry_delay", self.retry_delay))
        object.__setattr__(self, "max_delay", in_seconds("max_delay", self.max_delay))
        object.__setattr__(self, "ttl", in_seconds("ttl", self.ttl, above_zero=True))
        reasons = frozenset(_reason("retry_reasons", reason) for reason in self.retry_reasons)
        object.__setattr__(self, "retry_reasons", reasons)
        delays = {
            _reason("reason_delays", reason): in_seconds("reason_delays", delay)
            for reason, delay in self.reason_delays.items()
        }
        object.__setattr__(self, "reason_delays", delays)

    @property
    def ttl_seconds(self) -> float:
        """How long a dead letter is kept, in seconds."""
        return in_seconds("ttl", self.ttl)

    def retry_at(self, reason: str, *, replays: int, died_at: float) -> float | None:
        """Return when a letter is to be replayed by itself, None for never.

        replays: how many replays have led to it, >= 0. died_at: the time that is counted from (s).
        """
        if not self.enabled or reason not in self.retry_reasons or replays >= self.max_retries:
            return None
        return died_at + self.delay(reason, replays)

    def delay(self, reason: str, replays: int) -> float:
        """Return the seconds between a death of ``reason`` after ``replays`` replays and the next replay."""
        first = in_seconds("delay", self.reason_delays.get(reason, self.retry_delay))  # a reason is equal to its text
        # A large exponent would overflow; the cap is reached long before.
        growth = 2.0 ** min(replays, 1000) if self.exponential_backoff else 1.0
        return min(first * growth, in_seconds("max_delay", self.max_delay))


def _reason(field: str, value: DeadLetterReason | str) -> DeadLetterReason:
    try:
        return DeadLetterReason(value)
    except ValueError:
        raise ValueError(f"{field} takes reasons ({', '.join(DeadLetterReason)}), not {value!r}") from None
