"""What the records of a journal amount to: the opposite of what queue logs write."""

from __future__ import annotations

import sys
from array import array
from struct import error as StructError
from typing import Any

from transports.broker.journal.definitions import Definition, Definitions
from transports.broker.journal.records import (
    CHANGES,
    CHANGES_HEAD,
    DEFINED,
    DELIVERED,
    ENTERED,
    ENTERED_HEAD,
    LEFT,
    NAME_MASK,
    PURGED,
    PURGED_HEAD,
    READY,
    READY_RECORD,
    REDELIVERED,
    RESCHEDULED,
    RESCHEDULED_RECORD,
    RETURNED,
    SAME,
    SNAPSHOT,
    TABLE_HEAD,
    UNDELIVERED,
)
from transports.engine import Message
from transports.wire.carried import CarriedMessage
from transports.wire.content import unpack_table

__all__ = ["Found", "FoundMessage", "Replay"]

PLAIN_META = 0x94  # a packed array of four: no rules


class FoundMessage:
    """A message as it was written; made whole once, for all the queues that hold it."""

    __slots__ = ("_body", "_content", "_message", "_meta")

    def __init__(self, meta: bytes, content: bytes, body: bytes) -> None:
        self._meta = meta
        self._content = content
        self._body = body
        self._message: Message | None = None

    def whole(self) -> Message:
        """Return the message."""
        if self._message is None:
            exchange, routing_key, priority, ttl, *more = unpack_table(self._meta)
            self._message = CarriedMessage(
                self._body,
                self._content,
                exchange,
                routing_key,
                priority=priority,
                expiration=None if ttl is None else str(ttl),
                rules=more[0] if more else None,
            )
        return self._message

    def letter(self) -> tuple[Any, Any]:
        """Return (reason, target) of a stranded dead letter."""
        _, _, _, _, _, reason, target = unpack_table(self._meta)
        return reason, target

    @property
    def deduplication_id(self) -> str | None:
        """The id by which a second publish of it is known, if it has one."""
        if self._meta[0] == PLAIN_META:
            return None
        rules = unpack_table(self._meta)[4]
        identity = rules.get("x-deduplication-id") if rules else None
        return None if identity is None else str(identity)


class Found:
    """An entry as it stands after all records; the fields are those of ENTERED."""

    __slots__ = ("delivered", "flags", "message", "place", "returns", "since", "time")

    def __init__(self, flags: int, place: int, since: float, time: float, returns: int, message: FoundMessage) -> None:
        self.flags = flags
        self.place = place
        self.since = since
        self.time = time
        self.returns = returns
        self.message = message
        self.delivered = False


