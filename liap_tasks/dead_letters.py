"""Task-side dead letters: how they are written and how both kinds are read.

A task's dead letter is the original message as it came, whatever the task has done to its arguments. It is published to
the dead-letter exchange with its own routing key, body and headers, and one header more, ``x-liap-dead-letter`` (a
table: letter_id, reason, detail, exception, traceback, attempts, queue, exchange, routing_key, task, id, time). A
broker's dead letter has RabbitMQ's ``x-death`` instead. :func:`peek` reads both as :class:`DeadLetterRecord`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from kombu import Queue
from kombu.exceptions import EncodeError
from kombu.serialization import dumps
from pydantic import BaseModel, ConfigDict

from liap_tasks.configuration import DEAD_LETTER_EXCHANGE, dead_letter_queue
from liap_tasks.errors import DeadLetterError
from liap_tasks.metadata import MAX_ERROR_TEXT, Attempt, MessageMetadata, shorten, text_of
from liap_tasks.origin import queue_of_origin
from liap_tasks.policies import DeadLetter, DeadLetterReason
from liap_tasks.received import ReceivedMessage, received_message
from liap_tasks.time_source import clock_of
from transports import InvalidArgumentError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = [
    "HEADER",
    "UNSENDABLE",
    "DeadLetterRecord",
    "as_text",
    "count",
    "death_record",
    "look_into",
    "peek",
    "publish",
    "publish_message",
    "publish_received",
    "publish_routed",
]

HEADER = "x-liap-dead-letter"
CONTINUES_HEADER = "x-group-continues"
NOT_KEPT = (HEADER, CONTINUES_HEADER)  # a dead letter's group goes on without it
MAX_TRACEBACK = 8_000
SHOWN_ONLY = ("argsrepr", "kwargsrepr")  # headers for logs and monitors
KEPT_PROPERTIES = ("correlation_id", "reply_to", "priority", "message_id", "timestamp", "type", "app_id")

UNSENDABLE = (EncodeError, InvalidArgumentError, TypeError, ValueError, OverflowError, RecursionError)
"""What a publish raises that can never succeed: what cannot be encoded, or is too large for the broker."""

logger = get_logger("liap_tasks.dead_letters")


class DeadLetterRecord(BaseModel):
    """One dead letter.

    reason, detail: why. task, id: what it was, None for a message that was no task. queue, exchange, routing_key: where
    it was to be processed. exception, message, traceback: of the last attempt, None for a broker's dead letter.
    attempts: the failed attempts, oldest first. at: POSIX seconds of death. args, kwargs: the call, None if unreadable.
    """

    model_config = ConfigDict(frozen=True)

    reason: DeadLetterReason
    detail: str = ""
    task: str | None = None
    id: str | None = None
    queue: str = ""
    exchange: str = ""
    routing_key: str = ""
    exception: str | None = None
    message: str | None = None
    traceback: str | None = None
    attempts: tuple[Attempt, ...] = ()
    at: float | None = None
    correlation_id: str | None = None
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None


def death_record(
    verdict: DeadLetter,
    *,
    task: str | None = None,
    id: str | None = None,
    queue: str,
    exchange: str = "",
    routing_key: str = "",
    error: BaseException | None = None,
    traceback: str | None = None,
    attempts: Sequence[Attempt] = (),
    at: float,
) -> dict[str, Any]:
    """Return the table of the header ``x-liap-dead-letter``; its letter_id is a new one.

    task, id: what it was. queue, exchange, routing_key: where it was to be processed. at: POSIX seconds of death.
    """
    return {
        "letter_id": str(uuid4()),
        "reason": verdict.reason.value,
        "detail": shorten(verdict.detail, MAX_TRACEBACK),
        "task": task,
        "id": id,
        "queue": queue,
        "exchange": exchange,
        "routing_key": routing_key,
        "exception": None if error is None else type(error).__qualname__,
        "message": None if error is None else text_of(error),
        "traceback": None if traceback is None else shorten(traceback, MAX_TRACEBACK),
        "attempts": [attempt.model_dump(mode="json") for attempt in attempts],
        "at": at,
    }


def publish(
    app: LiapApp, request: Any, *, task: str, verdict: DeadLetter, error: BaseException | None, traceback: str
) -> None:
    """Publish the message of ``request`` (a task's request) to the dead-letter exchange.

    Returns when the broker has it. Raises DeadLetterError when it has not: then the original must not be acknowledged.
    """
    metadata = MessageMetadata.from_headers(request.headers)
    info = request.delivery_info or {}
    exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or ""
    if request.is_eager and not routing_key:  # it came from no queue: name the one it would have waited in
        routing_key = app.amqp.router.route({}, task)["queue"].name
    record = death_record(
        verdict,
        task=task,
        id=request.id,
        queue=queue_of_origin(app.amqp.queues, exchange, routing_key),
        exchange=exchange,
        routing_key=routing_key,
        error=error,
        traceback=traceback,
        attempts=metadata.attempts,
        at=clock_of(app).time(),
    )
    try:
        received = received_message(request) or _never_sent(app, request, task)
        dead = received._replace(headers={**received.headers, **(request.headers or {})})
        _publish_in_full_or_bare(app, dead, record, routing_key)
    except Exception as failure:
        raise DeadLetterError(f"task {task}[{request.id}] could not be dead-lettered: {failure!r}") from failure
    logger.error("Task %s[%s] is a dead letter: %s (%r)", task, request.id, verdict, error)


def _never_sent(app: LiapApp, request: Any, task: str) -> ReceivedMessage:
    """Return the message that the call of an eager request would have been."""
    limits = request.timelimit or (None, None)
    message = app.amqp.create_task_message(
        request.id,
        task,
        args=list(request.args or ()),
        kwargs=dict(request.kwargs or {}),
        group_id=request.group,
        group_index=request.group_index,
        expires=request.expires,
        retries=request.retries,
        chord=request.chord,
        callbacks=request.callbacks,
        errbacks=request.errbacks,
        reply_to=request.reply_to,
        time_limit=limits[0],
        soft_time_limit=limits[1],
        root_id=request.root_id,
        parent_id=request.parent_id,
        shadow=request.shadow,
        chain=request.chain,
        origin=request.origin,
        ignore_result=request.ignore_result,
    )
    serializer = getattr(app.tasks.get(task), "serializer", None) or app.conf.task_serializer
    try:
        content_type, encoding, body = dumps(message.body, serializer)
    except UNSENDABLE:  # it was never sent, so nobody has found out
        args, kwargs, embed = message.body
        shown = [[saferepr(each) for each in args], {str(name): saferepr(each) for name, each in kwargs.items()}, embed]
        content_type, encoding, body = dumps(shown, "json")
    return ReceivedMessage(body, content_type, encoding, message.headers, message.properties)


def publish_message(
    app: LiapApp, message: Any, *, queue: str, verdict: DeadLetter, task: str | None = None, error: Any = None
) -> None:
    """Publish a message as it was received (a kombu message) to the dead-letter exchange: body, headers, properties.

    For what never became a task's request, or not one that can be read. queue: where it came from.
    Returns when the broker has it. Raises DeadLetterError when it has not: then the original must not be acknowledged.
    """
    headers: Mapping[str, Any] = message.headers or {}
    metadata = MessageMetadata.from_headers(headers)
    info = message.delivery_info or {}
    record = death_record(
        verdict,
        task=task or as_text(headers.get("task")),
        id=as_text(headers.get("id")),
        queue=queue,
        exchange=info.get("exchange") or "",
        routing_key=info.get("routing_key") or "",
        error=error,
        attempts=metadata.attempts,
        at=clock_of(app).time(),
    )
    try:
        _publish_in_full_or_bare(app, message, record, queue)
    except Exception as failure:
        raise DeadLetterError(f"a message of queue {queue!r} could not be dead-lettered: {failure!r}") from failure
    logger.error("A message of queue %s is a dead letter: %s (%r)", queue, verdict, error)


def _publish_in_full_or_bare(app: LiapApp, message: Any, record: dict[str, Any], routing_key: str) -> None:
    """Publish a dead letter; if what is told of it is too much, or cannot be sent, then without that.

    Why: a message close to the bound that a broker has could neither be kept nor go on.
    """
    with app.producer_or_acquire() as producer:
        publish = partial(
            publish_received,
            producer,
            queue=dead_letter_queue(),
            exchange=DEAD_LETTER_EXCHANGE,
            routing_key=routing_key,
            declare=[dead_letter_queue()],
            retry=True,
            retry_policy=app.conf.task_publish_retry_policy,
        )
        try:
            publish(message, record)
        except UNSENDABLE as error:
            logger.warning("a dead letter of %s is kept without its texts: %r", record["task"], error)
            publish(message, _bare(record), headers=_bare_headers(message.headers or {}))


def _bare(record: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a death, as short as can be."""
    attempts = [{**attempt, "message": ""} for attempt in record["attempts"][-1:]]
    detail = shorten(record["detail"], MAX_ERROR_TEXT)
    return {**record, "detail": detail, "message": None, "traceback": None, "attempts": attempts}


def _bare_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that a message needs, without those that only tell what it is."""
    metadata = MessageMetadata.from_headers(headers).model_copy(update={"attempts": ()})
    return {**{name: headers[name] for name in headers if name not in SHOWN_ONLY}, **metadata.as_headers()}


def publish_received(
    producer: Any,
    message: Any,
    record: Mapping[str, Any],
    *,
    queue: Queue,
    exchange: str,
    routing_key: str,
    headers: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Publish a message as it was received (a kombu message) with the record of its death, to a dead-letter queue.

    exchange, routing_key: by which it comes there. headers: instead of the message's own. options: of
    ``kombu.Producer.publish``. Raises DeadLetterError when no queue has it, and what the publish raises.
    """
    given = message.headers or {} if headers is None else headers
    kept = {key: value for key, value in given.items() if key not in NOT_KEPT}
    if not getattr(message, "errors", None):
        kept.pop("compression", None)  # kombu has undone it
    properties = {name: value for name, value in (message.properties or {}).items() if name in KEPT_PROPERTIES}
    publish_routed(
        producer,
        message.body,
        queue=queue,
        exchange=exchange,
        routing_key=routing_key,
        headers={**kept, HEADER: dict(record)},
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=2,
        **properties,
        **options,
    )


def publish_routed(producer: Any, body: Any, *, queue: Queue | None, **options: Any) -> None:
    """Publish and make sure that a queue has it: an exchange without a queue would swallow it without a word.

    queue: the one that should have it, declared (again) if it is not there; None: not known here. Raises
    DeadLetterError when no queue has it.
    """
    for declare_again in (False, True):
        if declare_again:
            if queue is None:
                break
            queue.bind(producer.channel).declare()
        returned: list[Any] = []

        def take_back(*returned_message: Any, into: list[Any] = returned) -> None:
            into.append(returned_message)

        events = getattr(producer.channel, "events", None)
        if events is None:  # a transport that returns nothing
            producer.publish(body, **options)
            return
        handlers = events["basic_return"]
        handlers.add(take_back)
        try:
            producer.publish(body, mandatory=True, **options)
        finally:
            handlers.discard(take_back)
        if not returned:
            return
    raise DeadLetterError(
        f"exchange {options['exchange']!r} has no queue for routing key {options['routing_key']!r}: declare that queue"
    )


def peek(app: LiapApp, limit: int = 100) -> list[DeadLetterRecord]:
    """Return up to ``limit`` dead letters waiting in the dead-letter queue, oldest first, leaving them there."""
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = dead_letter_queue().bind(channel)
        queue.declare()
        return [_record(message) for message in look_into(queue, limit)]


def look_into(queue: Queue, limit: int) -> list[Any]:
    """Return up to ``limit`` messages that wait in a queue (bound to a channel), oldest first, leaving them there.

    Where the transport cannot show them they are taken and, when the channel is closed, given back in their places.
    """
    channel: Any = queue.channel
    if hasattr(channel, "peek"):
        shown: list[Any] = channel.peek(queue.name, limit)
        return shown
    messages: list[Any] = []
    while len(messages) < limit and (message := queue.get(no_ack=False)) is not None:
        messages.append(message)
    return messages


def count(app: LiapApp) -> int:
    """Return how many dead letters wait in the dead-letter queue."""
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = dead_letter_queue().bind(channel)
        queue.declare()
        declared: Any = queue.queue_declare(passive=True)
        return int(declared.message_count)


def _record(message: Any) -> DeadLetterRecord:
    headers: Mapping[str, Any] = message.headers or {}
    metadata = MessageMetadata.from_headers(headers)
    args, kwargs = _call(message)
    common: dict[str, Any] = {
        "task": as_text(headers.get("task")),
        "id": as_text(headers.get("id")),
        "correlation_id": metadata.correlation_id,
        "args": args,
        "kwargs": kwargs,
    }
    own = headers.get(HEADER)
    if isinstance(own, Mapping):
        return DeadLetterRecord.model_validate({**common, **own})
    deaths = headers.get("x-death") or []
    death: Mapping[str, Any] = deaths[0] if deaths else {}
    keys = death.get("routing-keys") or [""]
    at = death.get("time")
    return DeadLetterRecord(
        reason=DeadLetterReason(death.get("reason", DeadLetterReason.MANUAL)),
        queue=death.get("queue", ""),
        exchange=death.get("exchange", ""),
        routing_key=keys[0],
        attempts=metadata.attempts,
        at=at.replace(tzinfo=UTC).timestamp() if isinstance(at, datetime) else at,  # AMQP timestamps are naive UTC
        **common,
    )


def _call(message: Any) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    try:
        args, kwargs, _ = json.loads(message.body)
        return tuple(args), dict(kwargs)
    except (ValueError, TypeError):
        return None, None


def as_text(value: Any) -> str | None:
    """Return what other software may have written in place of a text; None stays None."""
    return None if value is None else str(value)
