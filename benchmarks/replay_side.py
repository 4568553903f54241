"""How fast stored dead letters go back to their queue: from SQLite to an in-process queue, unthrottled."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from kombu import pools
from kombu.utils import json

from benchmarks.measure import Figure, interleaved, per_second
from liap_tasks import LiapApp, create_app, load_settings
from liap_tasks.dead_letter_store import Letter
from liap_tasks.dead_letter_store.operations import replay

__all__ = ["rows"]


def replay_rate(number: int, folder: Path) -> float:
    """Return letters per second that are claimed, published and marked; all wait in a new store."""
    app = create_app(
        load_settings(
            message_queue_url=f"liap-memory:///{uuid4().hex}",
            dlq_store_url=f"sqlite:///{folder}/{uuid4().hex}.sqlite3",
            max_queue_size=number,
        ),
        set_as_current=False,
    )
    queue = app.conf.task_default_queue
    try:
        with app.connection_for_write() as connection, connection.channel() as channel:
            app.amqp.queues[queue].bind(channel).declare()
            app.dead_letter_store.record([_letter(app, index, queue) for index in range(number)])
            return per_second(number, lambda: replay(app, rate=0))
    finally:
        app.dead_letter_store.close()
        app.close()
        pools.reset()


def _letter(app: LiapApp, index: int, queue: str) -> Letter:
    message = app.amqp.create_task_message(str(index), "bench.task", (index,), {"player": "p1"})
    return Letter(
        id=str(index),
        reason="retries_exhausted",
        task="bench.task",
        task_id=str(index),
        queue=queue,
        exception="ValueError",
        headers=message.headers,
        properties=message.properties,
        content_type="application/json",
        content_encoding="utf-8",
        body=str(json.dumps(message.body)).encode(),
        died_at=1e9 + index,
    )


def rows(scale: float, repeat: int) -> list[Figure]:
    """Measure a replay."""
    number = int(10_000 * scale)
    with TemporaryDirectory() as folder:
        taken = interleaved(repeat, {"replay": lambda: replay_rate(number, Path(folder))})
    rate = taken["replay"]
    return [Figure(f"{number:,} letters replayed from SQLite", f"{rate:,.0f}/s", "5,000/s", rate >= 5000)]
