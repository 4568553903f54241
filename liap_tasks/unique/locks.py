"""An app's locks: the store, who renews, and freeing the lock of a call whose message is all that is known of it.

A call says in a header which lock it holds. So whoever meets its message where it ends (a dead letter, a revoke) can
free the lock without knowing the task. Freeing is by the holder there: nobody who meets a message knows the token of
an attempt that ran in another process, and the message is at its end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from liap_tasks.configuration import broker_feature
from liap_tasks.errors import ConfigurationError, UniqueStoreError
from liap_tasks.time_source import clock_of
from liap_tasks.unique.keeper import LeaseKeeper
from liap_tasks.unique.lock import UniqueStore
from liap_tasks.unique.opening import open_store, store_url
from transports import VirtualClock

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["HEADER", "Claim", "UniqueLocks", "claim_in"]

logger = get_logger("liap_tasks.unique")

HEADER = "x-liap-unique"
OUT_OF_REACH = (UniqueStoreError, ConfigurationError)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the message of a unique call says of its lock.

    holder: the task id. looks: how often in a row a worker has found the key held by another.
    """

    key: str
    holder: str
    looks: int = 0

    def as_headers(self) -> dict[str, Any]:
        """Return the header that carries this."""
        return {HEADER: {"key": self.key, "holder": self.holder, "looks": self.looks}}

    def after_look(self) -> Claim:
        """Return the same after one look more."""
        return replace(self, looks=self.looks + 1)


def claim_in(headers: Mapping[str, Any] | None, task_id: str | None) -> Claim | None:
    """Return the claim that a message carries, None if it carries none or that of another call."""
    table = (headers or {}).get(HEADER)
    if not isinstance(table, Mapping):
        return None
    key, holder, looks = table.get("key"), table.get("holder"), table.get("looks")
    if not isinstance(key, str) or not isinstance(holder, str) or holder != task_id:
        return None
    return Claim(key=key, holder=holder, looks=looks if isinstance(looks, int) else 0)


class UniqueLocks:
    """The locks of one app. Nothing is opened before the first unique call.

    Raises ConfigurationError when it is and no store can be chosen.
    """

    def __init__(self, app: LiapApp) -> None:
        self._app = app
        self._making: dict[int, threading.Lock] = {}  # by process: a lock that somebody holds is not for a forked child
        self._store: UniqueStore | None = None
        self._keeper: tuple[int, LeaseKeeper] | None = None

    @property
    def store(self) -> UniqueStore:
        """Where the locks are kept."""
        store = self._store
        if store is None:
            with self._making.setdefault(os.getpid(), threading.Lock()):
                store = self._store or self._open()
                self._store = store
        return store

    def _open(self) -> UniqueStore:
        broker = str(self._app.conf.broker_write_url or self._app.conf.broker_url)
        url = store_url(self._app.settings, in_process=broker_feature(broker, "in_process"))
        clock = clock_of(self._app)
        return open_store(url, broker_url=broker, clock=clock.time if isinstance(clock, VirtualClock) else None)

    @property
    def keeper(self) -> LeaseKeeper:
        """Who renews the locks of what runs in this process; a forked child has its own."""
        store, process = self.store, os.getpid()
        keeper = self._keeper
        if keeper is None or keeper[0] != process:
            with self._making.setdefault(process, threading.Lock()):
                keeper = self._keeper
                if keeper is None or keeper[0] != process:
                    keeper = self._keeper = (process, LeaseKeeper(store, clock_of(self._app)))
        return keeper[1]

    def extend(self, key: str, holder: str, seconds: float) -> None:
        """Let the lock of a call hold until its next attempt begins."""
        try:
            self.store.renew(key, holder, None, seconds)
        except OUT_OF_REACH as error:
            logger.warning("the lock of %r may end before the next attempt of call %s: %s", key, holder, error)

    def release(self, key: str, holder: str, token: int | None = None) -> bool:
        """Free a lock; False, and said, when the locks cannot be reached: it ends by itself then."""
        try:
            self.store.release(key, holder, token)
        except OUT_OF_REACH as error:
            logger.warning("the lock of %r is not freed, its lease must end: %s", key, error)
            return False
        return True

    def release_message(self, headers: Mapping[str, Any] | None) -> bool:
        """Free the lock of a call of which only the message's headers are known: it is at its end.

        False when the locks cannot be reached, which takes a while to find out.
        """
        claim = claim_in(headers, (headers or {}).get("id"))
        return claim is None or self.release(claim.key, claim.holder)

    def release_call(self, task: Any, request: Any) -> None:
        """Free the lock of a call that has ended outside of its attempt. request: the task's, as Celery's Context."""
        policy = getattr(task, "unique", None)
        if policy is None:
            return
        key = self.key_of_known(task, claim_in(request.headers, request.id), request.args, request.kwargs)
        if key is not None:
            self.release(key, request.id)

    def key_of_known(self, task: Any, claim: Claim | None, args: Any, kwargs: Any) -> str | None:
        """Return the key of a call that exists, None if it can have none.

        claim: what its message says; None for one that was published without a lock, and may have got one since.
        """
        if claim is not None:
            return claim.key
        try:
            key: str | None = task.unique.key_of(task.name, task.run, args or (), kwargs or {})
        except Exception as error:  # noqa: BLE001 - arguments that fit nothing, or whatever a user's function raises
            logger.debug("a call of task %s never had a unique key: %r", task.name, error)
            return None
        return key

    def close(self) -> None:
        """Close the store's connections; it is chosen anew when it is needed."""
        store, self._store, self._keeper = self._store, None, None
        if store is not None:
            store.close()
