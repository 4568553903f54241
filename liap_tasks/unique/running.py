"""The worker's side of a unique task: an attempt runs under its lock, or its call waits for its turn.

The lock is the call's, not the attempt's: it is kept when the call goes on (a retry, back to its queue) and freed when
it ends, before its result is told, so that a caller who has the result may call again. ``until="running"`` has it only
while an attempt runs, ``until="started"`` never.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject, Retry
from celery.utils.log import get_logger

from liap_tasks.coroutines.running import beside_loop
from liap_tasks.errors import DuplicateTaskError, UniqueStoreError
from liap_tasks.giving_up import given_up
from liap_tasks.unique.keeper import HeldLock
from liap_tasks.unique.locks import Claim, claim_in

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = ["UniqueAttempt", "Wait"]

logger = get_logger("liap_tasks.unique")


@dataclass(frozen=True)
class Wait:
    """The call must wait. seconds: before its key is looked at again. claim: what its message says then."""

    seconds: float
    claim: Claim


class UniqueAttempt:
    """One attempt of a unique task, the running one of ``task``."""

    def __init__(self, task: LiapTask) -> None:
        self._task = task
        self._request: Any = task.request
        assert task.unique is not None
        self._policy = task.unique
        self._locks = task.app.unique_locks
        self._claim = claim_in(self._request.headers, self._request.id)
        self._held: HeldLock | None = None
        self._waits = False

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Wait | None:
        """Take the lock, or return how to wait for it.

        Raises what the policy's key raises; for a call that runs here and now, and so cannot wait, DuplicateTaskError
        or UniqueStoreError.
        """
        task, policy, holder = self._task, self._policy, self._request.id
        if policy.until == "started":
            claim, self._claim = self._claim, None
            if claim is not None:
                self._release(claim.key, None)
            return None
        if self._claim is None:
            key = policy.key_of(task.name, task.run, args, kwargs)
            if key is None:
                return None
            self._claim = Claim(key=key, holder=holder)
        key, lease = self._claim.key, policy.lease_seconds
        try:
            lock = beside_loop(task, partial(self._locks.store.acquire, key, holder, lease))
        except UniqueStoreError as error:
            if policy.fail_open:
                logger.warning("call %s of task %s runs without a lock: %s", holder, task.name, error)
                return None
            if self._request.is_eager:
                raise
            logger.warning("call %s of task %s waits for its lock: %s", holder, task.name, error)
            return self._wait()
        if lock.holder != holder:
            if self._request.is_eager:
                raise DuplicateTaskError(task.name, key, lock.holder)
            logger.info("call %s of task %s waits: call %s has its key", holder, task.name, lock.holder)
            return self._wait()
        if not lock.again and self._should_have_had_it():
            logger.warning(
                "call %s of task %s had no lock here: its lease has ended in the queue, or UNIQUE_STORE_URL is not the "
                "same where it was published",
                holder,
                task.name,
            )
        self._keeper = self._locks.keeper
        self._held = self._request.liap_unique_lock = self._keeper.hold(lock, lease)
        self._request.headers = {**(self._request.headers or {}), **Claim(key=key, holder=holder).as_headers()}
        return None

    def _should_have_had_it(self) -> bool:
        """Tell whether the lock was taken when the message was published."""
        carried = claim_in(self._request.headers, self._request.id)
        return carried is not None and carried.looks == 0

    def _wait(self) -> Wait:
        assert self._claim is not None
        self._waits = True
        return Wait(self._policy.seconds_to_next_look(self._claim.looks), self._claim.after_look())

    def end(self, error: BaseException | None) -> None:
        """Free the lock if the attempt, which ended with ``error``, has ended the call."""
        if self._held is not None:
            self._keeper.drop(self._held)
        if self._waits or self._claim is None or given_up():  # what was given up, its worker has dealt with
            return
        if error is not None and not isinstance(error, Exception):
            return  # cancelled, or the process ends: the message is not acknowledged, its worker deals with it
        token = None if self._held is None else self._held.token
        if self._policy.until == "done" and isinstance(error, Reject) and getattr(error, "requeue", False):
            lease = self._policy.seconds_until_begun(delay=0.0, ttl=self._task.app.settings.default_message_ttl)
            beside_loop(self._task, partial(self._locks.extend, self._claim.key, self._claim.holder, lease))
        elif self._policy.until != "done" or not self._is_retried(error):
            self._release(self._claim.key, token)

    def _is_retried(self, error: BaseException | None) -> bool:
        return isinstance(error, Retry) or bool(getattr(self._request, "liap_retried", False))

    def _release(self, key: str, token: int | None) -> None:
        beside_loop(self._task, partial(self._locks.release, key, self._request.id, token))