class Replay:
    """Applies payloads in the order in which they were written.

    now: POSIX seconds; what a deduplication window has let go by then is not remembered. entries: by queue and name.
    highest: the largest number that a queue was given.
    """

    def __init__(self, now: float) -> None:
        self.definitions = Definitions()
        self.entries: dict[int, dict[int, Found]] = {}
        self.seen: dict[int, dict[str, float]] = {}
        self.highest = 0
        self._now = now
        self._queues: dict[int, dict[int, Found]] = {}  # by name, the one of `entries` that it is in
        self._windows: dict[int, float] = {}

    def apply(self, data: bytes, offset: int, end: int) -> tuple[int, int]:
        """Apply the records of ``data[offset:end]``; return how many messages they brought and the bytes of these.

        Raises ValueError for what no writer of this version wrote.
        """
        count = size = 0
        latest: FoundMessage | None = None
        try:
            while offset < end:
                kind = data[offset]
                if kind == ENTERED:
                    began = offset
                    latest, offset = self._entered(data, offset, latest)
                    count += 1
                    size += offset - began
                elif kind == CHANGES:
                    offset = self._changes(data, offset)
                elif kind == READY:
                    _, flags, name, place, since, time = READY_RECORD.unpack_from(data, offset)
                    offset += READY_RECORD.size
                    found = self._find(name)
                    if found is not None:
                        found.flags = (found.flags & REDELIVERED) | flags
                        found.place, found.since, found.time = place, since, time
                elif kind == RESCHEDULED:
                    _, name, time = RESCHEDULED_RECORD.unpack_from(data, offset)
                    offset += RESCHEDULED_RECORD.size
                    found = self._find(name)
                    if found is not None:
                        found.time = time
                elif kind == PURGED:
                    offset = self._purged(data, offset)
                elif kind in (DEFINED, SNAPSHOT):
                    _, length = TABLE_HEAD.unpack_from(data, offset)
                    offset += TABLE_HEAD.size
                    table = unpack_table(data[offset : offset + length])
                    offset += length
                    if kind == DEFINED:
                        self._define(table)
                    else:
                        self._snapshot(table)
                else:
                    raise ValueError(f"unknown record {kind} at byte {offset}")
        except (StructError, IndexError, TypeError) as error:
            raise ValueError(f"a record that cannot be read at byte {offset}: {error}") from error
        if offset != end:
            raise ValueError(f"a record at byte {offset} is longer than its block")
        return count, size

    def _entered(self, data: bytes, offset: int, latest: FoundMessage | None) -> tuple[FoundMessage, int]:
        (
            _,
            flags,
            queue,
            name,
            place,
            since,
            time,
            returns,
            meta_size,
            content_size,
            body_size,
        ) = ENTERED_HEAD.unpack_from(data, offset)
        offset += ENTERED_HEAD.size
        if not flags & SAME:
            content = offset + meta_size
            body = content + content_size
            after = body + body_size
            latest = FoundMessage(data[offset:content], data[content:body], data[body:after])
            offset = after
        elif latest is None:
            raise ValueError(f"the record at byte {offset} has the message of none before it")
        entries = self.entries.get(queue)
        if entries is None:
            entries = self.entries[queue] = {}
            self.highest = max(self.highest, queue)  # also where its definition is lost: no other may get the number
        entries[name] = Found(flags, place, since, time, returns, latest)
        self._queues[name] = entries
        window = self._windows.get(queue)
        if window is not None and since + window > self._now:
            identity = latest.deduplication_id
            if identity is not None:
                self.seen.setdefault(queue, {})[identity] = since + window
        return latest, offset

    def _find(self, name: int) -> Found | None:
        entries = self._queues.get(name)
        return None if entries is None else entries[name]

    def _changes(self, data: bytes, offset: int) -> int:
        _, count = CHANGES_HEAD.unpack_from(data, offset)
        offset += CHANGES_HEAD.size
        words, offset = _words(data, offset, count)
        queues = self._queues
        for word in words:
            name = word & NAME_MASK
            change = word - name
            if change == LEFT:
                entries = queues.pop(name, None)
                if entries is not None:
                    del entries[name]
                continue
            found = self._find(name)
            if found is None:
                continue
            found.delivered = change == DELIVERED
            if change == RETURNED:
                found.returns += 1
                found.flags |= REDELIVERED
            elif change not in (DELIVERED, UNDELIVERED):
                raise ValueError(f"unknown change {change} before byte {offset}")
        return offset

    def _purged(self, data: bytes, offset: int) -> int:
        _, queue, last, count = PURGED_HEAD.unpack_from(data, offset)
        words, offset = _words(data, offset + PURGED_HEAD.size, count)
        kept = set(words)
        entries = self.entries.get(queue, {})
        for name in [name for name in entries if name <= last]:
            if name not in kept:
                del entries[name], self._queues[name]
        return offset

    def _define(self, definition: Definition) -> None:
        gone = self.definitions.apply(definition)
        if gone is not None:
            self._drop(gone)
        if definition[0] == "queue":
            _, _, _, number, _, arguments = definition
            self.highest = max(self.highest, number)
            window = arguments.get("deduplication_window")
            if window is not None:
                self._windows[number] = window

    def _drop(self, number: int) -> None:
        for name in self.entries.pop(number, ()):
            del self._queues[name]
        self.seen.pop(number, None)
        self._windows.pop(number, None)

    def _snapshot(self, table: list[Definition]) -> None:
        self.definitions = Definitions()
        for definition in table:
            self._define(definition)
        for number in [number for number in self.entries if number not in self.definitions.queues]:
            self._drop(number)  # that it was deleted stood in what is damaged

    def drop_homeless(self) -> tuple[int, int]:
        """Forget messages of queues that are not defined; return how many there were, and of how many queues."""
        homeless = [number for number in self.entries if number not in self.definitions.queues]
        count = sum(len(self.entries[number]) for number in homeless)
        for number in homeless:
            self._drop(number)
        return count, len(homeless)


def _words(data: bytes, offset: int, count: int) -> tuple[array[int], int]:
    words = array("Q")
    end = offset + 8 * count
    words.frombytes(data[offset:end])
    if sys.byteorder == "big":
        words.byteswap()
    return words, end
