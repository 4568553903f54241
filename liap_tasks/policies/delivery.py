"""How one message is to be delivered, as the caller asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from liap_tasks.policies.deadline import Moment, deadline_from
from liap_tasks.policies.durations import Duration, in_seconds
from liap_tasks.policies.priority import MessagePriority

__all__ = ["DeliveryOptions"]


@dataclass(frozen=True, kw_only=True)
class DeliveryOptions:
    """What a caller may ask of the delivery; None leaves the default.

    ttl: seconds (or a timedelta) the message may wait in its queue; then it is a dead letter with reason ``expired``.
    delay: seconds before it may be delivered. priority: 0 to 255, larger is more urgent.
    correlation_id: what this message belongs to, for tracing; tasks started by the task inherit it.
    deadline: POSIX seconds or a datetime until which an answer is of use; answer_within: the same in seconds from the
    publish. Give one of the two.
    ordering_key: calls with the same key run in order. dedup_key: a second call with the same key is dropped.
    Raises ValueError naming the field for a value out of bounds.
    """

    ttl: Duration | None = None
    delay: Duration | None = None
    priority: MessagePriority | int | None = None
    correlation_id: str | None = None
    deadline: Moment | None = None
    answer_within: Duration | None = None
    ordering_key: str | None = None
    dedup_key: str | None = None

    def __post_init__(self) -> None:
        if self.ttl is not None:
            object.__setattr__(self, "ttl", in_seconds("ttl", self.ttl))
        if self.delay is not None:
            object.__setattr__(self, "delay", in_seconds("delay", self.delay))
        deadline_from(deadline=self.deadline, answer_within=self.answer_within, now=0.0)  # only checks them
        priority = self.priority
        if priority is not None and (
            not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 255
        ):
            raise ValueError(f"priority must be a whole number from 0 to 255, not {priority!r}")

    def as_execution_options(self) -> dict[str, Any]:
        """Return the options of Celery's ``apply_async`` for this delivery (all but the correlation id)."""
        options: dict[str, Any] = {}
        if self.ttl is not None:
            options["expiration"] = self.ttl
        if self.delay is not None:
            options["countdown"] = self.delay
        if self.priority is not None:
            options["priority"] = int(self.priority)
        if self.deadline is not None:
            options["deadline"] = self.deadline
        if self.answer_within is not None:
            options["answer_within"] = self.answer_within
        if self.ordering_key is not None:
            options["ordering_key"] = self.ordering_key
        if self.dedup_key is not None:
            options["dedup_key"] = self.dedup_key
        return options
