"""A message as a program makes it and gets it: payload, priority, metadata.

On the wire it is an ordinary AMQP message, readable by any other client: the payload is its JSON body, the id its
``message_id`` property, the rest of the metadata the header ``liap``, as of a task's message.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from liap_tasks import dead_letters
from liap_tasks import metadata as task_metadata
from liap_tasks.keys import DEDUPLICATION_HEADER
from liap_tasks.metadata import HEADER
from liap_tasks.policies import MessagePriority

__all__ = [
    "RETRY_HEADER",
    "Delivery",
    "Message",
    "MessageMetadata",
    "body_of",
    "identity_of",
    "message_from",
    "own_headers",
]

RETRY_HEADER = "x-liap-retry"
"""Header of a dead letter that waits in its queue for a retry: the record of its death."""

ACCEPTED = frozenset({"application/json"})
# What brokers and this package write, and what must not be sent a second time.
NOT_OURS = frozenset(
    {HEADER, RETRY_HEADER, *dead_letters.NOT_KEPT, DEDUPLICATION_HEADER, "x-death", "x-delivery-count"}
)


class MessageMetadata(task_metadata.MessageMetadata):
    """The metadata of one message; unlike that of a task's message it can be set until the message is sent.

    message_id: names the message, wherever it goes; it travels as a property, not in the header. timestamp: POSIX
    seconds of its making. The others are those of :class:`liap_tasks.MessageMetadata`: source, correlation_id,
    attempts, deadline, replayed_from, replays.
    """

    model_config = ConfigDict(frozen=False, validate_assignment=True)

    message_id: str = Field(default_factory=lambda: str(uuid4()))
    timestamp: float | None = Field(default_factory=time.time)


class Delivery(Protocol):
    """The delivery by which a message came, as long as its queue holds it for this program."""

    @property
    def queue_name(self) -> str:
        """The queue it came from."""

    async def acknowledge(self) -> bool:
        """Settle it as done; False when it has been settled, or has gone back."""


@dataclass(kw_only=True)
class Message:
    """One message.

    payload: JSON values, or a pydantic model, which travels as JSON. priority: 0 to 255, larger is more urgent; a
    queue without priorities ignores it. headers: the program's own, passed on unchanged. redelivered: whether it was
    delivered before and not acknowledged.
    """

    payload: Any = field(default=None, kw_only=False)
    priority: MessagePriority | int = MessagePriority.NORMAL
    metadata: MessageMetadata = field(default_factory=MessageMetadata)
    headers: dict[str, Any] = field(default_factory=dict)
    redelivered: bool = field(default=False, compare=False)
    delivery: Delivery | None = field(default=None, repr=False, compare=False)
    """Set for a message that was taken from a queue and is held for this program."""


def body_of(message: Message) -> Any:
    """Return the payload as JSON values."""
    payload = message.payload
    return payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload


def identity_of(received: Any) -> str | None:
    """Return the id of a received (kombu) message, None if nobody gave it one."""
    properties: Mapping[str, Any] = received.properties or {}
    found = properties.get("message_id") or (received.headers or {}).get("id")
    return None if found is None else str(found)


def own_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the headers that the program has set."""
    return {
        name: value
        for name, value in (headers or {}).items()
        if name not in NOT_OURS and not name.startswith(("x-first-death-", "x-last-death-"))
    }


def message_from(received: Any) -> Message:
    """Return a received (kombu) message as a program sees it.

    Raises what kombu raises for a body that is no JSON, and pydantic's ValidationError for metadata that are none.
    """
    received.accept = ACCEPTED
    metadata = MessageMetadata.from_headers(received.headers)
    metadata.message_id = identity_of(received) or metadata.message_id
    priority = (received.properties or {}).get("priority")
    return Message(
        payload=received.decode(),
        priority=MessagePriority.NORMAL if priority is None else _priority(priority),
        metadata=metadata,
        headers=own_headers(received.headers),
        redelivered=bool((received.delivery_info or {}).get("redelivered")),
    )


def _priority(value: int) -> MessagePriority | int:
    return MessagePriority(value) if value in set(MessagePriority) else int(value)
