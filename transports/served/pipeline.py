"""Publishes that do not wait one for the other: sent in bundles, confirmed in bundles.

About WINDOW publishes, or WINDOW_BYTES, are on their way unconfirmed; the next one waits until half are settled.
So what a client holds, and what is uncertain when its broker is killed, is bounded; and the broker reads the connection
on while publishes wait for room, so that an acknowledgement of another channel can make it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from transports.engine.errors import EngineError
from transports.errors import from_engine
from transports.wire.protocol import MOST_WAITING, MOST_WAITING_BYTES

if TYPE_CHECKING:
    from transports.served.channel import Channel
    from transports.served.connection import ServedConnection

__all__ = ["Pipeline"]

BUNDLE_BYTES = 64 * 1024
BUNDLE_COUNT = 100
# One more bundle is sent before the window is looked at.
WINDOW = MOST_WAITING - BUNDLE_COUNT
WINDOW_BYTES = MOST_WAITING_BYTES - 2 * BUNDLE_BYTES


class Pipeline:
    """What :meth:`Channel.pipeline` gives. refusals: the errors of refused publishes, known when it has ended."""

    def __init__(self, channel: Channel, connection: ServedConnection) -> None:
        self.refusals: list[EngineError] = []
        self._channel = channel
        self._connection = connection
        self._first = channel.confirms.last + 1
        self._last = channel.confirms.last
        self._bundle: list[bytes] = []
        self._bundle_bytes = 0
        self._under_way: deque[tuple[int, int, int]] = deque()  # (last number, publishes, bytes) of a bundle
        self._count = 0  # of those
        self._bytes = 0

    def send(self, frame: bytes, number: int) -> None:
        """Send a publish with others: when a bundle is full, or the pipeline ends. The channel's order is held."""
        self._last = number
        self._bundle.append(frame)
        self._bundle_bytes += len(frame)
        if len(self._bundle) >= BUNDLE_COUNT or self._bundle_bytes >= BUNDLE_BYTES:
            self.flush()
            self._let_go_of_settled()
            if self._count > WINDOW or self._bytes > WINDOW_BYTES:
                self._channel.await_confirmation(self._connection, self._half_way())
                self._let_go_of_settled()

    def _let_go_of_settled(self) -> None:
        under_way, confirms = self._under_way, self._channel.confirms
        while under_way and confirms.is_settled(under_way[0][0]):
            _, count, size = under_way.popleft()
            self._count -= count
            self._bytes -= size

    def _half_way(self) -> int:
        """Return the number up to which publishes have to be settled for the window to be half empty."""
        count, size, number = self._count, self._bytes, self._last
        for number, sent, sent_bytes in self._under_way:  # noqa: B007 - where it ends is what is asked for
            count -= sent
            size -= sent_bytes
            if count <= WINDOW // 2 and size <= WINDOW_BYTES // 2:
                break
        return number

    def flush(self) -> None:
        """Send what has been collected."""
        if self._bundle:
            bundle, self._bundle = self._bundle, []
            self._under_way.append((self._last, len(bundle), self._bundle_bytes))
            self._count += len(bundle)
            self._bytes += self._bundle_bytes
            self._bundle_bytes = 0
            self._connection.send_frame(b"".join(bundle))

    def finish(self) -> None:
        """Wait until all are confirmed, and note in ``refusals`` those that were not."""
        channel = self._channel
        channel.await_confirmation(self._connection, self._last)
        self.refusals = channel.confirms.take_refusals(self._first, self._last)
        channel.tell_of_returns()

    def raise_first_refusal(self) -> None:
        """Raise what the first refused publish would have raised."""
        if self.refusals:
            raise from_engine(self.refusals[0]) from self.refusals[0]
