"""What is done to stored letters by themselves: replay when they are due, purge when their time is up.

Any number of workers may do it at once: a due letter is claimed before it is sent. It is marked replayed when the
broker has confirmed it, so a worker that is killed in between leaves a letter that is sent again after the lease, and
never one that is lost.

By a virtual clock (tests) it is a host of that clock as well: what is due is done in the thread that advances it,
before time moves on.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

from celery.utils.log import get_logger
from kombu.exceptions import KombuError

from liap_tasks.dead_letter_store.letter import AuditEntry, Letter, LetterFilter, LetterState
from liap_tasks.dead_letter_store.outage import Outage
from liap_tasks.dead_letter_store.sending import send
from liap_tasks.dead_letter_store.store import STORE_ERRORS, DeadLetterStore
from liap_tasks.dead_letters import UNSENDABLE
from liap_tasks.errors import DeadLetterError
from transports import QueueFullError, VirtualClock

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["Upkeep", "purge_old", "replay_due"]

logger = get_logger("liap_tasks.dead_letter_store")

BATCH = 100
LEASE = 60.0
LOOK_SECONDS = 5.0  # how late a letter may be that another process has scheduled
PURGE_SECONDS = 60.0
FULL_SECONDS = 30.0  # until a full queue is tried again
TOMBSTONE_SECONDS = 7 * 24 * 3600.0  # how long a purged letter's row tells that there was one


class Upkeep(threading.Thread):
    """Look after the store until :meth:`stop`."""

    def __init__(self, app: LiapApp, store: DeadLetterStore) -> None:
        super().__init__(name="dead-letter-upkeep", daemon=True)
        self.app = app
        self.store = store
        self._name = f"upkeep/{socket.gethostname()}/{uuid4().hex}"
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._store_outage = Outage("the dead-letter store", "automatic retries wait", self._stopping)
        self._broker_outage = Outage("the broker", "automatic retries wait", self._stopping)
        self._failure = Outage("the upkeep of dead letters", "automatic retries wait", self._stopping, verb="fails")
        self._purge_at = 0.0
        self._one_look = threading.Lock()

    def start(self) -> None:
        """Begin to look after the store."""
        clock = self.app.time_source
        if isinstance(clock, VirtualClock):
            clock.attach(self)
        super().start()

    def wake(self) -> None:
        """Look at once: something has been scheduled."""
        self._awake.set()

    def stop(self, timeout: float) -> None:
        """End after the letter that is being sent."""
        clock = self.app.time_source
        if isinstance(clock, VirtualClock):
            clock.detach(self)
        self._stopping.set()
        self._awake.set()
        self.join(timeout)

    def run(self) -> None:
        """Called in the thread."""
        probe = self.app.connection_for_write()
        broker_errors: tuple[type[BaseException], ...] = (
            KombuError,
            *probe.recoverable_connection_errors,
            *probe.recoverable_channel_errors,
        )
        while not self._stopping.is_set():
            self._awake.clear()
            try:
                pause = self._look()
            except STORE_ERRORS as error:
                self._store_outage.wait(error)
            except broker_errors as error:
                self._broker_outage.wait(error)
            except Exception as error:  # noqa: BLE001 - a thread that ends would retry and purge nothing, unsaid
                self._failure.wait(error)
            else:
                self._failure.over()
                self._awake.wait(pause)

    def _look(self) -> float:
        """Do what is to be done and return the seconds until there may be more."""
        with self._one_look:
            return self._replay_and_purge()

    # -- by a virtual clock ------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return when a virtual clock, by its own reading, is to have it look; None: there is nothing to wait for."""
        if not self.store.exists():
            return None
        moments = [moment for moment in (self.store.next_due(), self.store.next_expiry()) if moment is not None]
        clock = self.app.time_source
        return clock.now() + (min(moments) - clock.time()) if moments else None

    def run_due(self) -> None:
        """Look now, in this thread."""
        with self._one_look:
            self._purge_at = 0.0
            self._replay_and_purge()

    # -- what is done ------------------------------------------------------------------------------------------

    def _replay_and_purge(self) -> float:
        if not self.store.exists():
            return LOOK_SECONDS
        while replay_due(self.app, self.store, claimant=self._name, stopping=self._stopping) == BATCH:
            if self._stopping.is_set():
                return 0.0
        self._broker_outage.over()
        now = self.store.clock()
        if now >= self._purge_at:
            purge_old(self.store, now)
            self._purge_at = now + PURGE_SECONDS
        self._store_outage.over()
        due = self.store.next_due()
        return LOOK_SECONDS if due is None else min(max(due - self.store.clock(), 0.05), LOOK_SECONDS)


def replay_due(app: LiapApp, store: DeadLetterStore, *, claimant: str, stopping: threading.Event | None = None) -> int:
    """Send the letters that are due back to their queues, at most a batch; return how many were claimed.

    Raises what the broker and the store raise when they are away; the letters are then due still.
    """
    due = LetterFilter(states=(LetterState.SCHEDULED,), due_before=store.clock())
    letters = store.claim(due, claimant=claimant, lease=LEASE, limit=BATCH)
    if not letters:
        return 0
    sent: list[str] = []
    full: set[str] = set()
    try:
        with app.producer_or_acquire() as producer:
            for letter in letters:
                if stopping is not None and stopping.is_set():
                    break
                if letter.queue in full:
                    continue
                try:
                    send(app, producer, letter)
                except QueueFullError:
                    full.add(letter.queue)
                except (DeadLetterError, *UNSENDABLE) as error:
                    _give_up(store, letter, claimant, error)
                else:
                    sent.append(letter.id)
    finally:
        if sent:
            store.mark_replayed(sent, claimant=claimant, replay_id=f"automatic-{uuid4().hex}")
            logger.info("%d dead letters were replayed by their policy", len(sent))
        left = [letter for letter in letters if letter.id not in set(sent)]
        store.release([letter.id for letter in left], claimant=claimant)
    if full:
        later = tuple(letter.id for letter in left if letter.queue in full)
        store.schedule(LetterFilter(ids=later), store.clock() + FULL_SECONDS)
    return len(letters)


def purge_old(store: DeadLetterStore, now: float) -> None:
    """Purge the letters whose time is up, and forget those that were purged long ago."""
    purged = store.purge_expired(now)
    forgotten = store.forget_purged(now - TOMBSTONE_SECONDS)
    if purged or forgotten:
        logger.info("%d dead letters were purged, %d forgotten: their time was up", purged, forgotten)


def _give_up(store: DeadLetterStore, letter: Letter, claimant: str, error: Exception) -> None:
    """Let a letter that can be sent nowhere wait for somebody."""
    reason = str(error) if isinstance(error, DeadLetterError) else repr(error)
    logger.error("dead letter %s cannot be replayed and waits for you: %s", letter.id, reason)
    store.release([letter.id], claimant=claimant)
    store.cancel_schedule(LetterFilter(ids=(letter.id,)))
    note = AuditEntry(letter_id=letter.id, at=store.clock(), who=claimant, action="gave_up", after={"error": reason})
    store.add_audit([note])
