"""Messages that kill their worker again and again: each redelivery is counted, and the last one is a dead letter.

Our own transports count deliveries themselves (``x-delivery-limit``), and RabbitMQ does on quorum queues. A classic
queue only says that a message was delivered before. So a worker that gets such a message puts it back first, with a
count in its headers, and takes it when it comes round again; over the limit it is a dead letter, reason
``delivery_limit``.

A full queue takes nothing back. Then the worker holds the message, beside its prefetch window, until what it takes from
the queue meanwhile has made room. Rejected it would come again at once, in its old place at the head; and where the
lost workers had more of such messages than one window takes, nothing else would ever be delivered.

What this costs: only redelivered messages go round, behind those that wait already, so they lose their place once for
each time a worker was lost. All that the lost worker had prefetched is counted, the innocent too; so the limit is
generous.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from liap_tasks import ending
from liap_tasks.configuration import DELIVERY_LIMIT
from liap_tasks.dead_letters import KEPT_PROPERTIES
from liap_tasks.policies import DeadLetterReason
from liap_tasks.worker.unreadable import keep
from transports import QueueFullError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["HEADER", "PAUSE_WHILE_FULL", "put_back_counted"]

logger = get_logger("liap_tasks.redelivery")

HEADER = "x-liap-redeliveries"
PAUSE_WHILE_FULL = 0.5
"""Seconds until a full queue is asked again."""


def put_back_counted(app: LiapApp, message: Any, queue: str, errors: Any) -> None:
    """Settle a redelivered message: another with the next count is in its queue, or its dead letter is safe.

    errors: what a broken connection raises. Raises QueueFullError, and nothing is done, when its queue is full: it is
    to be tried again while others are taken from there.
    """
    headers = message.headers or {}
    count = _number(headers.get(HEADER)) + 1
    if count > DELIVERY_LIMIT:
        detail = f"delivered {count} times without an end: it may be what kills its workers"
        if keep(app, message, queue, DeadLetterReason.DELIVERY_LIMIT, detail, errors=errors):
            message.ack_log_error(logger, errors)
        return
    properties = {
        name: value for name, value in (message.properties or {}).items() if name in (*KEPT_PROPERTIES, "expiration")
    }
    if "expiration" in properties:  # milliseconds on the wire, seconds for kombu
        properties["expiration"] = int(properties["expiration"]) / 1000
    try:
        with app.telling_refusals(queue), app.producer_or_acquire() as producer:
            producer.publish(
                message.body,
                exchange="",
                routing_key=queue,
                headers={**headers, HEADER: count},
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                delivery_mode=2,
                retry=True,
                retry_policy=app.conf.task_publish_retry_policy,
                **properties,
            )
    except QueueFullError:
        raise
    except Exception as failure:  # noqa: BLE001 - the message must go back, whatever it was
        logger.critical("a redelivered message of %s could not be counted, it goes back: %r", queue, failure)
        time.sleep(ending.PAUSE_BEFORE_REQUEUE)
        message.reject_log_error(logger, errors, requeue=True)
        return
    message.ack_log_error(logger, errors)
    logger.warning(
        "message %s of %s was delivered before: time %d of %d", headers.get("id"), queue, count, DELIVERY_LIMIT
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
