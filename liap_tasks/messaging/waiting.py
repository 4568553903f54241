"""A coroutine that waits for one message, while the broker's side runs in other threads.

Whatever happens to the coroutine meanwhile, a message that has been taken for it is either handed to it or given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["Waiter"]


class Waiter:
    """One coroutine that waits. give_back: what is done with a message that comes too late; called in any thread."""

    def __init__(self, give_back: Callable[[Any], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.tag: str | None = None
        self._future: asyncio.Future[Any] = self.loop.create_future()
        self._give_back = give_back

    async def wait(self, timeout: float | None) -> Any:
        """Return the message (kombu's), or None when none came in ``timeout`` seconds (None: for ever)."""
        try:
            await asyncio.wait([self._future], timeout=timeout)
        except BaseException:
            self._end()
            if not self._future.cancelled() and self._future.exception() is None and self._future.result() is not None:
                self._give_back(self._future.result())
            raise
        self._end()
        return None if self._future.cancelled() else self._future.result()

    def _end(self) -> None:
        """Want no message from now on."""
        self._future.cancel()  # changes nothing if it is done

    def arrived(self, message: Any) -> None:
        """Take a message, or None: there is none; called in any thread."""
        self._tell(lambda: self._future.set_result(message), message)

    def failed(self, error: BaseException) -> None:
        """Let the wait end with an error; called in any thread."""
        self._tell(lambda: self._future.set_exception(error), None)

    def _tell(self, settle: Callable[[], None], message: Any) -> None:
        def in_loop() -> None:
            if not self._future.done():
                settle()
            elif message is not None:
                self._give_back(message)

        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self.loop:
            in_loop()
            return
        try:
            self.loop.call_soon_threadsafe(in_loop)
        except RuntimeError:  # the loop is closed
            if message is not None:
                self._give_back(message)
