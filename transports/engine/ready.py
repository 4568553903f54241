"""The order in which ready messages leave a queue: FIFO, by priority, by priority with ageing.

Each store keeps entries in the order of their ``seq`` inside a level, so that a message that comes back (requeue,
lost consumer) stands again where it stood, as RabbitMQ's "to its original position, if possible" asks.

How: a deque holds the entries that have never left, a heap those that came back out of order; the smaller head
leaves first. Both ends are O(1) for the ordinary case and O(log n) for the rest, whatever the queue's length.
Entries removed from the middle (expired, cancelled, dropped) are only marked; marks are swept when they outnumber
the living, so removal is O(1) amortised.

A rule that decides *which* ready message is next is another store with the same methods; one in flight per group is
in :mod:`transports.engine.groups`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Protocol

from transports.engine.message import READY, Entry

__all__ = ["FifoStore", "PriorityStore", "ReadyStore"]

SWEEP_AT = 64


class ReadyStore(Protocol):
    """What a queue asks of the store of its ready entries.

    live: how many there are. waiting: how many of them may not be delivered yet.
    """

    live: int

    @property
    def waiting(self) -> int:
        """How many ready entries may not be delivered yet."""

    def push(self, entry: Entry) -> None:
        """Add an entry that is newer than all before it."""

    def restore(self, entry: Entry) -> None:
        """Put back an entry that has left, in its old place."""

    def reinstate(self, entry: Entry) -> None:
        """Add an entry that stood in such a store before a restart; they come in the order of their numbers."""

    def pop(self) -> Entry | None:
        """Remove and return the entry that is next, or None."""

    def drop_head(self) -> Entry | None:
        """Remove for good and return the entry that would be delivered next, or None."""

    def drop_lowest(self) -> Entry | None:
        """Remove for good and return the oldest entry of the lowest priority, or None."""

    def forget(self, entry: Entry) -> None:
        """Account for an entry that was marked as no longer ready while it stood in the store."""

    def oldest(self) -> Entry | None:
        """Return the entry that has waited longest, without removing it."""

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the ready entries in the order in which they would leave."""


class FifoStore:
    """First in, first out."""

    __slots__ = ("fresh", "live", "marked", "returned")
    waiting = 0

    def __init__(self) -> None:
        self.fresh: deque[Entry] = deque()
        self.returned: list[Entry] = []
        self.live = 0
        self.marked = 0

    def push(self, entry: Entry) -> None:
        self.fresh.append(entry)
        self.live += 1

    reinstate = push

    def restore(self, entry: Entry) -> None:
        fresh = self.fresh
        if not fresh or entry.seq < fresh[0].seq:
            fresh.appendleft(entry)
        else:
            heappush(self.returned, entry)
        self.live += 1

    def pop(self) -> Entry | None:
        if self.returned:
            entry = self._head()
            if entry is None:
                return None
            if self.returned and entry is self.returned[0]:
                heappop(self.returned)
            else:
                self.fresh.popleft()
            self.live -= 1
            return entry
        fresh = self.fresh
        while fresh:
            entry = fresh.popleft()
            if entry.state == READY:
                self.live -= 1
                return entry
            self.marked -= 1
        return None

    drop_head = drop_lowest = pop

    def remove(self, entry: Entry) -> None:
        """Take out a ready entry from wherever it stands; O(n)."""
        if entry in self.returned:
            self.returned.remove(entry)
            heapify(self.returned)
        else:
            self.fresh.remove(entry)
        self.live -= 1

    def forget(self, entry: Entry) -> None:
        self.live -= 1
        self.marked += 1
        if not self.live:
            self.fresh.clear()
            self.returned.clear()
            self.marked = 0
        elif self.marked > SWEEP_AT and self.marked > self.live:
            self.fresh = deque(entry for entry in self.fresh if entry.state == READY)
            self.returned = [entry for entry in self.returned if entry.state == READY]
            heapify(self.returned)
            self.marked = 0

    def oldest(self) -> Entry | None:
        return self._head()

    def _head(self) -> Entry | None:
        """Return the next entry after dropping marked ones from both heads."""
        fresh, returned = self.fresh, self.returned
        while fresh and fresh[0].state != READY:
            fresh.popleft()
            self.marked -= 1
        while returned and returned[0].state != READY:
            heappop(returned)
            self.marked -= 1
        if not returned:
            return fresh[0] if fresh else None
        if not fresh or returned[0].seq < fresh[0].seq:
            return returned[0]
        return fresh[0]

    def __iter__(self) -> Iterator[Entry]:
        if not self.returned:
            return (entry for entry in tuple(self.fresh) if entry.state == READY)
        return iter(sorted(entry for entry in (*self.fresh, *self.returned) if entry.state == READY))


