"""The kombu transports ``liap-broker://`` and ``liap-broker-priority://``.

``liap-broker:///abs/path.sock`` (a Unix socket), ``liap-broker://:token@127.0.0.1:5680/vhost`` (TCP), ``liap-broker://``
(the user's own socket, where a broker is started if there is none). Transport options: ``vhost`` (Unix sockets),
``block_timeout``, ``confirm_publish``, ``call_timeout`` (seconds to wait for any answer, 30).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import amqp
from kombu.transport import base

from transports.engine.errors import EngineError
from transports.errors import BrokerUnavailableError, from_engine
from transports.served.channel import Channel
from transports.served.connection import ServedConnection
from transports.served.stream import ConnectionLost
from transports.wire.address import DEFAULT_PORT, TcpAddress, UnixAddress
from transports.wire.places import default_socket
from transports.wire.protocol import VERSION

if TYPE_CHECKING:
    from kombu import Connection

__all__ = ["PriorityTransport", "ServedTransport"]

CONNECT_TIMEOUT = 5.0
CALL_TIMEOUT = 30.0


class ServedTransport(base.Transport):
    """``liap-broker://``: queues are FIFO unless declared otherwise."""

    scheme: ClassVar[str] = "liap-broker"
    driver_type = "liap-broker"
    driver_name = "liap-broker"
    default_port = None
    default_queue_arguments: ClassVar[dict[str, Any]] = {}
    connection_errors = (*amqp.Connection.connection_errors, ConnectionLost, BrokerUnavailableError)
    channel_errors = amqp.Connection.channel_errors
    recoverable_connection_errors = (
        *amqp.Connection.recoverable_connection_errors,
        ConnectionLost,
        BrokerUnavailableError,
    )
    recoverable_channel_errors = amqp.Connection.recoverable_channel_errors

    implements = base.Transport.implements.extend(
        asynchronous=True,
        exchange_type=frozenset(["direct", "topic", "fanout", "headers"]),
        heartbeats=True,
        broker_delay=True,
        message_groups=True,
        deduplication=True,
        in_process=False,
        shared_channels=True,
    )

    def driver_version(self) -> str:
        """Return the version of the protocol."""
        return f"protocol {VERSION}"

    def establish_connection(self) -> ServedConnection:
        """Connect to the broker that the URL means; raises BrokerUnavailableError within the connect timeout."""
        client = cast("Connection", self.client)
        options: dict[str, Any] = client.transport_options or {}
        try:
            address, vhost, token = self.where()
        except EngineError as error:
            raise from_engine(error) from error
        connection = ServedConnection(
            address,
            vhost=options.get("vhost") or vhost,
            token=token,
            # The kernel tells at once when the other end of a Unix socket is gone.
            heartbeat=0.0 if isinstance(address, UnixAddress) else float(client.heartbeat or 0),
            connect_timeout=float(client.connect_timeout or CONNECT_TIMEOUT),
            call_timeout=float(options.get("call_timeout", CALL_TIMEOUT)),
            auto_start=address == UnixAddress(default_socket()) and not client.virtual_host.strip("/"),
        )
        connection.client = client
        return connection

    def where(self) -> tuple[UnixAddress | TcpAddress, str, str | None]:
        """Return address, virtual host and token of the connection's URL, without connecting."""
        client = cast("Connection", self.client)
        path = (client.virtual_host or "").strip("/")
        if client.password or client.port or (client.hostname and client.hostname != "localhost"):
            tcp = TcpAddress(client.hostname or "localhost", int(client.port or DEFAULT_PORT))
            return tcp, path or "/", client.password or ""
        return UnixAddress(f"/{path}" if path else default_socket()), "/", None

    def close_connection(self, connection: ServedConnection) -> None:
        connection.close()

    def create_channel(self, connection: ServedConnection) -> Channel:
        return Channel(connection, default_arguments=self.default_queue_arguments)

    def close_channel(self, channel: Channel) -> None:
        channel.close()

    def drain_events(self, connection: ServedConnection, timeout: float | None = None, **_: Any) -> None:
        connection.drain_events(timeout)

    def verify_connection(self, connection: ServedConnection) -> bool:
        return connection.connected

    def get_heartbeat_interval(self, connection: ServedConnection) -> float:  # type: ignore[override]  # the stubs say int
        return connection.heartbeat

    def heartbeat_check(self, connection: ServedConnection, rate: int = 2) -> None:
        connection.heartbeat_check()

    def register_with_event_loop(self, connection: ServedConnection, loop: Any) -> None:
        """Let kombu's Hub drain the connection when something has come."""
        loop.add_reader(connection.fileno(), self.on_readable, connection, loop)
        connection.watch(lambda: loop.call_soon(self.on_readable, connection, loop))

    def on_readable(self, connection: ServedConnection, loop: Any) -> None:
        """Hand out a portion of what has come, and come again for the rest; other work of the loop has its turn."""
        try:
            connection.drain_arrived()
        except TimeoutError:
            return
        finally:  # also when a callback failed: what has come behind its message must not wait for more to come
            connection.tell_of_arrivals()

    def qos_semantics_matches_spec(self, connection: ServedConnection) -> bool:
        """Answer False: like RabbitMQ since 3.3, a limit for the whole channel must be asked for as global."""
        return False

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URI, its token masked."""
        scheme, _, rest = uri.partition("://")
        secret, at, where = rest.rpartition("@")
        return f"{scheme}://{secret if include_password else ':' + mask}@{where}" if at else uri


class PriorityTransport(ServedTransport):
    """``liap-broker-priority://``: the same, every queue a priority queue (levels 0 to 9 unless declared)."""

    scheme: ClassVar[str] = "liap-broker-priority"
    driver_type = "liap-broker-priority"
    driver_name = "liap-broker-priority"
    default_queue_arguments: ClassVar[dict[str, Any]] = {"x-max-priority": 9}
