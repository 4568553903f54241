"""A kombu connection to a served broker: its channels, its calls, and the draining of their deliveries."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from transports.errors import BrokerUnavailableError, InvalidArgumentError, from_engine
from transports.served.dialing import dial
from transports.served.inbox import Arrival, Inbox
from transports.served.stream import ConnectionLost, FrameStream
from transports.wire.frames import pack_frame
from transports.wire.protocol import (
    ANSWER,
    CALL,
    CANCEL,
    CONFIRM,
    DELIVERY,
    FAILURE,
    GOODBYE,
    HELLO,
    MAGIC,
    OPERATIONS,
    PING,
    PONG,
    REFUSAL,
    RETURN,
    VERSION,
    WELCOME,
    fits,
)
from transports.wire.refusals import unpack_refusal

if TYPE_CHECKING:
    from transports.served.channel import Channel
    from transports.wire.address import TcpAddress, UnixAddress

__all__ = ["ServedConnection"]

# An event loop is handed what is there, but has control back after this much: it has other business.
DRAIN_COUNT = 64
DRAIN_SECONDS = 0.01

_OF_CHANNELS = frozenset({DELIVERY, CONFIRM, REFUSAL, RETURN, CANCEL})
_PING_FRAME, _PONG_FRAME = pack_frame((PING,)), pack_frame((PONG,))


class ServedConnection:
    """What kombu calls the established connection. Any thread may use it."""

    def __init__(
        self,
        address: UnixAddress | TcpAddress,
        *,
        vhost: str = "/",
        token: str | None = None,
        heartbeat: float = 0.0,
        connect_timeout: float = 5.0,
        call_timeout: float = 30.0,
        auto_start: bool = False,
    ) -> None:
        """Connect and greet. heartbeat: seconds, 0 for none. call_timeout: seconds to wait for any answer.

        Raises BrokerUnavailableError, saying how to start a broker, within ``connect_timeout`` seconds.
        """
        self.address = address
        self.channels: dict[int, Channel] = {}
        self.inbox = Inbox()
        self.call_timeout = call_timeout
        self.heartbeat = 0.0
        self.frame_max = 0
        self.broker_pid = 0
        self.client: Any = None
        self._numbers = itertools.count(1)
        self._calls: dict[int, list[Any] | None] = {}
        self._call_ids = itertools.count(1)
        self._welcomed = False
        self._on_arrival: Callable[[], None] | None = None
        self._waking = False
        self._stream = self._dialled(connect_timeout, auto_start)
        options: dict[str, Any] = {
            "name": os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python",
            "pid": os.getpid(),
            "vhost": vhost,
            "heartbeat": heartbeat,
        }
        if token is not None:
            options["token"] = token
        greeting = pack_frame((HELLO, MAGIC, VERSION, options))
        try:
            self._greet(greeting, connect_timeout)
        except BrokerUnavailableError:
            if not auto_start:
                raise
            # A broker that nobody needed was just about to end; the next one is ours.
            self._stream = self._dialled(connect_timeout, auto_start)
            self._greet(greeting, connect_timeout)

    def _dialled(self, timeout: float, auto_start: bool) -> FrameStream:
        sock = dial(self.address, timeout, auto_start=auto_start)
        return FrameStream(sock, self._on_frame, patience=self.call_timeout)

    def _greet(self, greeting: bytes, timeout: float) -> None:
        try:
            self._stream.send(greeting)
            if not self._stream.wait_until(lambda: self._welcomed, timeout):
                self.give_up(f"it did not greet within {timeout:g} s")
        except ConnectionLost as error:
            self._stream.close()
            raise BrokerUnavailableError(f"no broker that would have us on {self.address}: {error}") from error

    # -- frames ------------------------------------------------------------------------------------------------

    def _on_frame(self, fields: list[Any]) -> None:
        kind = fields[0]
        if kind in _OF_CHANNELS:
            channel = self.channels.get(fields[1])
            if channel is None:
                return  # closed meanwhile: the broker has taken back what it held
            if kind == DELIVERY:
                channel.delivered(fields)
            elif kind == CONFIRM:
                channel.confirms.confirmed(fields[2])
            elif kind == REFUSAL:
                channel.confirms.refused(fields[2], unpack_refusal(fields[3]))
            elif kind == RETURN:
                channel.returned(fields)
            else:
                channel.cancelled(fields)
        elif kind in (ANSWER, FAILURE):
            if fields[1] in self._calls:  # nobody waits any more when its time was up
                self._calls[fields[1]] = fields
        elif kind == PING:
            self._stream.reply(_PONG_FRAME)
        elif kind == PONG:
            self._waking = False
        elif kind == WELCOME:
            self._take_welcome(fields)
        elif kind == GOODBYE:
            raise ConnectionLost(f"the broker ended the connection: {fields[1]}")

    def _take_welcome(self, fields: list[Any]) -> None:
        _, version, facts = fields
        if version != VERSION:
            raise ConnectionLost(f"the broker speaks version {version} of the protocol, this client {VERSION}")
        self.frame_max = facts["frame_max"]
        self.heartbeat = facts["heartbeat"]
        self.broker_pid = facts["pid"]
        self._stream.take_frames_up_to(2 * self.frame_max)
        self._welcomed = True

    def send(self, fields: tuple[Any, ...]) -> None:
        """Send one frame."""
        self.send_frame(pack_frame(fields))

    def send_frame(self, frame: bytes) -> None:
        """Send a frame, or several, that are packed already."""
        self._stream.send(frame)
        self.tell_of_arrivals()

    def tell_of_arrivals(self) -> None:
        """Wake the event loop that watches the socket, if there is one, for what has been read and not drained.

        Asking for a sign of life makes the socket readable again. Why not only kombu's ``call_soon``: the loop (5.7)
        polls once more, up to a second, before it does what was asked for while it did such things.
        """
        if self._on_arrival is None or self._waking or not self._stream.usable or not self.inbox:
            return
        self._waking = True
        self._on_arrival()
        self._stream.send(_PING_FRAME)

    @property
    def patience(self) -> float:
        """Seconds that the broker may settle and take nothing before the connection counts as lost."""
        return self._stream.patience

    def expect_waiting(self, seconds: float) -> None:
        """Have the patience that a publisher needs who may be kept waiting so long for room in a queue."""
        if seconds + self.call_timeout > self._stream.patience:
            self._stream.patience = seconds + self.call_timeout

    def call(self, channel: int, operation: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Ask for an operation and return its answer.

        Raises what kombu's users expect for what the engine refuses, ConnectionLost when the broker is gone, or has not
        answered within ``timeout`` (default: the connection's) seconds.
        """
        call_id = next(self._call_ids)
        self._calls[call_id] = None
        try:
            self.send_frame(self._packed_call(call_id, channel, operation, list(arguments)))
            wait = self.call_timeout if timeout is None else timeout
            if not self.wait_until(lambda: self._calls[call_id] is not None, wait):
                self.give_up(f"the broker did not answer {operation} within {wait:g} s")
            answer = self._calls[call_id]
        finally:
            del self._calls[call_id]
        if answer is None:
            raise ConnectionLost("the broker is gone")
        if answer[0] == FAILURE:
            error = unpack_refusal(answer[2])
            raise from_engine(error) from error
        return answer[2]

    def _packed_call(self, call_id: int, channel: int, operation: str, arguments: list[Any]) -> bytes:
        try:
            if fits(arguments, OPERATIONS[operation]):
                return pack_frame((CALL, call_id, channel, operation, arguments))
        except (TypeError, OverflowError):
            pass
        raise InvalidArgumentError(operation, arguments, "arguments of the types that AMQP has for them")

    def wait_until(self, arrived: Callable[[], bool], timeout: float | None) -> bool:
        """Receive until ``arrived()``; False when ``timeout`` seconds passed before."""
        try:
            return self._stream.wait_until(arrived, timeout)
        finally:
            self.tell_of_arrivals()

    def give_up(self, reason: str) -> NoReturn:
        """Close a connection whose other side does not keep its word; raises ConnectionLost with the reason."""
        self._stream.close(reason)
        raise ConnectionLost(reason)

    # -- channels and deliveries -------------------------------------------------------------------------------

    def open_channel(self, channel: Channel) -> int:
        """Open a channel at the broker and return its number."""
        number = next(self._numbers)
        self.channels[number] = channel
        try:
            self.call(0, "open_channel", number)
        except BaseException:
            del self.channels[number]
            raise
        return number

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for a delivery and hand it out, with those to be acknowledged that have come behind it.

        A delivery without acknowledgement is handed out alone: answers to remote control are such, and kombu counts
        drains where it counts them (``limit``). Others come in portions, as on kombu's virtual transports.
        timeout: seconds, None for ever, 0 not to wait. Raises ``socket.timeout`` when nothing came in time.
        """
        self.check()  # a forked child has a copy of what the parent has not drained
        arrival = self.inbox.take()
        if arrival is None:
            arrival = self._await_arrival(timeout)
        arrival.channel.receive(arrival)
        if arrival.is_held:
            self._hand_out(self.inbox.take_held)

    def drain_arrived(self) -> None:
        """Hand out a portion of what has arrived, without waiting; ``socket.timeout`` as above."""
        self.drain_events(timeout=0)
        self._hand_out(self.inbox.take)

    def _hand_out(self, take: Callable[[], Arrival | None]) -> None:
        stop = monotonic() + DRAIN_SECONDS
        for _ in range(DRAIN_COUNT - 1):
            if monotonic() > stop:
                return
            arrival = take()
            if arrival is None:
                return
            arrival.channel.receive(arrival)

    def _await_arrival(self, timeout: float | None) -> Arrival:
        deadline = None if timeout is None else monotonic() + timeout
        stream, inbox = self._stream, self.inbox
        while True:
            remaining = None if deadline is None else max(0.0, deadline - monotonic())
            came = stream.receive(inbox.__bool__, remaining)
            arrival = inbox.take()
            if arrival is not None:
                return arrival
            if remaining == 0 and not came:
                raise TimeoutError("no message arrived in time")

    # -- event loops -------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the file descriptor that becomes readable when the broker has sent something."""
        return self._stream.fileno()

    def watch(self, on_arrival: Callable[[], None]) -> None:
        """Call ``on_arrival`` when deliveries have been read by another wait than a drain, in whichever thread."""
        self._on_arrival = on_arrival

    def heartbeat_check(self) -> None:
        """Tell the broker that we live, and raise ConnectionLost when nothing was heard of it for two heartbeats."""
        if not self.heartbeat:
            return
        # What it has sent may be waiting for us, who were at work.
        self._stream.receive(lambda: False, 0)
        self.tell_of_arrivals()
        now = monotonic()
        if now - self._stream.last_heard > 2 * self.heartbeat:
            self.give_up(f"nothing was heard of the broker for {now - self._stream.last_heard:.0f} s")
        if now - self._stream.last_sent >= self.heartbeat / 2:
            self.send_frame(_PING_FRAME)

    # -- end ---------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether frames can still be sent and received."""
        return self._stream.usable

    def check(self) -> None:
        """Raise ConnectionLost, with the reason, when nothing can be sent and received any more."""
        self._stream.check()

    def close(self) -> None:
        """End the connection: what its channels hold goes back, exclusive queues go."""
        try:
            if self.connected:
                for channel in list(self.channels.values()):
                    channel.close()
                self.send((GOODBYE,))
        except ConnectionLost:
            pass  # it has ended already
        finally:
            self.collect()

    def collect(self) -> None:
        """Let go of everything without a word (kombu calls this on a connection it believes broken, and in forks)."""
        self._stream.close()
        for channel in list(self.channels.values()):
            channel.detach()
        self.channels.clear()
        self._on_arrival = None
