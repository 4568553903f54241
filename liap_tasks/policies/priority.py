"""How urgent a message is: four names for AMQP's priority numbers.

AMQP 0-9-1 gives a message a priority from 0 to 9 and larger is more urgent; the names are spread over that range so
that a project can put its own levels between them. Redis counts the other way round; only the Redis transport knows.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["MessagePriority"]


class MessagePriority(IntEnum):
    """The urgency of a message, 1 to 9; larger is delivered first by a priority queue."""

    LOW = 1
    NORMAL = 4
    HIGH = 7
    CRITICAL = 9
