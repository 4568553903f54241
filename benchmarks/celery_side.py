"""What a Celery user sees: publishing by ``.delay()``, draining, latency, memory, on one broker URL.

The same plain task on each transport. ``liap-*`` runs twice: with plain Celery, which compares the transports, and with
the app of ``liap_tasks``, which is what its users get (policies on every call, the body decoded once).
"""

from __future__ import annotations

import threading
import tracemalloc
import uuid
from collections.abc import Callable
from time import perf_counter

from celery import Celery
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.worker import WorkController

import transports  # noqa: F401 - registers the schemes
from benchmarks.measure import per_second, percentile
from liap_tasks import create_app, load_settings

__all__ = ["Bench"]


class Bench:
    """One app on one broker, and the figures taken with it. A fresh queue each time; the caller closes it."""

    def __init__(self, url: str, *, ours: bool) -> None:
        if ours:
            self.app: Celery = create_app(
                load_settings(message_queue_url=url, max_queue_size=10_000_000), main="bench", set_as_current=False
            )
        else:
            self.app = Celery("bench", broker=url, set_as_current=False)
            self.app.conf.update(
                task_acks_late=True,
                worker_prefetch_multiplier=4,
                task_ignore_result=True,
                broker_connection_retry_on_startup=True,
            )
        self.queue = f"bench-{uuid.uuid4().hex[:8]}"
        self.app.conf.task_default_queue = self.queue
        self.app.conf.task_queues = None
        self.app.conf.task_default_exchange = self.app.conf.task_default_routing_key = self.queue
        self.count = 0
        self.target = 0
        self.first = 0.0
        self.started_at = 0.0
        self.lock = threading.Lock()
        self.reached = threading.Event()
        self.begun = threading.Event()

        @self.app.task(name="bench.count", shared=False)
        def count(number: int, text: str = "") -> None:
            with self.lock:
                if self.count == 0:
                    self.first = perf_counter()
                self.count += 1
                if self.count == self.target:
                    self.reached.set()

        @self.app.task(name="bench.stamp", shared=False)
        def stamp() -> None:
            self.started_at = perf_counter()
            self.begun.set()

        self.count_task, self.stamp_task = count, stamp

    def publish(self, number: int) -> None:
        """Publish tasks as a game backend would: an id and a short text each."""
        delay = self.count_task.delay
        for index in range(number):
            delay(index, text="room-0001")

    def publish_rate(self, number: int) -> float:
        """Return publishes per second in one thread."""
        self.publish(10)
        rate = per_second(number, lambda: self.publish(number))
        self.discard()
        return rate

    def discard(self) -> None:
        """Empty the queue: what is left in memory would burden the garbage collector in every later figure."""
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_purge(self.queue)

    def drain_rate(self, number: int, pool: str, concurrency: int) -> float:
        """Return tasks per second from the first task's start to the last one's, ``number`` waiting in the queue."""
        self.publish(number)
        self.count, self.target = 0, number
        with _Worker(self.app, pool, concurrency):
            if not self.reached.wait(120):
                raise TimeoutError(f"{self.count} of {number} tasks after 120 s")
            elapsed = perf_counter() - self.first
        return number / elapsed

    def latencies(self, number: int) -> tuple[float, float]:
        """Return p50 and p99 of the seconds from before ``.delay()`` to the first line of the task, the worker idle."""
        taken = []
        with _Worker(self.app, "threads", 4):
            for _ in range(number + 1):
                self.begun.clear()
                published = perf_counter()
                self.stamp_task.delay()
                if not self.begun.wait(30):
                    raise TimeoutError("the idle worker got no task within 30 s")
                taken.append(self.started_at - published)
        return percentile(taken[1:], 0.50), percentile(taken[1:], 0.99)

    def memory(self, number: int) -> float:
        """Return the bytes (tracemalloc) that ``number`` queued messages take, per message."""
        self.publish(10)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            self.publish(number)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.discard()
        return (after - before) / number


class _Worker:
    """Celery's worker controller in a thread, the same for every transport."""

    def __init__(self, app: Celery, pool: str, concurrency: int) -> None:
        self.app = app
        self.ready = threading.Event()
        self.error: BaseException | None = None
        ready = self.ready
        set_current: Callable[[], None] = app.set_current

        class Threads(ThreadPool):
            def on_start(self) -> None:
                self.executor._initializer = set_current

        class Controller(WorkController):
            embedded = True

            def on_consumer_ready(self, consumer: object) -> None:
                ready.set()

        self.controller = Controller(
            app=app,
            hostname=f"bench-{uuid.uuid4().hex[:8]}@localhost",
            pool_cls=SoloPool if pool == "solo" else Threads,
            concurrency=concurrency,
            queues=[app.conf.task_default_queue],
            loglevel=None,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.app.set_current()
        self.controller.start()

    def __enter__(self) -> _Worker:
        self.thread.start()
        if not self.ready.wait(30):
            raise TimeoutError("the worker did not start within 30 s")
        return self

    def __exit__(self, *_: object) -> None:
        self.app.control.broadcast("shutdown", destination=[self.controller.hostname])
        self.thread.join(30)
