"""The hands of a scenario: it names queues, publishes, takes, consumes and lets time pass, the same on every broker.

What it hides: errors that RabbitMQ reports later than we do, its negative confirms beside our ``QueueFullError``, work
that RabbitMQ does a moment after the answer (dead-lettering, requeueing after a close), names in a virtual host that
tests share, and time, which is real there and virtual here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import kombu
import pytest
from amqp.exceptions import AMQPError, MessageNacked

from tests.conformance.inbox import Inbox
from transports import QueueFullError, VirtualClock

__all__ = ["Driver", "PublishRefused"]

# How long RabbitMQ may take for what it does soon. Ours does everything before it answers.
PATIENCE = 10.0
POLL_SECONDS = 0.01
# An operation that is still running after this many seconds is taken to wait.
BLOCKED_SECONDS = 0.1
# What may come later than real time says: RabbitMQ's timers have a resolution of some milliseconds.
TIMER_SLACK = 0.05


class PublishRefused(Exception):
    """The broker did not take the message: a negative confirm, or our QueueFullError (then the cause)."""


class Background:
    """An operation on a thread of its own."""

    def __init__(self, operation: Callable[[], Any]) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scenario")
        self._future = self._executor.submit(operation)

    def stays_blocked(self) -> None:
        """Assert that the operation does not end by itself soon."""
        with pytest.raises(TimeoutError):
            self._future.result(BLOCKED_SECONDS)

    def ends(self) -> Any:
        """Wait until the operation has ended and return what it returned, or raise what it raised."""
        try:
            return self._future.result(PATIENCE)
        finally:
            self._executor.shutdown()


class Driver:
    """One scenario's view of one broker."""

    def __init__(
        self,
        transport: str,
        url: str,
        clock: VirtualClock | None,
        *,
        vhost: str | None = None,
        settle: Callable[[], None] | None = None,
    ) -> None:
        """clock: the broker's, where time is virtual; None where it is real.

        settle: returns when the broker has done all that was asked of it, where that is known.
        """
        self.transport = transport
        self.url = url
        self.returned: list[kombu.Message] = []
        self.settle = settle or (lambda: None)
        self._clock = clock
        self._options = {"confirm_publish": True} | ({"vhost": vhost} if vhost else {})
        self._run = uuid4().hex[:8]
        self._connections: list[kombu.Connection] = []
        self._queues: list[str] = []
        self._exchanges: list[str] = []
        self.connection = self.connect()
        self.channel = self.connection.channel()

    # -- connections and time ----------------------------------------------------------------------------------

    def connect(self) -> kombu.Connection:
        """Open another connection; the driver closes it at the end."""
        connection = kombu.Connection(self.url, transport_options=self._options)
        connection.connect()
        self._connections.append(connection)
        return connection

    def advance(self, seconds: float) -> None:
        """Let this much time pass at the broker."""
        self.settle()
        if self._clock is not None:
            self._clock.advance(seconds)
        else:
            time.sleep(seconds + TIMER_SLACK)  # real time is what the scenario is about

    @property
    def patience(self) -> float:
        """Seconds to wait for something the broker does by itself."""
        return PATIENCE if self._clock is None else 0.0

    def eventually(self, observe: Callable[[], Any], expected: Any) -> None:
        """Assert that ``observe()`` comes to return ``expected``."""
        deadline = time.monotonic() + self.patience
        self.settle()
        while (seen := observe()) != expected and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        assert seen == expected

    # -- entities ----------------------------------------------------------------------------------------------

    def name(self, label: str) -> str:
        """Return a name that no other scenario uses, the same one for the same label."""
        return f"{label}.{self._run}"

    def queue(self, label: str = "q", *, channel: Any = None, **options: Any) -> kombu.Queue:
        """Declare a queue (options: kombu.Queue's) and return it bound to the channel."""
        name = self.name(label)
        self._queues.append(name)
        queue = kombu.Queue(name, **{"durable": False, **options})(channel or self.channel)
        queue.declare()
        return queue

    def exchange(
        self, label: str = "x", type: str = "direct", *, channel: Any = None, **options: Any
    ) -> kombu.Exchange:
        """Declare an exchange (options: kombu.Exchange's) and return it bound to the channel."""
        name = self.name(label)
        self._exchanges.append(name)
        exchange = kombu.Exchange(name, type, **{"durable": False, **options})(channel or self.channel)
        exchange.declare()
        return exchange

    def bound_queue(self, label: str, exchange: kombu.Exchange, routing_key: str = "", **options: Any) -> kombu.Queue:
        """Declare a queue with one binding."""
        queue = self.queue(label, **options)
        queue.bind_to(exchange.name, routing_key=routing_key)
        return queue

    def delivery_limit(self, limit: int) -> dict[str, Any]:
        """Return the options of a queue with a delivery limit: RabbitMQ has it on quorum queues only."""
        if self.transport == "amqp":
            arguments = {"x-delivery-limit": limit, "x-queue-type": "quorum"}
            return {"durable": True, "queue_arguments": arguments}
        return {"queue_arguments": {"x-delivery-limit": limit}}

    # -- messages ----------------------------------------------------------------------------------------------

    def publish(
        self,
        body: Any,
        to: kombu.Queue | kombu.Exchange | str,
        routing_key: str = "",
        *,
        channel: Any = None,
        **properties: Any,
    ) -> None:
        """Publish and wait until the broker has taken the message; raises PublishRefused when it does not.

        to: a queue (by the default exchange), an exchange or an exchange's name. properties: Producer.publish's.
        """
        if isinstance(to, kombu.Queue):
            exchange, routing_key = "", to.name
        else:
            exchange = to if isinstance(to, str) else to.name
        producer = kombu.Producer(channel or self.channel, on_return=self._on_return)
        try:
            producer.publish(body, exchange=exchange, routing_key=routing_key, **properties)
        except (MessageNacked, QueueFullError) as error:
            raise PublishRefused(f"{body!r} to {exchange or routing_key!r}") from error

    def publish_all(
        self, bodies: Any, to: kombu.Queue | kombu.Exchange, routing_key: str = "", **properties: Any
    ) -> None:
        """Publish several bodies in this order."""
        for body in bodies:
            self.publish(body, to, routing_key, **properties)

    def _on_return(self, error: Any, exchange: str, routing_key: str, message: Any) -> None:
        if not isinstance(message, kombu.Message):
            # py-amqp gives its own message, and kombu's (5.7) wants what only a delivered one has.
            message.delivery_info = {"delivery_tag": None}
            message = self.channel.message_to_python(message)
        self.returned.append(message)

    def get(self, queue: kombu.Queue, *, no_ack: bool = False, channel: Any = None) -> kombu.Message | None:
        """Return the queue's next message now, or None."""
        return queue(channel or self.channel).get(no_ack=no_ack)

    def take(self, queue: kombu.Queue, *, no_ack: bool = False, channel: Any = None) -> kombu.Message:
        """Return the queue's next message, waiting for it."""
        deadline = time.monotonic() + self.patience
        while (message := self.get(queue, no_ack=no_ack, channel=channel)) is None:
            if time.monotonic() >= deadline:
                pytest.fail(f"no message arrived in {queue.name}")
            time.sleep(POLL_SECONDS)
        return message

    def take_many(self, queue: kombu.Queue, count: int, *, channel: Any = None) -> list[kombu.Message]:
        """Return the queue's next messages, unacknowledged, waiting for them."""
        return [self.take(queue, channel=channel) for _ in range(count)]

    def empty(self, queue: kombu.Queue) -> list[Any]:
        """Take all that is in the queue now and return the bodies in order."""
        bodies = []
        while (message := self.get(queue, no_ack=True)) is not None:
            bodies.append(message.payload)
        return bodies

    def count(self, queue: kombu.Queue) -> int:
        """Return the number of ready messages, as a passive declare tells it."""
        count: int = self.channel.queue_declare(queue.name, passive=True).message_count
        return count

    def wait_for_count(self, queue: kombu.Queue, count: int) -> None:
        """Wait until the queue has that many ready messages."""
        self.eventually(lambda: self.count(queue), count)

    def drained_into(self, received: list[Any]) -> list[Any]:
        """Hand out what the main connection has received; return the list that its callbacks fill."""
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=POLL_SECONDS)
        return received

    def consume(self, queue: kombu.Queue, **options: Any) -> Inbox:
        """Start a consumer and return where its messages arrive (options: Inbox.start's)."""
        options.setdefault("channel", self.channel)
        return Inbox.start(self, queue, **options)

    def in_thread(self, operation: Callable[[], Any]) -> Background:
        """Run an operation that may wait on a thread of its own."""
        return Background(operation)

    # -- what is expected to go wrong --------------------------------------------------------------------------

    @contextmanager
    def refuses(self, reply_code: int) -> Iterator[Any]:
        """Give a fresh channel on a fresh connection to a block whose last operation is refused with this code."""
        connection = self.connect()
        channel = connection.channel()
        refusal: AMQPError | None = None
        try:
            yield channel
            # py-amqp learns of an error of an operation without an answer when it waits for the next answer.
            channel.basic_qos(0, 1, False)
        except AMQPError as error:
            refusal = error
        assert refusal is not None, f"it was not refused; {reply_code} was expected"
        assert refusal.reply_code == reply_code, refusal
        self.close_connection(connection)

    def exists(self, queue: kombu.Queue | None = None, exchange: str | None = None) -> bool:
        """Tell whether a queue or an exchange exists (asked on a connection of its own)."""
        connection = self.connect()
        try:
            channel = connection.channel()
            if queue is not None:
                channel.queue_declare(queue.name, passive=True)
            else:
                channel.exchange_declare(exchange, "direct", passive=True)
        except AMQPError as error:
            if error.reply_code not in (404, 405):
                raise
            return error.reply_code == 405
        else:
            return True
        finally:
            self.close_connection(connection)

    def close_connection(self, connection: kombu.Connection) -> None:
        """Close a connection that :meth:`connect` gave."""
        self._connections.remove(connection)
        connection.release()

    def close(self) -> None:
        """Close everything, and leave nothing in a virtual host that is shared."""
        for connection in self._connections:
            connection.release()
        if self._clock is not None:
            return  # the next scenario gets a new broker
        with kombu.Connection(self.url) as connection:
            channel = connection.channel()
            for queue in self._queues:
                channel.queue_delete(queue)
            for exchange in self._exchanges:
                with suppress(AMQPError):
                    channel.exchange_delete(exchange)
