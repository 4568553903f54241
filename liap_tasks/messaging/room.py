"""Publishers that wait for room in a full queue, one after the other, in a thread.

Only our brokers have such queues (``x-overflow: block``). The wait is the broker's own; what is decided here is who
waits: the event loop does not, and publishers get room in the order in which they asked.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from kombu import Connection, Queue

from liap_tasks.configuration import broker_feature
from liap_tasks.messaging.link import Link, closed
from liap_tasks.messaging.sending import Outgoing, send
from transports import QueueFullError

__all__ = ["RoomLine"]


class RoomLine:
    """The line of those who wait for room in one queue."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._in_process = broker_feature(url, "in_process")
        self._waiting: dict[_Waiting, None] = {}
        self._thread: ThreadPoolExecutor | None = None

    async def send(self, link: Link, queue: Queue, message: Outgoing, timeout: float) -> None:
        """Publish a message, waiting up to ``timeout`` seconds for room.

        Raises QueueFullError when there was none, BrokerUnavailableError when this line is closed meanwhile.
        """
        end = time.monotonic() + timeout
        if not self._waiting:
            try:
                await link.run(lambda channel: send(channel, queue, message, timeout=0))
                return
            except QueueFullError:
                if timeout <= 0:
                    raise
        connection = Connection(self._url)  # of its own
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="liap-queue-room")

        def in_turn() -> None:
            with connection:
                send(connection.channel(), queue, message, timeout=max(0.0, end - time.monotonic()))

        waiting = _Waiting(asyncio.get_running_loop(), asyncio.wrap_future(self._thread.submit(in_turn)))
        self._waiting[waiting] = None
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if self._in_process:
                connection.release()  # it ends the wait in that thread
            task = asyncio.current_task()
            if waiting.closed and not (task is not None and task.cancelling()):
                raise closed(self._url) from None
            raise
        finally:
            del self._waiting[waiting]

    def close(self) -> None:
        """End the waits with BrokerUnavailableError, and let the thread end when its last one has."""
        for waiting in list(self._waiting):
            waiting.end()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)


@dataclass(slots=True, eq=False)
class _Waiting:
    """One who waits for its turn, or in it."""

    loop: asyncio.AbstractEventLoop
    turn: asyncio.Future[None]
    closed: bool = False

    def end(self) -> None:
        """End the wait; called in any thread."""
        self.closed = True
        with suppress(RuntimeError):  # its loop is closed
            self.loop.call_soon_threadsafe(self.turn.cancel)
