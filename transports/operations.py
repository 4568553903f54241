"""The operations of an AMQP channel by name, the same for a channel in this process and for one behind a socket.

The names and arguments are those of :data:`transports.wire.protocol.OPERATIONS`. What the engine refuses is raised as
it is. A host that serves threads holds its lock around each call.
"""

from __future__ import annotations

from typing import Any

from transports.engine import Broker, Channel, DeclaredQueue, Got

__all__ = ["Operations"]


class Operations:
    """What one channel of a broker can be asked for."""

    def __init__(self, broker: Broker, channel: Channel) -> None:
        self._broker = broker
        self._channel = channel
        self._client = channel.connection

    # -- entities ----------------------------------------------------------------------------------------------

    def declare_exchange(
        self,
        name: str,
        kind: str,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: dict[str, Any] | None,
    ) -> None:
        self._broker.declare_exchange(
            name,
            kind,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )

    def delete_exchange(self, name: str, if_unused: bool) -> None:
        self._broker.delete_exchange(name, if_unused=if_unused)

    def bind_exchange(self, destination: str, source: str, key: str, arguments: dict[str, Any] | None) -> None:
        self._broker.bind_exchange(destination, source, key, arguments)

    def unbind_exchange(self, destination: str, source: str, key: str, arguments: dict[str, Any] | None) -> None:
        self._broker.unbind_exchange(destination, source, key, arguments)

    def declare_queue(
        self,
        name: str,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: dict[str, Any] | None,
    ) -> DeclaredQueue:
        return self._broker.declare_queue(
            self._client,
            name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )

    def bind_queue(self, name: str, exchange: str, key: str, arguments: dict[str, Any] | None) -> None:
        self._broker.bind_queue(self._client, name, exchange, key, arguments)

    def unbind_queue(self, name: str, exchange: str, key: str, arguments: dict[str, Any] | None) -> None:
        self._broker.unbind_queue(self._client, name, exchange, key, arguments)

    def purge_queue(self, name: str) -> int:
        return self._broker.purge_queue(self._client, name)

    def delete_queue(self, name: str, if_unused: bool, if_empty: bool) -> int:
        return self._broker.delete_queue(self._client, name, if_unused=if_unused, if_empty=if_empty)

    # -- consuming ---------------------------------------------------------------------------------------------

    def get(self, queue: str, no_ack: bool) -> tuple[Got, bool] | None:
        """Return what was taken and whether the queue counts returns, or None when there is no message."""
        got = self._broker.get(self._channel, queue, no_ack=no_ack)
        return None if got is None else (got, self._broker.queues[queue].arguments.delivery_limit is not None)

    def qos(self, prefetch_count: int, for_channel: bool) -> None:
        self._broker.qos(self._channel, prefetch_count, for_channel=for_channel)

    def flow(self, active: bool) -> None:
        self._broker.flow(self._channel, active)

    # -- delayed messages --------------------------------------------------------------------------------------

    def cancel_delayed(self, queue: str, message_id: str) -> int:
        return self._broker.cancel_delayed(queue, message_id)

    def reschedule(self, queue: str, message_id: str, delay: float) -> int:
        return self._broker.reschedule(queue, message_id, delay)
