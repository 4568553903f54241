"""A real Celery worker in threads of this process.

For a program that publishes and works in one process (a game backend on an in-memory broker), and for tests. It is
Celery's own worker controller: prefetch, acknowledgement, events, remote control and revokes work as in a worker of
its own. It installs no signal handlers, leaves logging alone, and several can run in one process, of one app or of
many.

Why it is stopped by a remote control message to itself: Celery's flag for a warm shutdown
(``celery.worker.state.should_stop``) is global to the process and would stop every worker in it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal
from uuid import uuid4

from celery import Celery
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.worker import WorkController

from liap_tasks.errors import EmbeddedWorkerError

__all__ = ["EmbeddedWorker"]

START_SECONDS = 10.0
STOP_SECONDS = 60.0


# Both pools let results be waited for: the flag they would set (celery._state, task_join_will_block) is global, and the
# program around the worker is not a task. A task that waits for another task's result is not stopped from it here.


class _SoloPool(SoloPool):
    """Celery's solo pool."""

    task_join_will_block = False


class _ThreadPool(ThreadPool):
    """Celery's thread pool, whose threads know the worker's app as the current one (tasks are looked up in it)."""

    task_join_will_block = False

    def on_start(self) -> None:
        pool: Any = self
        pool.executor._initializer = self.app.set_current


class _Controller(WorkController):
    """Celery's worker, telling when it consumes."""

    embedded = True

    def __init__(self, *args: Any, consuming: threading.Event, **options: Any) -> None:
        self._consuming = consuming
        super().__init__(*args, **options)

    def on_consumer_ready(self, consumer: Any) -> None:
        self._consuming.set()


class EmbeddedWorker:
    """Run a worker for ``app`` in this process, as a context manager or with :meth:`start` and :meth:`stop`.

    concurrency: threads that run tasks, >= 1. queues: names to consume from, default all of ``task_queues``.
    pool: "threads", or "solo" to run tasks one by one in the worker's own thread.
    An instance may be started again after it was stopped.
    """

    def __init__(
        self,
        app: Celery,
        *,
        concurrency: int = 4,
        queues: Sequence[str] | None = None,
        pool: Literal["threads", "solo"] = "threads",
        name: str | None = None,
        **options: Any,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self.app = app
        self.concurrency = concurrency
        self.queues = None if queues is None else list(queues)
        self.pool = pool
        self.hostname = name or f"embedded-{uuid4().hex[:12]}@localhost"
        self._options = options
        self._thread: threading.Thread | None = None
        self._controller: _Controller | None = None
        self._failure: BaseException | None = None

    @property
    def running(self) -> bool:
        """Whether the worker's thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, timeout: float = START_SECONDS) -> EmbeddedWorker:
        """Start and return when the worker consumes.

        Raises EmbeddedWorkerError when it has not within ``timeout`` seconds, with the worker's own error as cause.
        """
        if self.running:
            raise EmbeddedWorkerError(f"worker {self.hostname} runs already")
        self._failure = None
        consuming = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(consuming,), name=self.hostname, daemon=True)
        self._thread.start()
        if not consuming.wait(timeout) or self._failure is not None:
            failure = self._failure
            self._abandon()
            raise EmbeddedWorkerError(
                f"worker {self.hostname} did not start to consume within {timeout:g} s"
            ) from failure
        return self

    def _run(self, consuming: threading.Event) -> None:
        self.app.set_current()
        try:
            self._controller = _Controller(
                app=self.app,
                hostname=self.hostname,
                pool_cls=_ThreadPool if self.pool == "threads" else _SoloPool,
                concurrency=self.concurrency if self.pool == "threads" else 1,
                queues=self.queues,
                consuming=consuming,
                loglevel=None,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                quiet=True,
                **self._options,
            )
            self._controller.start()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the start
            self._failure = error
        finally:
            consuming.set()

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Stop warmly: running tasks end, messages not begun go back to their queues.

        Raises EmbeddedWorkerError when that takes longer than ``timeout`` seconds. Stopping twice does nothing.
        """
        thread, controller = self._thread, self._controller
        if thread is None or not thread.is_alive() or controller is None:
            self._thread = None
            return
        self.app.control.broadcast("shutdown", destination=[self.hostname])
        thread.join(timeout)
        if thread.is_alive():
            raise EmbeddedWorkerError(
                f"worker {self.hostname} did not stop within {timeout:g} s: a task is still running"
            )
        self._thread = self._controller = None

    def _abandon(self) -> None:
        controller = self._controller
        if controller is not None and self.running:
            controller.signal_consumer_close()
        self._thread = self._controller = None

    def __enter__(self) -> EmbeddedWorker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
