"""The same two tasks on a plain Celery app, or on one of liap_tasks (LIAP_BENCH_OURS=1), at LIAP_BENCH_BROKER."""

from __future__ import annotations

import os

from celery import Celery

import transports  # noqa: F401 - registers the schemes
from benchmarks.peers.marks import mark, stamp
from liap_tasks import create_app, load_settings

__all__ = ["app", "count", "note"]

URL = os.environ["LIAP_BENCH_BROKER"]

if os.environ.get("LIAP_BENCH_OURS"):
    app: Celery = create_app(
        load_settings(message_queue_url=URL, max_queue_size=10_000_000, dlq_store_url="none"), main="bench"
    )
else:
    app = Celery("bench", broker=URL)
    app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True, worker_prefetch_multiplier=16)
app.conf.worker_send_task_events = app.conf.task_send_sent_event = False


@app.task(name="bench.count")
def count(number: int, text: str = "") -> None:
    mark()


@app.task(name="bench.note")
def note() -> None:
    stamp()
