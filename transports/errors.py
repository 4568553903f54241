"""What can go wrong, for callers of kombu and Celery.

    kombu.exceptions.KombuError
     +- TransportError
         +- InvalidArgumentError(name, value, allowed)   also amqp's PreconditionFailed (406), a channel error
         +- QueueFullError(queue, max_length, retry_after)
         +- BrokerUnavailableError

Refusals that AMQP has a code for are kombu's (py-amqp's) own classes, so that code written for RabbitMQ catches them
here too: ``NotFound`` 404, ``PreconditionFailed`` 406, ``AccessRefused`` 403, ``ResourceLocked`` 405,
``NotAllowed`` 530.

Why InvalidArgumentError is a PreconditionFailed: RabbitMQ answers a bad argument with 406, and a program that handles
that must not need a second handler for us.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import (
    AccessRefused,
    AMQPError,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from kombu.exceptions import KombuError

from transports.engine import ChannelRefusal, EngineError, InvalidArgument, QueueFull

__all__ = [
    "BrokerUnavailableError",
    "InvalidArgumentError",
    "QueueFullError",
    "TransportError",
    "from_engine",
]


class TransportError(KombuError):
    """Base of the errors of the liap transports."""


class InvalidArgumentError(TransportError, PreconditionFailed):
    """An argument, property or header has a value that cannot be honoured.

    Attributes: ``name``, ``value``, ``allowed`` (what would be possible, in words).
    """

    def __init__(self, name: str, value: Any, allowed: str) -> None:
        AMQPError.__init__(self, f"{name}={value!r} is not possible here; allowed: {allowed}")
        self.args = (name, value, allowed)
        self.name = name
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.name}={self.value!r} is not possible here; allowed: {self.allowed}"


class QueueFullError(TransportError):
    """A bounded queue had no room for the message; it is not in that queue.

    Attributes: ``queue`` name, ``max_length`` (messages; bytes where only bytes are bounded), ``retry_after`` seconds
    after which a try makes sense.
    """

    def __init__(self, queue: str, max_length: int, retry_after: float) -> None:
        super().__init__(queue, max_length, retry_after)
        self.queue = queue
        self.max_length = max_length
        self.retry_after = retry_after

    def __str__(self) -> str:
        return (
            f"queue {self.queue!r} is full (bound {self.max_length}): the message was not enqueued; "
            f"try again in {self.retry_after:.1f} s, start more workers, or raise the bound"
        )


class BrokerUnavailableError(TransportError):
    """The broker cannot be used from here; the text says why and what to do."""


_BY_CODE: dict[int, type[AMQPError]] = {
    403: AccessRefused,
    404: NotFound,
    405: ResourceLocked,
    406: PreconditionFailed,
    530: NotAllowed,
}


def from_engine(error: EngineError) -> Exception:
    """Return the exception a caller of kombu expects for what the engine refused."""
    if isinstance(error, QueueFull):
        return QueueFullError(error.queue, error.max_length, error.retry_after)
    if isinstance(error, InvalidArgument):
        return InvalidArgumentError(error.name, error.value, error.allowed)
    if isinstance(error, ChannelRefusal):
        # method_sig (0, 0): the refusal is not tied to one AMQP method frame.
        refused: Exception = _BY_CODE[error.reply_code](error.reply_text, (0, 0), reply_code=error.reply_code)
        return refused
    return TransportError(str(error))
