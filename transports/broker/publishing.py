"""Publishes of one channel: each is taken in order, and confirmed or refused.

A queue with ``x-overflow: block`` makes its publisher wait: the publish, and what the same channel publishes after it,
stands in line here until there is room or its time is up. Its time runs as long as nobody in the line finds room, so
that a burst may take longer than its messages may wait, and a line that goes nowhere is refused as one. Other channels
of the client go on, so that an acknowledgement can make that room; only a client that sends on and on without waiting
for confirmations is not read any more when MOST_WAITING stand in line (our pipelines keep below that).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from transports.engine import EngineError, WouldBlock
from transports.wire.carried import CarriedMessage
from transports.wire.frames import pack_frame
from transports.wire.protocol import (
    CONFIRM,
    MOST_WAITING,
    MOST_WAITING_BYTES,
    REFUSAL,
    RETURN,
    ProtocolError,
    is_table,
)
from transports.wire.refusals import pack_refusal

if TYPE_CHECKING:
    from transports.broker.session import ServedChannel
    from transports.engine.queue import Queue

__all__ = ["Publisher"]

logger = logging.getLogger("transports.broker")


class _Waiting:
    """A publish that stands in line since ``since`` (loop time), and may wait for room so many seconds."""

    __slots__ = ("mandatory", "message", "number", "since", "wait")

    def __init__(self, message: CarriedMessage, number: int, mandatory: bool, wait: float, since: float) -> None:
        self.message = message
        self.number = number
        self.mandatory = mandatory
        self.wait = wait
        self.since = since


class Publisher:
    """The publishing half of a served channel."""

    __slots__ = ("_awaited", "_channel", "_deadline", "_line", "_line_bytes", "_moved", "confirmed")

    def __init__(self, channel: ServedChannel) -> None:
        self._channel = channel
        self._line: deque[_Waiting] = deque()
        self._line_bytes = 0
        self._awaited: Queue | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._moved = 0.0  # loop time at which somebody in the line found room
        self.confirmed = 0  # the last number that was taken and not confirmed yet; 0 for none

    def publish(self, fields: list[Any]) -> None:
        """Take a PUBLISH frame (see the protocol); raises ProtocolError where it is malformed."""
        (
            *_,
            number,
            mandatory,
            persistent,
            exchange,
            routing_key,
            priority,
            expiration,
            rules,
            wait,
            content,
            body,
        ) = fields
        if not (
            type(number) is int
            and type(exchange) is str
            and type(routing_key) is str
            and type(content) is bytes
            and type(body) is bytes
            and (rules is None or (type(rules) is dict and is_table(rules)))
            and (type(wait) is int or (type(wait) is float and wait == wait))  # no NaN
        ):
            raise ProtocolError("a publish whose fields have other types")
        try:
            message = CarriedMessage(
                body,
                content,
                exchange,
                routing_key,
                priority=priority,
                expiration=expiration,
                rules=rules,
                persistent=bool(persistent),
            )
        except EngineError as error:
            self._refuse(number, error)
            return
        if self._line:
            self._stand_in_line(message, number, bool(mandatory), wait)
        else:
            try:
                self._take(message, number, mandatory)
            except WouldBlock as blocked:
                self._stand_in_line(message, number, bool(mandatory), wait)
                self._await_room(blocked.queue)

    def _take(self, message: CarriedMessage, number: int, mandatory: bool) -> None:
        channel = self._channel
        try:
            routed = channel.broker.publish(message)
        except WouldBlock:
            raise
        except EngineError as error:
            self._refuse(number, error)
            return
        except Exception as error:
            logger.exception("the broker failed at a message of %s", channel.session.name)
            self._refuse(number, error)
            return
        if mandatory and not routed:
            channel.session.send(
                pack_frame(
                    (RETURN, channel.number, message.exchange, message.routing_key, message.content, message.body)
                )
            )
        if number:
            if not self.confirmed:
                channel.session.owe_confirmation(self)
            self.confirmed = number

    def _refuse(self, number: int, error: Exception) -> None:
        session = self._channel.session
        if number:
            session.send_settled(pack_frame((REFUSAL, self._channel.number, number, pack_refusal(error))))
        else:
            session.note_unconfirmed_refusal(error)

    def confirmation(self) -> bytes:
        """Return the frame that confirms all that was taken since the last one."""
        number, self.confirmed = self.confirmed, 0
        return pack_frame((CONFIRM, self._channel.number, number))

    # -- waiting for room --------------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        """Whether so much stands in line that the client should not be read."""
        return len(self._line) > MOST_WAITING or self._line_bytes > MOST_WAITING_BYTES

    def _stand_in_line(self, message: CarriedMessage, number: int, mandatory: bool, wait: float) -> None:
        session = self._channel.session
        self._line.append(_Waiting(message, number, mandatory, wait, session.server.loop.time()))
        self._line_bytes += message.size
        session.regulate_reading()

    def _leave_line(self) -> None:
        self._line_bytes -= self._line.popleft().message.size
        self._stop_awaiting()

    def _await_room(self, queue_name: str) -> None:
        queue = self._channel.broker.queues.get(queue_name)
        if queue is not self._awaited:
            if self._awaited is not None:
                self._awaited.awaited -= 1
            self._awaited = queue
            if queue is not None:
                queue.awaited += 1
        server = self._channel.session.server
        server.waiting_publishers[self] = None
        if self._deadline is None:
            self._deadline = server.loop.call_at(self._time_is_up(self._line[0]), self._give_up)

    def _time_is_up(self, waiting: _Waiting) -> float:
        return max(waiting.since, self._moved) + max(0.0, waiting.wait)

    def _stop_awaiting(self) -> None:
        if self._awaited is not None:
            self._awaited.awaited -= 1
            self._awaited = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._channel.session.server.waiting_publishers.pop(self, None)

    def try_again(self) -> None:
        """Publish what stands in line, as far as there is room now; refuse what has waited for its time."""
        now = self._channel.session.server.loop.time()
        while self._line:
            first = self._line[0]
            try:
                self._take(first.message, first.number, first.mandatory)
                self._moved = now
            except WouldBlock as blocked:
                if now < self._time_is_up(first):
                    self._await_room(blocked.queue)
                    break
                self._refuse(first.number, self._channel.broker.full(blocked.queue))
            self._leave_line()
        self._channel.session.regulate_reading()

    def _give_up(self) -> None:
        self._deadline = None
        self.try_again()
        self._channel.session.server.flush()

    def close(self) -> None:
        """Let go of what stands in line: it was never taken, and its publisher is gone."""
        self._stop_awaiting()
        self._line.clear()
        self._line_bytes = 0
