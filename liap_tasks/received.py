"""A task's message as it came, for what is published in its place: its next attempt, or its dead letter.

Why it is kept beside the arguments: a task may change what it was called with, and its arguments may be of another
serializer than the app's. What is published in the message's place carries what was sent, byte by byte. It costs no
copy in a pool of threads or coroutines; a process of the prefork pool is handed the body besides the arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kombu.serialization import loads, prepare_accept_content

__all__ = ["ATTRIBUTE", "ReceivedMessage", "received_message", "sent_call"]

ATTRIBUTE = "liap_received"
"""The name by which a request has it."""


class ReceivedMessage(NamedTuple):
    """What a kombu message was made of. body: not compressed any more."""

    body: bytes | str
    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]

    @classmethod
    def of(cls, message: Any) -> ReceivedMessage:
        """Return what the message was made of; it can be sent to another process."""
        body = message.body
        return cls(
            body if isinstance(body, bytes | str) else bytes(body),
            message.content_type,
            message.content_encoding,
            message.headers or {},
            message.properties or {},
        )


def received_message(request: Any) -> ReceivedMessage | None:
    """Return the message of a task's request (Celery's Context); None in eager mode, where there is none."""
    received: ReceivedMessage | None = getattr(request, ATTRIBUTE, None)
    return received


def sent_call(request: Any, app: Any) -> tuple[Any, Any]:
    """Return the arguments, positional and by name, that the call of a request was sent with; (None, None) eagerly."""
    received = received_message(request)
    if received is None:
        return None, None
    accept = prepare_accept_content(app.conf.accept_content)
    content_type, encoding = received.content_type or "", received.content_encoding or ""
    payload: Any = loads(received.body, content_type, encoding, accept=accept)
    if isinstance(payload, dict):  # protocol 1
        return payload.get("args", ()), payload.get("kwargs", {})
    return payload[0], payload[1]
