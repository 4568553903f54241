"""How urgent a message is. Larger is more urgent, on every transport."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["MessagePriority"]


class MessagePriority(IntEnum):
    """Four levels inside AMQP's customary range of 0 to 9.

    There is room between them, and below LOW: a message published without a priority by other software has 0.
    """

    LOW = 1
    NORMAL = 4
    HIGH = 7
    CRITICAL = 9
