"""What a batch saves: the same messages handled one by one and in batches, in one process."""

from __future__ import annotations

from threading import Semaphore
from time import perf_counter
from uuid import uuid4

from benchmarks.measure import Figure, interleaved
from liap_tasks import BatchItem, BatchTask, EmbeddedWorker, create_app, load_settings

__all__ = ["rows"]

DEADLINE = 120.0


def drain_rate(number: int, size: int | None) -> float:
    """Return messages per second that a threads worker handles; size: of a batch, None: one by one."""
    url = f"liap-memory:///{uuid4().hex}"
    settings = load_settings(message_queue_url=url, max_queue_size=number + 1, dlq_store_url="none")
    app = create_app(settings, set_as_current=False)
    done = Semaphore(0)
    if size is None:

        @app.task(shared=False, name="bench.single")
        def single(index: int) -> None:
            done.release()

        task = single
    else:

        @app.task(base=BatchTask, shared=False, name="bench.batch", batch_size=size, batch_timeout=1)
        def batch(items: list[BatchItem]) -> None:
            done.release(len(items))

        task = batch
    for index in range(number):
        task.delay(index)
    began = perf_counter()
    with EmbeddedWorker(app, concurrency=2):
        for _ in range(number):
            if not done.acquire(timeout=DEADLINE):
                raise RuntimeError("the worker has not handled all messages in time")
        seconds = perf_counter() - began
    app.close()
    return number / seconds


def rows(scale: float, repeat: int) -> list[Figure]:
    """Measure empty handlers: what is compared is the way to them."""
    number = max(200, int(5000 * scale))
    taken = interleaved(repeat, {"single": lambda: drain_rate(number, None), "batch": lambda: drain_rate(number, 100)})
    ratio = taken["batch"] / taken["single"]
    return [
        Figure("messages one by one", f"{taken['single']:,.0f}/s"),
        Figure("messages in batches of 100", f"{taken['batch']:,.0f}/s ({ratio:.2f} x)"),
    ]
