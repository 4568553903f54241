"""Celery's prefork pool, noticing at once that a process has died or is idle, and forgetting no call that one has.

Chosen by ``celery worker -P prefork`` and the default on brokers that are other processes.

Celery hears of a death by the end of a pipe, and then asks the kernel once which process it was. A dying process closes
its files a moment before it can be asked for, so the answer often is: none. Celery looks again every 5 s (celery 5.7,
``asynpool``); until then the lost task is neither retried nor a dead letter, and the pool is one process short. Here it
is asked again, a few milliseconds later.

A call that finds a process idle is written to it at once. Celery puts it in line and lets its event loop ask first, in
another turn, which pipes have room: a call on an idle worker begins an eighth later for that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.concurrency.asynpool import SCHED_STRATEGY_FAIR, AsynPool  # type: ignore[attr-defined]  # not in the stubs
from celery.concurrency.prefork import TaskPool as CeleryPreforkPool

__all__ = ["PreforkPool"]

FIRST_PAUSE = 0.002
LONGEST_PAUSE = 1.0


class _Processes(AsynPool):
    """The processes, on Celery's event loop."""

    # Celery's own; a process is known by the file number of its pipe.
    _cache: dict[int, Any]
    _all_inqueues: set[int]
    _busy_workers: set[int]
    _active_writes: set[int]
    sched_strategy: int
    _quick_put: Callable[[Any], None]

    def _create_write_handlers(self, hub: Any, *args: Any, **options: Any) -> None:
        """Called when there is an event loop: a call for which a process is idle is written to it at once."""
        super()._create_write_handlers(hub, *args, **options)  # type: ignore[misc]  # not in the stubs
        put_in_line, write_to = self._quick_put, hub.consolidate_callback

        def put(call: Any) -> None:
            put_in_line(call)
            for process in self._all_inqueues:
                if process not in self._busy_workers and process not in self._active_writes:
                    with suppress(OSError):  # it has died: as soon as that is known, its call goes to another
                        write_to([process])
                    return

        if self.sched_strategy == SCHED_STRATEGY_FAIR:
            self._quick_put = put

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
