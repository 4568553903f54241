"""A coroutine under a time limit, and what its cancellation means.

Two things end a coroutine from outside: its limit and a revoke (``terminate=True``). Both cancel the asyncio task that
steps it, so both arrive at the ``await`` where it stands, through ``asyncio.timeout``, task groups and whatever else it
is inside of. A limit arrives there as ``SoftTimeLimitExceeded``, the same error as on every other pool, and the
coroutine may clean up, with awaits, for the task's ``grace``. One that is still not done is abandoned: it is closed,
never stepped again, and its attempt ends. (That is more than can be done to a thread.)

Left out: a coroutine that blocks its thread without an ``await`` cannot be reached from here; see
:mod:`liap_tasks.coroutines.loop_watchdog`, which reports it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

from celery.exceptions import Ignore, SoftTimeLimitExceeded
from celery.utils.log import get_logger

from liap_tasks.coroutines.loop_deadlines import Deadlines
from liap_tasks.errors import CoroutineCancelledError
from liap_tasks.time_source import Cancellable
from transports import VirtualClock

__all__ = ["LimitedCoroutine", "terminated"]

logger = get_logger("liap_tasks.coroutines")


class LimitedCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine that can be timed out, terminated and, when it heeds neither, abandoned.

    limit: seconds from :meth:`arm` on, None for no limit; by ``clock`` too if it is given. grace: seconds it then has
    to end. named: for the log.
    """

    __slots__ = (
        "_abandon",
        "_call",
        "_clock",
        "_coroutine",
        "_deadlines",
        "_due",
        "_expired",
        "_grace",
        "_limit",
        "_named",
        "_timer",
        "abandoned",
        "task",
    )

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        limit: float | None,
        grace: float,
        named: object,
        clock: VirtualClock | None = None,
    ) -> None:
        self._coroutine = coroutine
        self._clock = clock
        self._call: Cancellable | None = None
        self._grace = grace
        self._due: BaseException | None = None
        self._expired = False
        self._limit = limit
        self._timer: asyncio.TimerHandle | None = None  # the end of the grace time
        self.abandoned = False
        self._named = named

    @property
    def name(self) -> str:
        """What logs call it."""
        return str(self._named)

    def arm(self, task: asyncio.Task[Any], deadlines: Deadlines, abandon: Callable[[], None]) -> None:
        """Start the clock. task: steps this coroutine on the deadlines' loop. abandon: called if all else fails."""
        self.task = task
        self._abandon = abandon
        self._deadlines = deadlines
        if self._limit:
            deadlines.add(self, self._limit)
            if self._clock is not None:
                self._call = self._clock.call_after(self._limit, self._expire_from_afar)

    def disarm(self) -> None:
        """Stop the clock."""
        if self._call is not None:
            self._call.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self._limit:
            self._deadlines.remove(self, self._limit)

    def _expire_from_afar(self) -> None:
        """Called in the thread that advances a virtual clock."""
        self._deadlines.loop.call_soon_threadsafe(self._expire_unless_done)

    def _expire_unless_done(self) -> None:
        if not self.task.done():
            self.expire()

    # -- ending it from outside, on the loop's thread ----------------------------------------------------------

    def expire(self) -> None:
        """Raise ``SoftTimeLimitExceeded`` in the coroutine; once."""
        if not self._expired:
            self._expired = True
            self._due = SoftTimeLimitExceeded()
            self._interrupt()

    def terminate(self) -> None:
        """Raise ``CancelledError`` in the coroutine."""
        self._due = None
        self._interrupt()

    def _interrupt(self) -> None:
        self.disarm()
        self._timer = self._deadlines.loop.call_later(self._grace, self._give_up)
        self.task.cancel()

    def _give_up(self) -> None:
        self.abandoned = True
        self._deadlines.abandoned += 1
        logger.error(
            "%s went on for %g s after it was told to end: it is abandoned. It must let SoftTimeLimitExceeded and "
            "CancelledError pass, or end soon after them",
            self.name,
            self._grace,
        )
        self._abandon()

    # -- stepping ----------------------------------------------------------------------------------------------

    def send(self, value: Any) -> Any:
        """Go on to the next await, as for any coroutine."""
        if self.abandoned:
            raise StopIteration
        return self._coroutine.send(value)

    def throw(  # type: ignore[override]  # asyncio throws instances; the older three arguments are deprecated
        self, error: BaseException, value: BaseException | None = None, traceback: TracebackType | None = None
    ) -> Any:
        """Raise an error at the await where the coroutine stands; the limit's in place of its own cancellation."""
        if self.abandoned:
            raise StopIteration
        if self._due is not None and isinstance(error, asyncio.CancelledError):
            error, self._due = self._due, None
            self.task.uncancel()
        return self._coroutine.throw(error)

    def close(self) -> None:
        """End the coroutine where it stands."""
        try:
            self._coroutine.close()
        except RuntimeError as error:  # it awaits while it is closed
            logger.warning("%s could not be closed: %s", self.name, error)

    def __await__(self) -> Any:
        raise TypeError("a limited coroutine is stepped, not awaited")

    def out_of_time(self) -> SoftTimeLimitExceeded:
        """Return what to raise for a coroutine that was abandoned after its limit."""
        return SoftTimeLimitExceeded("it did not end within the grace time")

    def verdict(self, error: BaseException) -> BaseException:
        """Return what an error that ended the coroutine means for its attempt."""
        if isinstance(error, asyncio.CancelledError):
            return CoroutineCancelledError(self.name)
        if self._expired and isinstance(error, BaseExceptionGroup) and error.split(SoftTimeLimitExceeded)[1] is None:
            return SoftTimeLimitExceeded()  # a task group wraps it
        return error


def terminated() -> Ignore:
    """Return what to raise when an attempt was terminated: it has been announced and acknowledged as revoked."""
    return Ignore("terminated")
