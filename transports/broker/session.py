"""One client of a served broker: its handshake, its channels, what it sends and what it is sent.

Frames that go out are collected while a wake-up is worked on and written once at its end. Those that say something is
settled (answers, confirmations, refusals) are kept apart: they leave after the journal has what they speak of.

Back-pressure goes both ways. A client that does not read is sent no more deliveries once SEND_HIGH bytes wait for it,
and is not read itself once so many answers wait; a client whose publishes stand in line for room is not read either.
So what one client can make the broker hold is bounded, and other clients notice nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import select
import socket
import struct
from typing import TYPE_CHECKING, Any, cast

from transports.broker.operations import ServedOperations, content_of
from transports.broker.publishing import Publisher
from transports.engine import Broker, Channel, Consumer, EngineError, Entry, InvalidArgument, Sink
from transports.engine.errors import precondition_failed
from transports.wire.frames import FrameError, FrameReader, pack_frame
from transports.wire.protocol import (
    ACK,
    ANSWER,
    CALL,
    CANCEL,
    DELIVERY,
    FAILURE,
    GOODBYE,
    HELLO,
    LENGTHS,
    MAGIC,
    OPERATIONS,
    PING,
    PONG,
    PUBLISH,
    REJECT,
    VERSION,
    WELCOME,
    ProtocolError,
    fits,
)
from transports.wire.refusals import pack_refusal, shown

if TYPE_CHECKING:
    from transports.broker.server import BrokerServer

__all__ = ["ServedChannel", "Session"]

logger = logging.getLogger("transports.broker")

HANDSHAKE_BYTES = 4_096
LEAST_HEARTBEAT, MOST_HEARTBEAT = 0.1, 3_600.0
HANG_UP_SECONDS = 0.25
# Tells of a client that writes no more, also behind data that is not read. Without it a system tells of dead ones only.
HANG_UP = getattr(select, "POLLRDHUP", 0)
MOST_CHANNELS = 2_047
SEND_HIGH = 1024 * 1024
SEND_LOW = 256 * 1024
#: What one client can cause again and again is told of at first, and then once in so many times.
ONE_IN = 1_000


class ServedChannel(Sink):
    """A channel of a client, and where its deliveries go."""

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        self.broker: Broker = session.broker
        self.channel = self.broker.open_channel(session.client, self)
        self.publisher = Publisher(self)
        self.operations = ServedOperations(self)
        self.wants_flow = True

    def deliver(self, channel: Channel, consumer: Consumer, delivery_tag: int, entry: Entry) -> None:
        message = entry.message
        session = self.session
        session.send(
            pack_frame(
                (
                    DELIVERY,
                    self.number,
                    consumer.tag,
                    delivery_tag,
                    entry.redelivered,
                    entry.returns if consumer.queue.arguments.delivery_limit is not None else None,
                    message.exchange,
                    message.routing_key,
                    content_of(message),
                    message.body,
                )
            )
        )
        if session.out_bytes > SEND_HIGH and channel.flowing:
            session.hold_back()

    def cancelled(self, channel: Channel, consumer: Consumer) -> None:
        self.session.send(pack_frame((CANCEL, self.number, consumer.tag)))

    def flow(self, active: bool) -> None:
        """Let deliveries come or not, as the client wants; a client that does not read gets none either way."""
        self.wants_flow = active
        self.broker.flow(self.channel, active and not self.session.held_back)

    def close(self, unseen: list[tuple[int, Entry, Consumer]]) -> None:
        """Put back what the channel holds."""
        self.session.channels.pop(self.number, None)
        self.publisher.close()
        self.broker.close_channel(self.channel, unseen)


class Session(asyncio.BufferedProtocol):
    """The broker's side of one client."""

    def __init__(self, server: BrokerServer, *, token: str | None, where: str) -> None:
        """token: what the client must know, None where the socket's permissions decide. where: for people."""
        self.server = server
        self.where = where
        self.name = f"a client on {where}"
        self.channels: dict[int, ServedChannel] = {}
        self._highest_channel = 0
        self.out_bytes = 0
        self.awaiting_disk = 0  # bytes of frames that leave when the journal's disk has what they speak of
        self.held_back = False
        self._token = token
        self._reader = FrameReader(HANDSHAKE_BYTES)
        self._out: list[bytes] = []
        self._settled: list[bytes] = []
        self._queued = False
        self._writing_paused = False
        self._reading_paused = False
        self._welcomed = False
        self._closing = False
        self._confirming: list[Publisher] = []
        self._heartbeat = 0.0
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._frame_timer: asyncio.TimerHandle | None = None
        self._frame_begun = 0
        self._hang_up_timer: asyncio.TimerHandle | None = None
        self._going_on = False
        self._left = False  # frames that have been read and not worked on
        self._unconfirmed_refusals = 0
        self._wrong_settlements = 0

    # -- the client comes and goes -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=SEND_HIGH, low=SEND_LOW)
        self.name = peer_name(self._transport.get_extra_info("socket"), self.where)
        self.server.sessions[self] = None
        self.server.clients_changed()
        self._timer = self.server.loop.call_later(self.server.handshake_seconds, self._be_late)

    def _be_late(self) -> None:
        self.drop(f"no greeting within {self.server.handshake_seconds:g} s")

    def connection_lost(self, exc: BaseException | None) -> None:
        """Put back all that the client held; called once, whatever ended the connection."""
        self._closing = True
        for timer in (self._timer, self._frame_timer, self._hang_up_timer):
            if timer is not None:
                timer.cancel()
        self.server.sessions.pop(self, None)
        self._out.clear()
        self._settled.clear()
        self._confirming.clear()
        if self._welcomed:
            self._let_go_of_everything()
            if exc is not None:
                logger.info("%s was lost (%s); what it held is back in its queues", self.name, exc)
        self.server.clients_changed()
        self.server.flush()

    def _let_go_of_everything(self) -> None:
        for channel in list(self.channels.values()):
            channel.publisher.close()
        self.channels.clear()
        try:
            self.broker.close_connection(self.client)
        except Exception:
            logger.exception("the broker failed at putting back what %s held", self.name)
        self.server.forget_if_empty(self.broker)

    def drop(self, reason: str) -> None:
        """End this client for what it did, with the reason in the log and in its last frame."""
        if self._closing:
            return
        logger.warning("%s was dropped: %s", self.name, reason)
        self._end(reason)

    def close(self, reason: str) -> None:
        """Say goodbye once everything that was meant for the client is on its way."""
        if self._closing:
            return
        self.write_out()
        self._end(reason)

    def _end(self, reason: str | None) -> None:
        """Close, with a last word if there is a reason. What is in the transport's buffer may still go, for a while."""
        self._closing = True
        self.hold_back()  # what is ready from now on is for others
        if reason is not None:
            self._transport.write(pack_frame((GOODBYE, reason)))
        if self._transport.get_write_buffer_size() > SEND_HIGH:
            self._transport.abort()
        else:
            self._transport.close()
            self.server.loop.call_later(self.server.farewell_seconds, self._transport.abort)

    # -- frames come in ----------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.server.read_buffer  # what is read is used up before the next client's turn

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return
        self._heard = self.server.loop.time()
        self._work_on(memoryview(self.server.read_buffer)[:nbytes])

    def _work_on(self, data: bytes | memoryview) -> None:
        reader = self._reader
        frames = reader.feed(data)
        try:
            for fields in frames:
                self._take(fields)
                if self._closing:
                    break
                if self.out_bytes > 2 * SEND_HIGH:  # few bytes can ask for much: the rest has to wait
                    frames.close()
                    self._left = True
                    break
        except (FrameError, ProtocolError) as error:
            self.drop(str(error))
        except Exception:
            logger.exception("the broker failed at what %s asked for", self.name)
            self.drop("the broker failed at what it asked for; the broker's log has the traceback")
        if reader.unfinished and self._frame_timer is None:
            self._await_frame()
        self.server.flush()

    def _go_on_working(self) -> None:
        if not self._closing:
            self._work_on(b"")

    def _await_frame(self) -> None:
        """Watch over a frame that has come in part: whoever begins one has to end it."""
        self._frame_begun = self._reader.begun
        self._frame_timer = self.server.loop.call_later(self.server.frame_seconds, self._look_for_frame)

    def _look_for_frame(self) -> None:
        self._frame_timer = None
        reader = self._reader
        if not reader.unfinished or self._closing:
            return
        if reader.begun == self._frame_begun and not self._reading_paused:
            self.drop(f"a frame that was not ended within {self.server.frame_seconds:g} s ({reader.unfinished} bytes)")
        else:
            self._await_frame()

    def eof_received(self) -> bool:
        """Take a client that sends no more for gone: what it holds goes back."""
        if not self._closing:
            self._end(None)
        return False

    def _take(self, fields: list[Any]) -> None:
        kind = fields[0]
        if not self._welcomed:
            self._greet(fields)
            return
        if type(kind) is not int or LENGTHS.get(kind) != len(fields):
            raise ProtocolError(f"a frame of kind {shown(kind)} with {len(fields)} items")
        if kind == ACK:
            _, number, tag, multiple = fields
            self._settle(number, tag, multiple=multiple)
        elif kind == PUBLISH:
            channel = self._channel(fields[1])
            if channel is not None:
                channel.publisher.publish(fields)
        elif kind == CALL:
            _, call_id, number, operation, arguments = fields
            self._call(call_id, number, operation, arguments)
        elif kind == REJECT:
            _, number, tag, multiple, requeue = fields
            self._settle(number, tag, multiple=multiple, requeue=bool(requeue))
        elif kind == PING:
            self.send(pack_frame((PONG,)))
        elif kind == GOODBYE:
            self._end(None)
        elif kind == HELLO:
            raise ProtocolError("a second greeting")

    def _greet(self, fields: list[Any]) -> None:
        if len(fields) != 4 or fields[0] != HELLO or fields[1] != MAGIC or type(fields[3]) is not dict:
            raise ProtocolError("not a client of this broker")
        version, options = fields[2], fields[3]
        if version != VERSION:
            raise ProtocolError(
                f"it speaks version {shown(version)} of the protocol, this broker version {VERSION}: use the same "
                "release of liap-tasks on both sides"
            )
        if self._token is not None:
            offered = options.get("token")
            if type(offered) is not str or not hmac.compare_digest(offered.encode(), self._token.encode()):
                raise ProtocolError("wrong token")
        name, pid, vhost = options.get("name"), options.get("pid"), options.get("vhost", "/")
        if type(vhost) is not str or not vhost:
            raise ProtocolError("a virtual host that has no name")
        called = shown(name)[1:-1] if type(name) is str and name else "client"
        self.name = f"{called} (process {shown(pid)}) on {self.where}"
        heartbeat = options.get("heartbeat", 0)
        if type(heartbeat) not in (int, float) or not (
            heartbeat == 0 or LEAST_HEARTBEAT <= heartbeat <= MOST_HEARTBEAT
        ):
            raise ProtocolError(f"a heartbeat that is neither 0 nor from {LEAST_HEARTBEAT:g} to {MOST_HEARTBEAT:g} s")
        self._heartbeat = float(heartbeat)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.broker = self.server.broker(vhost)
        self.client = self.broker.connect()
        self._reader.limit = self.server.frame_max
        self._welcomed = True
        facts = {"frame_max": self.server.frame_max, "heartbeat": self._heartbeat, **self.server.identity()}
        self.send(pack_frame((WELCOME, VERSION, facts)))
        if self._heartbeat:
            self._watch_silence()

    def _watch_silence(self) -> None:
        if self._reading_paused:  # it is we who do not listen
            self._heard = self.server.loop.time()
        silent = self.server.loop.time() - self._heard
        if silent > 2 * self._heartbeat:
            self.drop(
                f"nothing was heard of it for {silent:.0f} s; it had asked for a heartbeat of {self._heartbeat:g} s"
            )
            return
        self.send(pack_frame((PING,)))
        self.server.flush()
        self._timer = self.server.loop.call_later(self._heartbeat, self._watch_silence)

    def _channel(self, number: Any) -> ServedChannel | None:
        """Return an open channel; None for a closed one, of whose end another thread of the client may not know."""
        if type(number) is int:
            channel = self.channels.get(number)
            if channel is not None:
                return channel
            if 0 < number <= self._highest_channel:
                return None
        raise ProtocolError(f"channel {shown(number)} was never opened")

    def _settle(self, number: Any, tag: Any, *, multiple: Any, requeue: bool | None = None) -> None:
        channel = self._channel(number)
        if type(tag) is not int:
            raise ProtocolError("a delivery tag that is no number")
        if channel is None:
            return  # closing it put back everything
        try:
            if requeue is None:
                channel.broker.ack(channel.channel, tag, multiple=multiple)
            else:
                channel.broker.reject(channel.channel, tag, requeue=requeue, multiple=multiple)
        except EngineError as error:
            # The client knows what it holds and asks for nothing else; only a delivery given back meanwhile gets here.
            if self._wrong_settlements % ONE_IN == 0:
                logger.info("%s settled a delivery that it does not hold: %s", self.name, error)
            self._wrong_settlements += 1

    def _call(self, call_id: Any, number: Any, operation: Any, arguments: Any) -> None:
        types = OPERATIONS.get(operation) if type(operation) is str else None
        if types is None or type(call_id) is not int or type(arguments) is not list or not fits(arguments, types):
            raise ProtocolError(f"a call of {shown(operation)} that does not fit the protocol")
        result = None
        try:
            if operation == "open_channel":
                self._open_channel(arguments[0])
            else:
                channel = self._channel(number)
                if channel is None:
                    raise precondition_failed(f"channel {number} is closed")
                result = channel.operations.do(operation, arguments)
            answer = pack_frame((ANSWER, call_id, result))
        except EngineError as error:
            answer = pack_frame((FAILURE, call_id, pack_refusal(error)))
        except ProtocolError:
            raise
        except Exception as error:
            logger.exception("%s asked for %s%s, and the broker failed", self.name, operation, shown(arguments))
            answer = pack_frame((FAILURE, call_id, pack_refusal(error)))
        self.send_settled(answer)

    def _open_channel(self, number: int) -> None:
        if number in self.channels:
            raise ProtocolError(f"channel {number} is open already")
        if len(self.channels) >= MOST_CHANNELS:
            raise InvalidArgument("channel", number, f"at most {MOST_CHANNELS} channels of one connection")
        self._highest_channel = max(self._highest_channel, number)
        self.channels[number] = ServedChannel(self, number)

    def note_unconfirmed_refusal(self, error: Exception) -> None:
        """Tell the operator of a refused publish that asked for no confirmation: the first, then one in 1,000."""
        if self._unconfirmed_refusals % ONE_IN == 0:
            logger.warning(
                "a message of %s was refused, and it asked for no confirmation (%d before it): %s",
                self.name,
                self._unconfirmed_refusals,
                error,
            )
        self._unconfirmed_refusals += 1

    # -- frames go out -----------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Write a frame at the end of this wake-up."""
        self._out.append(frame)
        self.out_bytes += len(frame)
        self._be_written()

    def _be_written(self) -> None:
        if not self._queued:
            self._queued = True
            self.server.writing.append(self)

    def owe_confirmation(self, publisher: Publisher) -> None:
        """Confirm at the end of this wake-up what a channel has published."""
        self._confirming.append(publisher)
        self._be_written()

    def send_settled(self, frame: bytes) -> None:
        """Write a frame at the end of this wake-up, after the journal has what it speaks of."""
        self._settled.append(frame)
        self.out_bytes += len(frame)
        self._be_written()

    def take_settled(self) -> list[bytes]:
        """Return the frames that may leave once the journal has been written: answers, refusals, confirmations."""
        settled, self._settled = self._settled, []
        settled.extend(publisher.confirmation() for publisher in self._confirming)
        self._confirming.clear()
        return settled

    def write_out(self, settled: list[bytes] | None = None) -> None:
        """Write what was collected. settled: frames of :meth:`take_settled`, written after the rest."""
        self._queued = False
        frames, self._out = self._out, []
        if settled:
            frames += settled
        if self._closing:
            return
        if frames:
            self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        self.out_bytes = self._transport.get_write_buffer_size() + self.awaiting_disk
        self.regulate_reading()
        if self.held_back and not self._going_on and not self._writing_paused:
            self._going_on = True
            self.server.loop.call_soon(self._go_on)  # not at once: others have their turn between two such portions

    def _go_on(self) -> None:
        self._going_on = False
        if self.held_back and not self._writing_paused and not self._closing:
            self._let_go()
            self.server.flush()

    def hold_back(self) -> None:
        """Stop the deliveries to a client that does not take them. Called in the middle of the engine's work."""
        self.held_back = True
        for channel in self.channels.values():
            channel.channel.flowing = False

    def _let_go(self) -> None:
        self.held_back = False
        for channel in list(self.channels.values()):
            channel.broker.flow(channel.channel, channel.wants_flow)

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.hold_back()
        self.regulate_reading()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self.out_bytes = self._transport.get_write_buffer_size() + self.awaiting_disk
        self._let_go()
        self.regulate_reading()
        self.server.flush()

    def regulate_reading(self) -> None:
        """Read the client, or do not, as it reads us and as its publishes find room."""
        if self._closing:
            return
        crowded = self.out_bytes > 2 * SEND_HIGH or any(one.publisher.crowded for one in self.channels.values())
        if crowded != self._reading_paused:
            self._reading_paused = crowded
            if crowded:
                self._transport.pause_reading()
                self._watch_for_hang_up()
            else:
                self._transport.resume_reading()
        if self._left and not crowded:
            self._left = False
            self.server.loop.call_soon(self._go_on_working)

    def _watch_for_hang_up(self) -> None:
        # The loop does not tell that a client is gone while nobody reads it.
        if self._hang_up_timer is None:
            self._hang_up_timer = self.server.loop.call_later(HANG_UP_SECONDS, self._look_for_hang_up)

    def _look_for_hang_up(self) -> None:
        self._hang_up_timer = None
        if not self._reading_paused or self._closing:
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), HANG_UP)
        if poll.poll(0):
            self._transport.abort()
        else:
            self._watch_for_hang_up()


def peer_name(sock: socket.socket, where: str) -> str:
    """Return a name for a client that has not told its own: its process where the system knows it."""
    if sock.family == socket.AF_UNIX and hasattr(socket, "SO_PEERCRED"):
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return f"a client (process {pid}) on {where}"
    return f"a client on {where}"
