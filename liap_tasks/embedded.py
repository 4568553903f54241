"""A real Celery worker in threads of this process.

For a program that publishes and works in one process (a game backend on an in-memory broker), and for tests. It is
Celery's own worker controller: prefetch, acknowledgement, events, remote control and revokes work as in a worker of
its own. It installs no signal handlers, leaves logging alone, and several can run in one process, of one app or of
many.

Why it is stopped by an event of its own and a remote control message that wakes it: Celery's flag for a warm shutdown
(``celery.worker.state.should_stop``) is global to the process and would stop every worker in it; and a worker must be
stopped by its own thread, for most kombu connections are not for two threads at once. That command may be lost while a
connection is, so the thread is also asked without it, when it looks next.

Left out: Celery keeps its list of active requests, revokes and statistics once per process, so ``inspect`` of one of
two embedded workers shows the tasks of both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal
from uuid import uuid4

from celery import Celery, signals
from celery.exceptions import WorkerShutdown
from celery.utils.log import get_logger
from celery.worker import WorkController
from celery.worker.control import control_command

from liap_tasks.embedded_beat import EmbeddedBeat
from liap_tasks.errors import EmbeddedWorkerError
from liap_tasks.pools.asyncio import TaskPool as AsyncioPool
from liap_tasks.pools.threads import SoloPool
from liap_tasks.pools.threads import TaskPool as ThreadPool
from liap_tasks.queue_table import CONSUMED_QUEUES
from liap_tasks.worker.consumer import REFRESH_COMMAND, LiapConsumer
from liap_tasks.worker.declared_otherwise import advice

__all__ = ["EmbeddedWorker"]

logger = get_logger("liap_tasks.embedded")

START_SECONDS = 10.0
STOP_SECONDS = 60.0
STOP_COMMAND = "stop_embedded_worker"


# Both pools let results be waited for: the flag they would set (celery._state, task_join_will_block) is global, and the
# program around the worker is not a task. A task that waits for another task's result is not stopped from it here.


class _SoloPool(SoloPool):
    """Our solo pool."""

    task_join_will_block = False


class _ThreadPool(ThreadPool):
    """Our pool of threads, beginning nothing more when the worker is to stop."""

    task_join_will_block = False
    stopping: threading.Event

    def may_begin(self) -> bool:
        """Tell whether a call that waits may still begin."""
        return not self.stopping.is_set()


class _AsyncioPool(AsyncioPool):
    """Our asyncio pool, beginning nothing more when the worker is to stop."""

    task_join_will_block = False
    stopping: threading.Event

    def settle_memory(self) -> None:
        """Leave the garbage collection of the program around the worker alone."""

    def may_begin(self) -> bool:
        """Tell whether tasks may still begin."""
        return not self.stopping.is_set() and super().may_begin()


_POOLS: dict[str, tuple[Any, int]] = {
    "threads": (_ThreadPool, 4),
    "solo": (_SoloPool, 1),
    "asyncio": (_AsyncioPool, 1000),
}


class _Consumer(LiapConsumer):
    """A consumer that can be stopped while its broker is away."""

    controller: _Controller

    def ensure_connected(self, connection: Any) -> Any:
        """Connect, trying again until it works or the worker is to stop."""

        def refused(error: Exception, interval: float) -> None:
            self.controller.end_if_stopping()
            self.controller.refused = error
            logger.error("broker %s cannot be reached, next try in %g s: %s", connection.as_uri(), interval, error)

        attempts = self.app.conf.broker_connection_max_retries
        connection = connection.ensure_connection(refused, attempts, callback=self.controller.end_if_stopping)
        self.first_connection_attempt = False
        return connection

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Called when the broker lets nobody in: there is no such virtual host."""
        self.controller.end_if_stopping()
        self.controller.refused = exc
        super().on_connection_error_before_connected(exc)


