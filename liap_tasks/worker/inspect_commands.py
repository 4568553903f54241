"""Remote control commands: what ``celery inspect`` can ask a worker about our brokers."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from liap_tasks.task_statistics import TaskStatistics

__all__ = ["queue_stats", "task_stats"]


@inspect_command(args=[("queue", str)], signature="[queue]")
def queue_stats(state: Any, queue: str | None = None, **_: Any) -> dict[str, Any]:
    """Statistics of the broker's queues, by name."""
    channel = state.consumer.connection.default_channel
    if not hasattr(channel, "queue_stats"):
        driver = state.consumer.connection.transport.driver_type
        return {"error": f"the {driver} transport keeps no queue statistics; ask the broker's own management tools"}
    stats: dict[str, Any] = channel.queue_stats(queue)
    return stats


@inspect_command()
def task_stats(state: Any, **_: Any) -> dict[str, Any]:
    """What became of the attempts of each task in this worker; metrics: see liap_tasks.task_statistics."""
    statistics: TaskStatistics | None = getattr(state.app, "task_statistics", None)
    if statistics is None:
        return {"error": "this worker's app is none of liap_tasks"}
    return dict(statistics.snapshot())
