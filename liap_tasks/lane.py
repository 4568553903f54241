"""The lane: a channel of a broker of ours, kept at hand for publishing.

kombu takes a producer from a pool for each publish, binds the queue's declaration to its channel, and wraps the send
in a loop that reconnects. On our transports any thread may publish on one channel, and a publish has arrived when it
returns. What was declared is remembered for as long as the channel is open, as kombu remembers it for as long as its
connection is. A connection that was lost is an error here, and its call is left to kombu's loop.

The channel is that of a connection of the app's own pool, given back at once: closing the pool closes it, and the next
publish takes another. Where there is no such channel (another broker, no pool) :meth:`Lane.channel` returns None and
callers publish in kombu's way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu import Queue
from kombu.common import maybe_declare

from liap_tasks.configuration import broker_feature
from liap_tasks.process_lock import ProcessLock
from liap_tasks.quick_json import encode

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["Lane", "LaneChannel"]


class LaneChannel:
    """An open channel and what has been declared on it."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self._declared: dict[int, Queue] = {}  # by identity: a queue that was changed is another one
        self._reply_queues: dict[str, Queue] = {}

    @property
    def is_open(self) -> bool:
        """Whether it can be published on."""
        return bool(self.channel.is_open)

    def declare_once(self, queue: Queue) -> None:
        """Declare a queue and what it needs, if that has not been done on this connection."""
        if id(queue) not in self._declared:
            maybe_declare(queue, self.channel)
            self._declared[id(queue)] = queue

    def declare_reply_queue(self, backend: Any) -> None:
        """Declare the queue to which an ``rpc://`` backend has the calls of this thread answered.

        Each time: it goes when its consumer does.
        """
        name = backend.oid
        queue = self._reply_queues.get(name)
        if queue is None:
            queue = self._reply_queues[name] = backend.binding(self.channel)
        queue.declare()

    def publish(
        self,
        body: Any,
        *,
        serializer: str,
        exchange: str,
        routing_key: str,
        headers: dict[str, Any],
        properties: dict[str, Any],
        priority: int | None,
    ) -> None:
        """Publish a message; when this returns, every queue it was routed to has it.

        Raises what ``kombu.Producer.publish`` raises for a body that cannot be encoded, and what the channel's
        ``basic_publish`` raises: ``QueueFullError`` among others.
        """
        content_type, content_encoding, data = encode(body, serializer)
        channel = self.channel
        message = channel.prepare_message(data, priority, content_type, content_encoding, headers, properties)
        channel.basic_publish(message, exchange, routing_key)


class Lane:
    """The lane of one app; safe to use from several threads."""

    def __init__(self, app: LiapApp) -> None:
        self._app = app
        self._usable: bool | None = None
        self._current: LaneChannel | None = None
        self._opening = ProcessLock()

    def channel(self) -> LaneChannel | None:
        """Return the channel to publish on, None where there is none. Raises what connecting to the broker raises."""
        current = self._current
        if current is not None and current.is_open:
            return current
        if self._usable is False:
            return None
        return self._open()

    def forget(self) -> None:
        """Find out anew where to publish: the app is connected elsewhere from now on."""
        with self._opening:
            self._usable = self._current = None

    def _open(self) -> LaneChannel | None:
        with self._opening:
            if self._usable is None:
                app: Any = self._app
                url = app.conf.broker_write_url or app.conf.broker_url
                # The pool is that of the write URL; without a limit it closes what is given back.
                self._usable = broker_feature(url, "shared_channels") and bool(app.conf.broker_pool_limit)
            if not self._usable:
                return None
            if self._current is None or not self._current.is_open:
                pool: Any = self._app.pool
                with pool.acquire(block=True) as connection:
                    if not connection.connected:
                        connection.connect()  # once: whoever calls has a way to try again
                    self._current = LaneChannel(connection.default_channel)
            return self._current
