"""A message goes out to a queue: what its caller asks for becomes AMQP properties and headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from amqp.exceptions import MessageNacked
from kombu import Producer, Queue
from kombu.exceptions import OperationalError

from liap_tasks import dead_letters
from liap_tasks.keys import check_broker_honours_keys, headers_of_keys
from liap_tasks.messaging.message import Message, body_of
from liap_tasks.policies import DeliveryOptions
from liap_tasks.policies.deadline import deadline_from
from transports import CAPABILITIES, InvalidArgumentError, QueueFullError

__all__ = ["RETRY_AFTER", "Outgoing", "refuse_delay", "outgoing", "send", "refused_by"]

RETRY_AFTER = 1.0
"""Seconds after which to try again what a broker has refused that does not say so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """What is published. expiration: seconds it may wait, None: as long as its queue lets it."""

    body: Any
    headers: Mapping[str, Any]
    message_id: str
    priority: int
    expiration: float | None = None


def outgoing(
    message: Message, options: DeliveryOptions, *, queue: str, url: str, holds_delays: bool, now: float
) -> Outgoing:
    """Return what is to be published to ``queue`` on the broker of ``url``.

    Raises InvalidArgumentError for an option that this broker would ignore.
    """
    metadata = message.metadata
    changes: dict[str, Any] = {}
    if options.correlation_id is not None:
        changes["correlation_id"] = options.correlation_id
    deadline = deadline_from(deadline=options.deadline, answer_within=options.answer_within, now=now)
    if deadline is not None:
        changes["deadline"] = deadline
    keys = headers_of_keys(queue, ordering_key=options.ordering_key, dedup_key=options.dedup_key)
    check_broker_honours_keys(f"a message of queue {queue}", keys, url)
    headers = {**message.headers, **metadata.model_copy(update=changes).as_headers(), **keys}
    delay = float(options.delay or 0.0)  # type: ignore[arg-type]  # DeliveryOptions keeps seconds
    if delay > 0:
        if not holds_delays:
            refuse_delay(delay, url)
        headers["x-delay"] = round(delay * 1000)
    lives = [] if options.ttl is None else [float(options.ttl)]  # type: ignore[arg-type]  # the same
    if deadline is not None:
        lives.append(max(0.0, deadline - now - delay))
    return Outgoing(
        body=body_of(message),
        headers=headers,
        message_id=metadata.message_id,
        priority=int(message.priority if options.priority is None else options.priority),
        expiration=min(lives, default=None),
    )


def refuse_delay(delay: float, url: str) -> NoReturn:
    """Raise InvalidArgumentError: the broker of ``url`` holds no delayed messages."""
    able = ", ".join(f"{scheme}://" for scheme, known in CAPABILITIES.items() if known.broker_delay.supported)
    raise InvalidArgumentError("delay", delay, f"0 on the broker {url.split(':')[0]}://; {able} hold delayed messages")


def send(channel: Any, queue: Queue, message: Outgoing, **options: Any) -> None:
    """Publish a message through the default exchange and return when the queue has it.

    options: of ``kombu.Producer.publish``; timeout: seconds to wait for room where the queue's rule is ``block``.
    Raises QueueFullError when it is refused.
    """
    lives = {} if message.expiration is None else {"expiration": message.expiration}
    with refused_by(queue):
        dead_letters.publish_routed(
            Producer(channel),
            message.body,
            queue=queue,
            exchange="",
            routing_key=queue.name,
            headers=dict(message.headers),
            message_id=message.message_id,
            priority=message.priority,
            serializer="json",
            delivery_mode=2,
            **lives,
            **options,
        )


@contextmanager
def refused_by(queue: Queue) -> Iterator[None]:
    """Raise QueueFullError for RabbitMQ's refusal, a negative confirm; our transports raise it by themselves."""
    try:
        yield
    except (MessageNacked, OperationalError) as error:
        if isinstance(error, MessageNacked) or isinstance(error.__cause__, MessageNacked):
            limit = (queue.queue_arguments or {}).get("x-max-length", 0)
            raise QueueFullError(queue.name, limit, RETRY_AFTER) from error
        raise
