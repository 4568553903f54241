"""A message from the dead-letter queue becomes a letter.

Three kinds come: a task's, with its story in the header ``x-liap-dead-letter``; a broker's, with ``x-death``; and what
other software has published there, with neither. Whatever is in them, a letter is made: what cannot be read is left
out, and body, headers and properties are kept as they are.

Why identities differ: a letter must be recorded once even if its message is delivered twice. A task's letter brings
its id along; a broker's is computed from the message's id and its latest death. A message that nobody ever gave an id
gets a random one: two of them that are alike are still two, at the price that one delivered again is recorded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from celery.utils.log import get_logger

from liap_tasks import dead_letters
from liap_tasks.dead_letter_store.letter import LAST_MOMENT, Letter, LetterState
from liap_tasks.dead_letters import as_text
from liap_tasks.events import EVENT_HEADER, EVENT_TASK, EventExchange, delivery_id
from liap_tasks.metadata import MessageMetadata
from liap_tasks.policies import DeadLetterPolicy, DeadLetterReason

__all__ = ["LetterReader"]

logger = get_logger("liap_tasks.dead_letter_store")

# What AMQP carries beside the properties, or what is kept in a column of its own.
NOT_PROPERTIES = frozenset({"headers", "application_headers", "content_type", "content_encoding"})
TRANSPORT_PROPERTIES = frozenset({"body_encoding", "delivery_info", "delivery_tag"})  # of kombu's virtual transports


class LetterReader:
    """Makes letters of messages, and decides by policy when they are retried and how long they are kept.

    policy_of: the policy by the task's name. exchanges: the app's event exchanges by name. clock: POSIX seconds.
    """

    def __init__(
        self,
        policy_of: Callable[[str | None], DeadLetterPolicy],
        exchanges: Mapping[str, EventExchange],
        clock: Callable[[], float],
    ) -> None:
        self._policy_of = policy_of
        self._exchanges = exchanges
        self._clock = clock

    def letter(self, message: Any) -> Letter:
        """Return the letter of a kombu message, dead or scheduled."""
        now = self._clock()
        try:
            letter, may_retry = self._read(message, now)
            policy = self._policy_of(letter.task)
            due_at = None
            if may_retry:
                due_at = policy.retry_at(letter.reason, replays=letter.replays, died_at=letter.died_at)
            return replace(
                letter,
                state=LetterState.DEAD if due_at is None else LetterState.SCHEDULED,
                due_at=due_at,
                expires_at=now + policy.ttl_seconds,
            )
        except Exception as error:  # noqa: BLE001 - other software may have written anything into its headers
            logger.warning("a dead letter's headers cannot be read, it is kept without them: %r", error)
            return Letter(
                id=str(uuid4()),
                reason=DeadLetterReason.UNDECODABLE,
                detail=f"its headers could not be read: {error!r}",
                body=_body(message),
                died_at=now,
                expires_at=now + self._policy_of(None).ttl_seconds,
            )

    def _read(self, message: Any, now: float) -> tuple[Letter, bool]:
        headers = dict(message.headers or {})
        if not message.errors:
            headers.pop("compression", None)  # kombu has undone it
        metadata = MessageMetadata.from_headers(headers)
        body = _body(message)
        story = self._story(message, headers, metadata, body, now)
        letter = Letter(
            **story,
            headers=headers,
            properties=_properties(message),
            content_type=as_text(message.content_type),
            content_encoding=as_text(message.content_encoding),
            body=body,
            correlation_id=metadata.correlation_id,
            replayed_from=metadata.replayed_from,
            replays=metadata.replays,
        )
        # Nobody waits any more for the answer to a call with a deadline.
        return letter, letter.task is not None and metadata.deadline is None

    def _story(
        self, message: Any, headers: dict[str, Any], metadata: MessageMetadata, body: bytes, now: float
    ) -> dict[str, Any]:
        own = headers.get(dead_letters.HEADER)
        if isinstance(own, Mapping):
            return _task_side(own, headers, now)
        deaths = headers.get("x-death")
        if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping):
            return self._broker_side(message, deaths[0], headers, metadata, body, now)
        info = message.delivery_info or {}
        return {
            "id": str(uuid4()),
            "reason": DeadLetterReason.MANUAL,
            "detail": "published to the dead letters by other software",
            "task": as_text(headers.get("task")),
            "task_id": as_text(headers.get("id")),
            "queue": as_text(info.get("routing_key")) or "",
            "routing_key": as_text(info.get("routing_key")) or "",
            "died_at": now,
        }

    def _broker_side(
        self,
        message: Any,
        death: Mapping[str, Any],
        headers: dict[str, Any],
        metadata: MessageMetadata,
        body: bytes,
        now: float,
    ) -> dict[str, Any]:
        queue = as_text(death.get("queue")) or ""
        reason = as_text(death.get("reason")) or DeadLetterReason.REJECTED
        keys = death.get("routing-keys") or [""]
        task, task_id, detail = as_text(headers.get("task")), as_text(headers.get("id")), ""
        if task == EVENT_TASK:
            task, task_id, detail = self._subscriber(queue, headers)
        named = headers.get("id") or message.properties.get("message_id")
        place = [queue, reason, death.get("count"), death.get("time"), metadata.replayed_from]
        digest = hashlib.sha256(body).hexdigest()
        identity = uuid5(NAMESPACE_URL, "/".join(map(str, (named, *place, digest)))) if named else uuid4()
        return {
            "id": str(identity),
            "reason": reason,
            "detail": detail,
            "task": task,
            "task_id": task_id,
            "queue": queue,
            "exchange": as_text(death.get("exchange")) or "",
            "routing_key": as_text(keys[0]) or "",
            "attempts": [attempt.model_dump(mode="json") for attempt in metadata.attempts],
            "died_at": _seconds(death.get("time"), now),
        }

    def _subscriber(self, queue: str, headers: dict[str, Any]) -> tuple[str, str | None, str]:
        """Return task, task id and detail of an event that died in a subscriber's queue, before a worker had it."""
        origin = headers.get(EVENT_HEADER)
        origin = origin if isinstance(origin, Mapping) else {}
        exchange = self._exchanges.get(str(origin.get("exchange", "")))
        tasks = exchange.recipients(queue, str(origin.get("routing_key", "")), headers) if exchange else []
        event_id = as_text(headers.get("id"))
        if len(tasks) == 1:
            return tasks[0], delivery_id(event_id or "", tasks[0]), ""
        # One message for several: they get it together again.
        return EVENT_TASK, event_id, f"an event for {', '.join(tasks)}" if tasks else ""


