"""How a queue object reaches its broker: one connection, and where its calls run.

A broker in this process answers in microseconds and is called where the caller is
(:mod:`liap_tasks.messaging.in_process_link`); any other may take its time and is called in a thread
(:mod:`liap_tasks.messaging.remote_link`). Both are kombu; nothing here keeps a message.

Why a consumer lives only while somebody waits: a message that was pushed to an idle program would be out of reach for
the others, for :meth:`peek` and for its time to live.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from transports import BrokerUnavailableError, Clock

__all__ = ["Link", "Prepare", "as_kombu", "closed", "queue_deleted"]

T = TypeVar("T")
Prepare = Callable[[Any], None]
"""Called with the channel of each new connection: declares what the queue object needs."""


class Link(Protocol):
    """A connection to a broker. Made when it is first needed; closing it puts back what is not settled."""

    url: str
    holds_delays: bool
    at_once: Mapping[str, Any]
    """Options of a publish that does not wait for room in a full queue, where a publish would."""

    async def run(self, operation: Callable[[Any], T]) -> T:
        """Return what a quick operation on the link's channel returns. Who is cancelled stops waiting; it is done."""

    async def run_apart(self, operation: Callable[[Any], T]) -> T:
        """Run a longer operation on a channel of its own, which it closes, in a thread."""

    def run_apart_now(self, operation: Callable[[Any], T]) -> T:
        """Run a longer operation on a channel of its own, blocking this thread, which is not an event loop's."""

    def searching(self, queue: str) -> AbstractContextManager[Any]:
        """Keep others from taking messages out of a queue in search of one, where that can be had (in this process).

        Who searches holds what it has passed, so another search would not find it.
        """

    def run_now(self, operation: Callable[[Any], T]) -> T:
        """Run a quick operation on the link's channel, blocking this thread, which is not an event loop's."""

    async def receive(self, queue: str, timeout: float | None) -> Any:
        """Take the next message (kombu's), None when there is none in ``timeout`` seconds (None: wait for ever)."""

    def statistics(self, queue: str) -> dict[str, float] | None:
        """Return the broker's numbers of a queue, None where they cannot be had at once."""

    def headers(self, queue: str) -> list[Mapping[str, Any]] | None:
        """Return the headers of the messages that wait in a queue, None where they cannot be had at once."""

    def delayed_headers(self, queue: str) -> list[Mapping[str, Any]]:
        """Return the headers of the delayed messages of a queue, none where they cannot be had at once."""

    @property
    def clock(self) -> Clock:
        """The broker's clock as well as it is known here."""

    async def close(self) -> None:
        """Close the connection."""


def as_kombu(channel: Any, raw: Any) -> Any:
    """Return a message as kombu's: py-amqp's channels hand out their own."""
    return channel.message_to_python(raw)


def closed(url: str) -> BrokerUnavailableError:
    """Return the error of those who waited for something at a queue object that was closed."""
    return BrokerUnavailableError(f"the queue object was closed; its broker is {url}")


def queue_deleted(queue: str) -> BrokerUnavailableError:
    """Return the error of those who waited for messages of a queue that was deleted."""
    return BrokerUnavailableError(f"queue {queue!r} was deleted while a dequeue waited for a message of it")