class _Controller(WorkController):
    """Celery's worker, telling when it consumes and ending when told to."""

    embedded = True
    blueprint: Any
    hostname: str
    pool: Any

    def __init__(self, *, consuming: threading.Event, stopping: threading.Event, **options: Any) -> None:
        self.failure: Exception | None = None
        self.refused: Exception | None = None
        self._consuming = consuming
        self._stopping = stopping
        self._ending = False
        super().__init__(**options)
        self.pool.stopping = stopping

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        """Leave the app's queue table as it is: the thread's CONSUMED_QUEUES say what this worker consumes."""

    def on_consumer_ready(self, consumer: Any) -> None:
        """Called when messages are consumed."""
        signals.worker_ready.send(sender=consumer)
        self._consuming.set()

    def end_if_stopping(self) -> None:
        """Raise Celery's WorkerShutdown if the worker is to stop; to be called in the worker's own thread.

        Once: raised again while the worker stops (a command comes while it waits for a last answer of the broker) it
        would break that off, with its connections open.
        """
        if self._stopping.is_set() and not self._ending:
            self._ending = True
            raise WorkerShutdown(0)

    def _process_task(self, req: Any) -> None:
        # What is not begun when the worker stops stays unacknowledged, and so goes back to its queue.
        if not self._stopping.is_set():
            super()._process_task(req)  # type: ignore[misc]  # not in the stubs

    def start(self) -> None:
        """Run until stopped; an error that ends it is kept in ``failure``."""
        try:
            self.blueprint.start(self)
        except SystemExit as end:
            self.stop(exitcode=0 if end.code is None else int(end.code))
        except Exception as error:
            self.failure = error
            logger.critical("embedded worker %s ended with an error: %r", self.hostname, error, exc_info=True)
            self.stop(exitcode=1)

    def _shutdown(self, warm: bool = True) -> None:
        # Celery's own also changes the default timeout of every new socket in the process (celery 5.7).
        self.blueprint.stop(self, terminate=not warm)
        self.blueprint.join()


@control_command(name=STOP_COMMAND)
def _stop_embedded_worker(state: Any, **_: Any) -> None:
    """End an embedded worker that is to stop; it wakes the worker's thread."""
    if getattr(state.consumer.controller, "embedded", False):
        state.consumer.controller.end_if_stopping()


