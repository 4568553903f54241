"""What ``async def`` tasks cost: a burst of 1,000 that sleep 50 ms, in one process, and what each takes while it runs.

The burst is timed from the first task's start to the last one's end, all messages waiting in the queue. A perfect
machine needs 50 ms. Two floors are measured beside it. Bare asyncio, that of any loop: the same coroutines as plain
tasks of ``asyncio``. And Celery's tracer alone, that of whatever runs Celery's tasks on a loop: each coroutine in a
tracer in a greenlet, of a plain task, with no message, request, policy or acknowledgement.

To begin a task costs about 30 microseconds in the consumer (Celery's message handler and request, the body's JSON) and
40 on the loop (Celery's tracer 20 to 25, greenlet, asyncio task and limit 10, ours the rest), and both threads share
one interpreter lock. So the last of 1,000 begins some 70 ms after the first, and 80 ms for all are out of reach while
Celery's own tracer and request run each task. What exists before is taken out of garbage collection, as the pool does
in a worker of its own.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
import uuid
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from celery import Celery, Task
from celery.app.trace import build_tracer

from benchmarks.measure import Figure, interleaved
from liap_tasks import EmbeddedWorker, create_app, load_settings
from liap_tasks.coroutines.limit import LimitedCoroutine
from liap_tasks.coroutines.loop_thread import Driver, LoopThread, await_in_greenlet, current_driver

__all__ = ["rows"]

SLEEP = 0.05
GOAL = 0.08
DEADLINE = 120.0


class Burst:
    """``number`` coroutines that note when they start and end."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.started: list[float] = []
        self.ended: list[float] = []
        self.all_started = threading.Event()
        self.all_ended = threading.Event()

    async def sleep(self, seconds: float) -> None:
        """Run one of them."""
        self.started.append(perf_counter())
        if len(self.started) == self.number:
            self.all_started.set()
        await asyncio.sleep(seconds)
        self.ended.append(perf_counter())
        if len(self.ended) == self.number:
            self.all_ended.set()

    def wait(self, until: threading.Event) -> None:
        """Wait for one of its two events; raises TimeoutError after ``DEADLINE`` seconds."""
        if not until.wait(DEADLINE):
            raise TimeoutError(f"{len(self.ended)} of {self.number} tasks after {DEADLINE:g} s")

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return self.ended[-1] - self.started[0]


def bare_seconds(number: int) -> float:
    """Return the seconds of a burst of plain asyncio tasks."""
    burst = Burst(number)

    async def run() -> None:
        await asyncio.wait([asyncio.create_task(burst.sleep(SLEEP)) for _ in range(number)])

    asyncio.run(run())
    return burst.seconds


class Traced(Task[Any, Any]):
    """A plain task of Celery's whose coroutine is awaited in its tracer's greenlet."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        driver = current_driver()
        assert driver is not None
        return await_in_greenlet(driver, LimitedCoroutine(self.run(*args, **kwargs), None, 0.0, self.name))


def tracer_seconds(number: int) -> float:
    """Return the seconds of a burst in Celery's tracer alone."""
    burst = Burst(number)
    app = Celery("bench", set_as_current=False)
    app.conf.task_ignore_result = True

    @app.task(base=Traced, name="bench.sleep", shared=False)
    async def sleep() -> None:
        await burst.sleep(SLEEP)

    app.finalize()
    trace: Callable[..., Any] = build_tracer(sleep.name, sleep, app=app)
    thread = LoopThread("bench")

    def begin() -> None:
        for index in range(number):
            task_id = str(index)
            request = {"id": task_id, "delivery_info": {}}
            Driver(thread.deadlines, partial(trace, task_id, (), {}, request), task_id)

    thread.start()
    gc.collect()
    gc.freeze()
    thread.call(begin)
    try:
        burst.wait(burst.all_ended)
    finally:
        thread.stop()
    return burst.seconds


class PoolBench:
    """An app with one async task, whose messages wait before the worker starts."""

    def __init__(self, number: int, seconds: float) -> None:
        settings = load_settings(
            message_queue_url=f"liap-memory:///{uuid.uuid4().hex}",
            max_queue_size=10_000_000,
            max_concurrent_handlers=number,
        )
        self.app = create_app(settings, main="bench", set_as_current=False)
        self.burst = burst = Burst(number)

        @self.app.task(name="bench.sleep", shared=False)
        async def sleep() -> None:
            await burst.sleep(seconds)

        for _ in range(number):
            sleep.delay()

    def run(self, until: threading.Event, then: Callable[[], None] = lambda: None) -> None:
        """Run the worker until an event, and call ``then`` while it runs."""
        with EmbeddedWorker(self.app, pool="asyncio", concurrency=self.burst.number):
            self.burst.wait(until)
            then()


def pool_seconds(number: int) -> float:
    """Return the seconds of a burst in the asyncio pool."""
    bench = PoolBench(number, SLEEP)
    gc.collect()
    gc.freeze()
    bench.run(bench.burst.all_ended)
    return bench.burst.seconds


def pool_memory(number: int) -> float:
    """Return the bytes (tracemalloc) that each running task takes, its request in the worker included."""
    bench = PoolBench(number, 1.0)
    taken: list[int] = []
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        bench.run(bench.burst.all_started, lambda: taken.append(tracemalloc.get_traced_memory()[0] - before))
    finally:
        tracemalloc.stop()
    return taken[0] / number


def bare_memory(number: int) -> float:
    """Return the bytes that each running plain asyncio task takes."""
    burst = Burst(number)
    taken: list[int] = []

    async def run() -> None:
        before, _ = tracemalloc.get_traced_memory()
        tasks = [asyncio.create_task(burst.sleep(0.2)) for _ in range(number)]
        await asyncio.sleep(0.01)
        taken.append(tracemalloc.get_traced_memory()[0] - before)
        await asyncio.wait(tasks)

    tracemalloc.start()
    try:
        asyncio.run(run())
    finally:
        tracemalloc.stop()
    return taken[0] / number


def rows(scale: float, repeat: int) -> list[Figure]:
    """Measure bursts and memory."""
    number = max(20, int(1000 * scale))
    try:
        seconds = interleaved(
            max(repeat, 1) * (3 if repeat > 1 else 1),
            {
                "bare": lambda: bare_seconds(number),
                "tracer": lambda: tracer_seconds(number),
                "pool": lambda: pool_seconds(number),
            },
        )
        pool, bare = pool_memory(number), bare_memory(number)
    finally:
        gc.unfreeze()
    return [
        Figure(
            f"{number:,} async tasks that sleep 50 ms",
            f"{1000 * seconds['pool']:.0f} ms (bare asyncio: {1000 * seconds['bare']:.0f} ms; Celery's tracer alone: "
            f"{1000 * seconds['tracer']:.0f} ms)",
            f"at most {1000 * GOAL:.0f} ms",
            seconds["pool"] <= GOAL,
        ),
        Figure("memory of each while it runs", f"{pool / 1000:.1f} kB (bare asyncio: {bare / 1000:.1f} kB)"),
    ]