class PriorityStore:
    """Larger priority first, FIFO inside a level; levels 0..highest, a higher priority counts as the highest.

    A bit mask of the levels in use makes push and pop independent of the number of levels. With ``aging``
    (seconds waited that weigh as much as one level) the head with the largest ``priority + waited / aging`` leaves
    first, so that a low priority is overtaken for a bounded time only.
    Worked example, aging 10 s: a message of priority 1 that has waited 30 s leaves before a fresh one of priority 3.
    """

    __slots__ = ("aging", "highest", "levels", "live", "mask")
    waiting = 0

    def __init__(self, highest: int, aging: float | None = None) -> None:
        self.highest = highest
        self.aging = aging
        self.levels: list[FifoStore | None] = [None] * (highest + 1)
        self.mask = 0
        self.live = 0

    def _level(self, entry: Entry) -> int:
        priority = entry.message.priority
        return priority if priority < self.highest else self.highest

    def push(self, entry: Entry) -> None:
        index = entry.message.priority
        if index > self.highest:
            index = self.highest
        level = self.levels[index]
        if level is None:
            level = self.levels[index] = FifoStore()
        level.fresh.append(entry)
        level.live += 1
        self.mask |= 1 << index
        self.live += 1

    reinstate = push

    def restore(self, entry: Entry) -> None:
        index = self._level(entry)
        level = self.levels[index]
        if level is None:
            level = self.levels[index] = FifoStore()
        level.restore(entry)
        self.mask |= 1 << index
        self.live += 1

    def pop(self) -> Entry | None:
        if not self.mask:
            return None
        return self._pop_from(self.mask.bit_length() - 1 if self.aging is None else self._most_urgent())

    drop_head = pop

    def drop_lowest(self) -> Entry | None:
        if not self.mask:
            return None
        return self._pop_from((self.mask & -self.mask).bit_length() - 1)

    def remove(self, entry: Entry) -> None:
        """Take out a ready entry from wherever it stands; O(n)."""
        index = self._level(entry)
        level = self.levels[index]
        if level is None:
            raise AssertionError(f"no level {index} for a message that is ready")
        level.remove(entry)
        if not level.live:
            self.mask &= ~(1 << index)
        self.live -= 1

    def _pop_from(self, index: int) -> Entry | None:
        level = self.levels[index]
        entry = level.pop() if level is not None else None
        if level is None or not level.live:
            self.mask &= ~(1 << index)
        self.live -= 1
        return entry

    def _most_urgent(self) -> int:
        # priority + (now - since) / aging orders the heads the same at every moment, so `now` is left out.
        aging = self.aging or 1.0
        return max(self._used(), key=lambda pair: pair[0] * aging - pair[1].since)[0]

    def _used(self) -> list[tuple[int, Entry]]:
        heads = []
        for index in range(self.mask.bit_length() - 1, -1, -1):
            level = self.levels[index]
            head = level.oldest() if level is not None else None
            if head is not None:
                heads.append((index, head))
        return heads

    def forget(self, entry: Entry) -> None:
        index = self._level(entry)
        level = self.levels[index]
        if level is None:
            raise AssertionError(f"no level {index} for a message that was ready")
        level.forget(entry)
        if not level.live:
            self.mask &= ~(1 << index)
        self.live -= 1

    def oldest(self) -> Entry | None:
        heads = [head for _, head in self._used()]
        return min(heads, key=lambda head: head.since) if heads else None

    def __iter__(self) -> Iterator[Entry]:
        levels = [(index, entry) for index, level in enumerate(self.levels) if level for entry in level]
        aging = self.aging
        if aging is None:
            levels.sort(key=lambda pair: (-pair[0], pair[1].seq))
        else:
            levels.sort(key=lambda pair: (pair[1].since - pair[0] * aging, -pair[0], pair[1].seq))
        return (entry for _, entry in levels)
