"""Celery beat in a thread of this process, beside an embedded worker.

It sends what the app's ``beat_schedule`` says when it is due, sleeping in between; by a virtual clock (tests) it sends
in the thread that advances the clock. What goes wrong is said, and the next turn is tried.
"""

from __future__ import annotations

import threading
from typing import Any

from celery.utils.log import get_logger

from liap_tasks.beat import MemoryScheduler
from liap_tasks.dead_letter_store.outage import Outage
from liap_tasks.time_source import clock_of
from transports import VirtualClock

__all__ = ["EmbeddedBeat"]

logger = get_logger("liap_tasks.beat")

LEAST_SECONDS = 0.001
STOP_SECONDS = 10.0


class EmbeddedBeat:
    """The beat of one app, from :meth:`start` to :meth:`stop`."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._clock = clock_of(app)
        self._stopping = threading.Event()
        self._scheduler: Any = None
        self._thread: threading.Thread | None = None
        self._next = 0.0

    def start(self) -> None:
        """Read the schedule and begin. Raises what a wrong schedule raises."""
        self._scheduler = MemoryScheduler(app=self.app)
        self._next = self._clock.now()
        if isinstance(self._clock, VirtualClock):
            self._clock.attach(self)
        else:
            self._thread = threading.Thread(target=self._run, name="liap-beat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopping.set()
        if isinstance(self._clock, VirtualClock):
            self._clock.detach(self)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        self._scheduler.close()

    # -- by the machine's clock --------------------------------------------------------------------------------

    def _run(self) -> None:
        self.app.set_current()
        failure = Outage("beat", "no periodic task is sent", self._stopping, verb="fails")
        while not self._stopping.is_set():
            try:
                pause = self._send_due()
            except Exception as error:  # noqa: BLE001 - a thread that ends would send nothing any more, unsaid
                self._scheduler.close()  # its connection, which it makes anew
                failure.wait(error)
            else:
                failure.over()
                self._stopping.wait(pause)

    def _send_due(self) -> float:
        """Send every entry that is due and return the seconds to the next."""
        while not self._stopping.is_set():
            pause: float = self._scheduler.tick()
            if pause > 0:
                return max(pause, LEAST_SECONDS)
        return 0.0

    # -- by a virtual clock ------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return when there is something to do, by the clock."""
        return self._next

    def run_due(self) -> None:
        """Send what is due now."""
        self._next = self._clock.now() + self._send_due()
