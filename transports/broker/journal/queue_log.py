"""One queue's part of the journal: what happens to its messages becomes records of the current batch."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from transports.broker.journal.batch import Batch, carried_parts
from transports.broker.journal.definitions import Definition, Definitions
from transports.broker.journal.records import (
    AGAIN,
    DELAYED,
    DELIVERED,
    ENTERED,
    ENTERED_HEAD,
    LEFT,
    NAME_STEP,
    PURGED,
    PURGED_HEAD,
    READY,
    READY_RECORD,
    REDELIVERED,
    RESCHEDULED,
    RESCHEDULED_RECORD,
    RETURNED,
    SAME,
    SEGMENT_SHIFT,
    STRANDED,
    TIMED,
    UNDELIVERED,
)
from transports.engine import Entry, Message
from transports.engine.dead_letter import Stranded
from transports.engine.message import DELAYED as IS_DELAYED
from transports.engine.message import UNACKED as IS_UNACKED

__all__ = ["FileQueueLog", "Held"]

Held = Entry | Stranded
RECORD_BYTES = 100  # about what a record has beside content and body

_entered_head = ENTERED_HEAD.pack


class FileQueueLog:
    """The log of one queue. live: what it holds, by name, oldest name first. seen: deduplication ids of what it has
    written, and until when (clock reading) they are known; oldest first.

    Why a dictionary here and no list in the files: copying the living messages of an old file needs them in the order
    of their names, and they leave in any order.
    """

    __slots__ = ("_batch", "_definitions", "_logs", "_window", "definition", "live", "number", "seen")

    def __init__(
        self, definition: Definition, batch: Batch, definitions: Definitions, logs: dict[int, FileQueueLog]
    ) -> None:
        self.definition = definition
        self.number: int = definition[3]
        self.live: dict[int, Held] = {}
        self.seen: dict[str, float] = {}
        self._window: float | None = definition[5].get("deduplication_window")
        self._batch = batch
        self._definitions = definitions
        self._logs = logs
        logs[self.number] = self

    # -- what the queue tells ----------------------------------------------------------------------------------

    def entered(self, entry: Entry, expires_at: float | None, *, again: bool = False) -> None:
        batch = self._batch
        message = entry.message
        if self._window is not None and not again:
            self._remember(message, entry.since, self._window)
        batch.name = name = batch.name + NAME_STEP
        entry.stored = name
        self.live[name] = entry
        offset = batch.offset
        if entry.state == IS_DELAYED:
            flags, time = DELAYED, entry.due + offset
        elif expires_at is not None:
            flags, time = TIMED, expires_at + offset
        else:
            flags, time = 0, 0.0
        if entry.redelivered:
            flags |= REDELIVERED
        if again:
            flags |= AGAIN
        since = entry.since + offset
        if message is batch.last:
            flags |= SAME
            head = _entered_head(ENTERED, flags, self.number, name, entry.seq, since, time, entry.returns, 0, 0, 0)
            batch.parts.append(head)
            return
        batch.last = message
        content, rules = carried_parts(message)
        meta = batch.meta(message, rules)
        body = message.body
        head = _entered_head(
            ENTERED,
            flags,
            self.number,
            name,
            entry.seq,
            since,
            time,
            entry.returns,
            len(meta),
            len(content),
            len(body),
        )
        batch.parts += (head, meta, content, body)

    def _remember(self, message: Message, since: float, window: float) -> None:
        """Keep the message's id for the files to come, which outlive the one that has the message."""
        identity = message.header("x-deduplication-id")
        if identity is None:
            return
        seen = self.seen
        while seen and next(iter(seen.values())) <= since:
            del seen[next(iter(seen))]
        seen[str(identity)] = since + window

    def became_ready(self, entry: Entry, expires_at: float | None) -> None:
        batch = self._batch
        flags, time = (0, 0.0) if expires_at is None else (TIMED, expires_at + batch.offset)
        batch.parts.append(READY_RECORD.pack(READY, flags, entry.stored, entry.seq, entry.since + batch.offset, time))

    def rescheduled(self, entry: Entry) -> None:
        batch = self._batch
        batch.parts.append(RESCHEDULED_RECORD.pack(RESCHEDULED, entry.stored, entry.due + batch.offset))

    def delivered(self, entry: Entry) -> None:
        self._batch.changes.append(entry.stored | DELIVERED)

    def undelivered(self, entry: Entry) -> None:
        self._batch.changes.append(entry.stored | UNDELIVERED)

    def returned(self, entry: Entry) -> None:
        self._batch.changes.append(entry.stored | RETURNED)

    def left(self, entry: Held) -> None:
        name = entry.stored
        if self.live.pop(name, None) is None:  # the queue was deleted under it
            return
        entry.stored = 0
        batch = self._batch
        batch.changes.append(name | LEFT)
        batch.live[name >> SEGMENT_SHIFT] -= 1

    def purged(self, entries: Sequence[Entry]) -> None:
        """Note that these are gone: by naming them, or those that stay, whichever are fewer."""
        batch, live = self._batch, self.live
        names = [entry.stored for entry in entries if entry.stored]
        for entry in entries:
            entry.stored = 0
        for name in names:
            del live[name]
            batch.live[name >> SEGMENT_SHIFT] -= 1
        if len(names) <= len(live):
            batch.changes.extend([name | LEFT for name in names])
        else:
            kept = array("Q", live)
            if sys.byteorder == "big":
                kept.byteswap()
            batch.parts += (PURGED_HEAD.pack(PURGED, self.number, batch.name, len(kept)), kept.tobytes())
        batch.shrunk = True

    def stranded(self, letter: Stranded) -> None:
        batch = self._batch
        message = batch.last = letter.message
        batch.name = name = batch.name + NAME_STEP
        letter.stored = name
        self.live[name] = letter
        content, rules = carried_parts(message)
        meta = batch.meta(message, rules, letter.reason, letter.target)
        sizes = len(meta), len(content), len(message.body)
        head = _entered_head(ENTERED, STRANDED, self.number, name, 0, 0.0, 0.0, 0, *sizes)
        batch.parts += (head, meta, content, message.body)

    def deleted(self) -> None:
        batch = self._batch
        for name in self.live:
            batch.live[name >> SEGMENT_SHIFT] -= 1
        self.live.clear()
        definition = ["delete queue", *self.definition[1:4]]
        batch.define(definition)
        self._definitions.apply(definition)
        del self._logs[self.number]
        batch.shrunk = True

    # -- compaction --------------------------------------------------------------------------------------------

    def copy_forward(self, limit: int, budget: int) -> int:
        """Write messages named below ``limit`` again, under new names; stop after about ``budget`` bytes.

        Returns the bytes, 0 when there are no such messages.
        """
        size = 0
        chosen: list[Held] = []
        for name, held in self.live.items():
            if name >= limit or size >= budget:
                break
            chosen.append(held)
            size += RECORD_BYTES + held.message.size + len(getattr(held.message, "content", b""))
        for held in chosen:
            self.left(held)
            if isinstance(held, Stranded):
                self.stranded(held)
                continue
            self.entered(held, held.expires_at, again=True)
            if held.state == IS_UNACKED:
                self.delivered(held)
        return size
