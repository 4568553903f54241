"""Something that cannot be reached: said once when it begins, once when it is over, and asked less and less often."""

from __future__ import annotations

import threading
import time

from celery.utils.log import get_logger

__all__ = ["Outage"]

logger = get_logger("liap_tasks.dead_letter_store")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


class Outage:
    """The absence of one thing. what: its name. meanwhile: what that means. stopping: cuts every pause short."""

    def __init__(
        self, what: str, meanwhile: str, stopping: threading.Event, *, verb: str = "cannot be reached"
    ) -> None:
        self._what = what
        self._verb = verb
        self._meanwhile = meanwhile
        self._stopping = stopping
        self._pause = FIRST_PAUSE
        self._since: float | None = None

    @property
    def lasts(self) -> bool:
        """Whether it has begun and is not over."""
        return self._since is not None

    def wait(self, error: BaseException) -> None:
        """Note that it cannot be reached, and return after a pause that doubles each time, up to 30 s."""
        if self._since is None:
            self._since = time.monotonic()
            text = "%s %s (%s): %s; trying again, less and less often"
            logger.error(text, self._what, self._verb, _line(error), self._meanwhile)
            logger.debug("%s:", self._what, exc_info=error)
        self._stopping.wait(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def over(self) -> None:
        """Note that it has been reached."""
        if self._since is not None:
            logger.warning("%s is back after %.0f s", self._what, time.monotonic() - self._since)
        self._since = None
        self._pause = FIRST_PAUSE


def _line(error: BaseException) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else repr(error)
