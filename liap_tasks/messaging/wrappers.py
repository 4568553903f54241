"""Handlers around handlers: try again, and give up after a time.

The waits are the coroutine's own: the message stays unacknowledged meanwhile. For long delays let it go and be retried
by its queue instead (:class:`~liap_tasks.messaging.RetryableDeadLetterQueue`, or a task's ``retry_policy``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Protocol

from liap_tasks.messaging.handlers import HandlerStatistics, MessageHandler
from liap_tasks.messaging.message import Message
from liap_tasks.metadata import Attempt, text_of
from liap_tasks.policies import Retry, RetryPolicy
from liap_tasks.policies.durations import Duration, in_seconds
from liap_tasks.settings import load_settings

__all__ = ["Handles", "RetryingHandler", "TimeoutHandler", "WrappingHandler"]


class Handles(Protocol):
    """What can be wrapped: anything with ``await handle(message)``."""

    async def handle(self, message: Message) -> Any:
        """Handle a message."""


class WrappingHandler(MessageHandler):
    """A handler around another one."""

    def __init__(self, handler: Handles) -> None:
        self.handler = handler

    def can_handle(self, message: Message) -> bool:
        """Tell whether the inner handler can; one that does not say can handle everything."""
        can: Callable[[Message], bool] | None = getattr(self.handler, "can_handle", None)
        return can is None or can(message)


class RetryingHandler(WrappingHandler):
    """Try again as a retry policy says; then the last error is raised. Each failed attempt is noted in the metadata.

    policy: default is ``RetryPolicy()``. rng, sleep: chance and waiting, for tests.
    """

    def __init__(
        self,
        handler: Handles,
        policy: RetryPolicy | None = None,
        *,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(handler)
        self.policy = policy or RetryPolicy()
        self._rng = rng or Random()
        self._sleep = sleep
        self._statistics = HandlerStatistics("total_retries", "successful_retries", "failed_after_retries")

    async def handle(self, message: Message) -> Any:
        """Return what the handler returns on its first attempt that succeeds."""
        attempt = 1
        while True:
            try:
                result = await self.handler.handle(message)
            except Exception as error:
                message.metadata.attempts = message.metadata.after(
                    Attempt(
                        number=attempt,
                        at=time.time(),
                        error=type(error).__qualname__,
                        message=text_of(error),
                    )
                ).attempts
                decision = self.policy.decide(error, attempt=attempt, rng=self._rng)
                if not isinstance(decision, Retry):
                    self._statistics.count("failed_after_retries", int(attempt > 1))
                    raise
            else:
                self._statistics.count("successful_retries", int(attempt > 1))
                return result
            self._statistics.count("total_retries")
            await self._sleep(decision.delay)
            attempt += 1

    def get_stats(self) -> dict[str, int]:
        """Return counts: ``total_retries``, ``successful_retries``, ``failed_after_retries``.

        The second are retries that succeeded, the third messages that failed for good and had been retried.
        """
        return self._statistics.read()


class TimeoutHandler(WrappingHandler):
    """Cancel a handler that takes too long and raise TimeoutError.

    timeout: seconds (or a timedelta) above 0, default HANDLER_TIMEOUT_SECONDS; around a :class:`RetryingHandler` for
    all attempts together. Code that blocks the loop cannot be interrupted; a task's ``timeout`` can do that.
    """

    def __init__(self, handler: Handles, timeout: Duration | None = None) -> None:
        super().__init__(handler)
        given = load_settings().handler_timeout_seconds if timeout is None else timeout
        self.timeout = in_seconds("timeout", given, above_zero=True)
        self._statistics = HandlerStatistics("handled", "failed", "timeouts")

    async def handle(self, message: Message) -> Any:
        """Return what the handler returns in time."""
        try:
            async with asyncio.timeout(self.timeout) as limit:
                result = await self.handler.handle(message)
        except Exception:
            self._statistics.count("timeouts" if limit.expired() else "failed")
            raise
        self._statistics.count("handled")
        return result

    def get_stats(self) -> dict[str, int]:
        """Return counts of messages: ``handled``, ``failed``, ``timeouts``."""
        return self._statistics.read()
