"""What a dead letter looks like, and when a dead-letter cycle ends. Pure functions.

RabbitMQ docs, Dead Letter Exchanges: a dead-lettered message is published again to the queue's dead-letter exchange
with the queue's dead-letter routing key, or its own. Its history is in the header ``x-death``: an array of tables,
newest first, one per (queue, reason), whose ``count`` grows when the same thing happens again. The first death is also
written in ``x-first-death-reason``, ``-queue`` and ``-exchange`` and never changes.

A publisher can write anything there: what is malformed is replaced, and the letter is made in any case.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from transports.engine.groups import CONTINUES_HEADER
from transports.engine.message import Message

__all__ = ["Reason", "Stranded", "dead_letter_of", "ends_in_cycle"]

MAX_COUNT = 2**63 - 1  # the largest integer of an AMQP table

Reason = Literal["rejected", "expired", "maxlen", "delivery_limit"]


class Stranded:
    """A dead letter that found no place and is kept by its queue (strategy at-least-once).

    target: the full queue that it is meant for, or None when there was no queue at all. stored: what the journal calls
    it, 0 where it is in none.
    """

    __slots__ = ("message", "reason", "stored", "target")

    def __init__(self, message: Message, reason: Reason, target: str | None) -> None:
        self.message = message
        self.reason = reason
        self.target = target
        self.stored = 0


def dead_letter_of(
    message: Message, *, queue: str, reason: Reason, exchange: str, routing_key: str | None, at: float
) -> Message:
    """Return the message to publish to the dead-letter exchange.

    exchange: the dead-letter exchange. routing_key: the queue's ``x-dead-letter-routing-key`` or None for the
    message's own. at: POSIX seconds, written as ``time`` (whole seconds, as AMQP timestamps are).
    The per-message TTL is taken off, so that the letter does not expire again; it stays readable as
    ``original-expiration`` in the newest ``x-death`` table.
    """
    properties = dict(message.properties)
    expiration = properties.pop("expiration", None)
    if "priority" in properties:
        properties["priority"] = message.priority  # what is carried unread can say anything here
    headers = dict(message.headers) if message.headers else {}
    headers.pop(CONTINUES_HEADER, None)  # its group goes on without it
    headers.pop("x-delay", None)  # has passed
    deaths = _deaths(headers)
    same = next((death for death in deaths if death.get("queue") == queue and death.get("reason") == reason), None)
    if same is not None:
        before = same.get("count")
        counted = before if type(before) is int and before > 0 else 0
        newest = {**same, "count": min(counted + 1, MAX_COUNT)}
    else:
        newest = {
            "count": 1,
            "reason": reason,
            "queue": queue,
            "time": datetime.fromtimestamp(int(at), tz=UTC).replace(tzinfo=None),
            "exchange": message.exchange,
            "routing-keys": [message.routing_key],
        }
        if expiration is not None:
            newest["original-expiration"] = expiration
    headers["x-death"] = [newest, *(death for death in deaths if death is not same)]
    if not deaths:
        headers["x-first-death-reason"] = reason
        headers["x-first-death-queue"] = queue
        headers["x-first-death-exchange"] = message.exchange
    return message.redirected(
        exchange, message.routing_key if routing_key is None else routing_key, headers, properties
    )


def ends_in_cycle(letter: Message, queue: str) -> bool:
    """Tell whether delivering this letter to ``queue`` would close a cycle that nobody broke by rejecting.

    RabbitMQ docs, Dead Letter Exchanges, "Automatic Dead Lettering Cycles": a message that reaches the same queue
    again is dropped if there was no rejection in the entire cycle.
    """
    deaths = _deaths(letter.headers or {})
    if deaths and deaths[0].get("reason") == "rejected":
        return False
    for position, death in enumerate(deaths):
        if death.get("queue") == queue:
            return all(passed.get("reason") != "rejected" for passed in deaths[: position + 1])
    return False


def _deaths(headers: dict[str, Any]) -> list[dict[str, Any]]:
    deaths = headers.get("x-death")
    return [death for death in deaths if isinstance(death, dict)] if isinstance(deaths, list) else []
