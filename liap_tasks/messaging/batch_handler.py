"""Many messages in one call: a batch is run when it is full, or when its first message has waited long enough.

Each ``handle()`` returns when its batch has been run, so that nothing is acknowledged before it is done: hand the
messages over from several coroutines at once. For tasks there is :class:`liap_tasks.BatchTask`, which also gives each
message of a batch an outcome of its own.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from liap_tasks.messaging.counts import at_least
from liap_tasks.messaging.handlers import HandlerStatistics, MessageHandler
from liap_tasks.messaging.message import Message
from liap_tasks.policies.durations import Duration, in_seconds
from liap_tasks.settings import load_settings

__all__ = ["BatchMessageHandler"]

Waiting = list[tuple[Message, "asyncio.Future[Any]"]]


class BatchMessageHandler(MessageHandler):
    """Call a function, plain or async, with lists of messages.

    batch_size: messages, at least 1, default BATCH_SIZE. batch_timeout: seconds (or a timedelta) that the first message
    of a batch waits for others, default BATCH_TIMEOUT_SECONDS. Batches that are ready run at once, beside each other.
    Raises ValueError for a value out of bounds. An object belongs to one event loop.
    """

    def __init__(
        self,
        batch_func: Callable[[list[Message]], Any],
        batch_size: int | None = None,
        batch_timeout: Duration | None = None,
    ) -> None:
        settings = load_settings()
        self.batch_func = batch_func
        self.batch_size = at_least(1, "batch_size", settings.batch_size if batch_size is None else batch_size)
        self.batch_timeout = in_seconds(
            "batch_timeout", settings.batch_timeout_seconds if batch_timeout is None else batch_timeout
        )
        self._waiting: Waiting = []
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._statistics = HandlerStatistics("batches", "messages", "failed_batches")

    async def handle(self, message: Message) -> Any:
        """Return what the function returns for the batch of this message; raise what it raises.

        Cancelled before its batch is run, the message is not in it.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((message, done))
        if len(self._waiting) >= self.batch_size:
            self._begin()
        elif self._timer is None:
            self._timer = loop.call_later(self.batch_timeout, self._begin)
        return await done

    def _begin(self) -> None:
        """Run what waits as one batch."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        batch = [(message, done) for message, done in waiting if not done.done()]
        if batch:
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, batch: Waiting) -> None:
        self._statistics.count("batches")
        self._statistics.count("messages", len(batch))
        try:
            result = self.batch_func([message for message, _ in batch])
            if inspect.isawaitable(result):
                result = await result
        except BaseException as error:
            self._statistics.count("failed_batches")
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for _, done in batch:
                if not done.done():
                    done.set_result(result)

    async def flush(self) -> None:
        """Run what waits now, and return when all batches under way have been run."""
        self._begin()
        if self._running:
            await asyncio.wait(self._running)

    def get_stats(self) -> dict[str, int]:
        """Return counts: ``batches`` run, their ``messages``, ``failed_batches``, and ``waiting`` messages."""
        return {**self._statistics.read(), "waiting": len(self._waiting)}
