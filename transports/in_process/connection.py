"""A kombu connection to an in-process broker: its channels, and the draining of their deliveries."""

from __future__ import annotations

import sys
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING

from amqp.exceptions import RecoverableConnectionError

from transports import engine
from transports.brokers import shared_broker
from transports.in_process.inbox import Arrival, Inbox, unseen
from transports.shared import SharedBroker

if TYPE_CHECKING:
    from kombu import Connection

    from transports.in_process.channel import Channel

__all__ = ["InProcessConnection"]

# One drain delivers what is there, but gives control back after this much: a worker's loop looks at its own
# business (shutdown, prefetch changes) between drains.
DRAIN_COUNT = 64
DRAIN_SECONDS = 0.01


class InProcessConnection:
    """What kombu calls the established connection. Dropped without being closed, it closes itself."""

    def __init__(self, client: Connection, scheme: str) -> None:
        self.client: Connection | None = client
        self.shared = shared_broker(scheme, client.virtual_host or "/")
        self.channels: dict[engine.Channel, Channel] = {}
        self.inbox = Inbox()
        self.connected = True
        with self.shared.lock:
            self.engine = self.shared.engine.connect()
        self._dropped = weakref.finalize(self, _close_soon, self.shared, self.engine, self.inbox)
        self._dropped.atexit = False

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for a delivery and hand out what has arrived.

        timeout: seconds, None for ever, 0 not to wait. Raises ``socket.timeout`` when nothing came in time.
        """
        if self.shared.forked:
            self.shared.check_process()
        inbox = self.inbox
        arrival = inbox.take()
        if arrival is None:
            arrival = inbox.wait(timeout)
        stop = monotonic() + DRAIN_SECONDS
        for _ in range(DRAIN_COUNT):
            self._hand_out(arrival)
            if monotonic() > stop:
                return
            following = inbox.take()
            if following is None:
                return
            arrival = following
        self._hand_out(arrival)

    @property
    def in_hand(self) -> int:
        """How many deliveries have arrived and are not handed out yet."""
        return len(self.inbox)

    def _hand_out(self, arrival: Arrival) -> None:
        channel = self.channels.get(arrival.channel)
        if channel is not None:
            channel.receive(arrival)
        elif arrival.consumer.no_ack:
            # Its channel was closed while this was on its way, and gave back what it held; this it did not hold.
            with self.shared.lock:
                self.shared.engine.undeliver(arrival.channel, unseen([arrival]))

    def check_open(self) -> None:
        """Raise RecoverableConnectionError when closed, BrokerUnavailableError in a forked child."""
        if not self.connected:
            raise RecoverableConnectionError("this connection is closed")
        self.shared.check_process()

    def close(self) -> None:
        """Close all channels; what they hold goes back, exclusive queues go."""
        self.connected = False
        for channel in list(self.channels.values()):
            channel.close()
        if self._dropped.detach() is not None:
            _close(self.shared, self.engine, self.inbox)

    def collect(self) -> None:
        """Let go of everything (kombu calls this on a connection it believes broken)."""
        self.close()


def _close_soon(shared: SharedBroker, connection: engine.ClientConnection, inbox: Inbox) -> None:
    """Close a connection that was dropped, on a thread of its own.

    Why a thread: the garbage collector may run in the middle of an operation of the very broker, on the thread that
    holds its lock.
    """
    if not shared.forked and not sys.is_finalizing():
        threading.Thread(target=_close, args=(shared, connection, inbox), name="liap-connection-dropped").start()


def _close(shared: SharedBroker, connection: engine.ClientConnection, inbox: Inbox) -> None:
    if shared.forked:  # the parent's broker is not ours to change, and its locks may be held for ever
        return
    with shared.lock:
        for channel in list(connection.channels):
            shared.engine.close_channel(channel, unseen(inbox.recall(channel)))
        shared.engine.close_connection(connection)
    inbox.close()
