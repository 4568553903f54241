"""A dead letter goes back to its queue: the same body, a fresh count of attempts, and where it comes from.

It is published through the default exchange: a dead letter belongs to its queue. Through its exchange, an event would
reach every other subscriber a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu import Queue

from liap_tasks import dead_letters
from liap_tasks.metadata import MessageMetadata
from liap_tasks.unique.locks import HEADER as UNIQUE
from liap_tasks.worker.redelivery import HEADER as REDELIVERIES

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp
    from liap_tasks.dead_letter_store.letter import Letter

__all__ = ["publish_replay", "replay_headers", "send"]

# What the death has left, what delays or expires anew, what kombu has undone already (compression), and the lock that
# the call had: its arguments may have been edited since.
DROPPED = frozenset({*dead_letters.NOT_KEPT, REDELIVERIES, UNIQUE, "x-death", "x-delay", "expires", "compression"})
KEPT_PROPERTIES = ("correlation_id", "reply_to", "priority", "message_id", "type", "app_id")


def send(app: LiapApp, producer: Any, letter: Letter, queue: str | None = None) -> None:
    """Publish a letter to its queue (or ``queue``) and return when the broker has it.

    Raises ``QueueFullError`` when the queue refuses it, DeadLetterError when there is no such queue, and one of
    ``dead_letters.UNSENDABLE`` for a letter that can be sent nowhere.
    """
    target = queue or letter.queue
    with app.telling_refusals(target):
        publish_replay(
            producer,
            letter,
            target,
            queue=app.amqp.queues.get(target),
            retry=True,
            retry_policy=app.conf.task_publish_retry_policy,
        )


def publish_replay(producer: Any, letter: Letter, target: str, *, queue: Queue | None, **options: Any) -> None:
    """Publish a letter through the default exchange to the queue ``target``.

    queue: how the target is declared if it is not there, None: not known here. options: of ``kombu.Producer.publish``.
    Raises DeadLetterError when there is no such queue, and what the publish raises.
    """
    properties = {name: letter.properties[name] for name in KEPT_PROPERTIES if letter.properties.get(name) is not None}
    dead_letters.publish_routed(
        producer,
        letter.body,
        queue=queue,
        exchange="",
        routing_key=target,
        headers=replay_headers(letter),
        content_type=letter.content_type or "application/octet-stream",
        content_encoding=letter.content_encoding or "binary",
        delivery_mode=2,
        **properties,
        **options,
    )


def replay_headers(letter: Letter) -> dict[str, Any]:
    """Return the headers of a letter's replay.

    Always the same ``x-deduplication-id``: if one letter is sent twice, a queue with a window takes it once. Celery's
    ``expires`` is dropped too, or the worker would discard a call that somebody wants now.
    """
    headers = {
        name: value
        for name, value in letter.headers.items()
        if name not in DROPPED and not name.startswith(("x-first-death-", "x-last-death-"))
    }
    if "retries" in headers:
        headers["retries"] = 0
    metadata = MessageMetadata.from_headers(headers)
    changes = {"attempts": (), "deadline": None, "replayed_from": letter.id, "replays": letter.replays + 1}
    headers.update(metadata.model_copy(update=changes).as_headers())
    headers["x-deduplication-id"] = f"replay-{letter.id}"
    return headers
