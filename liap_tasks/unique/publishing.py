"""The caller's side of a unique task: the lock is taken before the call is published, and given back if that fails.

Only a new call that somebody makes can be refused. What continues another (a retry, a call that waits for its turn, the
rest of a chain, a callback) is published in any case, see :mod:`liap_tasks.unique`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import current_task
from celery.result import AsyncResult
from celery.utils.log import get_logger
from kombu.utils.uuid import uuid

from liap_tasks.errors import DuplicateTaskError, UniqueStoreError
from liap_tasks.policies.deadline import seconds_until
from liap_tasks.unique.locks import Claim, claim_in

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["continues_a_call", "nobody_can_be_told", "publish_unique"]

logger = get_logger("liap_tasks.unique")

AWAITED_BY = ("chord", "chain", "link", "link_error", "group_id")
"""Options of a call on which something else depends; another call's end would not do for it."""


def continues_a_call(options: Mapping[str, Any], task_id: str | None) -> bool:
    """Tell whether a publish is another attempt or another delivery of a call, and no new one."""
    return bool(options.get("retries")) or claim_in(options.get("headers"), task_id) is not None


def publish_unique(
    app: LiapApp,
    task: Any,
    args: Any,
    kwargs: Any,
    options: Mapping[str, Any],
    publish: Callable[[dict[str, Any]], Any],
    *,
    eager: bool = False,
) -> Any:
    """Publish a call of a unique task, or refuse it as the task's policy says.

    publish: does it, called with the options. eager: it runs here and now, so it cannot wait. Returns what ``publish``
    does, or the result of the call that has the key. Raises DuplicateTaskError, UniqueStoreError, and what ``publish``
    raises: the lock is free again then.
    """
    policy, locks = task.unique, app.unique_locks
    task_id = options.get("task_id") or uuid()
    options = {**options, "task_id": task_id}
    lease = policy.seconds_until_begun(delay=_delay(app, options), ttl=_ttl(app, options))
    if continues_a_call(options, task_id):
        key = locks.key_of_known(task, claim_in(options.get("headers"), task_id), args, kwargs)
        if key is not None and policy.until == "done":
            locks.extend(key, task_id, lease)
        return publish(options)
    if policy.until == "running" and not eager:
        return publish(options)
    if options.get("dedup_key") is not None:
        raise ValueError(
            f"a call of task {task.name} that the broker drops for its dedup_key would keep its lock: use either "
            'dedup_key or unique, or until="running"'
        )
    must_be_sent = not eager and nobody_can_be_told()
    if must_be_sent:
        key = locks.key_of_known(task, None, args, kwargs)
    else:
        key = policy.key_of(task.name, task.run, args or (), kwargs or {})
    if key is None:
        return publish(options)
    is_awaited = any(options.get(name) for name in AWAITED_BY)
    try:
        lock = locks.store.acquire(key, task_id, lease)
    except UniqueStoreError as error:
        if not (policy.fail_open or must_be_sent):
            raise
        logger.warning("call %s of task %s is published without a lock: %s", task_id, task.name, error)
        return publish(options)
    if lock.holder != task_id:
        if must_be_sent or (policy.on_conflict == "return" and is_awaited and not eager):
            return publish(options)
        if policy.on_conflict == "return" and not is_awaited:
            result_class = options.get("result_cls") or app.AsyncResult
            result: AsyncResult[Any] = result_class(lock.holder)
            result.ignored = bool(options.get("ignore_result"))
            return result
        raise DuplicateTaskError(task.name, key, lock.holder)
    options["headers"] = {**(options.get("headers") or {}), **Claim(key=key, holder=task_id).as_headers()}
    try:
        return publish(options)
    except BaseException:
        locks.release(key, task_id, lock.token)
        raise


def nobody_can_be_told() -> bool:
    """Tell whether it is Celery that publishes now, not a program or the code of a task."""
    parent: Any = current_task
    if not parent:
        return False
    return getattr(parent.request, "liap_running", None) is False or parent.name.startswith("celery.")


def _delay(app: LiapApp, options: Mapping[str, Any]) -> float:
    if options.get("countdown"):
        return float(options["countdown"])
    return seconds_until(options["eta"], app.now()) if options.get("eta") else 0.0


def _ttl(app: LiapApp, options: Mapping[str, Any]) -> float:
    """Return the seconds that a message may wait in its queue: its own, or the app's default."""
    ttl, own = app.settings.default_message_ttl, options.get("expiration")
    return ttl if own is None else min(ttl, float(own))
