"""The statistics of the broker's queues, from inside a program."""

from __future__ import annotations

from typing import Any

from celery import Celery

__all__ = ["queue_statistics"]


def queue_statistics(app: Celery, queue: str | None = None) -> dict[str, dict[str, float]]:
    """Return the statistics of one queue or of all, by name; empty when the broker's transport keeps none.

    The numbers of each queue: see ``transports.engine.statistics``. Raises ``NotFound`` for a queue that is not there.
    """
    with app.connection_for_read() as connection, connection.channel() as channel:
        reader: Any = channel
        if not hasattr(reader, "queue_stats"):
            return {}
        stats: dict[str, dict[str, float]] = reader.queue_stats(queue)
        return stats
