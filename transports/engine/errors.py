"""What the engine refuses, as values with AMQP 0-9-1 reply codes.

    EngineError
     +- ChannelRefusal(reply_code, reply_text)   403 access refused, 404 not found, 405 resource locked,
     |                                           406 precondition failed
     +- InvalidArgument(name, value, allowed)    an argument, property or header that cannot be honoured
     +- QueueFull(queue, max_length, retry_after) a publish refused by a bounded queue
     +- WouldBlock(queue)                        control flow: an ``x-overflow: block`` queue has no room yet

Why not kombu's classes here: the engine imports nothing but the standard library, so that the served broker can
run it without kombu and carry these errors over a socket. The kombu adapter translates them in one place.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ChannelRefusal", "EngineError", "InvalidArgument", "QueueFull", "WouldBlock"]


class EngineError(Exception):
    """Anything the engine refuses."""


class ChannelRefusal(EngineError):
    """An operation refused with an AMQP reply code (AMQP 0-9-1, section 1.2, reply-code constants)."""

    def __init__(self, reply_code: int, reply_text: str) -> None:
        super().__init__(reply_code, reply_text)
        self.reply_code = reply_code
        self.reply_text = reply_text

    def __str__(self) -> str:
        return f"({self.reply_code}) {self.reply_text}"


def access_refused(text: str) -> ChannelRefusal:
    """403: the name or object may not be used this way."""
    return ChannelRefusal(403, f"ACCESS_REFUSED - {text}")


def not_found(kind: str, name: str, vhost: str) -> ChannelRefusal:
    """404: no such queue or exchange."""
    return ChannelRefusal(404, f"NOT_FOUND - no {kind} '{name}' in vhost '{vhost}'")


def resource_locked(text: str) -> ChannelRefusal:
    """405: the queue is exclusive to another connection."""
    return ChannelRefusal(405, f"RESOURCE_LOCKED - {text}")


def precondition_failed(text: str) -> ChannelRefusal:
    """406: the object exists with other properties, is in use, or the request contradicts itself."""
    return ChannelRefusal(406, f"PRECONDITION_FAILED - {text}")


class InvalidArgument(EngineError):
    """An argument, property or header with a value outside what is allowed.

    Attributes: ``name``, ``value``, ``allowed`` (a sentence for people).
    """

    def __init__(self, name: str, value: Any, allowed: str) -> None:
        super().__init__(name, value, allowed)
        self.name = name
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.name}={self.value!r} is not possible here; allowed: {self.allowed}"


class QueueFull(EngineError):
    """A bounded queue refused the message; other queues of the same publish may have taken it.

    Attributes: ``queue``, ``max_length`` (messages, or bytes where only bytes are bounded), ``retry_after`` seconds.
    """

    def __init__(self, queue: str, max_length: int, retry_after: float) -> None:
        super().__init__(queue, max_length, retry_after)
        self.queue = queue
        self.max_length = max_length
        self.retry_after = retry_after


class WouldBlock(EngineError):
    """The publish must wait for room in ``queue``; nothing has been enqueued anywhere."""

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.queue = queue
