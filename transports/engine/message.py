"""A message, and its place in one queue.

A :class:`Message` is what was published: immutable and shared by every queue it was routed to. An
:class:`Entry` is one queue's hold on it: position, deadline, state. One publish to ten queues makes one
message and ten entries; the body is never copied and never encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transports.engine.errors import InvalidArgument

if TYPE_CHECKING:
    from transports.engine.groups import Line

__all__ = ["DELAYED", "GONE", "READY", "UNACKED", "Entry", "Message"]

# The state of an entry. Exactly one holds at any moment; GONE is final.
READY, UNACKED, DELAYED, GONE = range(4)

PERSISTENT = 2  # AMQP's delivery mode
MAX_DELAY_MS = 2**32 - 1
MAX_PRIORITY = 255
MAX_EXPIRATION_DIGITS = 12  # some thirty years


class Message:
    """What was published: body, properties, headers, and where to.

    body: bytes, as the publisher sent them. headers: dict or None, owned by the message. properties: AMQP basic
    properties except headers (content_type, correlation_id, ...), owned by the message.
    Derived: ``priority`` 0..255, ``ttl`` seconds or None (property ``expiration``, a string of milliseconds),
    ``delay`` seconds (header ``x-delay``, int milliseconds; the header is taken off), ``size`` body bytes.
    Raises InvalidArgument for a priority, expiration or delay out of range.
    """

    __slots__ = (
        "body",
        "delay",
        "exchange",
        "headers",
        "priority",
        "properties",
        "routing_key",
        "size",
        "ttl",
    )

    def __init__(
        self,
        body: bytes,
        properties: dict[str, Any],
        headers: dict[str, Any] | None,
        exchange: str,
        routing_key: str,
    ) -> None:
        self.body = body
        self.properties = properties
        self.headers = headers
        self.exchange = exchange
        self.routing_key = routing_key
        self.size = len(body)
        self.check_rules(properties.get("priority"), properties.get("expiration"), headers)

    def check_rules(self, priority: Any, expiration: Any, headers: dict[str, Any] | None) -> None:
        """Derive ``priority``, ``ttl`` and ``delay``, taking ``x-delay`` off the headers; raises InvalidArgument."""
        self.ttl: float | None = None
        self.delay = 0.0
        if priority is None:
            self.priority = 0
        elif isinstance(priority, int) and not isinstance(priority, bool) and 0 <= priority <= MAX_PRIORITY:
            self.priority = priority
        else:
            raise InvalidArgument("priority", priority, f"an integer from 0 to {MAX_PRIORITY}")
        if expiration is not None:
            self.ttl = parse_expiration(expiration)
        if headers and "x-delay" in headers:
            self.delay = parse_delay(headers.pop("x-delay"))

    def header(self, name: str) -> Any:
        """Return one of the headers that queues ask for (``x-group-id``, ``x-deduplication-id``, ...), or None.

        Why a method: a message that is carried unread (see the served broker) knows these without decoding the rest.
        """
        headers = self.headers
        return headers.get(name) if headers else None

    @property
    def identity(self) -> str | None:
        """Name the message for people: Celery's task id (header ``id``), else ``message_id`` or ``correlation_id``."""
        found = (self.headers or {}).get("id")
        found = found or self.properties.get("message_id") or self.properties.get("correlation_id")
        return None if found is None else str(found)

    @property
    def persistent(self) -> bool:
        """Whether the message asked to outlive its broker (property ``delivery_mode``, 2)."""
        return self.properties.get("delivery_mode") == PERSISTENT

    def is_identified_by(self, message_id: str) -> bool:
        """Tell whether this is the message's :attr:`identity`."""
        return self.identity == message_id

    def redirected(
        self, exchange: str, routing_key: str, headers: dict[str, Any], properties: dict[str, Any]
    ) -> Message:
        """Return the same body addressed elsewhere (used for dead letters)."""
        return Message(self.body, properties, headers, exchange, routing_key)


def parse_expiration(value: Any) -> float:
    """Return seconds for an AMQP ``expiration`` property: a string of whole milliseconds, 0 or more."""
    text = value if isinstance(value, str) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_EXPIRATION_DIGITS):
        raise InvalidArgument("expiration", value, "a string of whole milliseconds, 0 or more, of at most 12 digits")
    return int(text) / 1000.0


def parse_delay(value: Any) -> float:
    """Return seconds for an ``x-delay`` header: whole milliseconds from 0 to 2**32-1 (49 days)."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_DELAY_MS:
        raise InvalidArgument("x-delay", value, f"whole milliseconds from 0 to {MAX_DELAY_MS}")
    return value / 1000.0


class Entry:
    """One queue's hold on a message.

    seq: position in the queue, kept across requeues. expires_at: clock reading or None. state: READY, UNACKED,
    DELAYED or GONE. returns: deliveries that ended without acknowledgement. since: clock reading at which it
    became ready for the first time. line: its group's, in a queue with message groups. stored: what the journal calls
    it, 0 where it is in none.
    """

    __slots__ = ("due", "expires_at", "line", "message", "redelivered", "returns", "seq", "since", "state", "stored")

    def __init__(self, message: Message, seq: int, since: float) -> None:
        self.message = message
        self.seq = seq
        self.since = since
        self.state = READY
        self.expires_at: float | None = None
        self.due = 0.0
        self.redelivered = False
        self.returns = 0
        self.line: Line | None = None
        self.stored = 0

    def __lt__(self, other: Entry) -> bool:
        return self.seq < other.seq
