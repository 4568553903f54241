"""What follows a task that has ended (the rest of its chain, callbacks, a chord's body), if it cannot be published.

Celery publishes it after the attempt. If that fails, Celery (5.7) calls the task failed, whose work is done, and
acknowledges its message: what was to follow would be gone. Nobody who could publish it again is told.

So the message that cannot be published becomes a dead letter itself, with the reason, to be replayed to the queue that
it was for; the task before it has succeeded. It ends as any call that is dead: who waits for its result gets the error,
what comes after it in the chain (all in its letter) fails with it, its error callbacks are called. If not even the
letter can be published, the message of the task that has ended goes back to its queue: its work is then done twice, but
nothing is lost.

Where the message cannot be told (Celery fails before it makes one: no chords on this result backend) the letter is that
of the task that has ended, and says that its work was done.

The same holds for what a task's own ``on_success`` or ``on_failure`` publishes: Celery only logs their errors. Left
out: tasks that run eagerly, whose caller is told; a delay that the call was to have (its replay goes out at once).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import current_task
from celery.app.task import Context
from celery.exceptions import TaskPredicate
from celery.utils.functional import maybe_list
from celery.utils.log import get_logger
from kombu import Queue
from kombu.utils.uuid import uuid

from liap_tasks import dead_letters, ending
from liap_tasks.coroutines.running import beside_loop
from liap_tasks.errors import DeadLetterError, RoutingError
from liap_tasks.keys import headers_of_keys
from liap_tasks.metadata import HEADER
from liap_tasks.policies import DeadLetter, DeadLetterReason
from liap_tasks.unique.publishing import nobody_can_be_told
from transports import QueueFullError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp
    from liap_tasks.task import LiapTask

__all__ = ["keep_call", "keep_task"]

logger = get_logger("liap_tasks.continuation")


def keep_call(app: LiapApp, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], error: Exception) -> Any:
    """Put a call that could not be published among the dead letters, and return the handle of its result.

    options: of ``Celery.send_task``. Returns None when its caller can be told of ``error``. Raises Reject when the
    letter cannot be published either.
    """
    ended = _ended_task()
    if ended is None or options.get("retries") or isinstance(error, TaskPredicate):
        return None  # whoever publishes another attempt deals with its failure
    call = _request(app, ended, name, args, kwargs, options, error)
    story = "".join(traceback.format_exception(error))
    if app.dead_letter_policy_of(name).enabled:
        publish = partial(
            dead_letters.publish, app, call, task=name, verdict=_verdict(ended, error), error=error, traceback=story
        )
        try:
            beside_loop(ended, publish)
        except DeadLetterError as failure:
            logger.critical("%s; task %s[%s] goes back to its queue", failure, ended.name, ended.request.id)
            raise ending.back_to_its_queue(failure) from error
    result: Any = app.AsyncResult(call.id)
    result.ignored = bool(options.get("ignore_result"))
    backend: Any = app.backend
    try:
        backend.mark_as_failure(call.id, error, story, request=call, store_result=not result.ignored)
    except TaskPredicate:
        raise
    except Exception:  # the letter is safe; raised, this would make a second one, and one of the task that has ended
        logger.critical("nobody could be told that %s[%s] has failed", name, call.id, exc_info=True)
    return result


def keep_task(error: Exception) -> None:
    """Put the task that has ended among the dead letters, as what follows it is lost with ``error``.

    Raises Reject when that is not possible.
    """
    ended = _ended_task()
    if ended is not None:
        ending.bury(
            ended,
            DeadLetter(
                DeadLetterReason.PROCESSING_FAILED, "its work was done, but what follows it could not be published"
            ),
            error,
        )


def _ended_task() -> LiapTask | None:
    """Return the task of ours whose attempt has ended and that this thread is still busy with, if it is not eager."""
    if not nobody_can_be_told():
        return None
    current: Any = current_task
    task = current._get_current_object()
    return None if task.request.is_eager or not hasattr(task, "dead_letter_policy") else task


def _verdict(ended: LiapTask, error: Exception) -> DeadLetter:
    full = isinstance(error, QueueFullError)
    return DeadLetter(
        DeadLetterReason.MAXLEN if full else DeadLetterReason.PROCESSING_FAILED,
        f"it could not be published when task {ended.name}[{ended.request.id}] had ended",
    )


def _request(
    app: LiapApp, ended: LiapTask, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], error: Exception
) -> Any:
    """Return what a worker would have made of the call's message, had it come to one."""
    headers = dict(options.get("headers") or {})
    if HEADER not in headers:
        headers.update(app.new_headers(options.get("metadata_correlation_id")))
    headers.update(headers_of_keys(name, ordering_key=options.get("ordering_key"), dedup_key=None))
    exchange, routing_key = _destination(app, name, args, kwargs, options, error)
    return Context(
        id=options.get("task_id") or uuid(),
        args=list(args or ()),
        kwargs=dict(kwargs or {}),
        headers=headers,
        callbacks=maybe_list(options.get("link")),
        errbacks=maybe_list(options.get("link_error")),
        chain=options.get("chain"),
        chord=options.get("chord"),
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        root_id=options.get("root_id") or ended.request.root_id or ended.request.id,
        parent_id=options.get("parent_id") or ended.request.id,
        reply_to=options.get("reply_to") or app.thread_oid,
        shadow=options.get("shadow"),
        ignore_result=options.get("ignore_result"),
        timelimit=(options.get("time_limit"), options.get("soft_time_limit")),
        delivery_info={"exchange": exchange, "routing_key": routing_key, "priority": options.get("priority")},
    )


def _destination(
    app: LiapApp, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], error: Exception
) -> tuple[str, str]:
    """Return the exchange and the routing key of a call; no key if nobody knows: its replay has to name a queue."""
    if options.get("exchange") or options.get("routing_key"):
        return options.get("exchange") or "", options.get("routing_key") or ""
    if isinstance(error, RoutingError):
        return "", ""
    queue = options.get("queue")
    if queue is None:
        try:
            task: Any = app.tasks.get(name)
            found: Mapping[str, Any] = app.amqp.router.route(dict(options), name, args, kwargs, task)
        except Exception as failure:  # noqa: BLE001 - a route may run anybody's code, and the call must be kept
            logger.warning("nobody knows where task %s goes, its letter names no queue: %r", name, failure)
            return "", ""
        queue = found.get("queue", "")
    return "", queue.name if isinstance(queue, Queue) else queue
