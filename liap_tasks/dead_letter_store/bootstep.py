"""The worker's part in keeping dead letters: a recorder and the upkeep, as long as the worker runs.

They begin after the pool, so that no forked child inherits their threads' locks, and end after it (Celery's signal
``worker_shutdown``), so that letters of the last tasks are recorded too.
"""

from __future__ import annotations

import weakref
from typing import Any

from celery import bootsteps, signals

from liap_tasks.dead_letter_store.recorder import Recorder
from liap_tasks.dead_letter_store.upkeep import Upkeep

__all__ = ["KeepsDeadLetters"]

STOP_SECONDS = 10.0


class KeepsDeadLetters(bootsteps.StartStopStep):
    """Record dead letters, unless DLQ_STORE_URL is ``none``."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._threads: list[Any] = []
        self._worker: Any = None

    def include_if(self, parent: Any) -> bool:
        """Tell whether this worker keeps dead letters."""
        return bool(parent.app.settings.dlq_store_url != "none")

    def start(self, parent: Any) -> None:
        """Called when the worker starts, after its pool."""
        app = parent.app
        upkeep = Upkeep(app, app.dead_letter_store)
        recorder = Recorder(app, app.dead_letter_store, on_scheduled=upkeep.wake)
        self._threads = [recorder, upkeep]
        self._worker = weakref.ref(parent)
        signals.worker_shutdown.connect(self._shut_down)
        for thread in self._threads:
            thread.start()

    def stop(self, parent: Any) -> None:
        """Called when the worker stops, before its pool: too early."""

    def terminate(self, parent: Any) -> None:
        """Called when the worker stops cold, before its pool: too early."""

    def _shut_down(self, sender: Any = None, **_: Any) -> None:
        if self._worker is None or sender is not self._worker():
            return  # another worker of this process
        signals.worker_shutdown.disconnect(self._shut_down)
        for thread in self._threads:
            thread.stop(STOP_SECONDS)