def _task_side(own: Mapping[str, Any], headers: dict[str, Any], now: float) -> dict[str, Any]:
    attempts = own.get("attempts")
    return {
        "id": as_text(own.get("letter_id")) or str(uuid4()),
        "reason": as_text(own.get("reason")) or DeadLetterReason.MANUAL,
        "detail": as_text(own.get("detail")) or "",
        "task": as_text(own.get("task")) or as_text(headers.get("task")),
        "task_id": as_text(own.get("id")) or as_text(headers.get("id")),
        **{name: as_text(own.get(name)) or "" for name in ("queue", "exchange", "routing_key")},
        **{name: as_text(own.get(name)) for name in ("exception", "message", "traceback")},
        "attempts": [dict(one) for one in attempts if isinstance(one, Mapping)] if isinstance(attempts, list) else [],
        "died_at": _seconds(own.get("at"), now),
    }


def _body(message: Any) -> bytes:
    body = message.body
    if isinstance(body, str):
        return body.encode("utf-8", "surrogateescape")
    return b"" if body is None else bytes(body)


def _properties(message: Any) -> dict[str, Any]:
    given = message.properties or {}
    properties = {
        name: value
        for name, value in given.items()
        if value is not None and name not in NOT_PROPERTIES and name not in TRANSPORT_PROPERTIES
    }
    priority = (given.get("delivery_info") or {}).get("priority")
    if priority is not None:
        properties.setdefault("priority", priority)
    return properties


def _seconds(value: Any, default: float) -> float:
    """Return a time as POSIX seconds, the default for one that no calendar has; AMQP's timestamps are naive UTC."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    is_time = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LAST_MOMENT
    return float(value) if is_time else default
