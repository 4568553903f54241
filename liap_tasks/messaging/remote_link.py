"""A link to a broker elsewhere: one thread owns the connection and does everything with it.

kombu's connections are not for two threads at once, and their calls block. The thread waits on two things, the bell by
which it is called and the broker's socket, so nothing polls and a waiting dequeue holds nobody up. A lost connection
fails what was under way with BrokerUnavailableError (the broker has put unsettled messages back); the next call
connects again.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, TypeVar

from amqp.exceptions import AccessRefused, ChannelError
from kombu import Connection
from kombu.exceptions import OperationalError

from liap_tasks.configuration import broker_feature, is_amqp
from liap_tasks.messaging.link import Prepare, as_kombu, closed, queue_deleted
from liap_tasks.messaging.waiting import Waiter
from liap_tasks.pools.bell import Bell
from transports import BrokerUnavailableError, Clock, SystemClock

__all__ = ["RemoteLink"]

T = TypeVar("T")


class RemoteLink:
    """A link whose calls run in a thread of its own, started by the first of them."""

    at_once: Mapping[str, Any] = MappingProxyType({})
    clock: Clock = SystemClock()

    def __init__(self, url: str, prepare: Prepare) -> None:
        self.url = url
        self.holds_delays = broker_feature(url, "broker_delay")
        self._prepare = prepare
        self._thread: _ConnectionThread | None = None

    def _running(self) -> _ConnectionThread:
        if self._thread is None or not self._thread.is_alive():
            self._thread = _ConnectionThread(self.url, self._prepare)
            self._thread.start()
            weakref.finalize(self, self._thread.stop).atexit = False  # a queue object dropped without being closed
        return self._thread

    async def run(self, operation: Callable[[Any], T]) -> T:
        return await asyncio.shield(asyncio.wrap_future(self._running().post(operation)))

    def run_now(self, operation: Callable[[Any], T]) -> T:
        return self._running().post(operation).result()

    async def run_apart(self, operation: Callable[[Any], T]) -> T:
        return await asyncio.shield(asyncio.wrap_future(self._post_apart(operation)))

    def run_apart_now(self, operation: Callable[[Any], T]) -> T:
        return self._post_apart(operation).result()

    def _post_apart(self, operation: Callable[[Any], T]) -> Future[T]:
        thread = self._running()
        return thread.post(lambda _: operation(thread.new_channel()))

    def searching(self, queue: str) -> AbstractContextManager[Any]:
        return nullcontext()

    async def receive(self, queue: str, timeout: float | None) -> Any:
        thread = self._running()
        waiter = Waiter(thread.give_back)
        thread.post(lambda channel: thread.begin(channel, waiter, queue, wait=timeout != 0), failing=waiter)
        try:
            return await waiter.wait(None if timeout == 0 else timeout)
        finally:
            thread.post(lambda channel: thread.end(channel, waiter))

    def statistics(self, queue: str) -> dict[str, float] | None:
        return None

    def headers(self, queue: str) -> list[Mapping[str, Any]] | None:
        return None

    def delayed_headers(self, queue: str) -> list[Mapping[str, Any]]:
        return []

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
            await asyncio.to_thread(thread.join)


class _ConnectionThread(threading.Thread):
    """The thread that owns one connection."""

    def __init__(self, url: str, prepare: Prepare) -> None:
        super().__init__(name="liap-queue-link", daemon=True)
        self._url = url
        self._prepare = prepare
        self._bell = Bell()
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[[Any], Any], Future[Any], Waiter | None]] = deque()
        self._stopping = False
        self._ended = False
        self._connection: Any = None
        self._channel: Any = None
        self._waiting: dict[Waiter, None] = {}
        self._selector = selectors.DefaultSelector()
        self._watched: Any = None

    # -- called from other threads -----------------------------------------------------------------------------

    def post(self, operation: Callable[[Any], T], failing: Waiter | None = None) -> Future[T]:
        """Have an operation run with the link's channel. failing: who is told if it fails."""
        future: Future[T] = Future()
        with self._lock:
            if not self._ended:
                self._calls.append((operation, future, failing))
                self._bell.ring()
                return future
        future.set_exception(closed(self._url))
        if failing is not None:
            failing.failed(closed(self._url))
        return future

    def give_back(self, message: Any) -> None:
        """Put a message back that came too late."""
        self.post(lambda channel: message.requeue() if message.channel is channel else None)

    def stop(self) -> None:
        """Close the connection and end when what was called before is done."""
        with self._lock:
            self._stopping = True
            if not self._ended:
                self._bell.ring()

    # -- the thread's own --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Called in the thread."""
        self._selector.register(self._bell, selectors.EVENT_READ)
        try:
            while True:
                while self._calls:
                    self._call(*self._calls.popleft())
                with self._lock:
                    if self._stopping and not self._calls:
                        self._ended = True
                        return
                self._drain()
                self._watch()
                if any(key.fileobj is self._bell for key, _ in self._selector.select()):
                    self._bell.silence()
        finally:
            self._drop()
            self._fail_waiting(closed(self._url))
            self._selector.close()
            self._bell.close()

    def _call(self, operation: Callable[[Any], Any], future: Future[Any], failing: Waiter | None) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = operation(self._open_channel())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failure = self._failure(error)
            future.set_exception(failure)
            if failing is not None:
                failing.failed(failure)
        else:
            future.set_result(result)

    def _failure(self, error: BaseException) -> BaseException:
        """Return the error to raise for one, and let a connection or channel go that it has broken."""
        if isinstance(error, AccessRefused) and self._connection is None:  # a wrong password
            return self._unavailable(error)
        if isinstance(error, ChannelError):
            if self._channel is None or not self._channel.is_open:  # AMQP closes the channel of a refused operation
                self._drop()
            return error
        if isinstance(error, self._connection_errors()):
            self._lost(error)
            return self._unavailable(error)
        return error

    def _connection_errors(self) -> tuple[type[BaseException], ...]:
        known = Connection(self._url)
        return (*known.connection_errors, OperationalError)

    def _open_channel(self) -> Any:
        if self._channel is None:
            options = {"confirm_publish": True} if is_amqp(self._url) else {}
            connection: Any = Connection(self._url, transport_options=options)
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
            self._connection = connection
            channel = connection.channel()
            self._prepare(channel)
            channel.basic_qos(0, 1, False)
            self._channel = channel
        return self._channel

    def new_channel(self) -> Any:
        """Return a channel beside the link's own."""
        return self._connection.channel()

    def begin(self, channel: Any, waiter: Waiter, queue: str, *, wait: bool) -> None:
        """Give a waiter the next message, or consume for it until :meth:`end`."""
        message = channel.basic_get(queue)
        if message is not None or not wait:
            waiter.arrived(None if message is None else as_kombu(channel, message))
            return
        self._waiting[waiter] = None
        waiter.tag = channel.basic_consume(
            queue,
            callback=lambda raw: waiter.arrived(as_kombu(channel, raw)),
            on_cancel=lambda _: waiter.failed(queue_deleted(queue)),
        )

    def end(self, channel: Any, waiter: Waiter) -> None:
        """Consume for a waiter no longer; what comes for it until the broker knows goes back."""
        if self._waiting.pop(waiter, False) is None and waiter.tag is not None and channel is self._channel:
            channel.basic_cancel(waiter.tag)

    def _drain(self) -> None:
        """Hand out what has arrived."""
        if self._connection is None:
            return
        try:
            while True:
                self._connection.drain_events(timeout=0)
        except TimeoutError:
            return
        except self._connection_errors() as error:
            self._lost(error)

    def _watch(self) -> None:
        """Let the broker's socket wake this thread, for as long as there is one."""
        socket = None
        if self._connection is not None:
            established = self._connection.connection  # py-amqp's has a socket, ours is one to the selector
            socket = getattr(established, "sock", established)
        if socket is not self._watched:
            if self._watched is not None:
                self._selector.unregister(self._watched)
            if socket is not None:
                self._selector.register(socket, selectors.EVENT_READ)
            self._watched = socket

    def _lost(self, error: BaseException) -> None:
        self._drop(broken=True)
        self._fail_waiting(self._unavailable(error))

    def _unavailable(self, error: BaseException) -> BrokerUnavailableError:
        unavailable = BrokerUnavailableError(f"the broker {Connection(self._url).as_uri()} cannot be reached: {error}")
        unavailable.__cause__ = error
        return unavailable

    def _fail_waiting(self, error: BaseException) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.failed(error)

    def _drop(self, *, broken: bool = False) -> None:
        """Close the connection; what it held goes back to its queues."""
        connection, self._connection, self._channel = self._connection, None, None
        if self._watched is not None:
            self._selector.unregister(self._watched)
            self._watched = None
        if connection is not None:
            connection.collect() if broken else connection.release()
