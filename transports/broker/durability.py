"""What the journal asks of the server: write at the end of each wake-up, say nothing that is not written, tidy up.

Frames that say something is settled are handed over here. With ``sync="os"`` they leave as soon as the wake-up's
records are written; with ``sync="disk"`` when the disk has them: the disk is asked on a thread, and whatever comes in
meanwhile goes with the next time it is asked (group commit), so a slow disk costs latency and not throughput.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from transports.broker.journal import FileJournal, JournalError

if TYPE_CHECKING:
    from transports.broker.session import Session

__all__ = ["Durability"]

logger = logging.getLogger("transports.broker")

TIDY_PAUSE = 0.01


class Durability:
    """The journal as the server uses it. Belongs to the server's event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, journal: FileJournal, on_failure: Callable[[BaseException], None]
    ) -> None:
        """on_failure: called once, when the journal can be written no more; nothing is confirmed from then on."""
        self.failed = False
        self._loop = loop
        self._journal = journal
        self._on_failure = on_failure
        self._written = 0
        self._held: deque[tuple[int, Session, list[bytes]]] = deque()
        self._syncing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="liap-journal") if journal.needs_sync else None
        self._tidying: asyncio.TimerHandle | None = None

    def commit(self) -> None:
        """Write what happened since the last time."""
        if self.failed:
            return
        if self._journal.pending:
            try:
                self._written = self._journal.commit()
            except JournalError as error:
                self._fail(error)
                return
            if self._tidying is None:
                self._tidy()

    def _tidy(self) -> None:
        self._tidying = None
        if self.failed:
            return
        try:
            more = self._journal.compact_step()
        except JournalError as error:
            self._fail(error)
            return
        if more:
            self._tidying = self._loop.call_later(TIDY_PAUSE, self._tidy)

    def release(self, session: Session, settled: list[bytes]) -> list[bytes]:
        """Return those of a client's frames that may leave now; the others leave when they may."""
        if self.failed:
            return []
        if self._thread is None or not settled:
            return settled
        self._held.append((self._written, session, settled))
        session.awaiting_disk += sum(map(len, settled))
        self._ask_the_disk()
        return []

    def _ask_the_disk(self) -> None:
        if not self._syncing and self._thread is not None and self._held:
            self._syncing = True
            self._loop.run_in_executor(self._thread, self._journal.sync).add_done_callback(self._synced)

    def _synced(self, done: asyncio.Future[int]) -> None:
        self._syncing = False
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or self.failed:
            return
        if error is not None:
            if not isinstance(error, JournalError):
                logger.error("the journal failed where it should not have", exc_info=error)
            self._fail(error)
            return
        durable = done.result()
        while self._held and self._held[0][0] <= durable:
            _, session, settled = self._held.popleft()
            session.awaiting_disk -= sum(map(len, settled))
            session.write_out(settled)
        self._ask_the_disk()

    def _fail(self, error: BaseException) -> None:
        logger.critical("the journal cannot be written, nothing more is confirmed: %s", error)
        self.failed = True
        self._held.clear()
        self._on_failure(error)

    def close(self) -> None:
        """Let go of the thread and the timer; the journal is closed by whoever opened it."""
        if self._tidying is not None:
            self._tidying.cancel()
        if self._thread is not None:
            self._thread.shutdown()
