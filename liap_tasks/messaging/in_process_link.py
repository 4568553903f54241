"""A link to a broker in this process: calls run where they are made, and the broker tells when a message has come."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from types import MappingProxyType
from typing import Any, TypeVar

from kombu import Connection

from liap_tasks.messaging.link import Prepare, closed, queue_deleted
from liap_tasks.messaging.waiting import Waiter
from transports import BrokerUnavailableError, Clock, get_broker

__all__ = ["InProcessLink"]

T = TypeVar("T")


class InProcessLink:
    """A link whose calls run at once."""

    holds_delays = True
    at_once: Mapping[str, Any] = MappingProxyType({"timeout": 0})

    def __init__(self, url: str, prepare: Prepare) -> None:
        self.url = url
        self._prepare = prepare
        self._connection: Connection | None = None
        self._channel: Any = None
        self._opening = threading.Lock()
        self._waiting: dict[Waiter, None] = {}

    def channel(self) -> Any:
        """Return the open channel; a closed one is replaced, and what it held is back in its queue."""
        channel = self._channel
        if channel is None or channel.closed:
            with self._opening:
                channel = self._channel
                if channel is None or channel.closed:
                    connection = Connection(self.url)
                    channel = connection.channel()
                    self._prepare(channel)
                    self._connection, self._channel = connection, channel
        return channel

    async def run(self, operation: Callable[[Any], T]) -> T:
        return operation(self.channel())

    def run_now(self, operation: Callable[[Any], T]) -> T:
        return operation(self.channel())

    async def run_apart(self, operation: Callable[[Any], T]) -> T:
        return await asyncio.to_thread(self.run_apart_now, operation)

    def run_apart_now(self, operation: Callable[[Any], T]) -> T:
        self.channel()
        connection: Any = self._connection
        return operation(connection.channel())

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
        """Called by the broker, with its lock held.

        Every loop is told: one may be busy, or not run at the moment, and whichever is first drains for all.
        """
        for loop in {waiter.loop for waiter in list(self._waiting)}:
            with suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(self._drain)

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

    @property
    def clock(self) -> Clock:
        return get_broker(self.url).engine.clock

    async def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            connection.release()
            for waiter in list(self._waiting):
                waiter.failed(closed(self.url))
