"""Entries that something happens to at a given time, soonest first.

A binary heap with lazy deletion: an entry that no longer waits is skipped when it surfaces, and the heap is rebuilt
when such leftovers outnumber the rest, so that memory follows what waits and not what has passed through.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from transports.engine.message import Entry

__all__ = ["DueHeap"]

REBUILD_AT = 64


class DueHeap:
    """Entries by due time; ``waits(entry, due)`` tells whether an entry still waits for this time.

    Entries due together leave by the number (``seq``) they had when they were pushed. It is kept beside the entry: an
    entry gets another number when it becomes ready, and a heap whose keys change is none.
    """

    __slots__ = ("_heap", "_stale", "_waits")

    def __init__(self, waits: Callable[[Entry, float], bool]) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._stale = 0
        self._waits = waits

    def push(self, due: float, entry: Entry) -> None:
        """Add an entry that is due at ``due`` (clock reading)."""
        heappush(self._heap, (due, entry.seq, entry))

    def left_early(self) -> None:
        """Account for one entry that no longer waits."""
        self._stale += 1
        heap = self._heap
        if self._stale > REBUILD_AT and self._stale * 2 > len(heap):
            waits = self._waits
            heap[:] = [item for item in heap if waits(item[2], item[0])]
            heapify(heap)
            self._stale = 0

    def next_due(self) -> float | None:
        """Return when the first waiting entry is due, or None."""
        heap, waits = self._heap, self._waits
        while heap:
            due, _, entry = heap[0]
            if waits(entry, due):
                return due
            heappop(heap)
            if self._stale:
                self._stale -= 1
        return None

    def pop_due(self, now: float) -> Entry | None:
        """Remove and return the next entry that is due by ``now``, or None."""
        heap, waits = self._heap, self._waits
        while heap and heap[0][0] <= now:
            due, _, entry = heappop(heap)
            if waits(entry, due):
                return entry
            if self._stale:
                self._stale -= 1
        return None

    def entries(self) -> list[Entry]:
        """Return every waiting entry, in no particular order."""
        return list({id(entry): entry for due, _, entry in self._heap if self._waits(entry, due)}.values())
