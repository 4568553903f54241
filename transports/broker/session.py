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
from typing import TYPE_CHECKING, Any, cast

from transports.broker.operations import ServedOperations, content_of
from transports.broker.publishing import Publisher
from transports.engine import Broker, Channel, Consumer, EngineError, Entry, InvalidArgument, Sink
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
from transports.wire.refusals import pack_refusal

if TYPE_CHECKING:
    from transports.broker.server import BrokerServer

__all__ = ["ServedChannel", "Session"]

logger = logging.getLogger("transports.broker")

HANDSHAKE_SECONDS = 10.0
HANDSHAKE_BYTES = 4_096
MOST_CHANNELS = 2_047
SEND_HIGH = 1024 * 1024
SEND_LOW = 256 * 1024


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
        self.out_bytes = 0
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
        self._unconfirmed_refusals = 0

    # -- the client comes and goes -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=SEND_HIGH, low=SEND_LOW)
        self.server.sessions[self] = None
        self.server.clients_changed()
        self._timer = self.server.loop.call_later(HANDSHAKE_SECONDS, self._hand_is_late)

    def _hand_is_late(self) -> None:
        self.drop(f"no greeting within {HANDSHAKE_SECONDS:.0f} s")

    def connection_lost(self, exc: BaseException | None) -> None:
        """Put back all that the client held; called once, whatever ended the connection."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self.server.sessions.pop(self, None)
        self._out.clear()
        self._settled.clear()
        self._confirming.clear()
        if self._welcomed:
            for channel in list(self.channels.values()):
                channel.publisher.close()
            self.channels.clear()
            self.broker.close_connection(self.client)
            if exc is not None:
                logger.info("%s was lost (%s); what it held is back in its queues", self.name, exc)
        self.server.clients_changed()
        self.server.flush()

    def drop(self, reason: str) -> None:
        """End this client for what it did, with the reason in the log and in its last frame."""
        if self._closing:
            return
        self._closing = True
        logger.warning("%s was dropped: %s", self.name, reason)
        self._transport.write(pack_frame((GOODBYE, reason)))
        self._end()

    def close(self, reason: str) -> None:
        """Say goodbye once everything that was meant for the client is on its way."""
        if self._closing:
            return
        self.write_out()
        self._closing = True
        self._transport.write(pack_frame((GOODBYE, reason)))
        self._end()

    def _end(self) -> None:
        # What is in the transport's buffer may still go; a client that does not take it is cut off by the server.
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
        try:
            for fields in self._reader.feed(memoryview(self.server.read_buffer)[:nbytes]):
                self._take(fields)
                if self._closing:
                    break
        except (FrameError, ProtocolError) as error:
            self.drop(str(error))
        self.server.flush()

    def eof_received(self) -> bool:
        return False  # whoever sends no more is gone: what it holds goes back

    def _take(self, fields: list[Any]) -> None:
        kind = fields[0]
        if not self._welcomed:
            self._greet(fields)
            return
        if type(kind) is not int or LENGTHS.get(kind) != len(fields):
            raise ProtocolError(f"a frame of kind {kind!r} with {len(fields)} items")
        if kind == ACK:
            _, number, tag, multiple = fields
            self._settle(number, tag, multiple=multiple)
        elif kind == PUBLISH:
            self._channel(fields[1]).publisher.publish(fields)
        elif kind == CALL:
            _, call_id, number, operation, arguments = fields
            self._call(call_id, number, operation, arguments)
        elif kind == REJECT:
            _, number, tag, multiple, requeue = fields
            self._settle(number, tag, multiple=multiple, requeue=bool(requeue))
        elif kind == PING:
            self.send(pack_frame((PONG,)))
        elif kind == GOODBYE:
            self._closing = True
            self._transport.close()
        elif kind == HELLO:
            raise ProtocolError("a second greeting")

    def _greet(self, fields: list[Any]) -> None:
        if len(fields) != 4 or fields[0] != HELLO or fields[1] != MAGIC or type(fields[3]) is not dict:
            raise ProtocolError("not a client of this broker")
        version, options = fields[2], fields[3]
        if version != VERSION:
            raise ProtocolError(
                f"it speaks version {version!r} of the protocol, this broker speaks {VERSION}: use the same release of "
                "liap-tasks on both sides"
            )
        if self._token is not None:
            offered = options.get("token")
            if type(offered) is not str or not hmac.compare_digest(offered.encode(), self._token.encode()):
                raise ProtocolError("wrong token")
        name, pid, vhost = options.get("name"), options.get("pid"), options.get("vhost", "/")
        if type(vhost) is not str or not vhost:
            raise ProtocolError("a virtual host that has no name")
        self.name = f"{name if type(name) is str else 'client'} (process {pid}) on {self.where}"
        heartbeat = options.get("heartbeat", 0)
        if type(heartbeat) not in (int, float) or not 0 <= heartbeat <= 3600:
            raise ProtocolError("a heartbeat that is not between 0 and 3600 s")
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
        silent = self.server.loop.time() - self._heard
        if silent > 2 * self._heartbeat:
            self.drop(
                f"nothing was heard of it for {silent:.0f} s; it had asked for a heartbeat of {self._heartbeat:g} s"
            )
            return
        self.send(pack_frame((PING,)))
        self.server.flush()
        self._timer = self.server.loop.call_later(self._heartbeat, self._watch_silence)

    def _channel(self, number: Any) -> ServedChannel:
        channel = self.channels.get(number) if type(number) is int else None
        if channel is None:
            raise ProtocolError(f"channel {number!r} is not open")
        return channel

    def _settle(self, number: Any, tag: Any, *, multiple: Any, requeue: bool | None = None) -> None:
        channel = self._channel(number)
        if type(tag) is not int:
            raise ProtocolError("a delivery tag that is no number")
        try:
            if requeue is None:
                channel.broker.ack(channel.channel, tag, multiple=multiple)
            else:
                channel.broker.reject(channel.channel, tag, requeue=requeue, multiple=multiple)
        except EngineError as error:
            # The client knows what it holds and asks for nothing else; only a delivery given back meanwhile gets here.
            logger.info("%s settled a delivery that it does not hold: %s", self.name, error)

    def _call(self, call_id: Any, number: Any, operation: Any, arguments: Any) -> None:
        types = OPERATIONS.get(operation) if type(operation) is str else None
        if types is None or type(call_id) is not int or type(arguments) is not list or not fits(arguments, types):
            raise ProtocolError(f"a call of {operation!r} that does not fit the protocol")
        result = None
        try:
            if operation == "open_channel":
                self._open_channel(arguments[0])
            else:
                result = self._channel(number).operations.do(operation, arguments)
        except EngineError as error:
            answer = pack_frame((FAILURE, call_id, pack_refusal(error)))
        except ProtocolError:
            raise
        except Exception as error:
            logger.exception("%s asked for %s%r, and the broker failed", self.name, operation, tuple(arguments))
            answer = pack_frame((FAILURE, call_id, pack_refusal(error)))
        else:
            answer = pack_frame((ANSWER, call_id, result))
        self.send_settled(answer)

    def _open_channel(self, number: int) -> None:
        if number in self.channels:
            raise ProtocolError(f"channel {number} is open already")
        if len(self.channels) >= MOST_CHANNELS:
            raise InvalidArgument("channel", number, f"at most {MOST_CHANNELS} channels of one connection")
        self.channels[number] = ServedChannel(self, number)

    def note_unconfirmed_refusal(self, error: EngineError) -> None:
        """Tell the operator of a refused publish that asked for no confirmation: the first, then one in 1,000."""
        if self._unconfirmed_refusals % 1_000 == 0:
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
        if not frames or self._closing:
            return
        self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        self.out_bytes = self._transport.get_write_buffer_size()
        self.regulate_reading()
        if self.held_back and not self._writing_paused:
            self._let_go()

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
        self.out_bytes = self._transport.get_write_buffer_size()
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
            else:
                self._transport.resume_reading()
