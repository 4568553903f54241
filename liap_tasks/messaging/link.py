"""How a queue object reaches its broker: one connection, and where its calls run.

A broker in this process answers in microseconds and is called where the caller is (:class:`InProcessLink`); any other
may take its time and is called in a thread (:mod:`liap_tasks.messaging.remote_link`). Both are kombu; nothing here
keeps a message.

Why a consumer lives only while somebody waits: a message that was pushed to an idle program would be out of reach for
the others, for :meth:`peek` and for its time to live.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from kombu import Connection, Queue

from liap_tasks.configuration import broker_feature, is_amqp
from liap_tasks.errors import ConfigurationError
from liap_tasks.messaging.waiting import Waiter
from transports import BrokerUnavailableError, get_broker

__all__ = ["InProcessLink", "Link", "LinkedQueue", "as_kombu", "link_to"]

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

    def time(self) -> float:
        """Return the broker's time as well as it is known here, POSIX seconds."""

    async def close(self) -> None:
        """Close the connection."""


def link_to(url: str, prepare: Prepare) -> Link:
    """Return a link to the broker of a URL.

    Raises ConfigurationError for a broker that would not keep the rules of its queues.
    """
    if broker_feature(url, "in_process"):
        return InProcessLink(url, prepare)
    scheme = urlsplit(url).scheme
    if not is_amqp(url) and not scheme.startswith("liap-"):
        allowed = (
            "a broker whose queues keep their rules, for these queues: liap-memory://, liap-priority:// or amqp://"
        )
        raise ConfigurationError("MESSAGE_QUEUE_URL", f"{scheme}://", allowed)
    from liap_tasks.messaging.remote_link import RemoteLink  # it needs this module

    return RemoteLink(url, prepare)


def as_kombu(channel: Any, raw: Any) -> Any:
    """Return a message as kombu's: py-amqp's channels hand out their own."""
    return channel.message_to_python(raw)


class InProcessLink:
    """A link to a broker in this process: calls run where they are made."""

    holds_delays = True
    at_once: Mapping[str, Any] = MappingProxyType({"timeout": 0})

    def __init__(self, url: str, prepare: Prepare) -> None:
        self.url = url
        self._prepare = prepare
        self._connection: Connection | None = None
        self._channel: Any = None
        self._waiting: dict[Waiter, None] = {}

    def channel(self) -> Any:
        """Return the open channel; a closed one is replaced, and what it held is back in its queue."""
        if self._channel is None or self._channel.closed:
            connection = Connection(self.url)
            channel = connection.channel()
            self._prepare(channel)
            self._connection, self._channel = connection, channel
        return self._channel

    async def run(self, operation: Callable[[Any], T]) -> T:
        return operation(self.channel())

    def run_now(self, operation: Callable[[Any], T]) -> T:
        return operation(self.channel())

    async def run_apart(self, operation: Callable[[Any], T]) -> T:
        self.channel()
        connection: Any = self._connection

        def in_thread() -> T:
            return operation(connection.channel())

        return await asyncio.to_thread(in_thread)

    def searching(self, queue: str) -> AbstractContextManager[Any]:
        return get_broker(self.url).agreed_lock(f"search of {queue}")

    async def receive(self, queue: str, timeout: float | None) -> Any:
        channel = self.channel()
        message = channel.basic_get(queue)
        if message is not None or timeout == 0:
            return message
        waiter = Waiter(lambda message: message.requeue())
        inbox = channel.connection.inbox
        self._waiting[waiter] = None
        inbox.on_arrival = self._drain_soon  # only while somebody waits: it keeps this link alive
        try:
            channel.basic_qos(prefetch_count=1)
            waiter.tag = channel.basic_consume(
                queue, callback=waiter.arrived, on_cancel=lambda _: waiter.failed(queue_deleted(queue))
            )
            return await waiter.wait(timeout)
        finally:
            del self._waiting[waiter]
            if not self._waiting:
                inbox.on_arrival = None
            if waiter.tag is not None and not channel.closed:
                channel.basic_cancel(waiter.tag)  # what it has not seen goes back as if it had not been delivered

    def _drain_soon(self) -> None:
        """Called by the broker, with its lock held."""
        for waiter in list(self._waiting):
            try:
                waiter.loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # that loop is closed
                continue
            return

    def _drain(self) -> None:
        connection = self._connection
        if connection is None or not self._waiting:
            return
        try:
            connection.drain_events(timeout=0)
        except TimeoutError:
            return  # somebody else has drained it, or it was taken back
        except connection.connection_errors as error:
            for waiter in list(self._waiting):
                waiter.failed(BrokerUnavailableError(f"the connection to {self.url} was closed: {error}"))

    def statistics(self, queue: str) -> dict[str, float] | None:
        numbers: dict[str, float] = self.channel().queue_stats(queue)[queue]
        return numbers

    def headers(self, queue: str) -> list[Mapping[str, Any]] | None:
        self.channel()
        broker = get_broker(self.url)
        with broker.lock:
            return [message.headers or {} for message in broker.engine.peek(queue, sys.maxsize)]

    def delayed_headers(self, queue: str) -> list[Mapping[str, Any]]:
        return [message.headers or {} for _, message in self.channel().delayed(queue)]

    def time(self) -> float:
        return get_broker(self.url).engine.clock.time()

    async def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            connection.release()
            for waiter in list(self._waiting):
                waiter.failed(BrokerUnavailableError(f"the queue object was closed; its broker is {self.url}"))


def queue_deleted(queue: str) -> BrokerUnavailableError:
    """Return the error of those who waited for messages of a queue that was deleted."""
    return BrokerUnavailableError(f"queue {queue!r} was deleted while a dequeue waited for a message of it")


class LinkedQueue:
    """A queue of a broker and the link by which it is reached: what all queue objects have."""

    def __init__(self, url: str, declaration: Queue) -> None:
        self.name: str = declaration.name
        self.url = url
        self.declaration = declaration
        """How it is declared (kombu's), for a worker or a router."""
        self.link: Link = link_to(url, _declaring(declaration))

    async def declare(self) -> None:
        """Make sure that the queue exists, with its bindings and the place of its dead letters."""
        await self.link.run(lambda channel: self.declaration(channel).declare())

    async def close(self) -> None:
        """Put back what is held here, and close the connection."""
        await self.link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, url={self.url!r})"


def _declaring(queue: Queue) -> Prepare:
    """Return what declares a queue on a channel. It must not refer to a queue object, which its link would keep."""

    def declare(channel: Any) -> None:
        queue(channel).declare()

    return declare
