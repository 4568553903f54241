"""Locks in the memory of this process, for brokers that live there too.

Whoever shares the broker shares its locks: they belong to it, as its queues do.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable

from liap_tasks.errors import UniqueStoreError
from liap_tasks.unique.lock import FORGOTTEN_AFTER, NOBODY, Lock, taken

__all__ = ["MemoryStore", "memory_store"]

SWEEP_FROM = 1000


class MemoryStore:
    """Locks of one process. clock: POSIX seconds. A forked child is refused: its copy would keep nobody out."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._process = os.getpid()
        self._mutex = threading.Lock()
        self._locks: dict[str, Lock] = {}
        self._sweep_at = SWEEP_FROM

    def acquire(self, key: str, holder: str, seconds: float) -> Lock:
        """See :class:`UniqueStore`."""
        self._check_process()
        with self._mutex:
            now = self._clock()
            lock = taken(self._locks.get(key), key, holder, now=now, seconds=seconds)
            if lock.holder == holder:
                self._locks[key] = lock
                if len(self._locks) >= self._sweep_at:
                    self._sweep(now)
            return lock

    def renew(self, key: str, holder: str, token: int | None, seconds: float) -> bool:
        """See :class:`UniqueStore`."""
        self._check_process()
        with self._mutex:
            lock = self._of(key, holder, token)
            if lock is None:
                return False
            self._locks[key] = lock._replace(expires_at=max(lock.expires_at, self._clock() + seconds))
            return True

    def release(self, key: str, holder: str, token: int | None = None) -> bool:
        """See :class:`UniqueStore`."""
        self._check_process()
        with self._mutex:
            lock = self._of(key, holder, token)
            if lock is None:
                return False
            self._locks[key] = lock._replace(holder=NOBODY, expires_at=self._clock())
            return True

    def find(self, key: str) -> Lock | None:
        """See :class:`UniqueStore`."""
        self._check_process()
        with self._mutex:
            lock = self._locks.get(key)
            return lock if lock is not None and lock.holder != NOBODY and lock.expires_at > self._clock() else None

    def close(self) -> None:
        """See :class:`UniqueStore`; others of this process may use the same locks, so they stay."""

    def _of(self, key: str, holder: str, token: int | None) -> Lock | None:
        lock = self._locks.get(key)
        return lock if lock is not None and lock.holder == holder and token in (None, lock.token) else None

    def _sweep(self, now: float) -> None:
        forgotten = now - FORGOTTEN_AFTER
        self._locks = {key: lock for key, lock in self._locks.items() if lock.expires_at > forgotten}
        self._sweep_at = max(SWEEP_FROM, 2 * len(self._locks))

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise UniqueStoreError(
                "memory://", f"the locks are in the memory of process {self._process}, this is {os.getpid()}"
            )


_stores: weakref.WeakKeyDictionary[object, MemoryStore] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def memory_store(broker: object, *, clock: Callable[[], float] = time.time) -> MemoryStore:
    """Return the locks of an in-process broker, which end with it. clock: POSIX seconds, for who comes first."""
    with _making:
        store = _stores.get(broker)
        if store is None:
            store = _stores[broker] = MemoryStore(clock=clock)
        return store