class EmbeddedWorker:
    """Run a worker for ``app`` in this process, as a context manager or with :meth:`start` and :meth:`stop`.

    pool: "threads", "solo" to run tasks one by one (in the worker's own thread, what it held until it was due on
    RabbitMQ or Redis in that of its timer), or "asyncio" for ``async def`` tasks.
    concurrency: tasks at once, >= 1; default 4 threads, or 1,000 coroutines. queues: names to consume from, default all
    that the app has. beat: send the periodic tasks of the app's ``beat_schedule`` too (let one worker do it).
    An instance may be started again after it was stopped. Raises ValueError for a wrong concurrency or pool.
    """

    def __init__(
        self,
        app: Celery,
        *,
        concurrency: int | None = None,
        queues: Sequence[str] | None = None,
        pool: Literal["threads", "solo", "asyncio"] = "threads",
        name: str | None = None,
        beat: bool = False,
        **options: Any,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        if pool not in _POOLS:
            raise ValueError(f"pool must be 'threads', 'solo' or 'asyncio', not {pool!r}")
        self.app = app
        self._pool_class, usual = _POOLS[pool]
        self.concurrency = 1 if pool == "solo" else concurrency or usual
        self.queues = None if queues is None else list(queues)
        self.pool = pool
        self.hostname = name or f"embedded-{uuid4().hex[:12]}@localhost"
        self._options = options
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._controller: _Controller | None = None
        self._wants_beat = beat
        self._beat: EmbeddedBeat | None = None

    @property
    def waiting_for_batch(self) -> int:
        """How many messages wait in this worker for their batch to be full, or its time to come."""
        consumer: Any = getattr(self._controller, "consumer", None)
        return 0 if consumer is None else consumer.batches.waiting()

    @property
    def running(self) -> bool:
        """Whether the worker's thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    def refresh(self) -> None:
        """Take up subscribers that were added since the start (called by the app)."""
        if self.running:
            self._ask(REFRESH_COMMAND, lambda consumer: consumer.refresh())

    def start(self, timeout: float = START_SECONDS) -> EmbeddedWorker:
        """Start and return when the worker consumes.

        Raises EmbeddedWorkerError when it has not within ``timeout`` seconds, or ends with an error; it names that, or
        the last one of connecting, and has it as its cause. Raises ConfigurationError for a wrong setting.
        """
        if self.running:
            raise EmbeddedWorkerError(f"worker {self.hostname} runs already")
        self.app.finalize()
        self.app.amqp.queues  # noqa: B018 - reads the configuration here, where an error can be caught
        self.app.backend  # noqa: B018 - else the first task looks through all installed packages for it, some 40 ms
        self._failure = self._controller = None
        self._stopping = threading.Event()
        self._workers_of_app().append(self)
        consuming = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(consuming, self._stopping), name=self.hostname, daemon=True
        )
        self._thread.start()
        in_time = consuming.wait(timeout)
        if self._failure is not None:
            failed = f"worker {self.hostname} cannot start: {advice(str(self._failure)) or repr(self._failure)}"
            raise EmbeddedWorkerError(failed) from self._failure
        if not in_time:
            self._stopping.set()
            refused = getattr(self._controller, "refused", None)
            why = "" if refused is None else f": {refused!r}"
            late = f"worker {self.hostname} did not start to consume within {timeout:g} s{why}"
            raise EmbeddedWorkerError(late) from refused
        if self._wants_beat:
            self._beat = EmbeddedBeat(self.app)
            try:
                self._beat.start()
            except BaseException:
                self._beat = None
                self.stop()
                raise
        return self

    def _run(self, consuming: threading.Event, stopping: threading.Event) -> None:
        self.app.set_current()
        CONSUMED_QUEUES.set(self.queues)
        try:
            controller = _Controller(
                app=self.app,
                hostname=self.hostname,
                pool_cls=self._pool_class,
                consumer_cls=_Consumer,
                concurrency=self.concurrency,
                use_eventloop=False,  # kombu's event loop is one per process
                consuming=consuming,
                stopping=stopping,
                loglevel=None,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                quiet=True,
                **self._options,
            )
            self._controller = controller
            controller.start()
            self._failure = controller.failure
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the start
            self._failure = error
        finally:
            consuming.set()

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Stop warmly: running tasks end, messages not begun go back to their queues.

        Raises EmbeddedWorkerError when that takes longer than ``timeout`` seconds. Stopping twice does nothing.
        """
        thread = self._thread
        if self._beat is not None:
            self._beat.stop()
            self._beat = None
        if self in self._workers_of_app():
            self._workers_of_app().remove(self)
        if thread is not None and thread.is_alive():
            self._stopping.set()
            self._ask(STOP_COMMAND, lambda consumer: consumer.controller.end_if_stopping())
            thread.join(timeout)
            if thread.is_alive():
                raise EmbeddedWorkerError(
                    f"worker {self.hostname} did not stop within {timeout:g} s: a task is still running"
                )
        self._thread = None

    def _workers_of_app(self) -> list[Any]:
        """Return where an app of this package keeps its workers of this process; another app keeps no list."""
        return getattr(self.app, "embedded_workers", [])

    def _ask(self, command: str, operation: Callable[[Any], object]) -> None:
        """Have something done in the worker's thread, with its consumer: at once, woken by a remote control command.

        A command may be lost while the worker or this program connects again; then it is done when the worker looks,
        within two seconds (celery 5.7, ``synloop``).
        """
        consumer = getattr(self._controller, "consumer", None)
        if consumer is not None:
            consumer.call_soon(operation, consumer)
        try:
            self.app.control.broadcast(command, destination=[self.hostname])
        except Exception as error:  # noqa: BLE001 - the broker is away, or was
            logger.warning("worker %s cannot be woken, it will look by itself: %r", self.hostname, error)

    def __enter__(self) -> EmbeddedWorker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
