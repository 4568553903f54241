"""Renewing the locks of what runs in this process: one thread for all of them, only while there are any.

Each lock is renewed when a third of its lease has passed, so two renewals may fail before it ends. Why a thread beside
the task and not the worker's main process: the lock shall end with what holds it. A prefork child that is killed, or
that is stuck so that no thread of it runs, renews nothing.
"""

from __future__ import annotations

import threading

from celery.utils.log import get_logger

from liap_tasks.errors import UniqueStoreError
from liap_tasks.unique.lock import Lock, UniqueStore
from transports import Clock, VirtualClock

__all__ = ["HeldLock", "LeaseKeeper"]

logger = get_logger("liap_tasks.unique")

IDLE_SECONDS = 5.0


class HeldLock:
    """The lock of a running call, ``self.unique_lock`` in a task.

    key: of the call. token: the fencing token, 64 bits; a later holder's is always higher. Hand it to what the task
    writes to, which refuses a token lower than the highest it has seen.
    """

    def __init__(self, lock: Lock, lease: float, clock: Clock) -> None:
        self.key = lock.key
        self.holder = lock.holder
        self.token = lock.token
        self._lease = lease
        self._clock = clock
        self._lost = False
        self._certain_until = self.renew_at = 0.0
        self.renewed(clock.now())

    @property
    def held(self) -> bool:
        """Whether it is certain that nobody else has the lock: False once it is lost, or was not renewed in time."""
        return not self._lost and self._clock.now() < self._certain_until

    def renewed(self, asked_at: float) -> None:
        """Note that the lease began anew at ``asked_at`` or later."""
        self._certain_until = asked_at + self._lease
        self.put_off(asked_at)

    def put_off(self, now: float) -> None:
        """Let the next renewal come after a third of the lease."""
        self.renew_at = now + self._lease / 3

    def renew(self, store: UniqueStore) -> bool:
        """Renew the lease; False when the lock is another's by now. Raises UniqueStoreError."""
        asked_at = self._clock.now()
        if store.renew(self.key, self.holder, self.token, self._lease):
            self.renewed(asked_at)
        else:
            self._lost = True
        return not self._lost


class LeaseKeeper:
    """Renews locks until they are dropped; by a virtual clock in the thread that advances it."""

    def __init__(self, store: UniqueStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._changed = threading.Condition()
        self._held: set[HeldLock] = set()
        self._thread: threading.Thread | None = None
        self._away = False
        if isinstance(clock, VirtualClock):
            clock.attach(self)

    def hold(self, lock: Lock, lease: float) -> HeldLock:
        """Renew a lock that was taken a moment ago for ``lease`` seconds, until :meth:`drop`."""
        held = HeldLock(lock, lease, self._clock)
        with self._changed:
            self._held.add(held)
            if isinstance(self._clock, VirtualClock):
                pass  # it asks
            elif self._thread is None:
                self._thread = threading.Thread(target=self._run, name="liap-lease-keeper", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()
        return held

    def drop(self, held: HeldLock) -> None:
        """Renew a lock no more. It is not released."""
        with self._changed:
            self._held.discard(held)

    def next_due(self) -> float | None:
        """Return when there is something to do next, by the clock; None: nothing is held."""
        with self._changed:
            return min((held.renew_at for held in self._held), default=None)

    def run_due(self) -> None:
        """Renew the locks whose time has come."""
        now = self._clock.now()
        with self._changed:
            due = [held for held in self._held if held.renew_at <= now]
        for held in due:
            try:
                if not held.renew(self._store):
                    self.drop(held)
                    logger.warning(
                        "call %s has lost its lock of %r: it goes on, but not alone; its token is %d",
                        held.holder,
                        held.key,
                        held.token,
                    )
                self._away = False
            except UniqueStoreError as error:
                held.put_off(now)
                if not self._away:  # once, not for each lock and each time
                    logger.warning("a lock could not be renewed, trying again: %s", error)
                self._away = True
            except Exception:
                held.put_off(now)
                logger.critical("a lock could not be renewed, trying again", exc_info=True)

    def _run(self) -> None:
        while True:
            self.run_due()
            with self._changed:
                soonest = min((held.renew_at for held in self._held), default=None)
                if soonest is not None:
                    self._changed.wait(max(0.0, soonest - self._clock.now()))
                elif not self._changed.wait(IDLE_SECONDS) and not self._held:
                    self._thread = None
                    return
