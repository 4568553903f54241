"""The records of one commit, collected while the broker works.

Written for speed: every message that survives passes here twice. What is packed already (content, body) is only
referred to, what repeats (where messages go) is packed once, and what happens to a message later is one number.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

from transports.broker.journal.definitions import Definition
from transports.broker.journal.records import CHANGES, CHANGES_HEAD, DEFINED, NAME_STEP, SEGMENT_SHIFT, TABLE_HEAD
from transports.engine import Clock, Message
from transports.wire.carried import CarriedMessage
from transports.wire.content import RULE_HEADERS, pack_content, pack_table

__all__ = ["Batch", "carried_parts", "packed_table"]

METAS_KEPT = 4096


class Batch:
    """What happened since the last commit.

    parts: packed records. changes: a word for each message. last: the message of the latest ENTERED among the parts.
    name: the latest name given. live: messages by the number of the file that holds them. offset: POSIX time minus the
    clock's reading. shrunk: whether many messages may have gone at once.
    """

    __slots__ = ("_clock", "_metas", "changes", "last", "live", "name", "offset", "parts", "shrunk")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._metas: dict[tuple[str, str, int, float | None], bytes] = {}
        self.parts: list[bytes] = []
        self.changes = array("Q")
        self.last: Message | None = None
        self.name = 0
        self.live: dict[int, int] = {}
        self.shrunk = False
        self.offset = 0.0
        self.set_offset()

    def set_offset(self) -> None:
        """Compare the two scales of the clock anew."""
        self.offset = self._clock.time() - self._clock.now()

    def begin_file(self, number: int) -> None:
        """Give names of another file from now on; nothing is pending."""
        self.name = number << SEGMENT_SHIFT
        self.live[number] = 0

    @property
    def given(self) -> int:
        """How many names of the current file have been given."""
        return (self.name & (1 << SEGMENT_SHIFT) - 1) // NAME_STEP

    def define(self, definition: Definition) -> None:
        """Add a definition."""
        self.parts.append(packed_table(DEFINED, definition))

    def payload(self) -> bytes:
        """Return all records as one."""
        changes = self.changes
        if not changes:
            return b"".join(self.parts)
        if sys.byteorder == "big":
            changes = array("Q", changes)
            changes.byteswap()
        return b"".join((*self.parts, CHANGES_HEAD.pack(CHANGES, len(changes)), changes.tobytes()))

    def clear(self) -> None:
        """Forget the records: they are written."""
        self.parts.clear()
        del self.changes[:]
        self.last = None
        self.set_offset()

    def meta(self, message: Message, rules: dict[str, Any] | None, *more: Any) -> bytes:
        """Return where a message goes and by what rules, packed. more: for a dead letter its reason and target."""
        ttl = message.ttl
        if rules or more:
            where = [message.exchange, message.routing_key, message.priority, milliseconds(ttl)]
            try:
                return pack_table([*where, rules or None, *more])
            except (TypeError, ValueError):  # a publisher can write anything, and nothing may fail here
                return pack_table([*where, _as_queues_read(rules or {}), *more])
        key = (message.exchange, message.routing_key, message.priority, ttl)
        meta = self._metas.get(key)
        if meta is None:
            if len(self._metas) >= METAS_KEPT:
                self._metas.clear()
            meta = self._metas[key] = pack_table([*key[:3], milliseconds(ttl)])
        return meta


def packed_table(kind: int, table: Any) -> bytes:
    """Return a record of a kind that is a table."""
    packed = pack_table(table)
    return TABLE_HEAD.pack(kind, len(packed)) + packed


def milliseconds(ttl: float | None) -> int | None:
    """Return a TTL as the property ``expiration`` has it."""
    return None if ttl is None else round(ttl * 1000)


def _as_queues_read(rules: dict[str, Any]) -> dict[str, Any]:
    """Return rules whose values cannot be packed as queues read them: true, or a text."""
    return {str(name): value if value is True else str(value) for name, value in rules.items()}


def carried_parts(message: Message) -> tuple[bytes, dict[str, Any] | None]:
    """Return (content, rules) of a message; one that is not carried is packed here."""
    if isinstance(message, CarriedMessage):
        return message.content, message.rules
    headers = message.headers
    rules = {name: headers[name] for name in RULE_HEADERS if name in headers} if headers else None
    return pack_content(message.properties, headers), rules
