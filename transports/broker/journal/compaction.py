"""Getting rid of old files without stopping for it.

Files go in the order in which they were written, so that what says that a message is gone never goes before what says
that it was there. The oldest goes when nothing in it lives. Where the files together take more than twice what lives in
them and one file more, what lives in the oldest is written again at the end, a little at each step.

Why the oldest and not the emptiest: with an order there is nothing to keep about messages that are gone. The cost: what
lives long is copied once for each time as many bytes have come and gone.
"""

from __future__ import annotations

from collections.abc import Callable

from transports.broker.journal.batch import Batch
from transports.broker.journal.queue_log import FileQueueLog
from transports.broker.journal.records import SEGMENT_SHIFT
from transports.broker.journal.writer import Segment

__all__ = ["Compaction"]

GROWTH = 2
LOOKS_PER_FILE = 64


class Compaction:
    """Decides which files go, and copies what lives. copied: bytes of messages."""

    def __init__(
        self, batch: Batch, logs: dict[int, FileQueueLog], segments: list[Segment], allowance: Callable[[], int]
    ) -> None:
        """segments: oldest first, the last one is written to. allowance: bytes that no message accounts for."""
        self.copied = 0
        self._batch = batch
        self._logs = logs
        self._segments = segments
        self._allowance = allowance
        self._oldest: Segment | None = None  # what lives in it is being copied
        self._to_visit: list[FileQueueLog] = []
        self._look_at = 0

    def take_dead(self) -> list[Segment]:
        """Return the files in which nothing lives and before which there is none, and forget them.

        Nothing may be pending: what says that they are dead must be written.
        """
        segments, live = self._segments, self._batch.live
        dead = 0
        while dead < len(segments) - 1 and not live[segments[dead].number]:
            dead += 1
        taken = segments[:dead]
        del segments[:dead]
        for segment in taken:
            del live[segment.number]
        return taken

    def live_bytes(self) -> int:
        """Return about how many bytes the living messages take."""
        live = self._batch.live
        return sum(one.entered_bytes * live[one.number] // one.entered for one in self._segments if one.entered)

    def step(self, budget: int, written: int) -> bool:
        """Copy up to about ``budget`` bytes if it is time for that; tell whether there is more to copy.

        written: bytes written to the journal so far.
        """
        if self._oldest is None and not self._choose(written):
            return False
        oldest = self._oldest
        left = budget
        while oldest is not None and self._batch.live.get(oldest.number) and left > 0:
            if not self._to_visit:
                raise AssertionError(f"messages of journal file {oldest.number} are in no queue")
            size = self._to_visit[-1].copy_forward(oldest.number + 1 << SEGMENT_SHIFT, left)
            if not size:
                self._to_visit.pop()
            self.copied += size
            left -= size
        if oldest is None or not self._batch.live.get(oldest.number):
            self._oldest = None
            self._batch.shrunk = True  # look again
        return True

    def _choose(self, written: int) -> bool:
        segments = self._segments
        if len(segments) < 2 or (written < self._look_at and not self._batch.shrunk):
            return False
        self._batch.shrunk = False
        allowance = self._allowance()
        self._look_at = written + allowance // LOOKS_PER_FILE
        if sum(one.size for one in segments) <= GROWTH * self.live_bytes() + allowance:
            return False
        self._oldest = segments[0]
        self._to_visit = list(self._logs.values())
        return True
