"""The kombu transports ``liap-memory://[/vhost]`` and ``liap-priority://[/vhost]``.

Deliveries are pushed: a publish puts them in the inbox of the consumer's connection and wakes the thread that waits in
``drain_events``; nothing polls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import amqp
from kombu.transport import base

from transports.brokers import check_host
from transports.in_process.channel import Channel
from transports.in_process.connection import InProcessConnection

if TYPE_CHECKING:
    from kombu import Connection

__all__ = ["MemoryTransport", "PriorityTransport"]


class MemoryTransport(base.Transport):
    """``liap-memory://[/vhost]``: queues are FIFO unless declared otherwise."""

    scheme: ClassVar[str] = "liap-memory"
    driver_type = "liap-memory"
    driver_name = "liap-memory"
    connection_errors = amqp.Connection.connection_errors
    channel_errors = amqp.Connection.channel_errors
    recoverable_connection_errors = amqp.Connection.recoverable_connection_errors
    recoverable_channel_errors = amqp.Connection.recoverable_channel_errors

    implements = base.Transport.implements.extend(
        asynchronous=False,
        exchange_type=frozenset(["direct", "topic", "fanout", "headers"]),
        heartbeats=False,
        broker_delay=True,
        message_groups=True,
        deduplication=True,
        in_process=True,
        shared_channels=True,
    )

    def driver_version(self) -> str:
        """Return the version of the driver: the interpreter's process is the broker."""
        return "in-process"

    def establish_connection(self) -> InProcessConnection:
        """Connect to the broker of the URL's virtual host."""
        client = cast("Connection", self.client)
        check_host(self.scheme, client.hostname)
        return InProcessConnection(client, self.scheme)

    def close_connection(self, connection: InProcessConnection) -> None:
        connection.close()

    def create_channel(self, connection: InProcessConnection) -> Channel:
        connection.check_open()
        return Channel(connection)

    def close_channel(self, channel: Channel) -> None:
        channel.close()

    def drain_events(self, connection: InProcessConnection, timeout: float | None = None, **_: Any) -> None:
        connection.drain_events(timeout)

    def verify_connection(self, connection: InProcessConnection) -> bool:
        return connection.connected

    def qos_semantics_matches_spec(self, connection: InProcessConnection) -> bool:
        """Answer False: like RabbitMQ since 3.3, a limit for the whole channel must be asked for as global."""
        return False

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URI: it holds no secret."""
        return uri


class PriorityTransport(MemoryTransport):
    """``liap-priority://[/vhost]``: the same, every queue a priority queue (levels 0 to 9 unless declared)."""

    scheme: ClassVar[str] = "liap-priority"
    driver_type = "liap-priority"
    driver_name = "liap-priority"
