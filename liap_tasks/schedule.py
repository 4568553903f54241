"""Delayed calls: which there are, and how to cancel or move them by task id.

Where the broker holds delayed messages itself (all of ours, ``liap-...://``) it is asked, and answers for all: a call
is either still waiting there, and then cancelled or moved, or it has gone out. Elsewhere (RabbitMQ, Redis) workers
hold what they have received: they are asked, each for its own, a cancelled call is revoked, and a call cannot be moved.
There a call that no worker has received yet is not known, and when no worker answers that is an error. How long a
delay may be there: see the README, "Settings".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from kombu.exceptions import ChannelError
from pydantic import BaseModel, ConfigDict

from liap_tasks.errors import ScheduleError
from liap_tasks.metadata import MessageMetadata
from liap_tasks.policies.durations import in_seconds
from liap_tasks.worker.unreadable import flaw_of

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["ScheduledCall", "cancel", "reschedule", "scheduled"]

ASK_SECONDS = 1.0


class ScheduledCall(BaseModel):
    """A call that waits for its time. due: when it goes out. queue: where to. worker: who holds it, if one does."""

    model_config = ConfigDict(frozen=True)

    id: str
    task: str
    due: datetime
    queue: str | None = None
    worker: str | None = None
    correlation_id: str | None = None
    args: str = ""
    kwargs: str = ""


def scheduled(app: LiapApp, *, queue: str | None = None, task: str | None = None) -> list[ScheduledCall]:
    """Return the delayed calls, soonest first; only those of a queue or of a task if it is given.

    Raises ScheduleError where workers hold them and none answers.
    """
    calls = _held_by_broker(app) if app.broker_holds_delays else _held_by_workers(app)
    return sorted(
        (call for call in calls if queue in (None, call.queue) and task in (None, call.task)),
        key=lambda call: (call.due, call.id),
    )


def cancel(app: LiapApp, task_id: str) -> bool:
    """Cancel a delayed call; False when none of this id is waiting any more.

    Held by the broker: exactly one of two happens for good, it is cancelled or it is delivered. Held by a worker: it is
    revoked, which all workers remember. They forget it when the last of them ends, unless they run with Celery's
    ``--statedb``, and the call, which is back in its queue then, runs after all.
    Who waits for its result gets Celery's ``TaskRevokedError`` (held by a worker: when it was due); a chord that it
    belongs to fails. The lock of a unique call is free again.
    Raises ScheduleError where workers hold them and none answers.
    """
    if app.broker_holds_delays:
        with _queues_with_delays(app) as (channel, names):
            messages = [message for name in names for message in _delayed(channel, name, task_id)]
            found = [channel.cancel_delayed(name, task_id) for name in names]
        if any(found):
            for message in messages:
                app.unique_locks.release_message(message.headers)
            if messages:
                _tell_who_waits(app, messages[0])
        return any(found)
    held = [told["request"] for _, told in _told_by_workers(app) if told["request"]["id"] == task_id]
    if held:
        app.control.revoke(task_id)
    for request in held:
        call = Context(id=task_id, args=request.get("args"), kwargs=request.get("kwargs"))
        app.unique_locks.release_call(app.tasks.get(request["name"]), call)
    return bool(held)


def reschedule(app: LiapApp, task_id: str, *, countdown: float | None = None, eta: datetime | None = None) -> bool:
    """Let a delayed call go out ``countdown`` seconds from now, or at ``eta``; False when it is not waiting any more.

    countdown: seconds >= 0. An eta without a time zone is UTC; one that has passed: the call goes out at once.
    Raises ValueError unless exactly one of the two is given, or for a countdown that is no such time; ScheduleError
    where the broker does not hold delays, InvalidArgumentError for a time that is further away than it can hold one.
    """
    if (countdown is None) == (eta is None):
        raise ValueError("give either countdown or eta")
    if countdown is not None:
        countdown = in_seconds("countdown", countdown)
    if not app.broker_holds_delays:
        raise ScheduleError(
            f"call {task_id} cannot be moved: this broker holds no delayed calls; cancel it and call again"
        )
    if eta is not None:
        countdown = ((eta if eta.tzinfo else eta.replace(tzinfo=UTC)) - app.now()).total_seconds()
    with _queues_with_delays(app) as (channel, names):
        found = [channel.reschedule(name, task_id, max(0.0, countdown or 0.0)) for name in names]
        return any(found)


@contextmanager
def _queues_with_delays(app: LiapApp) -> Iterator[tuple[Any, list[str]]]:
    with app.connection_for_read() as connection, connection.channel() as channel:
        reader: Any = channel
        yield reader, [name for name, numbers in reader.queue_stats().items() if numbers["delayed"]]


def _delayed(channel: Any, queue: str, task_id: str) -> list[Any]:
    """Return the delayed messages of a task id."""
    return [message for _, message in channel.delayed(queue) if (message.headers or {}).get("id") == task_id]


def _tell_who_waits(app: LiapApp, message: Any) -> None:
    """Store of a cancelled call what a worker would of a revoked one."""
    body = message.payload if flaw_of(message) is None else None
    embed: Any = body[2] if isinstance(body, list | tuple) else None
    addressed = {name: message.properties.get(name) for name in ("reply_to", "correlation_id")}
    request = Context({**message.headers, **addressed, "chord": (embed or {}).get("chord")})
    backend: Any = app.backend
    backend.mark_as_revoked(request.id, "revoked", request, store_result=not request.ignore_result)


def _held_by_broker(app: LiapApp) -> Iterator[ScheduledCall]:
    now = app.now().astimezone(UTC)
    with _queues_with_delays(app) as (channel, names):
        for name in names:
            try:
                waiting = channel.delayed(name)
            except ChannelError:  # the queue was deleted meanwhile
                continue
            for left, message in waiting:
                headers = message.headers or {}
                yield ScheduledCall(
                    id=str(headers.get("id") or message.properties.get("message_id") or ""),
                    task=str(headers.get("task") or ""),
                    due=now + timedelta(seconds=left),
                    queue=name,
                    correlation_id=MessageMetadata.from_headers(headers).correlation_id,
                    args=str(headers.get("argsrepr") or ""),
                    kwargs=str(headers.get("kwargsrepr") or ""),
                )


def _told_by_workers(app: LiapApp) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ask all workers; yield (worker, {eta, priority, request}) for each call that they hold and will run."""
    inspect: Any = app.control.inspect(timeout=ASK_SECONDS)
    answers = inspect.scheduled()
    if answers is None:
        raise ScheduleError(
            f"no worker has answered within {ASK_SECONDS:g} s, and on this broker only workers know of delayed calls: "
            "start one, or ask again"
        )
    # A worker keeps a revoked call until its time has come, and then lets it go.
    revoked = (inspect.revoked() or {}) if any(answers.values()) else {}
    for worker, calls in answers.items():
        for call in calls:
            if call["request"]["id"] not in revoked.get(worker, ()):
                yield worker, call


def _held_by_workers(app: LiapApp) -> Iterator[ScheduledCall]:
    for worker, call in _told_by_workers(app):
        request = call["request"]
        yield ScheduledCall(
            id=request["id"],
            task=request["name"],
            due=datetime.fromisoformat(call["eta"]),
            queue=request["delivery_info"].get("routing_key"),
            worker=worker,
            args=str(request.get("args") or ""),
            kwargs=str(request.get("kwargs") or ""),
        )
