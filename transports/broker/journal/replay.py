"""What the records of a journal amount to: the opposite of what queue logs write.

A record that cannot be understood costs itself: the next one is gone on with, and whoever reads tells the operator.
"""

from __future__ import annotations

import sys
from array import array
from struct import error as StructError
from typing import Any

from transports.broker.journal.definitions import Definition, Definitions, check_definition
from transports.broker.journal.records import (
    AGAIN,
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
    SEEN,
    SNAPSHOT,
    TABLE_HEAD,
    UNDELIVERED,
)
from transports.engine import EngineError, Message
from transports.wire.carried import CarriedMessage
from transports.wire.content import unpack_kept

__all__ = ["UNREADABLE", "Found", "FoundMessage", "Replay"]

TABLES = (DEFINED, SNAPSHOT, SEEN)
PLAIN_META = 0x94  # a packed array of four: no rules
#: What reading a record raises that no writer of this version wrote.
UNREADABLE = (ValueError, TypeError, LookupError, StructError, EngineError)


class FoundMessage:
    """A message as it was written; made whole once, for all the queues that hold it."""

    __slots__ = ("_body", "_content", "_message", "_meta")

    def __init__(self, meta: bytes, content: bytes, body: bytes) -> None:
        self._meta = meta
        self._content = content
        self._body = body
        self._message: Message | None = None

    def whole(self) -> Message:
        """Return the message; raises what :data:`UNREADABLE` names."""
        if self._message is None:
            exchange, routing_key, priority, ttl, *more = unpack_kept(self._meta)
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
        """Return (reason, target) of a stranded dead letter; raises what :data:`UNREADABLE` names."""
        _, _, _, _, _, reason, target = unpack_kept(self._meta)
        return reason, target

    @property
    def deduplication_id(self) -> str | None:
        """The id by which a second publish of it is known, if it has one."""
        if self._meta[0] == PLAIN_META:
            return None
        rules = unpack_kept(self._meta)[4]
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
    highest: the largest number that a queue was given. skipped: (byte, reason) of records that were left out.
    """

    def __init__(self, now: float) -> None:
        self.definitions = Definitions()
        self.entries: dict[int, dict[int, Found]] = {}
        self.seen: dict[int, dict[str, float]] = {}
        self.highest = 0
        self.skipped: list[tuple[int, str]] = []
        self._now = now
        self._queues: dict[int, dict[int, Found]] = {}  # by name, the one of `entries` that it is in
        self._windows: dict[int, float] = {}

    def apply(self, data: bytes, offset: int, end: int) -> tuple[int, int]:
        """Apply the records of ``data[offset:end]``; return how many messages they brought and the bytes of these.

        One that cannot be understood is noted in ``skipped``, and with it the rest of the block where it does not even
        say how long it is.
        """
        count = size = 0
        latest: FoundMessage | None = None
        while offset < end:
            began = offset
            try:
                kind = data[offset]
                if kind == ENTERED:
                    latest, offset = self._entered(data, offset, end, latest)
                    count += 1
                    size += offset - began
                elif kind == CHANGES:
                    offset = self._changes(data, offset, end)
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
                    offset = self._purged(data, offset, end)
                elif kind in TABLES:
                    offset = self._defined(data, offset, end)
                else:
                    raise ValueError(f"unknown record {kind}")
            except UNREADABLE as error:
                self.skipped.append((began, str(error)))
                if kind == ENTERED:
                    latest = None  # nothing after it is the same message
                offset = _end_of_record(data, began, end)
        return count, size

    def _entered(self, data: bytes, offset: int, end: int, latest: FoundMessage | None) -> tuple[FoundMessage, int]:
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
            if after > end:
                raise ValueError("a message that is longer than its block")
            latest = FoundMessage(data[offset:content], data[content:body], data[body:after])
            offset = after
        elif latest is None:
            raise ValueError("a record with the message of the one before it, which is missing")
        entries = self.entries.get(queue)
        if entries is None:
            entries = self.entries[queue] = {}
            self.highest = max(self.highest, queue)  # also where its definition is lost: no other may get the number
        entries[name] = Found(flags, place, since, time, returns, latest)
        self._queues[name] = entries
        window = self._windows.get(queue)
        if window is not None and since + window > self._now and not flags & AGAIN:
            try:
                identity = latest.deduplication_id
            except UNREADABLE:
                identity = None  # whoever makes the message whole tells of it
            if identity is not None:
                self.seen.setdefault(queue, {})[identity] = since + window
        return latest, offset

    def _remember(self, queue: int, seen: dict[str, float]) -> None:
        if queue in self._windows:
            known = {key: until for key, until in seen.items() if until > self._now}
            self.seen.setdefault(queue, {}).update(known)

    def _find(self, name: int) -> Found | None:
        entries = self._queues.get(name)
        return None if entries is None else entries[name]

    def _changes(self, data: bytes, offset: int, end: int) -> int:
        _, count = CHANGES_HEAD.unpack_from(data, offset)
        words, offset = _words(data, offset + CHANGES_HEAD.size, count, end)
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
                self.skipped.append((offset, f"unknown change {change} of a message"))
        return offset

    def _purged(self, data: bytes, offset: int, end: int) -> int:
        _, queue, last, count = PURGED_HEAD.unpack_from(data, offset)
        words, offset = _words(data, offset + PURGED_HEAD.size, count, end)
        kept = set(words)
        entries = self.entries.get(queue, {})
        for name in [name for name in entries if name <= last]:
            if name not in kept:
                del entries[name], self._queues[name]
        return offset

    def _defined(self, data: bytes, offset: int, end: int) -> int:
        kind, length = TABLE_HEAD.unpack_from(data, offset)
        began = offset + TABLE_HEAD.size
        after: int = began + length
        if after > end:
            raise ValueError("a table that is longer than its block")
        table = unpack_kept(data[began:after])
        if kind == SNAPSHOT:
            self._snapshot(table, offset)
        elif kind == SEEN:
            number, seen = table
            self._remember(number, {str(key): float(until) for key, until in seen.items()})
        else:
            self._define(table)
        return after

    def _define(self, definition: Definition) -> None:
        check_definition(definition)
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

    def _snapshot(self, table: list[Definition], offset: int) -> None:
        if not isinstance(table, list):
            raise TypeError("definitions that are no list")
        self.definitions = Definitions()
        for definition in table:
            try:
                self._define(definition)
            except UNREADABLE as error:
                self.skipped.append((offset, str(error)))
        for number in [number for number in self.entries if number not in self.definitions.queues]:
            self._drop(number)  # that it was deleted stood in what is damaged

    def drop_homeless(self) -> tuple[int, int]:
        """Forget messages of queues that are not defined; return how many there were, and of how many queues."""
        homeless = [number for number in self.entries if number not in self.definitions.queues]
        count = sum(len(self.entries[number]) for number in homeless)
        for number in homeless:
            self._drop(number)
        return count, len(homeless)


def _words(data: bytes, offset: int, count: int, end: int) -> tuple[array[int], int]:
    words = array("Q")
    after = offset + 8 * count
    if after > end:
        raise ValueError("a list that is longer than its block")
    words.frombytes(data[offset:after])
    if sys.byteorder == "big":
        words.byteswap()
    return words, after


def _end_of_record(data: bytes, offset: int, end: int) -> int:
    """Return where a record ends by what its head says; the end of the block where that is nowhere in it."""
    kind = data[offset]
    try:
        if kind == ENTERED:
            *_, meta, content, body = ENTERED_HEAD.unpack_from(data, offset)
            size: int = ENTERED_HEAD.size + meta + content + body
        elif kind in TABLES:
            size = TABLE_HEAD.size + TABLE_HEAD.unpack_from(data, offset)[1]
        else:
            return end
    except StructError:
        return end
    return min(offset + size, end)
