"""Celery's prefork pool, which notices at once that one of its processes has died, and knows what each has been given.

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

    # Celery's own; a process is known by the file number of its pipe.
    _cache: dict[int, Any]
    _busy_workers: set[int]

    def flush(self) -> None:
        """Called when the connection is lost or the worker stops: forget the calls that no process has been given.

        Celery forgets those, too, that a process has and has not said to begin: it runs them all the same, while their
        messages go back to the queue (celery 5.7).
        """
        given = {number: call for number, call in self._cache.items() if call._write_to and not call._accepted}
        busy = set(self._busy_workers)
        super().flush()
        for number, call in given.items():
            if call._write_to._is_alive():
                self._cache[number] = call
                self._busy_workers |= busy & {call._write_to.inqW_fd}

    def _event_process_exit(self, hub: Any, proc: Any, pause: float = FIRST_PAUSE) -> None:
        """Called when a process has closed its pipe, and again after ``pause`` seconds until it has ended."""
        super()._event_process_exit(hub, proc)  # type: ignore[misc]  # not in the stubs
        if proc.exitcode is None and pause <= LONGEST_PAUSE:
            hub.call_later(pause, self._event_process_exit, hub, proc, 2 * pause)


class PreforkPool(CeleryPreforkPool):
    """Celery's interface to the processes."""

    Pool = _Processes
