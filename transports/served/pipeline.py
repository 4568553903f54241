"""Publishes that do not wait one for the other: sent in bundles, confirmed in bundles.

At most WINDOW publishes are on their way unconfirmed; the next one waits for the oldest. So what a client holds, and
what is uncertain when its broker is killed, is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transports.engine.errors import EngineError
from transports.errors import from_engine

if TYPE_CHECKING:
    from transports.served.channel import Channel
    from transports.served.connection import ServedConnection

__all__ = ["Pipeline"]

WINDOW = 2_000
BUNDLE_BYTES = 64 * 1024
BUNDLE_COUNT = 100


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

    def send(self, frame: bytes, number: int) -> None:
        """Send a publish with others: when a bundle is full, or the pipeline ends. The channel's order is held."""
        self._last = number
        self._bundle.append(frame)
        self._bundle_bytes += len(frame)
        if len(self._bundle) >= BUNDLE_COUNT or self._bundle_bytes >= BUNDLE_BYTES:
            self.flush()
            if not self._channel.confirms.is_settled(number - WINDOW):
                self._channel.await_confirmation(self._connection, number - WINDOW // 2)

    def flush(self) -> None:
        """Send what has been collected."""
        if self._bundle:
            bundle, self._bundle = self._bundle, []
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
