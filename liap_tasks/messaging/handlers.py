"""Handlers: what a program does with a message, as an object with ``await handle(message)``.

A handler may be wrapped by others (retries, a time limit, dead letters) and may be a link of a
:class:`liap_tasks.handlers.HandlerChain`. It raises what went wrong; whoever took the message from its queue decides
whether to acknowledge it.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any

from liap_tasks.messaging.counts import at_least
from liap_tasks.messaging.message import Message
from liap_tasks.settings import load_settings

__all__ = ["AsyncMessageHandler", "HandlerStatistics", "MessageFunction", "MessageHandler"]

MessageFunction = Callable[[Message], Any]
"""A function of a message, plain or async. A plain one runs in the loop's thread: it should not take long."""


class MessageHandler(ABC):
    """One way to handle messages."""

    def can_handle(self, message: Message) -> bool:
        """Tell whether this message is one for :meth:`handle`; by default every message is."""
        return True

    @abstractmethod
    async def handle(self, message: Message) -> Any:
        """Handle a message and return the result; raise what went wrong."""


class HandlerStatistics:
    """Counts of one handler since it was made."""

    def __init__(self, *metrics: str) -> None:
        self._metrics = metrics
        self._counts: Counter[str] = Counter()

    def count(self, metric: str, number: int = 1) -> None:
        """Add to one of the metrics."""
        self._counts[metric] += number

    def read(self) -> dict[str, int]:
        """Return {metric: count}, 0 for what has not happened."""
        return {metric: self._counts[metric] for metric in self._metrics}


class AsyncMessageHandler(MessageHandler):
    """Call a function for each message, for a limited number of them at once; the others wait for their turn.

    max_concurrent: at least 1, default MAX_CONCURRENT_HANDLERS. Raises ValueError for another number. An object belongs
    to one event loop.
    """

    def __init__(self, function: MessageFunction, max_concurrent: int | None = None) -> None:
        limit = load_settings().max_concurrent_handlers if max_concurrent is None else max_concurrent
        self.function = function
        self.max_concurrent = at_least(1, "max_concurrent", limit)
        self._room = asyncio.Semaphore(self.max_concurrent)
        self._running = 0
        self._statistics = HandlerStatistics("handled", "failed")

    async def handle(self, message: Message) -> Any:
        """Return what the function returns; raise what it raises."""
        async with self._room:
            self._running += 1
            try:
                result = self.function(message)
                if inspect.isawaitable(result):
                    result = await result
            except Exception:
                self._statistics.count("failed")
                raise
            finally:
                self._running -= 1
        self._statistics.count("handled")
        return result

    def get_stats(self) -> dict[str, int]:
        """Return counts of messages: ``handled``, ``failed``, and ``running`` now."""
        return {**self._statistics.read(), "running": self._running}
