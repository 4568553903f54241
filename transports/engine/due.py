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
    """A heap of (due, entry); ``waits(entry, due)`` tells whether a pair still stands."""

    __slots__ = ("_heap", "_stale", "_waits")

    def __init__(self, waits: Callable[[Entry, float], bool]) -> None:
        self._heap: list[tuple[float, Entry]] = []
        self._stale = 0
        self._waits = waits

    def push(self, due: float, entry: Entry) -> None:
        """Add an entry that is due at ``due`` (clock reading)."""
        heappush(self._heap, (due, entry))

    def left_early(self) -> None:
        """Account for one entry that no longer waits."""
        self._stale += 1
        heap = self._heap
        if self._stale > REBUILD_AT and self._stale * 2 > len(heap):
            waits = self._waits
            heap[:] = [pair for pair in heap if waits(pair[1], pair[0])]
            heapify(heap)
            self._stale = 0

    def next_due(self) -> float | None:
        """Return when the first waiting entry is due, or None."""
        heap, waits = self._heap, self._waits
        while heap:
            due, entry = heap[0]
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
            due, entry = heappop(heap)
            if waits(entry, due):
                return entry
            if self._stale:
                self._stale -= 1
        return None

    def entries(self) -> list[Entry]:
        """Return every waiting entry, in no particular order."""
        return list({id(entry): entry for due, entry in self._heap if self._waits(entry, due)}.values())
