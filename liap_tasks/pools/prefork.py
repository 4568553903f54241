"""Celery's prefork pool, which notices at once that one of its processes has died.

Chosen by ``celery worker -P prefork`` and the default on RabbitMQ and Redis.

Celery hears of a death by the end of a pipe, and then asks the kernel once which process it was. A dying process closes
its files a moment before it can be asked for, so the answer often is: none. Celery looks again every 5 s (celery 5.7,
``asynpool``); until then the lost task is neither retried nor a dead letter, and the pool is one process short. Here it
is asked again, a few milliseconds later.
"""

from __future__ import annotations

from typing import Any

from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool as CeleryPreforkPool

__all__ = ["PreforkPool"]

FIRST_PAUSE = 0.002
LONGEST_PAUSE = 1.0


class _Processes(AsynPool):
    """The processes, on Celery's event loop."""

    def _event_process_exit(self, hub: Any, proc: Any, pause: float = FIRST_PAUSE) -> None:
        """Called when a process has closed its pipe, and again after ``pause`` seconds until it has ended."""
        super()._event_process_exit(hub, proc)  # type: ignore[misc]  # not in the stubs
        if proc.exitcode is None and pause <= LONGEST_PAUSE:
            hub.call_later(pause, self._event_process_exit, hub, proc, 2 * pause)


class PreforkPool(CeleryPreforkPool):
    """Celery's interface to the processes."""

    Pool = _Processes
